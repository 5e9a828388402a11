# make demo   the main job on a real CT          make test   every check
# make bench  the README's first table (needs data)    make bench-large  time and memory on a large CT
# make bench-interactive  how long a user waits (needs data)    make clean  forget the virtual environment

# slicer-core, Slicer's MRML without the application, has wheels for Python 3.11.
PYTHON ?= python3.11
# Exactly this release has a CPU build; any other request pulls gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
VENV := .venv
READY := $(VENV)/.ready
RUN := PYTHONPATH=. OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python

.PHONY: demo test lint bench bench-large bench-interactive clean

$(READY): pyproject.toml PromptSeg/Resources/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

demo: $(READY)
	$(RUN) Testing/Demo/demo.py

test: $(READY) lint
	$(RUN) -m pytest

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

bench: $(READY)
	$(RUN) Testing/Benchmark/bench.py --seeds 0 1

bench-large: $(READY)
	$(RUN) Testing/Benchmark/large.py
	$(RUN) Testing/Benchmark/large.py --strokes

bench-interactive: $(READY)
	$(RUN) Testing/Benchmark/interactive.py --cases 16 17 18 19

clean:
	rm -rf $(VENV) demo

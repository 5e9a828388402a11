# make demo   the main job on a real CT          make test   every check that is quick
# make test-slow  real trainings, benchmarks and campaigns in small, the extension's build
# make bench  the README's first table (needs data)    make bench-large  time and memory on a large CT
# make bench-shipped  the shipped prompts on unseen cases (needs data)
# make bench-interactive  how long a user waits (needs data)    make clean  forget the virtual environment
# make bench-protocol  prompts against other ways to teach a body new classes (needs data, hours; goes on where it stopped)
# make bench-levers  what more classes and data bring to the protocol's prompts (needs data)
# make bench-loop  the loop of painting, correcting and tuning, timed through the session (needs data; goes on where it stopped)
# make bench-novel  structures that the backbone does not know, and phantoms (most need data; goes on where it stopped)
# make hard-volumes  what other people's files look like, through the whole command line
# make bench-unseen  learned growing by networks that never saw the kind of structure (needs data, hours; goes on)
# make bench-features  what prompts do to the decoder's features and to probabilities (needs data)
# make study  methods of prompt tuning on several sets, next patients (needs data, hours; goes on where it stopped)
# make bench-throughput  training speed and memory against SwinUNETR, on the GPU if there is one

# slicer-core, Slicer's MRML without the application, has wheels for Python 3.11.
PYTHON ?= python3.11
# Exactly this release has a CPU build; any other request pulls gigabytes of CUDA libraries.
TORCH ?= torch==2.13.0
VENV := .venv
READY := $(VENV)/.ready
# Bytecode is kept, that of the tests among it: making it takes pytest eight seconds in each of its processes.
RUN := PYTHONDONTWRITEBYTECODE= PYTHONPATH=. OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python

.PHONY: demo test test-slow test-times lint bench bench-shipped bench-large bench-interactive bench-protocol \
  bench-features bench-levers bench-loop bench-novel bench-unseen bench-throughput study hard-volumes fault-campaign fuzz load clean

$(READY): pyproject.toml PromptSeg/Resources/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

demo: $(READY)
	$(RUN) Testing/Demo/demo.py

PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Beside the tests, since mypy has work for one core.
test: $(READY)
	@$(MAKE) --no-print-directory lint > $(VENV)/lint.txt 2>&1 & lint=$$!; \
	$(PYTEST) -m fast; tests=$$?; \
	wait $$lint; lint=$$?; cat $(VENV)/lint.txt; exit $$((tests | lint))

# Real trainings, whole benchmarks and campaigns, and what builds an application.
test-slow: $(READY)
	$(PYTEST) -m "not fast"

# Processor seconds of each tier, file and test, to see what belongs where.
test-times: $(READY)
	rm -f test-times.json
	OMP_NUM_THREADS=1 $(RUN) -m pytest --cpu-seconds=test-times.json || true
	$(RUN) Testing/Python/harness/cpu_seconds.py test-times.json

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: $(READY)
	$(RUN) Testing/Benchmark/bench.py --seeds 0 1

bench-shipped: $(READY)
	$(RUN) Testing/Benchmark/shipped.py
	$(RUN) Testing/Benchmark/shipped_mr.py

bench-large: $(READY)
	$(RUN) Testing/Benchmark/large.py
	$(RUN) Testing/Benchmark/large.py --strokes

bench-interactive: $(READY)
	$(RUN) Testing/Benchmark/interactive.py --cases 16 17 18 19

PROTOCOL := bench-protocol
BODIES := meta-self meta self
COMPARE := OMP_NUM_THREADS=1 $(RUN) Testing/Benchmark/protocol.py --crop 24 48 48 --seconds 240 --out $(PROTOCOL)/results.json

bench-protocol: $(READY)
	for body in $(BODIES); do \
	  OMP_NUM_THREADS=1 $(RUN) -m PromptSegLib pretrain Testing/Benchmark/recipes/protocol-$$body.json \
	    -o $(PROTOCOL)/$$body --threads 1 --device cpu || exit 1; done
	$(COMPARE) --backbone both=$(PROTOCOL)/meta-self/protocol-meta-self.safetensors
	$(COMPARE) --outputs all --methods prompts --backbone both=$(PROTOCOL)/meta-self/protocol-meta-self.safetensors \
	  --backbone segmentation=$(PROTOCOL)/meta/protocol-meta.safetensors \
	  --backbone self-supervision=$(PROTOCOL)/self/protocol-self.safetensors
	$(COMPARE) --methods "full fine-tuning" \
	  --backbone segmentation=$(PROTOCOL)/meta/protocol-meta.safetensors \
	  --backbone self-supervision=$(PROTOCOL)/self/protocol-self.safetensors

# Levers of pretraining are compared on training cases of the protocol, which its test never sees.
bench-levers: $(READY)
	for body in meta more; do \
	  OMP_NUM_THREADS=1 $(RUN) -m PromptSegLib pretrain Testing/Benchmark/recipes/protocol-$$body.json \
	    -o $(PROTOCOL)/$$body --threads 1 --device cpu || exit 1; done
	$(COMPARE) --out $(PROTOCOL)/levers.json --outputs all --methods prompts \
	  --training $(foreach n,00 01 02 03 04 05 06 07 08 09 10 11,case$(n)) \
	  --test case12 case13 case14 case15 \
	  --backbone segmentation=$(PROTOCOL)/meta/protocol-meta.safetensors \
	  --backbone more=$(PROTOCOL)/more/protocol-more.safetensors

# LOOP="--images half --classes 1 4 --only --seconds 10" is short.
bench-loop: $(READY)
	$(RUN) Testing/Benchmark/loop.py --json bench-loop.json $(LOOP)

# NOVEL="--test" opens the test set; NOVEL="--sets vessel teeth --seeds 0" is short.
bench-novel: $(READY)
	$(RUN) Testing/Benchmark/novel.py --json bench-novel.json $(NOVEL)

bench-unseen: $(READY)
	OMP_NUM_THREADS=1 $(RUN) Testing/Benchmark/unseen.py bench-unseen $(UNSEEN)

bench-features: $(READY)
	OMP_NUM_THREADS=1 $(RUN) Testing/Benchmark/features.py

study: $(READY)
	OMP_NUM_THREADS=1 $(RUN) Testing/Benchmark/study.py

bench-throughput: $(READY)
	$(RUN) Testing/Benchmark/throughput.py

hard-volumes: $(READY)
	$(RUN) Testing/Reliability/hard_volumes.py --write docs/hard-volumes.md
	$(RUN) Testing/Reliability/hard_scenes.py --write docs/hard-scenes.md

clean:
	rm -rf $(VENV) demo $(PROTOCOL) bench-unseen bench-novel.json bench-loop.json bench-loop.png test-times.json

# Reliability: what is broken on purpose, hostile input (COUNT of them), and load. docs/reliability.md has their tables.
COUNT ?= 1000000

fault-campaign: $(READY)
	$(RUN) Testing/Reliability/faults.py

fuzz: $(READY)
	nice -n 19 $(RUN) Testing/Reliability/fuzz.py --count $(COUNT) --out fuzz.json

load: $(READY)
	$(RUN) Testing/Reliability/load.py

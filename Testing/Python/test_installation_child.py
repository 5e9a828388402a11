"""Child processes: their lines as they come, their ends, and ending them with all that they started."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from harness.process_harness import finished, lives, python, until
from PromptSegLib.installation.child import ChildProcess


@pytest.fixture
def start(tmp_path: Path):
    """Starts an interpreter with this code."""
    return lambda code: ChildProcess(python(code), tmp_path)


def test_lines_come_while_it_runs(start, tmp_path):
    """The child waits for the test to have read its first line; half a line is left for later."""
    go = tmp_path / "go"
    code = (
        "import os, sys, time\nprint('first')\nprint('la', end='', flush=True)\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('st', file=sys.stderr, end='')"
    )
    run = start(code)
    assert until(run.lines, "the first line") == ["first"]
    assert run.returncode is None
    go.touch()
    assert finished(run) == (0, ["last"])
    assert run.lines() == []
    assert finished(start("raise SystemExit(7)")) == (7, [])


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(OSError):
        ChildProcess([str(tmp_path / "none"), "x"], tmp_path)


def test_letters_and_environment(start, monkeypatch):
    monkeypatch.setenv("PYTHONNOUSERSITE", "")
    code = "import os, sys; print('Läsion 肝', os.environ['PYTHONNOUSERSITE'], sys.stdin.read() == '')"
    assert finished(start(code)) == (0, ["Läsion 肝 1 True"])
    raw = "import sys; sys.stdout.buffer.write(b'\\xff\\r\\n')"
    assert finished(start(raw)) == (0, ["\N{REPLACEMENT CHARACTER}"])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_what_it_started_is_ended_with_it(start):
    """Slicer's Python is a launcher: the one that works is its child. Neither listens to anything gentler."""
    inner = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(os.getpid()); time.sleep(600)"
    run = start(f"import subprocess, sys; subprocess.run([sys.executable, '-u', '-c', {inner!r}])")
    pid = int(until(run.lines)[0])
    assert lives(pid)
    run.kill()
    assert run.returncode == -signal.SIGKILL
    until(lambda: not lives(pid), "the end of the child's child")
    run.kill()  # there is nobody any more


def test_temporary_files_are_beside_its_output(start, tmp_path):
    """Gigabytes of a download that is cancelled must not stay: the folder is deleted."""
    assert finished(start("import tempfile; print(tempfile.gettempdir())")) == (0, [str(tmp_path)])

"""Child processes: their lines as they come, their ends, and ending them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.process_harness import finished, lives, python, until
from PromptSegLib.installation.child import ChildProcess


@pytest.fixture
def start(tmp_path: Path):
    """Starts an interpreter with this code."""
    return lambda code: ChildProcess(python(code), tmp_path / "output.txt")


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
        ChildProcess([str(tmp_path / "none"), "x"], tmp_path / "output.txt")


def test_letters_and_environment(start, monkeypatch):
    monkeypatch.setenv("PYTHONNOUSERSITE", "")
    code = "import os, sys; print('Läsion 肝', os.environ['PYTHONNOUSERSITE'], sys.stdin.read() == '')"
    assert finished(start(code)) == (0, ["Läsion 肝 1 True"])
    raw = "import sys; sys.stdout.buffer.write(b'\\xff\\r\\n')"
    assert finished(start(raw)) == (0, ["\N{REPLACEMENT CHARACTER}"])


def test_cancelling_interrupts(start):
    run = start(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    print('on'); time.sleep(600)\nexcept KeyboardInterrupt:\n    print('tidied up'); raise SystemExit(1)"
    )
    until(run.lines)
    run.cancel()
    run.cancel()
    assert finished(run) == (1, ["tidied up"])
    run.cancel()
    assert run.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_cancelling_ends_what_does_not_listen_and_its_children(start):
    """Slicer's Python is a launcher: the one that works is its child."""
    inner = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(os.getpid()); time.sleep(600)"
    run = start(f"import subprocess, sys; subprocess.run([sys.executable, '-u', '-c', {inner!r}])")
    pid = int(until(run.lines)[0])
    assert lives(pid)
    run.cancel()
    code, _ = finished(run)
    assert code != 0
    until(lambda: not lives(pid), "the end of the child's child")

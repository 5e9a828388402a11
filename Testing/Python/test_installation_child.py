"""Child processes: their lines as they come, their ends, and ending them."""

from __future__ import annotations

import os

import pytest

from harness.process_harness import finished, lives, python, until
from PromptSegLib.installation.child import ChildProcess


def test_lines_come_while_it_runs(tmp_path):
    """The child waits for the test to have read its first line."""
    go = tmp_path / "go"
    code = f"import os, time\nprint('first')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('last')"
    run = ChildProcess(python(code))
    assert until(run.lines, "the first line") == ["first"]
    assert run.returncode is None
    go.touch()
    assert finished(run) == (0, ["last"])
    assert run.lines() == []


def test_commands_run_one_after_the_other_until_one_fails():
    run = ChildProcess(python("print(1)"), python("import sys; print(2, file=sys.stderr)"), python("print(3)"))
    assert finished(run) == (0, ["1", "2", "3"])
    run = ChildProcess(python("print(1)"), python("raise SystemExit(7)"), python("print(3)"))
    assert finished(run) == (7, ["1"])


def test_a_program_that_is_not_there(tmp_path):
    code, lines = finished(ChildProcess([str(tmp_path / "none"), "x"], python("print(1)")))
    assert code == 127
    assert len(lines) == 1
    assert "Cannot start" in lines[0]


def test_letters_and_environment(monkeypatch):
    monkeypatch.setenv("PYTHONNOUSERSITE", "")
    code = "import os, sys; print('Läsion 肝', os.environ['X'], os.environ['PYTHONNOUSERSITE'], sys.stdin.read() == '')"
    assert finished(ChildProcess(python(code), environment={"X": "y"})) == (0, ["Läsion 肝 y 1 True"])
    raw = "import sys; sys.stdout.buffer.write(b'\\xff\\n')"
    assert finished(ChildProcess(python(raw))) == (0, ["\N{REPLACEMENT CHARACTER}"])


def test_cancelling_interrupts_and_the_next_command_never_starts():
    code = (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n    print('on'); time.sleep(600)\nexcept KeyboardInterrupt:\n    print('tidied up'); raise SystemExit(1)"
    )
    run = ChildProcess(python(code), python("print('never')"))
    until(run.lines)
    run.cancel()
    run.cancel()
    assert finished(run) == (1, ["tidied up"])
    run.cancel()
    assert run.returncode == 1


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_cancelling_ends_what_does_not_listen_and_its_children():
    """Slicer's Python is a launcher: the one that works is its child."""
    inner = "import os, signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(os.getpid()); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-u', '-c', {inner!r}])"
    run = ChildProcess(python(outer))
    pid = int(until(run.lines)[0])
    assert lives(pid)
    run.cancel()
    code, _ = finished(run)
    assert code != 0
    until(lambda: not lives(pid), "the end of the child's child")


def test_cancelling_at_once():
    run = ChildProcess(python("import time; time.sleep(600)"), python("print('never')"))
    run.cancel()
    code, lines = finished(run)
    assert code != 0
    assert "never" not in lines

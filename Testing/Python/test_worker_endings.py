"""How a worker process begins and ends: with its input, with the application, by what it cannot read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.worker_harness import (
    SECONDS,
    eventually,
    is_running,
)
from PromptSegLib.worker.jobs import threads_wanted
from PromptSegLib.worker.launch import environment, local_command, python_of_the_application
from PromptSegLib.worker.messages import VERSION, Message, shared_folder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")
pytest_plugins = ["harness.worker_processes"]


ROOT = Path(__file__).parents[2]
LARGE = np.arange(300_000, dtype=np.int32).reshape(3, 100, 1000)


def test_a_worker_greets_before_anything_heavy_is_imported(alone):
    """Standard input that ends at once is the shortest life of the real thing."""
    folder = shared_folder()
    process, channel = alone(folder, local_command)
    hello = channel.receive()
    assert (hello.kind, hello.values["version"], hello.values["pid"]) == ("hello", VERSION, process.pid)
    maps = Path(f"/proc/{process.pid}/maps")
    assert not maps.exists() or "libtorch" not in maps.read_text()
    process.stdin.close()
    assert process.wait(SECONDS) == 0 and not folder.exists()


@pytest.mark.parametrize("job", [None, "endless", "stuck"])
def test_a_worker_ends_with_its_input_and_removes_its_folder(alone, job):
    folder = shared_folder()
    process, channel = alone(folder)
    assert channel.receive().kind == "hello"
    if job:
        channel.send("job", job=1, name=job, keep=[])
        assert channel.receive().kind == "report"
    (folder / "unread.raw").write_bytes(b"voxels")
    process.stdin.close()
    assert process.wait(SECONDS) == 0 and not folder.exists()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\n", b"\0\0\0\x02[]", b"\0\1\0\0" + b"[" * 2**16])
def test_a_worker_that_cannot_read_its_input_ends(alone, data):
    process, _ = alone(None)
    process.stdin.write(data)
    process.stdin.flush()
    errors = process.stderr.read().decode()
    assert process.wait(SECONDS) == 3 and "The worker ends: " in errors


def test_a_worker_ignores_messages_of_a_kind_it_does_not_know(alone):
    process, channel = alone(None)
    assert channel.receive().kind == "hello"
    channel.send("dance", job=1)
    channel.send("job", job=2, name="echo", keep=[])
    answer = channel.receive()
    assert isinstance(answer, Message) and (answer.kind, answer.job) == ("done", 2)


PARENT = """
import os, sys, time
from PromptSegLib.worker.client import Worker
from PromptSegLib.worker.launch import environment
worker = Worker(lambda folder: {command!r} + ["--folder", str(folder)], environment(1))
worker.submit("stuck", {{}})
while not any(event.kind == "report" for event in worker.poll()):
    time.sleep(0.005)
print(worker.pid, worker._folder, flush=True)
{end}
"""


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit()", "worker.kill(); os._exit(0)"])
def test_a_worker_dies_with_the_application(stand_in, end):
    code = PARENT.format(command=stand_in.command_of()(None), end=end)
    parent = subprocess.run(
        [sys.executable, "-c", code], env=environment(1), stdout=subprocess.PIPE, text=True, timeout=SECONDS
    )
    pid, folder = parent.stdout.split()
    eventually(lambda: not is_running(int(pid)))
    assert not Path(folder).exists()


# How it is started


def test_the_environment_finds_this_library_first(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/of/the/user", "/another"]))
    assert environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/of/the/user", "/another"]
    monkeypatch.delenv("PYTHONPATH")
    before = dict(os.environ)
    assert environment(3)["PYTHONPATH"] == str(ROOT)
    assert dict(os.environ) == before


def test_the_environment_honors_threads(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in environment()
    assert environment(3)["OMP_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment()["OMP_NUM_THREADS"] == "2" and threads_wanted() == 2
    assert environment(3)["OMP_NUM_THREADS"] == "3"
    for odd in ("", "0", "many", "-1"):
        monkeypatch.setenv("OMP_NUM_THREADS", odd)
        assert 1 <= threads_wanted() <= (os.cpu_count() or 1)


def test_idle_threads_do_not_spin_unless_the_user_wants_it(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert environment()["OMP_WAIT_POLICY"] == "ACTIVE"


@pytest.mark.skipif(sys.version_info < (3, 11), reason="PYTHONSAFEPATH")
def test_what_lies_in_the_working_folder_is_not_imported(alone, tmp_path, monkeypatch):
    for name in ("PromptSegLib/__init__.py", "numpy.py", "queue.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(tmp_path)
    assert alone(None, local_command)[1].receive().kind == "hello"


def test_the_python_is_the_applications(monkeypatch, tmp_path):
    monkeypatch.delenv("PROMPTSEG_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert python_of_the_application() == sys.executable
    own = tmp_path / "PythonSlicer"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    assert python_of_the_application() == str(own)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "SlicerApp-real"))
    assert python_of_the_application() == str(own)
    monkeypatch.setenv("PROMPTSEG_PYTHON", "/of/the/user")
    command = local_command(None)
    assert (command[0], command[-1]) == ("/of/the/user", "worker")
    assert local_command(tmp_path)[-2:] == ["--folder", str(tmp_path)]

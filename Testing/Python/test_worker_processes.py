"""Worker processes whose job is one that only a test would have: how they begin, speak and end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, Optional

import numpy as np
import pytest
import SimpleITK as sitk

from harness.worker_harness import (
    SECONDS,
    Driven,
    eventually,
    is_running,
    one_sentence,
)
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker import client
from PromptSegLib.worker.client import Sent
from PromptSegLib.worker.jobs import threads_wanted
from PromptSegLib.worker.launch import environment, local_command, python_of_the_application
from PromptSegLib.worker.messages import VERSION, Channel, Message, shared_folder
from PromptSegLib.worker.packing import grid_values

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")

ROOT = Path(__file__).parents[2]
LARGE = np.arange(300_000, dtype=np.int32).reshape(3, 100, 1000)

STAND_IN = """
import os, subprocess, sys, time, types
if {torch}:
    torch = sys.modules["torch"] = types.ModuleType("torch")
    torch.set_num_threads = lambda number: None
from PromptSegLib.worker import jobs, kept, serving

def run(self, message, job, emit):
    self.kept.keep_only(message.values["keep"])
    return globals()[message.values["name"]](self, message, job)

def echo(self, message, job):
    voxels = {{key: self.kept.image(key) for key in self.kept._images}}
    arrays = {{key: kept.sitk.GetArrayFromImage(image) for key, image in voxels.items()}}
    folder = message.values.get("folder")
    return {{"pid": os.getpid(), "files": len(os.listdir(folder)) if folder else 0}}, {{**message.arrays, **arrays}}

def endless(self, message, job):
    while True:
        job.report("working", 0.5)
        time.sleep(0.001)

def stuck(self, message, job):
    job.report("working", 0.5)
    while True:
        time.sleep(1)

def noisy(self, message, job):
    print("from print")
    sys.stdout.write("from sys.stdout\\n")
    os.write(1, b"from the first descriptor\\n")
    os.system("echo from a child")
    sys.stdout.flush()
    job.report("printed", 0.5)
    return {{}}, message.arrays

def too_large(self, message, job):
    job.report("working", 0.5)
    jobs.np.zeros(2**60, jobs.np.uint8)

def too_large_for_torch(self, message, job):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes")

def too_large_for_itk(self, message, job):
    raise RuntimeError("Exception thrown in SimpleITK ImageRead: std::bad_alloc")

jobs.JobHandlers.run = run
{patch}
from PromptSegLib.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

BLOCKER = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def stand_in(tmp_path) -> Iterator[Callable]:
    """Makes workers that are the real thing except for their jobs (and torch, which they do without)."""
    started = []

    def command_of(patch: str = "", torch: bool = True) -> Callable[[Optional[Path]], list[str]]:
        script = tmp_path / f"stand_in{len(started)}.py"
        script.write_text(STAND_IN.format(patch=patch, torch=torch))
        return lambda folder: [sys.executable, str(script), "worker", *(["--folder", str(folder)] if folder else [])]

    def start(patch: str = "", torch: bool = True, **keywords) -> Driven:
        started.append(Driven(command_of(patch, torch), environment(1), **keywords))
        return started[-1]

    start.command_of = command_of  # type: ignore[attr-defined]
    yield start
    for driven in started:
        driven.worker.kill()
    for driven in started:
        eventually(lambda each=driven: each.worker.pid is None or not is_running(each.worker.pid))


def test_arrays_and_images_go_there_and_back(stand_in):
    driven = stand_in()
    grid = {"grid": grid_values(Grid.of(sitk.GetImageFromArray(LARGE)))}
    images = [Sent("one", grid, LARGE[:, ::-1]), Sent("two", grid, LARGE + 1)]
    job = driven.worker.submit("echo", {}, {"array": LARGE.T, "small": LARGE[0, 0, :5]}, images)
    event = driven.last("done", job)
    for name, array in {"array": LARGE.T, "small": LARGE[0, 0, :5], "one": LARGE[:, ::-1], "two": LARGE + 1}.items():
        assert np.array_equal(event.arrays[name], array) and event.arrays[name].dtype == array.dtype
    assert event.values["pid"] == driven.worker.pid
    event = driven.last("done", driven.worker.submit("echo", {}, {}, images[1:]))
    assert set(event.arrays) == {"two"}
    event = driven.last("done", driven.worker.submit("echo", {}))
    assert not event.arrays


def test_arrays_leave_no_files_behind(stand_in, tmp_path, monkeypatch):
    folder = tmp_path / "shared"
    folder.mkdir()
    monkeypatch.setattr(client, "shared_folder", lambda: folder)
    driven = stand_in()
    event = driven.last("done", driven.worker.submit("echo", {"folder": str(folder)}, {"array": LARGE}))
    assert np.array_equal(event.arrays["array"], LARGE)
    assert event.values["files"] == 0 and not list(folder.iterdir())
    driven.worker.kill()
    driven.end()
    assert not folder.exists()


@pytest.mark.parametrize("place", ["none", "missing", "a file"])
def test_without_a_folder_arrays_go_inside_the_stream(stand_in, tmp_path, monkeypatch, place):
    folder = None if place == "none" else tmp_path / "folder"
    if place == "a file":
        folder.write_text("not a folder")
    monkeypatch.setattr(client, "shared_folder", lambda: folder)
    driven = stand_in()
    event = driven.last("done", driven.worker.submit("echo", {}, {"array": LARGE}))
    assert np.array_equal(event.arrays["array"], LARGE)


def test_whatever_prints_does_not_get_into_the_stream(stand_in):
    driven = stand_in()
    job = driven.worker.submit("noisy", {}, {"array": LARGE})
    assert np.array_equal(driven.last("done", job).arrays["array"], LARGE)
    for words in ("from print", "from sys.stdout", "from the first descriptor", "from a child"):
        eventually(lambda words=words: words in driven.worker.log)


@pytest.mark.parametrize("name", ["too_large", "too_large_for_torch", "too_large_for_itk"])
def test_out_of_memory_is_told_once_and_a_fresh_worker_works(stand_in, name):
    driven = stand_in()
    driven.until("done", driven.worker.submit("echo", {}))
    job = driven.worker.submit(name, {})
    driven.worker.submit("echo", {})  # its end comes with the worker's
    failed = driven.last("failed", job)
    assert failed.values["memory"] is True and failed.values["details"]
    assert failed.message.startswith("The memory of this machine is not enough") and failed.message.endswith(".")
    assert driven.end() == ""
    fresh = stand_in()
    assert fresh.last("done", fresh.worker.submit("echo", {})).values["pid"] != driven.worker.pid


def test_an_image_that_does_not_fit_into_memory_is_told_so(stand_in):
    driven = stand_in(
        "def image(self, array): raise MemoryError\nfrom PromptSegLib.imaging.geometry import Grid\nGrid.image = image"
    )
    grid = grid_values(Grid.of(sitk.GetImageFromArray(LARGE)))
    failed = driven.last("failed", driven.worker.submit("echo", {}, {}, [Sent("a", {"grid": grid}, LARGE)]))
    assert failed.values["memory"] is True
    assert driven.end() == ""


@pytest.mark.parametrize("moment", ["starting", "idle", "working", "stuck", "being sent to"])
def test_a_killed_worker_says_one_sentence_and_a_fresh_one_works(stand_in, moment):
    driven = stand_in(files=moment != "being sent to")
    worker = driven.worker
    if moment == "starting":
        worker.submit("echo", {})
        eventually(lambda: worker.pid is not None)
    else:
        driven.until("done", worker.submit("echo", {}))
    if moment in ("working", "stuck"):
        driven.until("report", worker.submit("endless" if moment == "working" else "stuck", {}))
    if moment == "being sent to":
        os.kill(worker.pid, signal.SIGSTOP)  # it reads no more: the pipe fills
        worker.submit("echo", {}, {"array": np.zeros((40, 1000, 1000), np.uint8)})
    os.kill(worker.pid, signal.SIGKILL)
    message = driven.end()
    assert one_sentence(message.replace("; ", ", ")) and "nothing is lost" in message
    fresh = stand_in()
    assert np.array_equal(fresh.last("done", fresh.worker.submit("echo", {}, {"a": LARGE})).arrays["a"], LARGE)


@pytest.mark.parametrize("code", [1, -signal.SIGSEGV])
def test_a_worker_that_ends_by_itself_says_so(stand_in, code):
    last = f"os._exit({code})" if code > 0 else f"os.kill(os.getpid(), {-code})"
    driven = stand_in(f"def fall(self, message, job):\n    print('No module named triton')\n    {last}\n")
    driven.worker.submit("fall", {})
    assert driven.end() == (
        f"The worker ended unexpectedly (exit code {code}); nothing is lost, click again to start a fresh one."
    )


# As PythonSlicer does: the worker is its child, and whatever signal ends that, the exit code is 1.
LAUNCHER = """#!{python}
import subprocess, sys
code = subprocess.call([{python!r}, *sys.argv[1:]])
if code < 0:
    print("error: [python-real] exit abnormally - Report the problem.", file=sys.stderr)
sys.exit(code if code >= 0 else {code})
"""


@pytest.fixture
def launched(stand_in, tmp_path) -> Callable:
    """Workers behind a launcher, which gives a code of its own for a child that a signal ended."""
    started = []

    def start(patch: str = "", code: int = 1) -> Driven:
        launcher = tmp_path / f"launcher{len(started)}"
        launcher.write_text(LAUNCHER.format(python=sys.executable, code=code))
        launcher.chmod(0o755)
        command = stand_in.command_of(patch)
        started.append(Driven(lambda folder: [str(launcher), *command(folder)[1:]], environment(1)))
        return started[-1]

    yield start
    for driven in started:
        driven.worker.kill()
        eventually(lambda each=driven: each.worker.pid is None or not is_running(each.worker.pid))


@pytest.mark.parametrize(
    "moment, code", [("idle", 1), ("working", 1), ("stuck", 1), ("stuck", 247), ("stuck", 255), ("stuck", 137)]
)
def test_a_worker_killed_behind_a_launcher_says_the_same_as_without(launched, moment, code):
    driven = launched(code=code)
    own = driven.last("done", driven.worker.submit("echo", {})).values["pid"]
    assert own == driven.worker.pid != driven.worker._process.pid
    if moment != "idle":
        driven.until("report", driven.worker.submit("endless" if moment == "working" else "stuck", {}))
    os.kill(own, signal.SIGKILL)
    message = driven.end()
    assert message.startswith("The worker was ended from outside, most likely because the machine ran out of memory;")
    assert "nothing is lost" in message


def test_a_worker_killed_behind_a_launcher_before_it_greets_is_told(launched):
    driven = launched(f"os.kill(os.getpid(), {signal.SIGKILL})")
    assert driven.end().startswith("The worker was ended from outside")


@pytest.mark.parametrize(
    "last, words",
    [
        ("os.kill(os.getpid(), 11)", "ended unexpectedly (exit code 1)"),
        ("os.abort()", "ended unexpectedly (exit code 1)"),
        ("sys.exit(7)", "ended unexpectedly (exit code 7)"),
        ("print('terminate called: std::bad_alloc'); os.abort()", "because the machine ran out of memory"),
    ],
)
def test_a_worker_that_falls_behind_a_launcher_was_not_ended_from_outside(launched, last, words):
    driven = launched(f"def fall(self, message, job):\n    {last}\n")
    driven.worker.submit("fall", {})
    message = driven.end()
    assert words in message and "from outside" not in message and "nothing is lost" in message


def test_kill_ends_what_a_launcher_started(launched):
    driven = launched()
    driven.until("report", driven.worker.submit("stuck", {}))
    own, launcher = driven.worker.pid, driven.worker._process.pid
    driven.worker.kill()
    assert driven.end() == ""
    eventually(lambda: not is_running(own) and not is_running(launcher))


@pytest.mark.parametrize("moment", ["at once", "idle", "working"])
def test_kill_ends_the_process_and_says_nothing(stand_in, moment):
    driven = stand_in()
    if moment != "at once":
        driven.until("done", driven.worker.submit("echo", {}))
    if moment == "working":
        driven.until("report", driven.worker.submit("stuck", {}))
    driven.worker.kill()
    driven.worker.kill()
    assert driven.end() == ""
    assert not is_running(driven.worker.pid)


def test_a_message_that_cannot_be_sent_ends_the_worker_and_is_told(stand_in):
    driven = stand_in()
    driven.worker.submit("echo", {"bad": object()})
    assert one_sentence(driven.end().replace("; ", ", "))
    assert "cannot be sent" in driven.worker.log


# What is missing


def test_without_torch_jobs_are_refused_until_it_is_there(stand_in):
    driven = stand_in(BLOCKER.format(name="torch"), torch=False)
    for _ in range(2):
        refused = driven.last("refused", driven.worker.submit("echo", {}))
        assert refused.message == "torch is not installed; click Install in Setup."


def test_without_simpleitk_no_worker_starts(stand_in, tmp_path):
    script = tmp_path / "without.py"
    script.write_text(
        "import sys\n" + BLOCKER.format(name="SimpleITK") + "from PromptSegLib.cli.main import main\nmain(['worker'])\n"
    )
    driven = Driven(lambda _: [sys.executable, str(script)], environment())
    assert driven.end() == "The worker cannot find SimpleITK; click Install in Setup."


def test_an_executable_that_does_not_exist_is_told():
    driven = Driven(lambda _: ["/nowhere/python"], environment())
    message = driven.end()
    assert one_sentence(message.replace("; ", ", ")) and "Setup" in message and "No such file" in message
    driven.worker.submit("echo", {})
    driven.worker.cancel(1)
    driven.worker.kill()


@pytest.mark.parametrize("place", ["this machine", "gpu"])
def test_a_worker_of_another_version_is_told(stand_in, place):
    driven = stand_in("serving.VERSION = 99", place=place)
    driven.worker.submit("echo", {})
    message = driven.end()
    assert one_sentence(message.replace("; ", ", ")) and "another version" in message and place in message


HELLO = """
import io, sys, time
from pathlib import Path
from PromptSegLib.worker.messages import VERSION, Channel
import numpy as np
channel = Channel(io.BytesIO(), sys.stdout.buffer, Path(sys.argv[1]))
channel.send("hello", version=VERSION)
"""


@pytest.mark.parametrize(
    "writes",
    [
        "sys.stdout.buffer.write(b'Segmentation fault\\n' * 99)",
        "channel.send('done', job='one')",
        "sys.stdout.buffer.write(b'\\0\\0\\0\\x02[]')",
        "Channel(io.BytesIO(), sys.stdout.buffer, Path(sys.argv[2])).send('done', {'a': np.zeros(99999)}, job=1)",
    ],
)
@pytest.mark.parametrize("lives", [True, False])
def test_an_answer_that_cannot_be_read_ends_the_worker_and_is_told(writes, lives, monkeypatch, tmp_path):
    monkeypatch.setattr(client, "_ENDING", 0.01 if lives else SECONDS)
    after = "sys.stdout.buffer.flush()\n" + ("time.sleep(999)" if lives else "sys.exit(7)")
    code = f"{HELLO}\n{writes}\n{after}"
    driven = Driven(lambda folder: [sys.executable, "-c", code, str(folder), str(tmp_path)], environment())
    driven.worker.submit("echo", {})
    message = driven.end()
    assert one_sentence(message.replace("; ", ", ")) and "nothing is lost" in message
    assert ("could not be read" if lives else "exit code 7") in message
    assert "cannot be read" in driven.worker.log
    assert not is_running(driven.worker.pid)


# How it ends


@pytest.fixture
def alone(stand_in) -> Iterator[Callable]:
    """A worker that the test itself speaks with."""
    started = []

    def start(folder: Optional[Path], command=None) -> tuple[subprocess.Popen, Channel]:
        process = subprocess.Popen(
            (command or stand_in.command_of())(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(1),
        )
        started.append(process)
        return process, Channel(process.stdout, process.stdin, folder)

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()


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

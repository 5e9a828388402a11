"""Worker processes whose job is one that only a test would have: how they begin, speak and end."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

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
from harness.worker_processes import BLOCKER
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker import client
from PromptSegLib.worker.client import Sent
from PromptSegLib.worker.launch import environment
from PromptSegLib.worker.packing import grid_values

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")

ROOT = Path(__file__).parents[2]
LARGE = np.arange(300_000, dtype=np.int32).reshape(3, 100, 1000)
pytest_plugins = ["harness.worker_processes"]


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

"""Carriers other than a process: a thread in this one, and a script that computes nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from harness.scripted_worker import replies
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker import in_process
from PromptSegLib.worker.client import Event, Sent
from PromptSegLib.worker.contract import Prepare
from PromptSegLib.worker.in_process import InProcess
from PromptSegLib.worker.packing import grid_values

ROOT = Path(__file__).resolve().parents[2]
IMAGE = sitk.GetImageFromArray(np.arange(60, dtype=np.float32).reshape(3, 4, 5))
PREPARE = Prepare("m", "cpu", "a")


class Stand:
    """Jobs that need no torch."""

    def __init__(self) -> None:
        self.images: dict = {}

    def add_image(self, message) -> None:
        self.images[message.values["key"]] = message.arrays["voxels"]

    def run(self, message, job, emit):
        name = message.values["model"]
        if name == "refuse":
            raise PromptSegError("{name} is refused.", name="CT")
        if name == "fail":
            raise MemoryError
        emit({"first": True}, {})
        while name == "endless":
            job.report("working", 0.5)
            time.sleep(0.001)
        return {"keep": message.values["keep"]}, dict(self.images)


@pytest.fixture
def carrier(monkeypatch):
    monkeypatch.setattr(in_process, "JobHandlers", Stand)
    monkeypatch.setitem(sys.modules, "torch", sys.modules[__name__])
    carrier = InProcess()
    yield carrier
    carrier.kill()


def ask(carrier: InProcess, model: str) -> int:
    sent = Sent("a", {"grid": grid_values(Grid.of(IMAGE))}, sitk.GetArrayFromImage(IMAGE))
    return carrier.submit(PREPARE.name, *Prepare(model, "cpu", "a").pack(), [sent])


def until(carrier: InProcess, kind: str) -> list[Event]:
    taken, limit = [], time.monotonic() + 60
    while not taken or taken[-1].kind != kind:
        taken += carrier.poll()
        assert time.monotonic() < limit, taken
        time.sleep(0.001)
    return taken


def test_a_thread_does_jobs_one_after_the_other(carrier):
    first, second = ask(carrier, "m"), ask(carrier, "m")
    events = until(carrier, "done")
    while events[-1].job != second:
        events += until(carrier, "done")
    assert [(each.kind, each.job) for each in events if each.kind != "report"] == [
        (kind, job) for job in (first, second) for kind in ("preview", "done")
    ]
    assert events[-1].values["keep"] == ["a"]
    assert np.array_equal(events[-1].arrays["a"], sitk.GetArrayFromImage(IMAGE))


def test_a_thread_refuses_fails_and_goes_on(carrier):
    ask(carrier, "refuse")
    assert until(carrier, "refused")[-1].message == "CT is refused."
    ask(carrier, "fail")
    failed = until(carrier, "failed")[-1]  # a process would end now; this one is the caller's
    assert failed.values["memory"] and "memory" in failed.message
    ask(carrier, "m")
    assert until(carrier, "done")


def test_a_thread_is_cancelled_and_killed(carrier):
    job = ask(carrier, "endless")
    until(carrier, "report")
    carrier.cancel(job)
    assert until(carrier, "cancelled")[-1].job == job
    ask(carrier, "endless")
    until(carrier, "report")
    carrier.kill()
    assert carrier.gone and carrier.poll() == []


def test_a_process_waits_at_its_end_for_the_thread(tmp_path):
    """Torch aborts a process that ends while it computes."""
    code = (
        "import sys, time, types\nfrom pathlib import Path\nfrom PromptSegLib.worker import in_process\n"
        "sys.modules['torch'] = types.ModuleType('torch')\n"
        "class Endless:\n"
        "    def run(self, message, job, emit):\n"
        "        print('at work', flush=True)\n"
        "        try:\n"
        "            while True:\n"
        "                job.report('working', 0.5)\n"
        "                time.sleep(0.01)\n"
        "        finally:\n"
        "            time.sleep(0.3)\n"
        "            Path(sys.argv[1]).write_text('ended')\n"
        "in_process.JobHandlers = Endless\n"
        "carrier = in_process.InProcess()\ncarrier.submit('x', {})\n"
        "while not carrier.poll():\n    time.sleep(0.01)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "ended")], cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0 and "at work" in done.stdout, done.stderr
    assert (tmp_path / "ended").read_text() == "ended"


# A session with a worker that is only a script: no torch, no process


def test_a_session_follows_a_script(session_with):
    from harness.mrml_fixtures import run

    session, worker = session_with(lambda request: replies(request) if request.name in ("tune", "grow") else [])
    session.tune()
    run(session)
    asked = next(each for each in worker.asked if each.name == "tune")
    assert set(asked.classes) == {"ball", "rod"} and len(asked.examples) == 1
    assert worker.images and session.view().preview == "Result"


@pytest.mark.parametrize(
    ("line", "level"), [(("refused", "It cannot be."), "warning"), (("gone", "It was ended."), "warning")]
)
def test_a_session_says_what_the_script_does(session_with, line, level):
    from harness.mrml_fixtures import run

    session, _ = session_with(lambda request: [("report", 0.2), line] if request.name == "tune" else [])
    session.tune()
    run(session)
    assert session.view().notice.text.startswith(line[1]) and not session.busy

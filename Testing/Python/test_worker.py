"""Workers are real processes here: with torch and a tiny backbone, or with a job that only a test would have."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator, Optional

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny import CLASSES, example

import PromptSegLib as ps
from PromptSegLib.examples.geometry import Grid
from PromptSegLib.worker import client
from PromptSegLib.worker.client import Event, Sent, Worker
from PromptSegLib.worker.jobs import Jobs, threads_wanted
from PromptSegLib.worker.launch import environment, local_command, python_of_the_application, ssh_command
from PromptSegLib.worker.messages import VERSION, Channel, Message, shared_folder
from PromptSegLib.worker.packing import grid_of, grid_values, infos_of, packed_prompts, prompts_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")

ROOT = Path(__file__).parents[2]
SECONDS = 60.0  # until a worker that does not answer fails its test
ENDS = ("done", "cancelled", "refused", "failed")
BRIEF = {"steps": 4, "token_steps": 5, "seed": 3}
ENDLESS = {"steps": 10**9, "token_steps": 0}
LARGE = np.arange(300_000, dtype=np.int32).reshape(3, 100, 1000)


class Driven:
    """A worker whose events are waited for, each taken once."""

    def __init__(self, *arguments, **keywords):
        self.worker = Worker(*arguments, **keywords)
        self._waiting: list[Event] = []

    def until(self, kind: str, job: int = 0) -> list[Event]:
        """Everything up to the first event of a kind (of a job); fails when the job or the worker ends otherwise."""
        taken: list[Event] = []
        for event in self._events():
            taken.append(event)
            if event.kind == kind and job in (0, event.job):
                return taken
            if event.kind == "gone" or (event.kind in ENDS and job in (0, event.job)):
                pytest.fail(f"waited for {kind} of {job}, got {event.kind}: {event.message}\n{self.worker.log}")
        raise AssertionError("unreachable")

    def last(self, kind: str, job: int = 0) -> Event:
        return self.until(kind, job)[-1]

    def gone(self) -> list[Event]:
        """Everything up to the worker's end, after which nothing more is said."""
        taken = []
        for event in self._events():
            taken.append(event)
            if event.kind == "gone":
                break
        assert self.worker.gone and not self._waiting and not self.worker.poll()
        return taken

    def end(self) -> str:
        """What the worker's end says; jobs end with it, without a word of their own."""
        events = self.gone()
        assert not [event.kind for event in events if event.kind in ENDS]
        return events[-1].message

    def _events(self) -> Iterator[Event]:
        deadline = time.monotonic() + SECONDS
        while True:
            self._waiting += self.worker.poll()
            while self._waiting:
                yield self._waiting.pop(0)
            if time.monotonic() > deadline:
                pytest.fail(f"the worker does not answer\n{self.worker.log}")
            time.sleep(0.005)


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"  # a zombie has ended
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()  # no such folder on this system: what kill says is all there is


def one_sentence(text: str) -> bool:
    return text[:1].isupper() and text.endswith(".") and "\n" not in text and ". " not in text


# Jobs with torch


@pytest.fixture(scope="module")
def case() -> ps.Example:
    return example()


@pytest.fixture(scope="module")
def torch_worker() -> Iterator[Driven]:
    driven = Driven(local_command, environment(1))
    yield driven
    driven.worker.kill()


@pytest.fixture
def worker(torch_worker) -> Iterator[Driven]:
    """A worker with torch that several tests share: none ends it."""
    pid = torch_worker.worker.pid
    yield torch_worker
    assert not torch_worker.worker.gone and pid in (None, torch_worker.worker.pid)


def image_of(case: ps.Example, key: str) -> Sent:
    return Sent(key, {"grid": grid_values(Grid.of(case.image))}, sitk.GetArrayFromImage(case.image))


def strokes_of(case: ps.Example, key: str) -> dict:
    return {"image": key, "name": "case", "grid": grid_values(Grid.of(case.annotation)), "background": case.background}


def tuning(driven: Driven, model: Path, case: ps.Example, key: str, images=None, start=None, **changes) -> int:
    values = {
        "model": str(model),
        "device": "cpu",
        "settings": BRIEF,
        "classes": CLASSES,
        "examples": [strokes_of(case, key)],
        **changes,
    }
    arrays = {"annotation0": sitk.GetArrayFromImage(case.annotation)}
    if start is not None:
        arrays["start"] = packed_prompts(start)
    return driven.worker.submit("tune", values, arrays, [image_of(case, key)] if images is None else images)


def labels_of(event: Event, like: sitk.Image) -> np.ndarray:
    """The labels of an answer on the image's whole grid."""
    grid, part = grid_of(event.values["grid"]), event.arrays["labels"]
    x, y, z = Grid.of(like).indices(np.array([grid.origin]))[0].round().astype(int)
    assert Grid.of(like).part((x, y, z), np.add((x, y, z), grid.size)).same_as(grid) and part.shape == grid.shape
    whole = np.zeros(Grid.of(like).shape, part.dtype)
    whole[z : z + grid.size[2], y : y + grid.size[1], x : x + grid.size[0]] = part
    return whole


def same_prompts(one: ps.Prompts, other: ps.Prompts) -> bool:
    return one.names == other.names and all(
        np.array_equal(array, other.find(name).tensors[key])
        for name in one.names
        for key, array in one.find(name).tensors.items()
    )


@pytest.fixture(scope="module")
def expected(models, case) -> SimpleNamespace:
    """What tuning and segmenting give without a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        backbone = ps.load_model(str(models / "tiny0.safetensors"), "cpu")
        prompts = ps.tune([case], CLASSES, backbone, settings=ps.Settings(**BRIEF))
        result = ps.segment(prompts, case.image, backbone, strokes=case, uncertainty_wanted=True, coarse_maps=True)
    finally:
        torch.set_num_threads(threads)
    return SimpleNamespace(prompts=prompts, result=result, backbone=backbone)


def is_expected(event: Event, expected: SimpleNamespace, case: ps.Example) -> bool:
    result = expected.result
    assert same_prompts(prompts_of(event.arrays["prompts"]), expected.prompts)
    assert np.array_equal(labels_of(event, case.image), sitk.GetArrayFromImage(result.labels))
    assert infos_of(event.values["classes"]) == result.classes
    assert np.allclose(event.values["places"], result.places)
    assert grid_of(event.values["map_grid"]).same_as(Grid.of(result.uncertainty))
    unsure = sitk.GetArrayFromImage(result.uncertainty)
    return bool(np.abs(event.arrays["map"] / 255 - unsure).max() <= 0.5 / 255 + 1e-6)


def test_a_job_tells_what_it_computes_on(worker, case):
    values = {"model": "ct-body", "device": "cpu", "image": "seen"}
    job = worker.worker.submit("prepare", values, {}, [image_of(case, "seen")])
    assert worker.last("done", job).values["device"].startswith("CPU, 1 thread")


def test_a_tuning_reports_and_previews_and_gives_what_it_gives_without_a_worker(worker, models, case, expected):
    job = tuning(worker, models / "tiny0.safetensors", case, "life")
    events = worker.until("done", job)
    assert {event.job for event in events} == {job}
    kinds = [event.kind for event in events]
    assert set(kinds) == {"report", "preview", "done"}
    shares = [event.values["share"] for event in events if event.kind == "report"]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
    assert all(event.values["stage"] for event in events if event.kind == "report")
    figures = [event.values["figures"] for event in events if event.values.get("stage") == "tuning"]
    assert [each["step"] for each in figures] == list(range(1, BRIEF["steps"] + 1))
    assert all({"loss", "agreement"} <= set(each) for each in figures)
    stages = [event.values.get("stage") for event in events]
    assert kinds.index("preview") < stages.index("reading examples")  # the first look waits for nothing
    previews = [event for event in events if event.kind == "preview"]
    for preview in previews:
        assert {info.name for info in infos_of(preview.values["classes"])} == set(CLASSES)
        assert set(np.unique(labels_of(preview, case.image))) <= {0, *CLASSES.values()}
        if preview is not previews[0]:
            assert set(CLASSES) == set(prompts_of(preview.arrays["prompts"]).names)
    assert is_expected(events[-1], expected, case)


def test_previews_are_not_made_when_nobody_wants_them(worker, models, case, expected):
    events = worker.until("done", tuning(worker, models / "tiny0.safetensors", case, "blind", previews=False))
    assert "preview" not in [event.kind for event in events]
    assert is_expected(events[-1], expected, case)


def test_a_second_job_needs_neither_the_image_nor_the_models_file(worker, models, case, expected, tmp_path):
    for suffix in (".safetensors", ".prompts.safetensors"):
        shutil.copy(models / f"tiny0{suffix}", tmp_path / f"copy{suffix}")
    model = tmp_path / "copy.safetensors"
    worker.until("done", tuning(worker, model, case, "kept"))
    for file in tmp_path.iterdir():
        file.unlink()
    nonsense = Sent("kept", {}, np.zeros(0, np.uint8))  # the job would fail if it were sent
    job = tuning(worker, model, case, "kept", [nonsense])
    assert is_expected(worker.last("done", job), expected, case)
    job = tuning(worker, tmp_path / "other.safetensors", case, "kept", [nonsense])
    assert "other.safetensors" in worker.last("refused", job).message


def test_images_that_no_job_names_any_more_are_dropped(worker, models, case, expected):
    model = models / "tiny0.safetensors"
    worker.until("done", tuning(worker, model, case, "one"))
    other = image_of(example(seed=5), "two")
    refused = worker.last("refused", tuning(worker, model, case, "one", [other]))
    assert one_sentence(refused.message.replace("; ", ", ")) and "no longer has the volume" in refused.message
    job = tuning(worker, model, case, "one", [image_of(case, "one"), Sent("two", {}, other.voxels)])
    assert is_expected(worker.last("done", job), expected, case)


def test_an_image_stays_the_same_object(case):
    """What is computed of an image is kept by its identity."""
    jobs, sent = Jobs(), image_of(case, "a")
    jobs.add_image(Message("image", {"key": "a", **sent.values}, {"voxels": sent.voxels}))
    assert jobs._image("a") is jobs._image("a")
    assert Grid.of(jobs._image("a")).same_as(Grid.of(case.image))


def test_segmenting_gives_what_it_gives_without_a_worker(worker, models, case, expected):
    values = {"model": str(models / "tiny0.safetensors"), "device": "cpu", "image": "next"}
    image = example(shape=(18, 44, 50), seed=2).image
    sent = Sent("next", {"grid": grid_values(Grid.of(image))}, sitk.GetArrayFromImage(image))
    assert worker.last("done", worker.worker.submit("prepare", values, {}, [sent])).arrays == {}
    prompts = expected.backbone.shipped
    job = worker.worker.submit("segment", values, {"prompts": packed_prompts(prompts)}, [sent])
    event = worker.last("done", job)
    result = ps.segment(prompts, image, expected.backbone)
    assert (labels_of(event, image) == sitk.GetArrayFromImage(result.labels)).mean() > 0.999
    assert infos_of(event.values["classes"]) == result.classes


def test_segmenting_grows_strokes(worker, models, case, expected):
    values = {"model": str(models / "tiny0.safetensors"), "device": "cpu", "strokes": strokes_of(case, "strokes")}
    arrays = {
        "prompts": packed_prompts(expected.prompts),
        "annotation0": sitk.GetArrayFromImage(case.annotation),
    }
    event = worker.last("done", worker.worker.submit("segment", values, arrays, [image_of(case, "strokes")]))
    assert np.array_equal(labels_of(event, case.image), sitk.GetArrayFromImage(expected.result.labels))


def test_a_tuning_goes_on_from_prompts_and_keeps_their_other_classes(worker, models, case, expected):
    model = models / "tiny0.safetensors"
    job = tuning(worker, model, case, "again", start=expected.prompts, classes={"ball": CLASSES["ball"]}, others=[9])
    events = worker.until("done", job)
    first = next(event for event in events if event.kind == "preview")
    assert same_prompts(prompts_of(first.arrays["prompts"]), expected.prompts)
    prompts = prompts_of(events[-1].arrays["prompts"])
    assert set(prompts.names) == set(CLASSES)
    for key, array in expected.prompts.find("rod").tensors.items():
        assert np.array_equal(array, prompts.find("rod").tensors[key])


def test_a_cancelled_tuning_stops_and_the_next_job_works(worker, models, case, expected):
    model = models / "tiny0.safetensors"
    job = tuning(worker, model, case, "cancel", settings=ENDLESS)
    while worker.last("report", job).values["stage"] != "tuning":
        pass
    pid = worker.worker.pid
    worker.worker.cancel(job)
    worker.worker.cancel(job)
    following = tuning(worker, model, case, "cancel")
    assert {event.kind for event in worker.until("cancelled", job)[:-1]} <= {"report", "preview"}
    worker.worker.cancel(job)  # too late, and harmless
    events = worker.until("done", following)
    assert {event.job for event in events} == {following} and worker.worker.pid == pid
    assert is_expected(events[-1], expected, case)


def test_a_job_that_still_waits_is_cancelled_without_being_begun(worker, models, case):
    model = models / "tiny0.safetensors"
    running = tuning(worker, model, case, "wait", settings=ENDLESS)
    waiting, last = tuning(worker, model, case, "wait"), tuning(worker, model, case, "wait")
    worker.worker.cancel(waiting)
    worker.until("report", running)
    worker.worker.cancel(running)
    worker.until("cancelled", running)
    assert [event.kind for event in worker.until("cancelled", waiting)] == ["cancelled"]
    assert {event.job for event in worker.until("done", last)} == {last}


def test_bad_input_is_refused_with_the_sentence_of_the_library(worker, models, case):
    model, classes = models / "tiny0.safetensors", {**CLASSES, "never painted": 11}
    with pytest.raises(ps.PromptSegError) as told:
        ps.tune([replace(case, name="case")], classes, str(model), device="cpu")
    refused = worker.last("refused", tuning(worker, model, case, "bad", classes=classes))
    assert "never painted" in refused.message and refused.message == str(told.value)


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("dance", {}, ["dance", "update PromptSeg"]),
        ("prepare", {"model": "nothing-of-that-name"}, ["nothing-of-that-name"]),
        ("prepare", {"device": "abacus"}, ["abacus", "cpu"]),
        ("segment", {"image": "never sent"}, ["no longer has the volume"]),
        ("prepare", {"image": "never sent"}, ["no longer has the volume"]),
    ],
)
def test_what_cannot_be_done_is_refused(worker, models, expected, name, changes, words):
    values = {"model": str(models / "tiny0.safetensors"), "device": "cpu", **changes}
    job = worker.worker.submit(name, values, {"prompts": packed_prompts(expected.prompts)})
    message = worker.last("refused", job).message
    assert message.endswith(".") and all(word in message for word in words)


def test_prompts_of_another_backbone_are_refused(worker, models, case, expected):
    other = ps.load_model(str(models / "tiny1.safetensors"), "cpu").shipped
    model, image = models / "tiny0.safetensors", image_of(case, "other")
    values = {"model": str(model), "device": "cpu", "image": "other"}
    with pytest.raises(ps.PromptSegError) as told:
        ps.segment(other, case.image, expected.backbone)
    job = worker.worker.submit("segment", values, {"prompts": packed_prompts(other)}, [image])
    assert worker.last("refused", job).message == str(told.value)
    assert "tiny1" in worker.last("refused", tuning(worker, model, case, "other", start=other)).message
    job = worker.worker.submit("segment", values, {"prompts": np.arange(99, dtype=np.uint8)}, [image])
    assert "not a PromptSeg prompts file" in worker.last("refused", job).message


@pytest.mark.parametrize("name", ["prepare", "segment"])
def test_images_that_hold_no_numbers_are_refused(worker, models, case, expected, name):
    values = {"model": str(models / "tiny0.safetensors"), "device": "cpu", "image": f"nan {name}"}
    sent = image_of(case, f"nan {name}")
    sent.voxels[:] = np.nan
    job = worker.worker.submit(name, values, {"prompts": packed_prompts(expected.prompts)}, [sent])
    assert "NaN" in worker.last("refused", job).message


@pytest.mark.parametrize("missing", ["classes", "examples"])
def test_what_should_not_happen_fails_with_details_and_the_next_job_works(worker, models, case, missing):
    values = {"model": str(models / "tiny0.safetensors"), "device": "cpu", "classes": CLASSES, "examples": []}
    del values[missing]
    failed = worker.last("failed", worker.worker.submit("tune", values))
    assert missing in failed.message and "Traceback" in failed.values["details"] and not failed.values["memory"]
    assert missing in worker.worker.log
    values = {"model": values["model"], "device": "cpu", "image": "next"}
    job = worker.worker.submit("prepare", values, {}, [image_of(case, "next")])
    assert worker.last("done", job).values["device"].startswith("CPU")


def test_an_image_that_is_none_fails_the_job_that_names_it(worker, models, case):
    broken = Sent("broken", {"grid": {"size": [1]}}, np.zeros((2, 2, 2), np.uint8))
    assert worker.last("failed", tuning(worker, models / "tiny0.safetensors", case, "broken", [broken])).message


def test_a_tuning_that_is_killed_is_done_by_a_fresh_worker(models, case, expected):
    driven = Driven(local_command, environment(1))
    job = tuning(driven, models / "tiny0.safetensors", case, "a", settings=ENDLESS)
    while driven.last("report", job).values["stage"] != "tuning":
        pass
    os.kill(driven.worker.pid, signal.SIGKILL)
    message = driven.end()
    assert "nothing is lost" in message and "memory" in message
    fresh = Driven(local_command, environment(1))
    try:
        job = tuning(fresh, models / "tiny0.safetensors", case, "a")
        assert is_expected(fresh.last("done", job), expected, case)
    finally:
        fresh.worker.kill()


# Processes whose job is another


STAND_IN = """
import os, subprocess, sys, time, types
if {torch}:
    torch = sys.modules["torch"] = types.ModuleType("torch")
    torch.set_num_threads = lambda number: None
from PromptSegLib.worker import jobs, serving

def run(self, message, job, emit):
    keep = message.values["keep"]
    self._images = {{key: image for key, image in self._images.items() if key in keep}}
    return globals()[message.values["name"]](self, message, job)

def echo(self, message, job):
    voxels = {{key: self._image(key) for key in self._images}}
    arrays = {{key: jobs.sitk.GetArrayFromImage(image) for key, image in voxels.items()}}
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

jobs.Jobs.run = run
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
        "def image(self, array): raise MemoryError\nfrom PromptSegLib.examples.geometry import Grid\nGrid.image = image"
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


# Over ssh

FAKE = """#!{python}
import json, os, subprocess, sys
arguments = sys.argv[1:]
with open({record!r}, "w") as file:
    json.dump(arguments, file)
{body}
"""


@pytest.fixture
def ssh(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Puts an ssh first on the path that does what it is told; gives the file with the arguments it was given."""
    folder, record = tmp_path / "bin", tmp_path / "arguments.json"
    folder.mkdir()
    monkeypatch.setenv("PATH", os.pathsep.join([str(folder), os.environ["PATH"]]))

    def install(body: str, name: str = "ssh") -> Path:
        (folder / name).write_text(FAKE.format(python=sys.executable, record=str(record), body=body))
        (folder / name).chmod(0o755)
        return record

    return install


def test_the_same_job_works_over_ssh(ssh, models, case, expected, tmp_path):
    record = ssh('os.execvp("sh", ["sh", "-c", arguments[-1]])')  # as the shell there would
    remote = tmp_path / "bin" / "promptseg"
    remote.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m PromptSegLib "$@"\n')
    remote.chmod(0o755)
    driven = Driven(lambda folder: ssh_command("me@gpu"), environment(1), files=False, place="me@gpu")
    try:
        job = tuning(driven, models / "tiny0.safetensors", case, "a")
        assert is_expected(driven.last("done", job), expected, case)
    finally:
        driven.worker.kill()
    assert driven.end() == ""
    arguments = json.loads(record.read_text())
    assert arguments[-2:] == ["me@gpu", "promptseg worker"]
    options = arguments[:-2]
    assert options[0] == "-T" and options[options.index("BatchMode=yes") - 1] == "-o"
    assert not any(option.startswith("-t") for option in options)


@pytest.mark.parametrize(
    "body, words",
    [
        ("sys.exit('me@gpu: Permission denied (publickey).\\n\\n')", "Permission denied"),
        ("print('ssh: Could not resolve hostname gpu', file=sys.stderr); sys.exit(255)", "resolve hostname"),
        ("sys.exit(255)", "exit code 255"),
        ("print('Welcome to the cluster', flush=True); sys.exit(127)", "cannot be read"),
        ("print('Welcome to the cluster', flush=True); sys.stdin.read()", "cannot be read"),
    ],
)
def test_an_ssh_that_fails_is_told_with_the_host(ssh, body, words):
    ssh(body)
    driven = Driven(lambda folder: ssh_command("me@gpu"), environment(), files=False, place="me@gpu")
    driven.worker.submit("prepare", {})
    message = driven.end()
    assert message.startswith("No worker could be started on me@gpu (") and words in message
    assert message.endswith("try ssh me@gpu in a terminal first.")


@pytest.mark.parametrize(
    "host", ["-oProxyCommand=x", "-x", "", " gpu", "gpu host", "gpu;ls", "gpu\n", "$(ls)", "`ls`", "a'b", "@gpu", "a/b"]
)
def test_what_is_no_host_is_refused(ssh, host):
    ssh("")
    with pytest.raises(ps.PromptSegError) as told:
        ssh_command(host)
    assert "host" in str(told.value)
    driven = Driven(lambda folder: ssh_command(host), environment(), files=False, place=host)
    assert driven.end() == str(told.value)


@pytest.mark.parametrize("host", ["gpu", "me@gpu-1.example.org", "10.0.0.7", "user_1@host", "2001:db8::1"])
def test_hosts_are_taken_as_they_are(ssh, host):
    ssh("")
    assert ssh_command(host, "other worker")[-2:] == [host, "other worker"]


def test_without_ssh_that_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ps.PromptSegError, match="no ssh on this machine"):
        ssh_command("gpu")


# How it is started


def test_the_environment_finds_this_library_first(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/of/the/user", "/another"]))
    assert environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/of/the/user", "/another"]
    monkeypatch.delenv("PYTHONPATH")
    before = dict(os.environ)
    assert environment(3)["PYTHONPATH"] == str(ROOT)
    assert dict(os.environ) == before


def test_the_environment_honours_threads(monkeypatch):
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

"""Jobs of a worker, which is a real process here, with torch and a tiny backbone, and brisk growing."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from typing import Iterator

import numpy as np
import pytest
import SimpleITK as sitk

import PromptSegLib as ps
from harness import brisk
from harness.tiny_model import CLASSES, example
from harness.worker_harness import (
    BRIEF,
    Driven,
    eventually,
    image_of,
    is_expected,
    labels_of,
    one_sentence,
    same_prompts,
    strokes_of,
    tuning,
)
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker.client import Sent
from PromptSegLib.worker.jobs import JobHandlers
from PromptSegLib.worker.launch import environment
from PromptSegLib.worker.messages import Message
from PromptSegLib.worker.packing import grid_values, infos_of, packed_prompts, prompts_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")

ENDLESS = {"steps": 10**9, "token_steps": 0}


@pytest.fixture(scope="module")
def torch_worker() -> Iterator[Driven]:
    driven = Driven(brisk.command, environment(1))
    yield driven
    driven.worker.kill()


@pytest.fixture
def worker(torch_worker) -> Iterator[Driven]:
    """A worker with torch that several tests share: none ends it."""
    pid = torch_worker.worker.pid
    yield torch_worker
    assert not torch_worker.worker.gone and pid in (None, torch_worker.worker.pid)


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
    assert kinds.index("preview") < stages.index("loading the model")  # what is painted is grown at once
    previews = [event for event in events if event.kind == "preview"]
    looks = [kind for kind in kinds[: stages.index("reading examples")] if kind == "preview"]
    assert len(looks) == 2  # the look with the model waits for no tuning
    for preview in previews:
        assert {info.name for info in infos_of(preview.values["classes"])} == set(CLASSES)
        assert set(np.unique(labels_of(preview, case.image))) <= {0, *CLASSES.values()}
        if preview not in previews[:2]:
            assert set(CLASSES) == set(prompts_of(preview.arrays["prompts"]).names)
    assert is_expected(events[-1], expected, case)


def test_what_is_seen_grown_already_is_not_grown_in_haste_again(worker, models, case):
    events = worker.until("done", tuning(worker, models / "tiny0.safetensors", case, "grown", grown=True))
    stages, kinds = [event.values.get("stage") for event in events], [event.kind for event in events]
    assert stages.index("loading the model") < kinds.index("preview") < stages.index("reading examples")


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
    jobs, sent = JobHandlers(), image_of(case, "a")
    jobs.add_image(Message("image", {"key": "a", **sent.values}, {"voxels": sent.voxels}))
    assert jobs.kept.image("a") is jobs.kept.image("a")
    assert Grid.of(jobs.kept.image("a")).same_as(Grid.of(case.image))


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
        ps.tune([replace(case, name="case")], classes, str(model), options=ps.TuningOptions(device="cpu"))
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
    values = {"model": str(models / "tiny0.safetensors"), "device": "cpu", "image": "never sent", **changes}
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
    eventually(lambda: missing in worker.worker.log)  # which comes by another way
    values = {"model": values["model"], "device": "cpu", "image": "next"}
    job = worker.worker.submit("prepare", values, {}, [image_of(case, "next")])
    assert worker.last("done", job).values["device"].startswith("CPU")


def test_an_image_that_is_none_fails_the_job_that_names_it(worker, models, case):
    broken = Sent("broken", {"grid": {"size": [1]}}, np.zeros((2, 2, 2), np.uint8))
    assert worker.last("failed", tuning(worker, models / "tiny0.safetensors", case, "broken", [broken])).message


def test_a_tuning_that_is_killed_is_done_by_a_fresh_worker(torch_worker, models, case, expected):
    """The last of the tests that share a worker: it ends that."""
    driven = torch_worker
    job = tuning(driven, models / "tiny0.safetensors", case, "a", settings=ENDLESS)
    while driven.last("report", job).values["stage"] != "tuning":
        pass
    os.kill(driven.worker.pid, signal.SIGKILL)
    message = driven.end()
    assert "nothing is lost" in message and "memory" in message
    fresh = Driven(brisk.command, environment(1))
    try:
        job = tuning(fresh, models / "tiny0.safetensors", case, "a")
        assert is_expected(fresh.last("done", job), expected, case)
    finally:
        fresh.worker.kill()

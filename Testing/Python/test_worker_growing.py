"""The job ``grow`` of a worker, which is a real process here: no model, quick first, local corrections."""

from __future__ import annotations

import os
from typing import Iterator

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import BACKGROUND, CLASSES, example
from harness.worker_harness import Driven, image_of, labels_of, one_sentence, strokes_of
from PromptSegLib.annotation.example import Example
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker.client import Event
from PromptSegLib.worker.launch import environment, local_command
from PromptSegLib.worker.packing import grid_values, infos_of

pytestmark = pytest.mark.skipif(os.name != "posix", reason="ends processes by signals")


@pytest.fixture(scope="module")
def worker(tmp_path_factory) -> Iterator[Driven]:
    """A worker that finds no model at all."""
    nowhere = {"PROMPTSEG_MODELS": str(tmp_path_factory.mktemp("none"))}
    driven = Driven(local_command, {**environment(1), **nowhere})
    yield driven
    driven.worker.kill()


def grow(driven: Driven, case: Example, key: str = "a", accepted: np.ndarray | None = None, **changes) -> int:
    values = {"classes": CLASSES, "examples": [strokes_of(case, key)], **changes}
    arrays = {"annotation0": sitk.GetArrayFromImage(case.annotation)}
    if accepted is not None:
        values["accepted"], arrays["accepted"] = grid_values(Grid.of(case.image)), accepted
    return driven.worker.submit("grow", values, arrays, [image_of(case, key)])


def grown(driven: Driven, case: Example, **changes) -> np.ndarray:
    return labels_of(driven.last("done", grow(driven, case, **changes)), case.image)


def test_what_is_painted_is_grown_quickly_and_then_well_without_any_model(worker, case):
    job = grow(worker, case, appearance=[{"name": "rod", "value": 1, "color": [0.25, 0.5, 0.75]}])
    events = worker.until("done", job)
    answers = [event for event in events if event.kind in ("preview", "done")]
    # Quickly, then well; and before slices are held back for what is said of it, the result is shown already.
    assert [event.kind for event in answers] in (["preview", "done"], ["preview", "preview", "done"])
    strokes = sitk.GetArrayFromImage(case.annotation)
    for event in answers:
        labels = labels_of(event, case.image)
        assert "prompts" not in event.arrays and event.values["places"] == []
        for name, value in CLASSES.items():
            assert (labels[strokes == value] == value).all(), name
            assert (labels == value).sum() > 3 * (strokes == value).sum(), name
        assert not labels[strokes == BACKGROUND].any()
        infos = {info.name: info for info in infos_of(event.values["classes"])}
        assert {name: info.value for name, info in infos.items()} == CLASSES
        assert infos["rod"].color == (0.25, 0.5, 0.75)
    if len(answers) == 3:
        assert np.array_equal(labels_of(answers[1], case.image), labels_of(answers[2], case.image))
    assert answers[-1].values["device"].startswith("CPU, 1 thread")


def test_previews_are_not_made_when_nobody_wants_them(worker, case):
    events = worker.until("done", grow(worker, case, previews=False))
    assert "preview" not in [event.kind for event in events]


def test_a_newer_stroke_replaces_the_job_at_once(worker, case):
    first = grow(worker, case)
    worker.until("preview", first)
    worker.worker.cancel(first)
    second = grow(worker, case)
    ended: list[Event] = worker.until("done", second)
    assert [event.kind for event in ended if event.job == first and event.kind != "report"] == ["cancelled"]


def test_one_that_still_waits_is_not_begun(worker, case):
    jobs = [grow(worker, case) for _ in range(3)]
    for job in jobs[:2]:
        worker.worker.cancel(job)
    events = worker.until("done", jobs[2])
    assert not [event for event in events if event.job == jobs[1] and event.kind != "cancelled"]


def corrected(case: Example, where: tuple, value: int, excluded: dict | None = None) -> Example:
    strokes = sitk.GetArrayFromImage(case.annotation)
    strokes[where] = value
    return Example(case.image, Grid.of(case.annotation).image(strokes), BACKGROUND, excluded=excluded or {})


def test_a_correction_changes_what_is_near_it_and_not_the_far_side(worker, case):
    accepted = grown(worker, case)
    accepted[8:12, 26:31, 40:44] = CLASSES["rod"]  # a leak, and, far from it, something that nobody complains about
    accepted[17:19, 2:6, 2:6] = CLASSES["ball"]
    assert np.array_equal(grown(worker, case, accepted=accepted), accepted)  # nothing contradicts it
    more = corrected(case, (slice(9, 11), slice(27, 30), slice(41, 43)), BACKGROUND)
    labels = grown(worker, more, accepted=accepted)
    assert not labels[9:11, 27:30, 41:43].any()
    assert (labels[17:19, 2:6, 2:6] == CLASSES["ball"]).all()
    assert np.array_equal(labels == CLASSES["ball"], accepted == CLASSES["ball"])


def test_what_was_erased_stays_erased_and_segments_that_are_not_grown_are_not_taken(worker, case):
    accepted = grown(worker, case)
    other = (accepted == CLASSES["ball"]) & (np.arange(accepted.shape[1])[:, None] < 12)
    accepted[other] = 77
    erased = (slice(10, 11), slice(16, 17), slice(16, 18))
    assert (accepted[erased] == CLASSES["ball"]).all()
    values = strokes_of(case, "a")
    values["barred"] = {"3": CLASSES["ball"]}
    labels = grown(worker, corrected(case, erased, 3), accepted=accepted, examples=[values])
    assert not labels[erased].any()
    assert not labels[other].any()  # it is another segment's


@pytest.mark.parametrize("what", ["nothing painted", "no numbers"])
def test_what_cannot_be_grown_is_refused_in_one_sentence(worker, case, what):
    bad = example(seed=3)
    if what == "nothing painted":
        bad = Example(bad.image, bad.annotation * 0, BACKGROUND)
    else:
        bad = Example(bad.image * float("nan"), bad.annotation, BACKGROUND)
    refused = worker.last("refused", grow(worker, bad, key=what))
    assert one_sentence(refused.message.replace("; ", ", ").capitalize())

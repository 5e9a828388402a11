"""What is said of quality and time: agreement with what was held back, not with what was learned from; seconds left."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

import PromptSegLib as ps
from harness.tiny_model import BACKGROUND, CLASSES, example, tiny_backbone
from PromptSegLib.annotation.classes import describe
from PromptSegLib.cli.commands import _held_back
from PromptSegLib.growing import grow, guard
from PromptSegLib.growing.guard import Verdict, held_back
from PromptSegLib.gui.action_bar import action_bar
from PromptSegLib.inference.held_back import agreement_notes
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.inference.stroke_regions import segment_strokes
from PromptSegLib.progress import ProgressHandle, Report
from PromptSegLib.session.actions import View
from PromptSegLib.session.job import JobKind, Pace
from PromptSegLib.session.results import Results
from PromptSegLib.worker.remaining import Remaining

FACTOR = 1.5


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("models"))


def on_one_slice(case: ps.Example, *values: int) -> ps.Example:
    """The strokes of some classes on one of their slices only."""
    array = sitk.GetArrayFromImage(case.annotation)
    for value in values:
        planes = np.flatnonzero((array == value).any((1, 2)))
        array[planes[1:]] = np.where(array[planes[1:]] == value, 0, array[planes[1:]])
    annotation = sitk.GetImageFromArray(array)
    annotation.CopyInformation(case.annotation)
    return replace(case, annotation=annotation)


# Growing


def test_agreement_is_that_of_what_had_not_seen_the_hidden_strokes():
    # Class; way; found, missed, invented.
    scores = {index: np.zeros((3, 3)) for index in (1, 2, 3)}
    scores[1][:] = (100, 0, 0), (60, 40, 0), (50, 50, 0)
    scores[2][1:] = (0, 20, 0), (20, 0, 20)
    agreed = held_back(scores, {1: Verdict.LEARNED, 2: Verdict.PLAIN, 3: Verdict.LEARNED})
    assert agreed == {1: pytest.approx(0.75), 2: pytest.approx(40 / 60), 3: None}  # evidence may have learned from all


def test_what_grows_from_strokes_says_how_well_held_back_slices_are_predicted():
    case = example()
    infos = [describe(name, value) for name, value in CLASSES.items()]
    (note,) = [each for each in segment_strokes(case, infos, checked=True).notes if "Held-back" in each]
    assert note.startswith("Held-back slices agree to ") and "least: " in note
    said = " ".join(segment_strokes(case, infos, quick=True).notes)
    assert "Held-back" not in said and "held back" not in said  # nobody looked

    one = segment_strokes(on_one_slice(case, CLASSES["rod"]), infos, checked=True).notes
    assert any("Nothing was held back to check rod; that takes strokes on two slices or more." in each for each in one)
    none = " ".join(segment_strokes(on_one_slice(case, *CLASSES.values()), infos, checked=True).notes)
    assert "%" not in none and "Nothing was held back to check ball, rod" in none


@pytest.mark.parametrize("better", [True, False])
def test_slices_whose_prediction_decides_nothing_are_held_back_after_the_result_is_there(better, monkeypatch):
    """Where a border is clearly better or worse, that has decided; agreement is only to be shown."""
    case, cost = example(), 0.1 if better else 10.0
    infos = [describe(name, value) for name, value in CLASSES.items()]
    monkeypatch.setattr(grow, "border_of_plain", lambda *_: cost)
    looked: list[int] = []
    answered = guard.check_held_back
    monkeypatch.setattr(grow, "check_held_back", lambda *args: looked.append(1) or answered(*args))
    hurried = segment_strokes(case, infos)
    assert not looked and "Held-back" not in " ".join(hurried.notes) and "Nothing" not in " ".join(hurried.notes)
    found: list[Segmentation] = []
    result = segment_strokes(case, infos, checked=True, on_found=lambda each: found.append(each) or looked.clear())
    assert len(looked) == 1 and found[0].notes == hurried.notes
    assert result.notes[0].startswith("Held-back slices agree to ") and result.notes[1:] == hurried.notes
    for each in (result, found[0]):
        assert np.array_equal(*(sitk.GetArrayFromImage(one.labels) for one in (each, hurried)))


def test_a_class_that_hidden_slices_decide_about_is_compared_once(monkeypatch):
    case = example()
    infos = [describe(name, value) for name, value in CLASSES.items()]
    monkeypatch.setattr(grow, "border_of_plain", lambda *_: 1.0)
    monkeypatch.setattr(grow, "check_held_back", None)
    found: list[Segmentation] = []
    notes = segment_strokes(case, infos, checked=True, on_found=found.append).notes
    assert notes == segment_strokes(case, infos).notes and notes[0].startswith("Held-back") and not found


def test_a_note_names_the_least():
    assert agreement_notes(["a"], [0.876]) == ("Held-back slices agree to 88 %.",)
    assert " ".join(agreement_notes(["a", "b", "c"], [0.9, 0.5, None])) == (
        "Held-back slices agree to 70 % (least: b, 50 %). "
        "Nothing was held back to check c; that takes strokes on two slices or more."
    )
    assert agreement_notes([], []) == ()


# Tuning


def record_of(prompts: ps.Prompts) -> dict:
    return prompts.tuning["0"]["classes"]


def test_a_tuning_reports_agreement_with_slices_that_were_held_back(backbone):
    seen: list[Report] = []
    settings = ps.Settings(steps=3, token_steps=5)
    prompts = ps.tune([example()], CLASSES, backbone, settings=settings, job=ProgressHandle(seen.append))
    agreed = [record_of(prompts)[name]["held_back"] for name in CLASSES]
    assert all(0.0 <= each <= 1.0 for each in agreed)
    told = [report.figures["agreement"] for report in seen if "agreement" in report.figures]
    assert told and all(each == pytest.approx(np.mean(agreed), abs=1e-3) for each in told)
    again = ps.tune([example()], CLASSES, backbone, settings=settings)
    assert [record_of(again)[name]["held_back"] for name in CLASSES] == agreed
    assert _held_back(record_of(prompts)["ball"]).startswith("agreement on held-back slices ")


def test_strokes_that_nothing_predicts_agree_with_nothing(backbone):
    """What is painted on one slice contradicts the others; all painted voxels can be learned by heart."""
    case = example()
    array = sitk.GetArrayFromImage(case.annotation)
    plane = int(np.flatnonzero((array == CLASSES["ball"]).any((1, 2)))[0])
    for z in np.flatnonzero((array > 0).any((1, 2))).tolist():
        if z != plane:  # there, both have each other's place
            ball, rod = array[z] == CLASSES["ball"], array[z] == CLASSES["rod"]
            array[z][ball], array[z][rod] = CLASSES["rod"], CLASSES["ball"]
    only = (array > 0).any((1, 2))
    last = int(np.flatnonzero(only)[-1])
    array[last] = 0
    annotation = sitk.GetImageFromArray(array)
    annotation.CopyInformation(case.annotation)
    prompts = ps.tune([replace(case, annotation=annotation)], CLASSES, backbone, settings=ps.Settings(steps=2))
    assert min(record_of(prompts)[name]["held_back"] for name in CLASSES) < 0.3


@pytest.mark.parametrize("single", [("rod",), ("ball", "rod")])
def test_a_class_on_one_slice_has_no_number(backbone, single):
    seen: list[Report] = []
    case = on_one_slice(example(), *(CLASSES[name] for name in single))
    prompts = ps.tune([case], CLASSES, backbone, settings=ps.Settings(steps=2), job=ProgressHandle(seen.append))
    for name in CLASSES:
        agreed = record_of(prompts)[name]["held_back"]
        assert (agreed is None) == (name in single)
    assert _held_back(record_of(prompts)["rod"]) == "nothing was held back to check it"
    last = [report.figures["agreement"] for report in seen if "agreement" in report.figures][-1]
    assert math.isnan(last) == (len(single) == 2)


def test_a_retuning_is_checked_without_what_the_prompts_have_learned(backbone):
    first = ps.tune([example()], CLASSES, backbone, settings=ps.Settings(steps=2))
    again = ps.tune([example()], CLASSES, backbone, start=first, settings=ps.Settings(steps=2))
    one, two = (record.tuning for record in (first, again))
    before = [one["0"]["classes"][name]["held_back"] for name in CLASSES]
    after = [two[max(two)]["classes"][name]["held_back"] for name in CLASSES]
    assert after == pytest.approx(before, abs=0.1)


def test_old_prompts_are_not_said_to_be_checked():
    assert _held_back({"agreement": 0.93, "start": "the given prompts"}) == "not checked"


# Time left

STEP = 0.2  # seconds between two reports of what is simulated


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def within(left: float, true: float) -> bool:
    """By a factor, or by seconds that nobody minds."""
    return abs(left - true) < 3.0 or max(left, 0.1) / true < FACTOR and true / max(left, 0.1) < FACTOR


def simulated(stages: list[tuple[float, float, float]]) -> list[tuple[float, float]]:
    """Stages (seconds, first share, last share) as reports (time, share)."""
    found, now = [], 0.0
    for seconds, first, last in stages:
        for n in range(int(seconds / STEP)):
            found.append((now + n * STEP, first + (last - first) * n * STEP / seconds))
        now += seconds
    return found


@pytest.mark.parametrize(
    "stages",
    [
        [(30, 0.02, 1.0)],
        [(12, 0.0, 0.02), (60, 0.02, 0.92), (3, 0.92, 1.0)],  # a slow start, then a large volume without strokes
        [(2, 0.0, 0.02), (15, 0.02, 0.6), (8, 0.6, 0.92), (3, 0.92, 1.0)],  # with strokes
        [(4, 0.0, 0.02), (20, 0.02, 0.6), (18, 0.6, 0.92), (2, 0.92, 1.0)],  # with those of many classes
        [(0.2, 0.0, 0.5), (10, 0.5, 1.0)],  # most is there already
    ],
)
def test_the_pace_tells_the_time_left_or_nothing(stages):
    pace, total, told = Pace(), sum(stage[0] for stage in stages), []
    for now, share in simulated(stages):
        pace.note(share, None, now)
        left = pace.left(now)
        if left is not None:
            told.append((round(now, 1), round(left, 1), round(total - now, 1)))
    wrong = [each for each in told if not within(each[1], each[2])]
    assert told and len(wrong) <= 0.05 * len(told), wrong


def tuned(seconds: float, loading: float, looking: float, last: float, clock: Clock) -> list[tuple[float, float]]:
    """Time and the seconds left that were told, of a tuning as the worker does it; and the end's time."""
    told: list[tuple[float, float]] = []
    job = ProgressHandle(lambda report: told.append((clock.now, report.figures.get("left", math.nan))))
    remaining, began = Remaining(clock), clock.now

    def pass_by(job: ProgressHandle, length: float) -> None:
        for n in range(max(1, int(length / STEP))):
            job.report("stage", n * STEP / length)
            clock.now += STEP

    remaining.expect(seconds + 5.0)
    pass_by(remaining.told(job.part(0.0, 0.02)), loading)
    clock.now += looking
    left = max(seconds + 5.0 - (clock.now - began) - 1.2 * looking, 0.4 * seconds)
    left = min(seconds, left)
    remaining.expect(left + 1.2 * looking)
    pass_by(remaining.told(job.part(0.02, 0.85)), left)
    pass_by(remaining.at_last(job.part(0.85, 1.0)), last)
    return [*told, (clock.now, 0.0)]


@pytest.mark.parametrize(
    ("seconds", "loading", "looking", "last"),
    [(30, 0.2, 2, 2.5), (30, 8, 3, 3), (60, 4, 12, 14), (20, 0.2, 4, 6), (30, 6, 11, 16), (10, 0.2, 1.5, 1.5)],
)
def test_a_tuning_tells_the_time_left_from_its_budget(seconds, loading, looking, last):
    told = tuned(seconds, loading, looking, last, Clock())
    end = told[-1][0]
    pace, wrong = Pace(), []
    for now, left in told[:-1]:
        pace.note(0.5, left, now)
        for later in (now, now + STEP / 2):
            if not within(pace.left(later), end - later):
                wrong.append((later, pace.left(later), end - later))
    assert len(wrong) <= 0.05 * len(told), wrong


def test_without_a_budget_nothing_is_told():
    seen: list[Report] = []
    remaining = Remaining(Clock())
    remaining.told(ProgressHandle(seen.append)).report("tuning", 0.3, loss=1.0)
    assert seen[0].figures == {"loss": 1.0}
    remaining.told(ProgressHandle()).report("tuning", 0.4)  # and nobody has to listen
    assert BACKGROUND not in CLASSES.values()


# Where it is said


def test_what_there_is_to_say_of_a_preview_stands_in_the_status_line():
    held, unlike = "Held-back slices agree to 87 %.", "The model knows CT in Hounsfield units; this image is MR."
    grown = action_bar(View(preview="Grown from strokes", shows="grown", remarks=(held,))).status
    assert grown.text == f"Grown from strokes. {held}" and grown.level == "info"
    early = View(
        busy=True, preview="Preview", shows="early", doing="Tuning prompts", seconds_left=12.3, remarks=(unlike,)
    )
    assert action_bar(early).status.text == f"Tuning prompts, about 12 s left. {unlike}"
    assert action_bar(View(busy=True, doing="Tuning prompts")).status.text == "Tuning prompts..."


def test_a_preview_carries_what_is_unusual_about_its_image(monkeypatch):
    monkeypatch.setattr("PromptSegLib.session.prompts.renamed_since", lambda *_: {})
    results = Results(*[None] * 3, SimpleNamespace(), None, None)  # type: ignore[arg-type]
    notes = ("The model knows CT.", "Held-back slices agree to 87 %.")
    for kind, final, shows in (
        (JobKind.TUNE, False, "early"),
        (JobKind.GROW, True, "grown"),
        (JobKind.TUNE, True, "final"),
    ):
        job, request = SimpleNamespace(kind=kind, segmentation=None), SimpleNamespace(segment_ids={}, numbers={})
        raw = SimpleNamespace(notes=notes)
        results.result = SimpleNamespace(job=job, request=request, raw=raw, final=final)  # type: ignore
        assert results.shows == shows
        assert results.remarks == (() if shows == "final" else notes)  # these were said with it
    results.result = None
    assert results.remarks == ()

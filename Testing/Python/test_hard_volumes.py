"""Some of the hard volumes, on a tiny model, and that the table counts what it says; ``make hard-volumes`` runs all."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytestmark = pytest.mark.training

FOLDER = Path(__file__).resolve().parents[1] / "Reliability"
RIGHT = (
    "orientation: oblique and left-handed",
    "axes: NRRD, off by 0.0015",
    "spacing: 1 to 10, oblique",
    "units: micrometers, as the header says",
    "origin: 100000 mm away, .nii.gz",
    "NIfTI: sform alone, axes off by 0.0015",
    "NIfTI: two positions, the mask has the other",
    "NIfTI: big-endian, off by 1e-3, slope 0",
    "mask: on a coarser grid",
)
sys.path.insert(0, str(FOLDER))
cases = importlib.import_module("cases")
CASES = {f"{case.kind}: {case.name}": case for case in cases.CASES}
REFUSED = [name for name, case in CASES.items() if case.refusal is not None]


@pytest.fixture(scope="module")
def hard() -> SimpleNamespace:
    return importlib.import_module("hard_volumes")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    from harness.tiny_model import tiny_backbone

    folder = tmp_path_factory.mktemp("model")
    tiny_backbone(folder)
    return folder / "tiny0.safetensors"


@pytest.fixture(autouse=True)
def unguarded(monkeypatch) -> None:
    """That painted slices predict each other is most of the time, and says nothing of where anything lies."""
    monkeypatch.setattr("PromptSegLib.growing.guard.FOLDS", 0)


def test_there_are_enough_and_each_has_its_name():
    assert len(cases.CASES) == len(CASES) >= 100
    assert len(CASES) - len(REFUSED) >= 60
    assert set(RIGHT) <= set(CASES)
    assert sum(case.in_scene for case in cases.CASES) >= 40


@pytest.mark.parametrize("name", REFUSED)
def test_refused(hard, model, name):
    outcome = hard.outcome_of(CASES[name], str(model))
    assert outcome.good, outcome.said


@pytest.mark.parametrize("name", RIGHT)
def test_right(hard, model, name):
    outcome = hard.outcome_of(CASES[name], str(model))
    assert outcome.good, outcome.said


def test_every_case_can_be_made(tmp_path):
    for number, case in enumerate(cases.CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shown = case.make(folder).phantom
        assert shown.image.shape == shown.truth.shape == shown.strokes.shape
        painted = (shown.strokes > 0) & (shown.strokes != cases.BACKGROUND)
        assert (shown.truth[painted] == shown.strokes[painted]).all()
        assert case.refusal is not None or set(np.unique(shown.strokes)) == {0, 1, 2, 3}


def result(hard, tmp_path, array, matrix):
    path = hard.Path(cases.write(tmp_path / "result.nrrd", array, matrix))
    return hard.measured(path, cases.Files(path, path, cases.phantom(cases.Place())))


def test_what_is_wrong_is_told(hard, tmp_path):
    """A result that lies or is labeled otherwise."""
    shown = cases.phantom(cases.Place())
    assert result(hard, tmp_path, shown.truth, shown.matrix) == (pytest.approx(0, abs=1e-6), 0, 1)
    moved = shown.place.moved((0.75, 0, 0)).matrix
    assert result(hard, tmp_path, shown.truth, moved)[0] == pytest.approx(0.75)
    _, middles, strokes = result(hard, tmp_path, np.roll(shown.truth, 2, 2), shown.matrix)
    assert middles == pytest.approx(2) and strokes == 1
    assert result(hard, tmp_path, np.where(shown.truth == 2, 0, shown.truth), shown.matrix)[1] == np.inf
    _, _, strokes = result(hard, tmp_path, np.where(shown.strokes == 1, 0, shown.truth), shown.matrix)
    assert strokes < 1


def test_a_crash_and_a_silent_success_are_no_good_outcome(hard, monkeypatch, model):
    def crash(folder):
        raise KeyError("here")

    assert "KeyError" in hard.outcome_of(cases.Case("x", "x", crash)).said
    good = CASES[RIGHT[0]]
    wrong = cases.Case("x", "x", good.make, refusal="perpendicular")
    assert not hard.outcome_of(wrong, str(model)).good
    refused = CASES[REFUSED[0]]
    assert not hard.outcome_of(cases.Case("x", "x", refused.make, refusal="something else"), str(model)).good
    assert not hard.outcome_of(cases.Case("x", "x", refused.make), str(model)).good


def test_the_table(hard):
    made = [
        hard.Outcome(CASES[RIGHT[0]], True, "right: a | b"),
        hard.Outcome(CASES[REFUSED[0]], True, "refused: no"),
        hard.Outcome(CASES[RIGHT[1]], False, "WRONG"),
    ]
    text = importlib.import_module("outcomes").table(made)
    assert "3 cases: 1 right, 1 refused in one sentence, 1 otherwise." in text
    assert text.count("\n| ") == 4 and r"a \| b" in text


def test_some_in_a_scene(model):
    """The same cases as volume nodes; all of them by ``make hard-volumes``."""
    pytest.importorskip("slicer")
    scenes = importlib.import_module("hard_scenes")
    wanted = ["orientation: oblique and left-handed", "axes: NRRD, off by -0.0018", "spacing: 1 to 10, oblique"]
    refused = [
        "axes: NRRD, off by 0.02",
        "spacing: 1 x 36 x 36 voxels",
        "units: meters taken for mm",
        "values: a voxel of a NaN",
    ]
    assert all(CASES[name].in_scene for name in [*wanted, *refused])
    for name in [*wanted, *refused]:
        outcome = scenes.outcome_of(CASES[name], str(model))
        assert outcome.good and outcome.said.startswith("refused" if name in refused else "right"), outcome.said
    assert not scenes.outcome_of(cases.Case("x", "x", CASES[wanted[0]].make, "perpendicular"), str(model)).good
    assert not scenes.outcome_of(cases.Case("x", "x", CASES[refused[0]].make), str(model)).good

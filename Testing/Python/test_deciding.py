"""From which probability on a voxel is given to a class: what makes the expected Dice largest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

import PromptSegLib as ps
from harness.tiny_model import CLASSES, phantom, tiny_backbone
from PromptSegLib.inference import segmenting
from PromptSegLib.inference.deciding import best_threshold, decided_for_dice

pytestmark = pytest.mark.usefixtures("brisk_growing")

SHAPE = (12, 14, 16)


def expected_dice(shares: np.ndarray, threshold: float) -> float:
    taken = shares > threshold
    return 2 * shares[taken].sum() / (taken.sum() + shares.sum())


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0, 8.0])
def test_no_other_threshold_promises_a_larger_dice(sharpness):
    margins = np.random.default_rng(0).normal(-2, sharpness, SHAPE).astype(np.float16)
    shares = expit(margins.astype(float))
    found = expected_dice(shares, best_threshold(margins))
    assert found >= max(expected_dice(shares, each) for each in np.linspace(0.01, 0.5, 50)) - 2e-3


def test_what_is_promised_is_reached_where_probabilities_are_right():
    """Truth drawn from the probabilities: a lower threshold than a half finds more of it."""
    draw = np.random.default_rng(1)
    margins = draw.normal(-2.5, 1, (40, 40, 40))
    truth = draw.random(margins.shape) < expit(margins)

    def dice(taken: np.ndarray) -> float:
        return 2 * (taken & truth).sum() / (taken.sum() + truth.sum())

    assert dice(margins > logit(best_threshold(margins))) > dice(margins > 0) + 0.1


def test_where_the_network_is_sure_it_is_about_a_half():
    margins = np.full(SHAPE, -9.0)
    margins[3:8, 3:8, 3:8] = 9.0
    assert best_threshold(margins) == pytest.approx(0.5, abs=0.01)


def test_what_touches_the_sure_part_counts_and_what_lies_apart_does_not():
    margins = np.full((2, *SHAPE), -6.0, np.float16)
    margins[:, 2:5, 2:5, 2:5] = 2.0
    margins[:, 2:5, 2:5, 5:9] = -0.3
    margins[:, 8:11, 10:13, 10:15] = -0.3
    before = margins.copy()
    with decided_for_dice(margins, [0]):
        assert (margins[0, 2:5, 2:5, 2:9] > 0).all()
        assert not (margins[0, 6:] > 0).any()
        assert np.array_equal(margins[1], before[1])
    assert np.array_equal(margins, before)


def test_a_class_that_is_nowhere_stays_away():
    margins = np.full((1, *SHAPE), -4.0, np.float16)
    margins[0, 3:6, 3:6, 3:6] = -0.2
    with decided_for_dice(margins, [0]):
        assert not (margins > 0).any()


@pytest.mark.parametrize(("new", "strokes", "asked"), [(True, False, [0, 1]), (False, False, []), (True, True, [])])
def test_only_new_classes_without_strokes_are_decided_so(tmp_path, monkeypatch, new, strokes, asked):
    """Shipped organs were trained for hours, and strokes are grown."""
    backbone = tiny_backbone(tmp_path)
    image, labels = phantom()
    settings = ps.Settings(steps=1, token_steps=1)
    prompts = ps.tune([ps.Example(image, labels, complete=True)], CLASSES, backbone, settings=settings)
    if not new:
        classes = {name: {"new": False} for name in prompts.tuning["0"]["classes"]}
        prompts = replace(prompts, tuning={"0": {**prompts.tuning["0"], "classes": classes}})
    rows = []

    def noted(scores, some):
        rows.append(list(some))
        return decided_for_dice(scores, some)

    monkeypatch.setattr(segmenting, "decided_for_dice", noted)
    other = phantom(seed=3)[0]
    segmenting.segment(prompts, other, backbone, strokes=ps.Example(other, labels) if strokes else None)
    assert rows == [asked]

"""The guard: painted slices predict each other, and a way of growing that cannot predict them is not trusted.

A class that is painted on several slices is grown without one of them; what was painted there says how well that went.
"""

from __future__ import annotations

from enum import Enum
from typing import Container, Optional, Sequence

import numpy as np

from ..annotation.labels import UNKNOWN
from ..progress import Job
from .answering import answer
from .inputs import Ground
from .network import GrowingNet

FOLDS = 3
# By which a simpler way must predict better to be taken, by the root of the number of hidden voxels: of a few, most
# differences are chance. Of margins that do and do not depend on it, best on 18 development sets (docs/growing.md).
MARGIN = 0.7


class Verdict(Enum):
    """Which way a class is grown."""

    LEARNED = "learned growing"
    LEARNED_ALONE = "learned growing without the model's evidence"
    PLAIN = "plain growing"


def judge(
    net: GrowingNet, ground: Ground, evidence: dict[int, np.ndarray], count: int, job: Optional[Job] = None
) -> tuple[Verdict, ...]:
    """The way for every class, from 1 on; learned growing where nothing speaks against it. See :func:`predictions`."""
    return verdicts_of(predictions(net, ground, evidence, count, job), evidence)


def predictions(
    net: GrowingNet, ground: Ground, evidence: dict[int, np.ndarray], count: int, job: Optional[Job] = None
) -> np.ndarray:
    """How well painted slices predict each other: voxels (way, class, kind), all 0 of a class that could not be hidden.

    Ways: learned growing with evidence, without, plain growing. Kinds: found, missed, invented among the hidden ones.

    :param ground: of the whole annotation, on a grid as coarse as haste needs.
    :param evidence: class -> probability (z, y, x) on that grid.
    """
    job = job or Job()
    scores = np.zeros((3, count, 3))  # way; class; found, missed, invented
    axis, planes = _slices(ground.strokes)
    for number, plane in enumerate(planes):
        job.check()
        job.report("checking slices against each other", number / len(planes))
        hidden = tuple(slice(plane, plane + 1) if other == axis else slice(None) for other in range(3))
        strokes = ground.strokes.copy()
        strokes[hidden] = UNKNOWN
        if not (strokes > 0).any():
            continue
        less = Ground.of(ground.array, strokes, ground.spacing, ground.limits)
        said = ground.strokes[hidden]
        classes = [k for k in np.unique(said[said > 0]).tolist() if (strokes == k).any()]
        for index in classes:
            answers = [answer(net, less, index, evidence[index]) > 0 if index in evidence else None]
            answers.append(answer(net, less, index) > 0)
            answers.append(less.grown == index)
            for way, found in enumerate(answers):
                if found is not None:
                    scores[way, index - 1] += _agreement(found[hidden], said, index)
    return scores


def verdicts_of(scores: np.ndarray, evidence: Container[int]) -> tuple[Verdict, ...]:
    """The way for every class, from 1 on, by what :func:`predictions` gave.

    :param evidence: the classes of which there is evidence.
    """
    return tuple(_verdict(each, index in evidence) for index, each in enumerate(np.moveaxis(scores, 1, 0), 1))


def held_back(scores: np.ndarray, verdicts: Sequence[Verdict]) -> tuple[Optional[float], ...]:
    """For every class, from 1 on, the Dice in 0..1 on strokes that were hidden from what predicted them; None where
    none could be hidden: the class is painted on one slice.

    Evidence may have learned from the hidden strokes (prompts are tuned on all of them), so what is grown with it says
    nothing: learned growing without it counts instead.
    """
    ways = [2 if verdict is Verdict.PLAIN else 1 for verdict in verdicts]
    return tuple(_dice(scores[way, index]) if scores[1, index, :2].sum() else None for index, way in enumerate(ways))


def _verdict(scores: np.ndarray, evidence: bool) -> Verdict:
    """From found, missed and invented voxels of each way."""
    dice = [_dice(each) for each in scores]
    hidden = scores[1, :2].sum()
    learned, alone, plain = dice
    if not evidence:
        learned = alone
    margin = MARGIN / np.sqrt(max(hidden, 1))
    if hidden and max(learned, alone) < plain - margin:
        return Verdict.PLAIN
    if hidden and learned < alone - margin:
        return Verdict.LEARNED_ALONE
    return Verdict.LEARNED


def _dice(counts: np.ndarray) -> float:
    found, missed, invented = counts
    return float(2 * found / max(2 * found + missed + invented, 1))


def _agreement(answer: np.ndarray, said: np.ndarray, index: int) -> np.ndarray:
    """Voxels found, missed and invented among those that were painted."""
    own, others = said == index, (said >= 0) & (said != index)
    return np.array([(own & answer).sum(), (own & ~answer).sum(), (others & answer).sum()])


def _slices(strokes: np.ndarray) -> tuple[int, Sequence[int]]:
    """The axis across which was painted, and up to ``FOLDS`` slices, those that hold most classes first."""
    lines = [np.unique(along) for along in np.nonzero(strokes >= 0)]
    axis = int(np.argmin([len(line) / extent for line, extent in zip(lines, strokes.shape)]))
    moved = np.moveaxis(strokes, axis, 0)
    planes = [int(plane) for plane in lines[axis] if (moved[plane] > 0).any()]
    if len(planes) < 2:
        return axis, []
    many = [np.unique(moved[plane][moved[plane] > 0]).size for plane in planes]
    order = sorted(range(len(planes)), key=lambda i: (-many[i], i))
    return axis, sorted(planes[i] for i in order[:FOLDS])

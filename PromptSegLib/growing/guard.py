"""The guard: painted slices predict each other, and a way of growing that cannot predict them is not trusted.

A class that is painted on several slices is grown without one of them; what was painted there says how well that went.
"""

from __future__ import annotations

from enum import Enum
from typing import Collection, Container, Mapping, Optional, Sequence

import numpy as np

from ..annotation.labels import UNKNOWN
from ..progress import ProgressHandle
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


def predictions(
    net: GrowingNet,
    ground: Ground,
    evidence: Mapping[int, np.ndarray],
    asked: Mapping[int, Collection[Verdict]],
    job: Optional[ProgressHandle] = None,
    slices: Optional[tuple[int, Sequence[int]]] = None,
) -> dict[int, np.ndarray]:
    """How well painted slices predict each other: class -> voxels (way, kind), all 0 of a class that could not be
    hidden, and of ways that are not asked for.

    Ways: as :class:`Verdict` has them. Kinds: found, missed, invented among the hidden voxels.

    :param ground: of the whole annotation, on a grid as coarse as haste needs.
    :param evidence: class -> probability (z, y, x) on that grid.
    :param asked: class -> ways to grow it.
    :param slices: an axis and the slices across it that take turns; by default those that hold most classes.
    """
    job = job or ProgressHandle()
    scores = {index: np.zeros((len(Verdict), 3)) for index in asked}
    axis, planes = (slices or _slices(ground.strokes)) if asked else (0, [])
    for number, plane in enumerate(planes):
        job.check()
        job.report("checking slices against each other", number / len(planes))
        hidden = tuple(slice(plane, plane + 1) if other == axis else slice(None) for other in range(3))
        strokes = ground.strokes.copy()
        strokes[hidden] = UNKNOWN
        said = ground.strokes[hidden]
        classes = [k for k in np.unique(said[said > 0]).tolist() if k in scores and (strokes == k).any()]
        if not classes:
            continue
        less = Ground.of(ground.array, strokes, ground.spacing, ground.limits)
        for index in classes:
            for row, way in enumerate(Verdict):
                if way in asked[index] and (way is not Verdict.LEARNED or index in evidence):
                    found = _predicted(net, less, index, evidence.get(index), way)
                    scores[index][row] += _agreement(found[hidden], said, index)
    return scores


def _predicted(net: GrowingNet, ground: Ground, index: int, evidence: Optional[np.ndarray], way: Verdict) -> np.ndarray:
    """Where a class is, bool (z, y, x), by one of the ways."""
    if way is Verdict.PLAIN:
        return ground.grown == index
    return answer(net, ground, index, evidence if way is Verdict.LEARNED else None) > 0


def verdicts_of(scores: Mapping[int, np.ndarray], evidence: Container[int]) -> dict[int, Verdict]:
    """The way for every class, by what :func:`predictions` gave of all ways.

    :param evidence: the classes of which there is evidence.
    """
    return {index: _verdict(each, index in evidence) for index, each in scores.items()}


def held_back(scores: Mapping[int, np.ndarray], verdicts: Mapping[int, Verdict]) -> dict[int, Optional[float]]:
    """For every class the Dice in 0..1 on strokes that were hidden from what predicted them, by the way it is grown;
    None where none could be hidden.

    Evidence may have learned from the hidden strokes (prompts are tuned on all of them), so what is grown with it says
    nothing: learned growing without it counts instead.
    """
    rows = {index: list(Verdict).index(_unaided(verdicts[index])) for index in scores}
    return {index: _dice(each[rows[index]]) if each[rows[index], :2].sum() else None for index, each in scores.items()}


def check_held_back(
    net: GrowingNet, ground: Ground, verdicts: Mapping[int, Verdict], job: Optional[ProgressHandle] = None
) -> dict[int, Optional[float]]:
    """:func:`held_back` of classes whose way is known already; the slices are those that hold most of them."""
    own = np.where(np.isin(ground.strokes, list(verdicts)), ground.strokes, np.minimum(ground.strokes, 0))
    asked = {index: (_unaided(way),) for index, way in verdicts.items()}
    return held_back(predictions(net, ground, {}, asked, job, _slices(own)), verdicts)


def painted_once(strokes: np.ndarray, index: int) -> bool:
    """Whether a class is painted on a single slice, so that none can be hidden."""
    along = np.moveaxis(strokes, _axis(strokes), 0)
    return int((along == index).any((1, 2)).sum()) < 2


def _unaided(way: Verdict) -> Verdict:
    return Verdict.LEARNED_ALONE if way is Verdict.LEARNED else way


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
    axis = _axis(strokes)
    moved = np.moveaxis(strokes, axis, 0)
    planes = np.flatnonzero((moved > 0).any((1, 2))).tolist()
    if len(planes) < 2:
        return axis, []
    many = [np.unique(moved[plane][moved[plane] > 0]).size for plane in planes]
    order = sorted(range(len(planes)), key=lambda i: (-many[i], i))
    return axis, sorted(planes[i] for i in order[:FOLDS])


def _axis(strokes: np.ndarray) -> int:
    """The axis across which was painted."""
    lines = [np.unique(along) for along in np.nonzero(strokes >= 0)]
    return int(np.argmin([len(line) / extent for line, extent in zip(lines, strokes.shape)]))

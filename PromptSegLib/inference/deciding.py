"""How sure of a class the network must be for a voxel to be given to it: as sure as makes the expected Dice largest."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import numpy as np
from scipy import ndimage
from scipy.special import expit, logit

from ..imaging.geometry import bounding_box
from ..prompts.store import ClassPrompts, Prompts

DICE = "expected Dice"  # in the record of classes that are decided so; prompts without segment as they did
_BINS = 512  # of probability
_LEAST = 1 / _BINS  # no threshold is lower


def best_threshold(margins: np.ndarray) -> float:
    """The probability in (0, 0.5] from which on voxels should be taken, so that the expected Dice is largest.

    Of the voxels that are taken, and of the probabilities that they and all others have, the expected Dice is 2 sum(p
    taken) / (number taken + sum(p of all)). Where a network is sure, the best threshold is about a half; where it is
    not, as of a structure that it knows from few patients, lower: half of the Dice that is reached (Lipton, Elkan,
    Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", ECML 2014). A half is right for the
    number of wrong voxels, of which a missed structure has few.

    :param margins: (z, y, x), logit of the class against background.
    """
    shares = expit(margins.astype(np.float32)).ravel()
    places = np.minimum((shares * _BINS).astype(np.int32), _BINS - 1)
    counts = np.bincount(places, minlength=_BINS)[::-1].cumsum()
    sums = np.bincount(places, shares, _BINS)[::-1].cumsum()
    dice = 2 * sums / np.maximum(counts + sums[-1], 1e-12)
    edge = (_BINS - 1 - int(dice.argmax())) / _BINS
    return float(np.clip(edge, _LEAST, 0.5))


def rows_for_dice(prompts: Prompts) -> list[int]:
    """Rows of the classes (as ``prompts.active`` has them) that are decided for the expected Dice."""
    return [row for row, each in enumerate(prompts.active) if making_of(prompts, each).get("decision") == DICE]


def making_of(prompts: Prompts, each: ClassPrompts) -> dict[str, Any]:
    """What prompts say of the making of a class; files may say anything."""
    record: Any = prompts.tuning.get(str(each.group))
    for key in ("classes", each.info.name):
        record = record.get(key) if isinstance(record, dict) else None
    return record if isinstance(record, dict) else {}


@contextmanager
def decided_for_dice(scores: np.ndarray, rows: Sequence[int]) -> Iterator[None]:
    """Inside the block, ``rows`` of the margins (classes, z, y, x) are above zero where that makes the expected Dice
    largest, if each for itself; then they are as before.

    Hysteresis: what is below a half counts only where it touches what is above, so that a structure that is not there
    stays away.
    """
    kept = []
    for row in rows:
        shift = np.float32(-logit(best_threshold(scores[row])))
        box = bounding_box(scores[row] > -shift)
        if shift <= 0 or box is None:
            continue
        # The voxels around it as well: between voxels, margins are interpolated.
        wider = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in box)
        before = scores[row][wider].copy()
        kept.append((row, wider, before))
        taken = ndimage.binary_propagation(before > 0, mask=before > -shift)
        raised = ndimage.binary_dilation(taken)
        scores[row][wider] = np.where(raised, before + shift, before)
    try:
        yield
    finally:
        for row, wider, before in kept:
            scores[row][wider] = before

"""Asking the growing network for a class, at the scale that it learned: first on coarse voxels, then on the given ones.

A structure that spans more voxels than the network learned from is asked for on every second (third, ...) voxel first;
that answer is evidence for the next, which only has to find the border.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, Sequence

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.special import expit

from ..annotation.labels import UNKNOWN
from ..imaging.geometry import Box, bounding_box
from .inputs import Ground, question
from .model import ask
from .network import GrowingNet

ASKED = 100_000  # voxels of the first question; with more, large homogeneous structures stayed unfilled
AWAY = -6.0  # logit where a class is not asked for; no other is further from 0
_MORE = 0.3  # of a structure's extent around it is looked at
_LEAST = 8  # voxels
_LIKELY = 0.5  # evidence that widens where a structure is looked for


def answer(net: GrowingNet, ground: Ground, index: int, evidence: Optional[np.ndarray] = None) -> np.ndarray:
    """Logits float32 (z, y, x) of one class over the ground, in [AWAY, -AWAY]; asked only where the class can be.

    :param evidence: (z, y, x) probability of the class from elsewhere.
    """
    logits = np.full(ground.array.shape, AWAY, np.float32)
    likely = (ground.strokes == index) | (ground.grown == index)
    if evidence is not None:
        likely |= evidence > _LIKELY
    box = _wider(likely, ground.array.shape)
    if box is None or not (ground.strokes == index).any():
        return logits
    part = _part(ground, box)
    shown = None if evidence is None else evidence[box]
    factor = int(np.ceil((part.array.size / ASKED) ** (1 / 3) - 0.25))
    if factor > 1:
        shown = answer_coarsely(net, part, index, shown, factor)
    # Between voxels, logits are interpolated: beyond some certainty they would only move the border.
    logits[box] = np.clip(ask(net, question(part, index, shown)[None], part.spacing)[0], AWAY, -AWAY)
    return logits


def answer_coarsely(
    net: GrowingNet, ground: Ground, index: int, evidence: Optional[np.ndarray], factor: int
) -> np.ndarray:
    """Probability float32 (z, y, x) of one class over the ground, as the network answers on ``factor`` times coarser
    voxels: evidence for the next question."""
    thin, every = thinned(ground, factor)
    less = None if evidence is None else evidence[tuple(slice(None, None, step) for step in every)]
    coarse = ask(net, question(thin, index, less)[None], thin.spacing)[0]
    return expit(_spread(coarse, every, ground.array.shape))


def thinned(ground: Ground, factor: int) -> tuple[Ground, tuple[int, int, int]]:
    """The same on means of ``factor`` voxels along the finer axes, and of how many along each; no stroke is lost.

    What grew plainly is not grown anew.
    """
    finest = min(ground.spacing)
    every = [
        factor if step <= 1.5 * finest and extent > factor else 1
        for step, extent in zip(ground.spacing, ground.array.shape)
    ]
    strokes = ground.strokes
    for axis, step in enumerate(every):
        if step > 1:  # classes (above 0) survive, then what was erased, then background
            rank = np.where(strokes > 0, 30000 + strokes, np.where(strokes < UNKNOWN, 20000 - strokes, strokes))
            rank = np.maximum.reduceat(rank.astype(np.int32), np.arange(0, strokes.shape[axis], step), axis=axis)
            strokes = np.where(rank > 30000, rank - 30000, np.where(rank > 20000, 20000 - rank, rank)).astype(np.int16)
    kept = tuple(slice(None, None, step) for step in every)
    array = uniform_filter(ground.array, every, mode="nearest", origin=[-(step // 2) for step in every])
    z, y, x = (step * each for step, each in zip(ground.spacing, every))
    parts = {name: getattr(ground, name)[kept] for name in ("ranks", "grown", "cost")}
    return replace(ground, array=array[kept], strokes=strokes, spacing=(z, y, x), **parts), (
        every[0],
        every[1],
        every[2],
    )


def _spread(coarse: np.ndarray, every: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Every value for all the voxels that it stands for."""
    for axis, step in enumerate(every):
        coarse = coarse.repeat(step, axis)
    return coarse[: shape[0], : shape[1], : shape[2]]


def _wider(mask: np.ndarray, shape: Sequence[int]) -> Optional[Box]:
    inner = bounding_box(mask)
    if inner is None:
        return None
    box = []
    for side, extent in zip(inner, shape):
        more = int(max(_MORE * (side.stop - side.start), _LEAST))
        box.append(slice(max(side.start - more, 0), min(side.stop + more, extent)))
    return box[0], box[1], box[2]


def _part(ground: Ground, box: Box) -> Ground:
    names = ("array", "strokes", "ranks", "grown", "cost")
    return replace(ground, **{name: getattr(ground, name)[box] for name in names})

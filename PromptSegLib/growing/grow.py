"""Growing strokes into regions: a pass over all that was painted, then one for each structure on finer voxels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Optional, Protocol, Sequence

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import map_coordinates

from ..examples.annotation import UNKNOWN
from ..examples.geometry import Grid
from ..progress import Job
from .grids import Box, WorkingGrid, bounding_box, domain, working_grid
from .guard import Verdict, judge
from .inputs import Ground, question, robust_limits
from .model import ask
from .network import GrowingNet

COARSE = 500_000  # voxels of the pass over everything
FINE = 500_000  # voxels of a structure's own pass
GUARD = 120_000  # voxels, at least, on which painted slices predict each other
_GUARDED = 900_000  # and of all classes together, if there are few
_FINER = 0.8  # of the coarse step, from which a pass of its own is worth its time
_AWAY = -6.0  # logit where a class was not asked for
_MORE = 0.3  # of a structure's extent around it is looked at
_LIKELY = 0.5  # evidence that widens where a structure is looked for


class Evidence(Protocol):
    """What a network says of classes, on any grid."""

    def on(self, index: int, grid: Grid) -> Optional[np.ndarray]:
        """Probability float32 (z, y, x) of the class numbered ``index`` from 1; None where nothing is known of it."""


@dataclass
class Region:
    """Logits (z, y, x) of one class on a working grid; away from it, the class is not."""

    logits: np.ndarray
    place: WorkingGrid


@dataclass
class Grown:
    """What growing gives: a region per class, from 1 on, and which way each came about."""

    regions: list[Region]
    verdicts: tuple[Verdict, ...] = field(default=())


def grow_regions(
    image: sitk.Image,
    painted: np.ndarray,
    count: int,
    net: GrowingNet,
    evidence: Optional[Evidence] = None,
    quick: bool = False,
    verdicts: Optional[Sequence[Verdict]] = None,
    job: Optional[Job] = None,
) -> Optional[Grown]:
    """Grow what was painted of ``count`` classes; None where no class is painted.

    :param painted: int16 (z, y, x) on the image's own grid, labels as in ``examples.annotation``.
    :param evidence: used as far as it agrees with what was painted.
    :param quick: leave out the guard and the passes on finer voxels.
    :param verdicts: of an earlier call on the same image, so that slices need not predict each other again.
    """
    job = job or Job()
    native = Grid.of(image)
    box = domain(native, painted)
    if box is None:
        return None
    place = working_grid(native, box, COARSE)
    ground, shown = _ground(image, painted, place, count, evidence)
    if verdicts is None:
        thin = None if quick else _thinned(ground, shown, max(GUARD, _GUARDED // count))
        verdicts = judge(net, *thin, count, job.part(0.0, 0.2)) if thin else [Verdict.LEARNED] * count
    regions = []
    for index in range(1, count + 1):
        job.check()
        job.report("growing", 0.2 + 0.4 * (index - 1) / count)
        verdict = verdicts[index - 1]
        regions.append(Region(_asked(net, ground, index, shown.get(index), verdict), place))
    if not quick:
        coarse = [region.logits for region in regions]
        labels = np.where(np.max(coarse, 0) > 0, np.argmax(coarse, 0) + 1, 0).astype(np.int16)
        for index in range(1, count + 1):
            job.check()
            job.report("growing", 0.6 + 0.4 * (index - 1) / count)
            finer = _finer(image, painted, place, labels, index, net, evidence, verdicts[index - 1], ground.limits)
            regions[index - 1] = finer or regions[index - 1]
    return Grown(regions, tuple(verdicts))


def _ground(
    image: sitk.Image, painted: np.ndarray, place: WorkingGrid, count: int, evidence: Optional[Evidence]
) -> tuple[Ground, dict[int, np.ndarray]]:
    array = place.image(image)
    ground = Ground.of(array, place.strokes(painted), place.spacing, robust_limits(array))
    shown = {}
    for index in range(1, count + 1):
        found = evidence.on(index, place.grid) if evidence is not None else None
        if found is not None:
            shown[index] = found
    return ground, shown


def _asked(net: GrowingNet, ground: Ground, index: int, evidence: Optional[np.ndarray], verdict: Verdict) -> np.ndarray:
    """Logits (z, y, x) of one class over the ground; looked at only where the class can be."""
    logits = np.full(ground.array.shape, _AWAY, np.float32)
    if not (ground.strokes == index).any():
        return logits
    if verdict is Verdict.PLAIN:
        return np.where(ground.grown == index, 1, -1).astype(np.float32)
    evidence = evidence if verdict is Verdict.LEARNED else None
    likely = (ground.strokes == index) | (ground.grown == index)
    if evidence is not None:
        likely |= evidence > _LIKELY
    box = _wider(likely, ground.array.shape)
    part = _part(ground, box)
    asked = question(part, index, None if evidence is None else evidence[box])
    # Between voxels, logits are interpolated: beyond some certainty they would only move the border.
    logits[box] = np.clip(ask(net, asked[None], ground.spacing)[0], _AWAY, -_AWAY)
    return logits


def _wider(mask: np.ndarray, shape: Sequence[int]) -> Box:
    inner = bounding_box(mask)
    assert inner is not None
    box = []
    for side, extent in zip(inner, shape):
        more = int(max(_MORE * (side.stop - side.start), 8))
        box.append(slice(max(side.start - more, 0), min(side.stop + more, extent)))
    return box[0], box[1], box[2]


def _part(ground: Ground, box: Box) -> Ground:
    names = ("array", "strokes", "ranks", "grown", "cost")
    return replace(ground, **{name: getattr(ground, name)[box] for name in names})


def _finer(
    image: sitk.Image,
    painted: np.ndarray,
    place: WorkingGrid,
    labels: np.ndarray,
    index: int,
    net: GrowingNet,
    evidence: Optional[Evidence],
    verdict: Verdict,
    limits: tuple[float, float],
) -> Optional[Region]:
    """The same class on finer voxels around where it was found; None where there are none to gain."""
    box = place.within((labels == index) | (place.strokes(painted) == index), _MORE / 2, 6)
    if box is None:
        return None
    fine = working_grid(place.native, box, FINE)
    if min(np.divide(fine.spacing, place.spacing)) > _FINER:
        return None
    array = fine.image(image)
    ground = Ground.of(array, fine.strokes(painted), fine.spacing, limits, _rim(labels, place, fine))
    shown = evidence.on(index, fine.grid) if evidence is not None else None
    return Region(_asked(net, ground, index, shown, verdict), fine)


def _rim(labels: np.ndarray, place: WorkingGrid, fine: WorkingGrid) -> np.ndarray:
    """What the coarser pass found on the outermost voxels of a finer grid that it covers, -1 elsewhere."""
    rim = np.full(fine.shape, UNKNOWN, np.int16)
    lines = []
    for side, outer, step, own, extent in zip(fine.box, place.box, place.steps, fine.steps, fine.shape):
        at = (side.start + (np.arange(extent) + 0.5) * own - outer.start) / step - 0.5
        lines.append(at)
    near = map_coordinates(labels, np.meshgrid(*lines, indexing="ij"), order=0, mode="nearest")
    for axis in range(3):
        for end in (0, -1):
            face = tuple(end if other == axis else slice(None) for other in range(3))
            rim[face] = near[face]
    return rim


def _thinned(ground: Ground, shown: dict[int, np.ndarray], most: int) -> tuple[Ground, dict[int, np.ndarray]]:
    """The same on every second or third voxel, so that slices can predict each other quickly; no stroke is lost."""
    factor = max(1, int(np.ceil((ground.array.size / most) ** (1 / 3) - 0.2)))
    if factor == 1:
        return ground, shown
    finest = min(ground.spacing)
    steps = [factor if step <= 1.5 * finest else 1 for step in ground.spacing]
    strokes = ground.strokes
    for axis, step in enumerate(steps):  # classes (above 0) survive, then what was erased, then background
        if step > 1:
            rank = np.where(strokes > 0, 30000 + strokes, np.where(strokes < UNKNOWN, 20000 - strokes, strokes))
            rank = np.maximum.reduceat(rank.astype(np.int32), np.arange(0, strokes.shape[axis], step), axis=axis)
            strokes = np.where(rank > 30000, rank - 30000, np.where(rank > 20000, 20000 - rank, rank)).astype(np.int16)
    every = tuple(slice(None, None, step) for step in steps)
    z, y, x = (step * each for step, each in zip(ground.spacing, steps))
    thin = Ground.of(ground.array[every], strokes, (z, y, x), ground.limits)
    return thin, {index: values[every] for index, values in shown.items()}

"""Growing strokes into regions: a pass over all that was painted, then one for each structure on finer voxels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Callable, Mapping, Optional, Protocol, Sequence

import numpy as np
import SimpleITK as sitk
from scipy.ndimage import map_coordinates
from scipy.special import expit

from ..annotation.labels import UNKNOWN
from ..imaging.geometry import Grid
from ..progress import ProgressHandle
from .answering import answer, thinned
from .borders import CLEARLY_BETTER, CLEARLY_WORSE, border_of_plain
from .grids import WorkingGrid, domain, working_grid
from .guard import Verdict, check_held_back, held_back, painted_once, predictions, verdicts_of
from .inputs import Ground, robust_limits
from .network import GrowingNet

COARSE = 500_000  # voxels of the pass over everything
QUICK = 250_000  # of that pass in haste: the time goes into plain growing, with the number of voxels
FINE = 500_000  # voxels of a structure's own pass
GUARD = 120_000  # voxels, at least, on which painted slices predict each other
_GUARDED = 900_000  # and of all classes together, if there are few
_FINER = 0.8  # of the coarse step, from which a pass of its own is worth its time
_MORE = 0.15  # of a structure's extent around it is looked at on finer voxels


class Evidence(Protocol):
    """What a network says of classes, on any grid."""

    def on(self, index: int, grid: Grid) -> Optional[np.ndarray]:
        """Probability float32 (z, y, x) of the class numbered ``index`` from 1; None where nothing is known of it."""


@dataclass
class Region:
    """Logits (z, y, x) of one class on a working grid; away from it, and where it is not painted, it is not."""

    logits: np.ndarray
    place: WorkingGrid
    painted: bool


@dataclass
class Grown:
    """What growing gives: a region per class, from 1 on, and which way each came about.

    :param agreements: Dice on strokes that were hidden from what predicted them, see :func:`~.guard.held_back`; None of
        a class of which none were, all empty where that was left out for haste.
    :param once: the classes that are painted on a single slice, so that none can be hidden.
    :param check: way of growing of classes -> their agreements; None where nobody is to look.
    """

    regions: list[Region]
    verdicts: tuple[Verdict, ...] = field(default=())
    agreements: tuple[Optional[float], ...] = field(default=())
    once: frozenset[int] = frozenset()
    check: Optional[Callable[[Mapping[int, Verdict], ProgressHandle], Mapping[int, Optional[float]]]] = None

    @property
    def unchecked(self) -> dict[int, Verdict]:
        """The ways of painted classes whose borders have decided, so that no slice was hidden."""
        if self.check is None:
            return {}
        ways = dict(enumerate(self.verdicts, 1))
        missing = {index for index, each in enumerate(self.agreements, 1) if each is None} - self.once
        return {index: ways[index] for index in sorted(missing) if self.regions[index - 1].painted}

    def checked(self, job: ProgressHandle) -> Grown:
        """With the agreements of these, too."""
        rest = self.unchecked
        if self.check is None or not rest:
            return self
        found = self.check(rest, job)
        return replace(
            self, agreements=tuple(found.get(i, each) for i, each in enumerate(self.agreements, 1)), check=None
        )


def grow_regions(
    image: sitk.Image,
    painted: np.ndarray,
    count: int,
    net: GrowingNet,
    evidence: Optional[Evidence] = None,
    quick: bool = False,
    verdicts: Optional[Sequence[Verdict]] = None,
    job: Optional[ProgressHandle] = None,
) -> Optional[Grown]:
    """Grow what was painted of ``count`` classes; None where no class is painted.

    :param painted: int16 (z, y, x) on the image's own grid, labels as in ``annotation.labels``.
    :param evidence: used as far as it agrees with what was painted.
    :param quick: leave out that slices predict each other, and the passes on finer voxels.
    :param verdicts: which way each class is grown, instead of what the guard finds.
    """
    job = job or ProgressHandle()
    native = Grid.of(image)
    box = domain(native, painted)
    if box is None:
        return None
    place = working_grid(native, box, QUICK if quick else COARSE)
    ground, shown = _ground(image, painted, place, count, evidence)
    ways = list(verdicts or [Verdict.LEARNED] * count)
    regions = []
    for index in range(1, count + 1):
        job.check()
        job.report("growing", 0.4 * (index - 1) / count)
        logits = _asked(net, ground, index, shown.get(index), ways[index - 1])
        regions.append(Region(logits, place, bool((ground.strokes == index).any())))
    if verdicts is None:
        ways, agreed = _ways(net, ground, shown, regions, quick, job.part(0.4, 0.6))
        for index, way in enumerate(ways, 1):
            if way is not Verdict.LEARNED:
                regions[index - 1].logits = _asked(net, ground, index, None, way)
    if not quick:
        found = [region.logits for region in regions]
        labels = np.where(np.max(found, 0) > 0, np.argmax(found, 0) + 1, 0).astype(np.int16)
        for index in [index for index, region in enumerate(regions, 1) if region.painted]:
            job.check()
            job.report("growing", 0.6 + 0.4 * (index - 1) / count)
            coarse = regions[index - 1]
            finer = _finer(image, painted, coarse, labels, index, net, ways[index - 1], ground.limits)
            regions[index - 1] = finer or coarse
    if quick or verdicts is not None:
        return Grown(regions, tuple(ways))
    once = frozenset(index for index in range(1, count + 1) if painted_once(ground.strokes, index))
    agreements = tuple(agreed.get(index) for index in range(1, count + 1))
    return Grown(regions, tuple(ways), agreements, once, partial(_check, net, ground, count))


def _check(
    net: GrowingNet, ground: Ground, count: int, rest: Mapping[int, Verdict], job: ProgressHandle
) -> dict[int, Optional[float]]:
    """Agreements of some of ``count`` classes that were grown by known ways."""
    return check_held_back(net, _thinned(ground, {}, max(GUARD, _GUARDED // count))[0], rest, job)


def _ways(
    net: GrowingNet,
    ground: Ground,
    shown: dict[int, np.ndarray],
    regions: Sequence[Region],
    quick: bool,
    job: ProgressHandle,
) -> tuple[list[Verdict], dict[int, Optional[float]]]:
    """How each class is to be grown: what its border says, and where that is not clear, its painted slices; and how
    well these were predicted.

    :param regions: as learned growing with all evidence has them.
    """
    costs = {
        index: border_of_plain(ground, index, region.logits > 0)
        for index, region in enumerate(regions, 1)
        if region.painted
    }
    ways = {index: Verdict.PLAIN for index, cost in costs.items() if cost < CLEARLY_BETTER}
    # Evidence can make a good border around the wrong thing: the strokes have to agree.
    asked = [index for index in costs.keys() - ways.keys() if costs[index] < CLEARLY_WORSE or index in shown]
    agreed: dict[int, Optional[float]] = {}
    if asked and not quick:
        thin = _thinned(ground, shown, max(GUARD, _GUARDED // len(regions)))
        scores = predictions(net, *thin, dict.fromkeys(asked, tuple(Verdict)), job)
        found = verdicts_of(scores, thin[1])
        ways, agreed = {**ways, **found}, held_back(scores, found)
    return [ways.get(index, Verdict.LEARNED) for index in range(1, len(regions) + 1)], agreed


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
    """Logits (z, y, x) of one class over the ground, by the way that the guard admits."""
    if verdict is Verdict.PLAIN and (ground.strokes == index).any():
        return np.where(ground.grown == index, 1, -1).astype(np.float32)
    return answer(net, ground, index, evidence if verdict is Verdict.LEARNED else None)


def _finer(
    image: sitk.Image,
    painted: np.ndarray,
    coarse: Region,
    labels: np.ndarray,
    index: int,
    net: GrowingNet,
    verdict: Verdict,
    limits: tuple[float, float],
) -> Optional[Region]:
    """The same class on finer voxels around where it was found; None where there are none to gain.

    :param coarse: its region so far, which is evidence for the finer one.
    :param labels: what all classes came to, on the same grid.
    """
    place = coarse.place
    box = place.within((labels == index) | (place.strokes(painted) == index), _MORE, 6)
    if box is None:
        return None
    fine = working_grid(place.native, box, FINE)
    if min(np.divide(fine.spacing, place.spacing)) > _FINER:
        return None
    lines = _lines(place, fine)
    ground = Ground.of(fine.image(image), fine.strokes(painted), fine.spacing, limits, _rim(labels, lines, fine))
    if verdict is Verdict.PLAIN:
        return Region(_asked(net, ground, index, None, verdict), fine, True)
    shown = expit(map_coordinates(coarse.logits, np.meshgrid(*lines, indexing="ij"), order=1, mode="nearest"))
    return Region(answer(net, ground, index, shown), fine, True)


def _lines(place: WorkingGrid, fine: WorkingGrid) -> list[np.ndarray]:
    """Where the voxels of ``fine`` lie along each axis of ``place``, in its voxels."""
    return [
        (side.start + (np.arange(extent) + 0.5) * own - outer.start) / step - 0.5
        for side, outer, step, own, extent in zip(fine.box, place.box, place.steps, fine.steps, fine.shape)
    ]


def _rim(labels: np.ndarray, lines: list[np.ndarray], fine: WorkingGrid) -> np.ndarray:
    """What the coarser pass found on the outermost voxels of a finer grid that it covers, -1 elsewhere."""
    rim = np.full(fine.shape, UNKNOWN, np.int16)
    for axis in range(3):
        for end in (0, -1):
            ends = [line[[end]] if other == axis else line for other, line in enumerate(lines)]
            face = tuple(slice(None) if other != axis else slice(end, None if end == -1 else 1) for other in range(3))
            rim[face] = map_coordinates(labels, np.meshgrid(*ends, indexing="ij"), order=0, mode="nearest")
    return rim


def _thinned(ground: Ground, shown: dict[int, np.ndarray], most: int) -> tuple[Ground, dict[int, np.ndarray]]:
    """Ground and evidence on at most about ``most`` voxels, so that slices can predict each other quickly."""
    factor = int(np.ceil((ground.array.size / most) ** (1 / 3) - 0.25))
    if factor <= 1:
        return ground, shown
    thin, every = thinned(ground, factor)
    return thin, {index: values[tuple(slice(None, None, step) for step in every)] for index, values in shown.items()}

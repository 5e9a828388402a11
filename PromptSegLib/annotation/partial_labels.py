"""What is known about voxels, as one small number each: what was painted, erased, or never said.

Code 0 is unknown, 1 known background, ``2 + 2 i`` the i-th class, ``3 + 2 i`` anything but the i-th class. Classes
are numbered per segmentation, once and for all: the number stays with the segment, whatever its name.

Where arrays are learned from, the same four things are signed labels, see :mod:`.labels`; :func:`signed` and
:func:`codes_of` are the only ways between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Protocol, Sequence

import numpy as np
import SimpleITK as sitk

from ..choice import Choice
from ..errors import PromptSegError
from ..imaging.geometry import Grid, resample

BLANK, BACKGROUND = 0, 1
_SPREAD = 500  # voxels of an accepted result that stand for a class without strokes


class Unpainted(Choice):
    """What an unpainted voxel is: unknown; background on slices that hold something known; background everywhere."""

    UNKNOWN = "unknown"
    SLICES = "slices"
    VOLUME = "volume"


def is_class(number: int) -> int:
    return 2 + 2 * number


def is_not_class(number: int) -> int:
    return 3 + 2 * number


class Painted(Protocol):
    """Segments at one moment; :class:`PromptSegLib.scene.segment_snapshot.SegmentSnapshot` is one."""

    def labels(self, values: Mapping[str, int], /) -> sitk.Image: ...

    def masks(self, segment_ids: Sequence[str], grid: Grid, /) -> dict[str, np.ndarray]: ...

    def empty(self, segment_id: str, /) -> bool: ...


@dataclass(frozen=True)
class PartialLabels:
    """What is known of one volume.

    :param codes: label image of codes, on the segmentation's own lattice.
    :param strokes: those of them to remember when a result is applied: without what background segments and
        complete slices say, which is in the scene anyway.
    :param changed: numbers of the classes of which something was painted or erased since they were last applied.
    :param painted: numbers of the classes that are known somewhere.
    :param hidden: where segments overlap, a voxel counts for one of them: number of a class, the code that its voxels
        have instead, and how many they are.
    """

    codes: sitk.Image
    strokes: sitk.Image
    changed: tuple[int, ...]
    painted: tuple[int, ...]
    hidden: tuple[tuple[int, int, int], ...] = ()


def signed(codes: np.ndarray) -> np.ndarray:
    """Codes (unsigned) as signed labels, int16: -1 unknown, 0 background, k the class with number k - 1, and -(k + 1)
    anything but that."""
    every = np.arange(int(codes.max(initial=1)) + 1)
    table = np.where(every % 2, -(every // 2 + 1), every // 2)
    table[:2] = -1, 0
    return table.astype(np.int16)[codes]


def codes_of(labels: np.ndarray, classes: int) -> np.ndarray:
    """The codes, uint16, of signed labels of so many classes."""
    table = np.zeros(2 * classes + 2, np.uint16)  # negative labels count from its end
    table[0], table[-1] = BACKGROUND, BLANK
    for number in range(classes):
        table[number + 1], table[-(number + 2)] = is_class(number), is_not_class(number)
    return table[labels]


def class_of(code: int) -> Optional[int]:
    """The number of the class that a code stands for; None for background and what is no class."""
    return code // 2 - 1 if code >= 2 and code % 2 == 0 else None


def compose(
    painted: Painted,
    classes: Mapping[str, int],
    background: Sequence[str],
    volume: Grid,
    unpainted: str = Unpainted.UNKNOWN,
    applied: Optional[sitk.Image] = None,
    strokes: Optional[sitk.Image] = None,
    beneath: Sequence[sitk.Image] = (),
) -> PartialLabels:
    """Put together what the user said: what is painted now, against what was last applied. For any thread.

    :param classes: segment ID -> number of the class.
    :param background: IDs of the segments that mark background.
    :param unpainted: one of :class:`Unpainted`; where it is background, what the segments hold now is true.
    :param applied: the result that was last applied, number + 1 of the class. A segment with voxels there is
        corrected by what was added to it or removed from it since; of any other, every voxel is a stroke.
    :param strokes: codes that were known at that time.
    :param beneath: as ``applied``, what classes had where it says another one.

    Raises :class:`PromptSegError` when nothing is painted.
    """
    present = {each: index + 1 for index, each in enumerate([*classes, *background]) if not painted.empty(each)}
    # What holds nothing may lie anywhere, and must not make the grid any larger.
    layers = [each for each in map(_unless_blank, (applied, *beneath)) if each is not None]
    strokes = _unless_blank(strokes)
    if not present and not layers and strokes is None:
        raise PromptSegError("Nothing is painted yet; paint some voxels of a structure, and some background.")
    pieces = [painted.labels(present)] if present else []
    grid = volume
    if unpainted == Unpainted.UNKNOWN:
        grid = _around([Grid.of(each) for each in (*pieces, *layers, strokes) if each is not None])
    before = _Before(layers, [Grid.of(each) for each in pieces]) if layers else None
    codes = np.zeros(grid.shape, np.uint16) if strokes is None else on_grid(strokes, grid).astype(np.uint16)
    changed = _correct(codes, painted, classes, before, grid)
    strokes_now = _compact(codes)
    for each, number in classes.items():
        # Only ever erased from, never painted: what the user left in place then stands for the class.
        if number in changed and not (codes == is_class(number)).any():
            _mark(codes, painted.masks([each], grid)[each], is_class(number))
    for each in background:
        codes[painted.masks([each], grid)[each]] = BACKGROUND
    if unpainted != Unpainted.UNKNOWN:
        where = _slices(codes) if unpainted == Unpainted.SLICES else np.ones(codes.shape, bool)
        _complete(codes, painted, classes, grid, where)
    hidden = []
    for each, number in classes.items():
        mask = _said(painted, each, number, before, grid, number in changed, unpainted != Unpainted.UNKNOWN)
        over = codes[mask] if mask is not None else codes[:0]
        instead, counts = np.unique(over[(over != is_class(number)) & (over != BLANK)], return_counts=True)
        hidden += [(number, int(code), int(count)) for code, count in zip(instead, counts)]
    held = tuple(number for number in classes.values() if (codes == is_class(number)).any())
    return PartialLabels(grid.image(_compact(codes)), grid.image(strokes_now), tuple(changed), held, tuple(hidden))


def _correct(
    codes: np.ndarray, painted: Painted, classes: Mapping[str, int], before: Optional[_Before], grid: Grid
) -> list[int]:
    """Bring codes that were known when a result was applied up to what is painted now, in place.

    Gives the numbers of the classes of which something was painted or erased since.
    """
    old, changed = codes.copy(), []
    for each, number in classes.items():
        if before is not None and before.holds(number):
            added, removed = before.changes(painted, each, number)
            if added is None and removed is None:
                continue
            changed.append(number)
            if removed is not None:
                gone = on_grid(removed, grid) > 0
                codes[gone & (codes == is_class(number))] = BLANK
                codes[gone & (codes == BLANK)] = is_not_class(number)
            if added is not None:
                codes[on_grid(added, grid) > 0] = is_class(number)
        else:
            now = painted.masks([each], grid)[each]
            codes[(codes == is_class(number)) & ~now] = BLANK  # painted strokes that were erased again
            codes[now] = is_class(number)
            if now.any() or (old == is_class(number)).any():
                changed.append(number)
    return changed


def _complete(codes: np.ndarray, painted: Painted, classes: Mapping[str, int], grid: Grid, where: np.ndarray) -> None:
    """There the segments hold all there is: make codes of that, in place.

    :param where: bool (z, y, x).
    """
    claimed = np.zeros(codes.shape, bool)
    for each, number in classes.items():
        now = painted.masks([each], grid)[each]
        codes[where & now] = is_class(number)
        claimed |= now
    codes[where & ~claimed] = BACKGROUND


def contradicted(codes: sitk.Image, applied: Sequence[sitk.Image]) -> bool:
    """Whether anything that is known is otherwise in a result.

    :param applied: number + 1 of the class where it was applied; several where classes lie under each other.
    """
    known = sitk.GetArrayViewFromImage(codes)
    number = known // 2  # of a class and of what is not it, plus 1
    there, any_class = np.zeros(known.shape, bool), np.zeros(known.shape, bool)
    for each in applied:
        result = on_grid(each, Grid.of(codes))
        there |= result == number
        any_class |= result > 0
    of_class, erased = ((known > BACKGROUND) & (known % 2 == odd) for odd in (0, 1))
    return bool(((of_class & ~there) | (erased & there) | ((known == BACKGROUND) & any_class)).any())


def _said(
    painted: Painted,
    segment_id: str,
    number: int,
    before: Optional[_Before],
    grid: Grid,
    changed: bool,
    all_of_it: bool,
) -> Optional[np.ndarray]:
    """Where a segment says that its class is, bool (z, y, x): all of it where segments are complete; what was added
    to a result since; the strokes of a class without a result. None for nowhere."""
    if all_of_it or (changed and (before is None or not before.holds(number))):
        return painted.masks([segment_id], grid)[segment_id]
    added = before.changes(painted, segment_id, number)[0] if changed and before is not None else None
    return None if added is None else on_grid(added, grid) > 0


def _mark(codes: np.ndarray, where: np.ndarray, code: int) -> None:
    """Give unknown voxels of a mask a code, in place: evenly spread ones, no more than strokes would be."""
    places = np.flatnonzero((where & (codes == BLANK)).reshape(-1))
    codes.reshape(-1)[places[:: max(1, len(places) // _SPREAD)]] = code


class _Before:
    """What was applied, on its own lattice: there a segment that nobody touched has exactly the same voxels, while on
    another lattice the nearest voxels of the two could differ by rounding."""

    def __init__(self, layers: Sequence[sitk.Image], others: Sequence[Grid]):
        grids = [_around([Grid.of(each), *others]) for each in layers]
        self._layers = [(grid, on_grid(each, grid)) for grid, each in zip(grids, layers)]

    def holds(self, number: int) -> bool:
        """Whether anything of a class was applied."""
        return any((labels == number + 1).any() for _, labels in self._layers)

    def changes(self, painted: Painted, segment_id: str, number: int) -> list[Optional[sitk.Image]]:
        """What was added to a class since, and what was removed, as masks; None for nothing."""
        held = [(grid, labels == number + 1) for grid, labels in self._layers]
        (grid, then), *more = [each for each in held if each[1].any()]
        for other, part in more:  # the rest of it, which lies under another class
            then |= on_grid(other.image(part.astype(np.uint8)), grid) > 0
        now = painted.masks([segment_id], grid)[segment_id]
        found = (now & ~then, then & ~now)
        return [grid.image(each.astype(np.uint8)) if each.any() else None for each in found]


def stacked(images: Sequence[sitk.Image]) -> list[sitk.Image]:
    """Label images of different labels as few images: in the first, the earlier hide the later, and what is hidden is
    in the next. Images stay on their own lattices; blank ones are left out."""
    found: list[sitk.Image] = []
    for each in images:
        rest = _unless_blank(each)
        for index, layer in enumerate(found):
            if rest is None or not _share_lattice(Grid.of(layer), Grid.of(rest)):
                continue
            grid = _around([Grid.of(layer), Grid.of(rest)])
            above, below = on_grid(layer, grid), on_grid(rest, grid)
            found[index] = grid.image(np.where(above > 0, above, below))
            rest = _unless_blank(grid.image(np.where(above > 0, below, 0).astype(below.dtype)))
        if rest is not None:
            found.append(rest)
    return found


def flat(images: Sequence[sitk.Image]) -> sitk.Image:
    """Label images as one, on the lattice of the first; the earlier hide the later."""
    if len(images) == 1:
        return images[0]
    grid = _around([Grid.of(each) for each in images])
    labels = on_grid(images[0], grid)
    for each in images[1:]:
        labels = np.where(labels > 0, labels, on_grid(each, grid))
    return grid.image(labels)


def _share_lattice(one: Grid, other: Grid) -> bool:
    """Whether every voxel of a grid is one of another's lattice."""
    ends = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]) * np.maximum(np.asarray(other.size) - 1, 1)
    places = one.indices(other.points(ends)) - ends
    return bool(np.abs(places - np.round(places[0])).max() < 1e-2)


def _unless_blank(image: Optional[sitk.Image]) -> Optional[sitk.Image]:
    return image if image is not None and sitk.GetArrayViewFromImage(image).any() else None


def _compact(codes: np.ndarray) -> np.ndarray:
    """A copy in the smallest type that holds all codes."""
    return codes.astype(np.uint8 if codes.max() < 256 else np.uint16)


def _slices(codes: np.ndarray) -> np.ndarray:
    """The whole slices that hold something known, across the axis along which there are the fewest of them."""
    known = codes != BLANK
    lines = [known.any(tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    # As a share: a volume has fewer slices along one axis than along another.
    axis = int(np.argmin([line.mean() for line in lines]))
    shape = [1, 1, 1]
    shape[axis] = -1
    return np.broadcast_to(lines[axis].reshape(shape), codes.shape)


def _around(grids: Sequence[Grid]) -> Grid:
    """The lattice of the first grid, large enough for all of them."""
    base = grids[0]
    corners = np.concatenate([base.indices(grid.corners()) for grid in grids])
    # Corners lie half a voxel outside the centers; a rounding error must not add a voxel.
    low = np.floor(corners.min(0) + 0.5 + 1e-3).astype(int)
    high = np.ceil(corners.max(0) + 0.5 - 1e-3).astype(int)
    return base.part(low, high)


def on_grid(image: sitk.Image, grid: Grid) -> np.ndarray:
    """Values of a label image on a grid, 0 outside; a plain copy where they share a lattice."""
    return sitk.GetArrayFromImage(resample(image, grid, sitk.sitkNearestNeighbor, 0))


def annotation_of(
    codes: sitk.Image, values: Mapping[int, int], taken: Sequence[int] = ()
) -> tuple[sitk.Image, int, dict]:
    """Codes as an annotation: the label image, the value of background, and the excluded values (see ``Example``).

    :param values: number of a class -> its value in the annotation; classes that are not listed become unknown.
    :param taken: values that background and excluded classes must not get.
    """
    used = {*values.values(), *taken}
    free = iter(value for value in range(1, 65536) if value not in used)
    background, excluded = next(free), {next(free): value for value in values.values()}
    top = max([1, *(is_not_class(number) for number in values)])
    array = sitk.GetArrayViewFromImage(codes)
    lookup = np.zeros(max(int(array.max()), top) + 1, np.uint16)
    lookup[BACKGROUND] = background
    back = {value: key for key, value in excluded.items()}
    for number, value in values.items():
        lookup[is_class(number)], lookup[is_not_class(number)] = value, back[value]
    return Grid.of(codes).image(lookup[array]), background, excluded

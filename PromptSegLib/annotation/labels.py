"""What the user painted, as a label per voxel of any grid.

Labels are what arrays are learned from: -1 is unknown, 0 known background, k the k-th class, and -(k + 1) anything but
the k-th class. They are the codes of :mod:`.partial_labels`, signed.

A voxel painted with a value that is neither a class nor the background value is some other thing. It is
background where the annotation is complete; otherwise it is unknown, because the user never said
whether that thing overlaps a class (an unfinished outline, a helper segment).

Arrays are (z, y, x); everything runs in blocks, so that the memory beyond the result is some tens of MB.
"""

from __future__ import annotations

from typing import Callable, Iterator, Mapping, Optional

import numpy as np
import SimpleITK as sitk

from ..imaging.geometry import Grid
from .example import Example
from .partial_labels import BACKGROUND, BLANK, codes_of, is_class, is_not_class, signed

UNKNOWN = -1
_BLOCK = 1 << 22  # voxels in hand at a time
_EDGE = 1e-6  # voxels; a point on the outer face of a grid is inside it, whatever the rounding


def labels_on_grid(example: Example, classes: Mapping[str, int], grid: Grid) -> np.ndarray:
    """The annotation of ``example`` on ``grid``, int16 (z, y, x), labels as said at the top of this file.

    On the annotation's own grid this is a change of values and nothing else. On another grid, each voxel
    takes the annotation voxel nearest to its center. Unless the annotation is complete, every annotated
    voxel then also marks the voxel of ``grid`` that contains its center, if that is still unknown, so
    that strokes thinner than a voxel of ``grid`` are kept; where several meet, the most frequent label
    wins, then a class over a excluded one, anything over background, then the earlier class.

    Unknown are also voxels with their center outside the annotation's grid or outside the image.

    :param classes: class name -> value in the annotation; the order numbers the classes from 1.
    """
    source, image = Grid.of(example.annotation), Grid.of(example.image)
    if source.same_as(grid):
        codes = np.empty(grid.shape, np.uint16)
        for start, block in code_blocks(example, classes):
            codes[start : start + len(block)] = block
        _forget_outside(codes, grid, image)
    else:
        codes = _nearest(example, classes, grid)
        _forget_outside(codes, grid, image)
        if not example.complete:
            _add_strokes(codes, example, classes, grid)
    labels, depth = codes.view(np.int16), max(1, _BLOCK // codes[0].size)
    for start in range(0, len(codes), depth):  # in place
        labels[start : start + depth] = signed(codes[start : start + depth])
    return labels


def on_another_grid(labels: np.ndarray, image: sitk.Image, grid: Grid, classes: int) -> np.ndarray:
    """Labels (z, y, x) of so many classes on an image's grid -> labels on ``grid``, as :func:`labels_on_grid` makes
    them of an annotation that is not complete."""
    codes, numbers = Grid.of(image).image(codes_of(labels, classes)), range(classes)
    excluded = {is_not_class(number): is_class(number) for number in numbers}
    example = Example(image, codes, background=BACKGROUND, excluded=excluded)
    return labels_on_grid(example, {f"class {number}": is_class(number) for number in numbers}, grid)


def painted_on_grid(example: Example, grid: Grid) -> Optional[np.ndarray]:
    """Where the user painted himself, bool (z, y, x) of ``grid``; None where the example does not say."""
    if example.painted is None:
        return None
    marked = sitk.Cast(example.painted != 0, sitk.sitkUInt8)
    return labels_on_grid(Example(example.image, marked), {"painted": 1}, grid) == 1


def excluded_label(index: int) -> int:
    """The label of voxels that are anything but the class numbered ``index`` (from 1)."""
    return UNKNOWN - index


def strokes_on_image(example: Example, classes: Mapping[str, int]) -> np.ndarray:
    """:func:`labels_on_grid` on the grid of the example's own image."""
    return labels_on_grid(example, classes, Grid.of(example.image))


def code_blocks(example: Example, classes: Mapping[str, int]) -> Iterator[tuple[int, np.ndarray]]:
    """The annotation on its own grid, some slices at a time: first slice, codes uint16 (slices, y, x)."""
    values = sitk.GetArrayViewFromImage(example.annotation)
    encode = _encoder(values.dtype, example, classes)
    depth = max(1, _BLOCK // values[0].size)
    for start in range(0, len(values), depth):
        yield start, encode(values[start : start + depth])


def _encoder(dtype: np.dtype, example: Example, classes: Mapping[str, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A function from annotation values (integers of ``dtype``, any shape) to codes (uint16, same shape)."""
    limits = np.iinfo(dtype)
    numbers = {value: number for number, value in enumerate(classes.values())}
    codes = {value: is_class(number) for value, number in numbers.items()}
    if example.background is not None:
        codes.setdefault(example.background, BACKGROUND)
    for value, other in example.excluded.items():
        if other in numbers:
            codes.setdefault(value, is_not_class(numbers[other]))
    codes = {value: code for value, code in codes.items() if limits.min <= value <= limits.max}
    rest = BACKGROUND if example.complete else BLANK

    if dtype.itemsize <= 2:
        table = np.full(256**dtype.itemsize, rest, np.uint16)
        for value, code in codes.items():
            table[value] = code  # a negative value counts from the end, as its unsigned bits do
        unsigned = np.dtype(f"u{dtype.itemsize}")
        return lambda values: table[values.view(unsigned)]

    def encode(values: np.ndarray) -> np.ndarray:
        result = np.full(values.shape, rest, np.uint16)
        for value, code in codes.items():
            result[values == value] = code
        return result

    return encode


def _positions(grid: Grid, other: Grid, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> list[np.ndarray]:
    """Where voxels ``x``, ``y``, ``z`` of ``grid`` lie in ``other``: continuous indices along x, y and z.

    The indices broadcast against each other, and so do the results: between aligned grids, lines of
    indices (see :func:`_slabs`) remain lines.
    """
    inverse = np.linalg.inv(other.matrix)
    matrix = inverse @ grid.matrix
    matrix[np.abs(matrix) < 1e-9] = 0.0
    offset = inverse @ (np.asarray(grid.origin) - np.asarray(other.origin))
    return [
        sum((factor * index for factor, index in zip(row, (x, y, z)) if factor), shift)
        for row, shift in zip(matrix, offset)
    ]


def _inside(positions: list[np.ndarray], grid: Grid) -> np.ndarray:
    """Whether continuous indices lie within the outer faces of ``grid``, bool, broadcastable."""
    x, y, z = ((p >= -0.5 - _EDGE) & (p <= n - 0.5 + _EDGE) for p, n in zip(positions, grid.size))
    return x & y & z


def _voxels(positions: list[np.ndarray], grid: Grid) -> np.ndarray:
    """Flat indices into arrays of ``grid`` of the voxels nearest to continuous indices, broadcast together."""
    nearest = [np.floor(p + 0.5).astype(np.int64).clip(0, n - 1) for p, n in zip(positions, grid.size)]
    x, y, z = nearest
    return (z * grid.size[1] + y) * grid.size[0] + x


def _slabs(grid: Grid, other: Grid) -> Iterator[tuple[slice, list[np.ndarray]]]:
    """The slices of ``grid`` a block at a time, and where their voxels lie in ``other`` (broadcasts to z, y, x)."""
    depth = max(1, _BLOCK // (grid.size[0] * grid.size[1]))
    x = np.arange(grid.size[0])
    y = np.arange(grid.size[1])[:, None]
    for start in range(0, grid.size[2], depth):
        z = np.arange(start, min(start + depth, grid.size[2]))[:, None, None]
        yield slice(start, start + depth), _positions(grid, other, x, y, z)


def _nearest(example: Example, classes: Mapping[str, int], grid: Grid) -> np.ndarray:
    """The code of the annotation voxel nearest to each center of ``grid``; unknown outside the annotation."""
    values = sitk.GetArrayViewFromImage(example.annotation).reshape(-1)
    encode = _encoder(values.dtype, example, classes)
    source = Grid.of(example.annotation)
    codes = np.empty(grid.shape, np.uint16)
    for slices, positions in _slabs(grid, source):
        found = encode(values[_voxels(positions, source)])
        codes[slices] = np.where(_inside(positions, source), found, BLANK)
    return codes


def _forget_outside(codes: np.ndarray, grid: Grid, image: Grid) -> None:
    """Make unknown, in place, the voxels of ``grid`` whose center lies outside ``image``."""
    if grid.same_as(image):
        return
    for slices, positions in _slabs(grid, image):
        inside = _inside(positions, image)
        if not inside.all():
            codes[slices] = np.where(inside, codes[slices], BLANK)


def _add_strokes(codes: np.ndarray, example: Example, classes: Mapping[str, int], grid: Grid) -> None:
    """Give unknown voxels of ``codes`` (on ``grid``, changed in place) the annotated voxels that fall in them."""
    source, image = Grid.of(example.annotation), Grid.of(example.image)
    kinds = is_class(len(classes))  # more than any code
    flat = codes.reshape(-1)
    votes = np.zeros(0, np.int64)  # voxel of grid * kinds + code
    counts = np.zeros(0, np.int64)
    for start, block in code_blocks(example, classes):
        places = np.flatnonzero(block != BLANK)
        if not places.size:
            continue
        painted = block.reshape(-1)[places].astype(np.int64)
        z, y, x = np.unravel_index(places, block.shape)
        index = (x, y, z + start)
        positions = _positions(source, grid, *index)
        voxels = _voxels(positions, grid)
        keep = np.flatnonzero(_inside(positions, grid) & (flat[voxels] == BLANK))
        keep = keep[_inside(_positions(source, image, *(axis[keep] for axis in index)), image)]
        new, number = np.unique(voxels[keep] * kinds + painted[keep], return_counts=True)
        votes, inverse = np.unique(np.concatenate([votes, new]), return_inverse=True)
        counts = np.bincount(inverse, np.concatenate([counts, number]), len(votes)).astype(np.int64)
    voxels, code = np.divmod(votes, kinds)
    order = np.lexsort((code, code % 2 == 1, code == BACKGROUND, -counts, voxels))
    first = np.unique(voxels[order], return_index=True)[1]
    flat[voxels[order][first]] = code[order][first]

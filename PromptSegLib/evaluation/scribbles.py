"""Simulated users: scribbles drawn from a reference, and the next correction of a result.

A simulated user draws as a hurried person does: on axial slices, thin freehand strokes along
the middle of a structure that keep off its border, and background strokes part of the way
around the structures and across the rest of the body. Everything is decided by the reference
and the seed; the image's intensities are not used.

Slices are taken across the image axis nearest to superior-inferior, whatever the orientation.
Arrays inside this module have that axis first: (slice, row, column).
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from ..errors import PromptSegError
from .labels import check_classes, check_same_grid, label_array

_FULL = np.ones((3, 3), bool)  # in-plane neighborhood with diagonals


def scribble(
    reference: sitk.Image,
    classes: dict[str, int],
    background: int,
    slices_per_class: int = 3,
    seed: int = 0,
    width: int = 2,
    background_share: float = 0.0025,
) -> sitk.Image:
    """Scribbles that a user would draw to teach ``classes``.

    Each class gets one stroke on each of its slices, along the middle of its largest part in
    the slice and at least a voxel away from its border (unless it is too thin for that).
    Background is every voxel that is in none of the classes, other structures included.

    :param reference: 3D integer label volume with the true extent of the classes.
    :param classes: name -> label value (1..255) in the reference and in the scribbles; a class
        that the reference does not have gets no strokes.
    :param background: value (1..255) that marks known background in the scribbles.
    :param slices_per_class: slices on which each class is drawn, fewer where it has fewer.
    :param seed: same seed, same scribbles; a class's strokes do not depend on the other classes.
    :param width: width of a stroke in voxels, 1 or 2.
    :param background_share: background strokes are added, slice after slice, until they make
        up this share of all voxels or every drawn slice has its own.
    :return: uint8 label volume on the reference's grid, 0 unknown.
    :raises PromptSegError: the reference is not a 3D integer label volume or holds none of the
        classes, label values are unusable, or ``background`` is one of the classes.
    """
    _check(classes, background, 255)
    truth = _merged(label_array(reference, "reference"), classes)
    axis = _slicing_axis(reference)
    truth = np.moveaxis(truth, axis, 0)
    spacing = _in_plane_spacing(reference, axis)
    if not truth.any():
        raise PromptSegError("The reference holds none of the classes: check the label values.")

    drawn = np.zeros(truth.shape, np.uint8)
    for value in classes.values():
        rng = np.random.default_rng([seed, int(value)])
        mask = truth == value
        for index in _choose_slices(mask, slices_per_class, rng):
            drawn[index][_stroke(mask[index], spacing, width, rng)] = value

    rng = np.random.default_rng([seed, int(background)])
    region = _body_region(np.any(truth > 0, axis=0), spacing)
    budget = background_share * truth.size
    for index in _spread(np.flatnonzero(drawn.any((1, 2)))):
        for stroke in _background_strokes(truth[index] > 0, region, spacing, width, rng):
            if budget <= 0:
                break
            drawn[index][stroke] = background
            budget -= stroke.sum()
    return _as_image(np.moveaxis(drawn, 0, axis), reference)


def correct(
    reference: sitk.Image,
    annotation: sitk.Image,
    prediction: sitk.Image,
    classes: dict[str, int],
    background: int,
    seed: int = 0,
    width: int = 2,
) -> sitk.Image:
    """The annotation with one more stroke, where the prediction is most wrong.

    Of all places where the prediction differs from the reference, missing parts and overflow
    alike, the largest connected one that is more than a rim is corrected: a stroke of its true
    value (``background`` where no class belongs) through its thickest slice. Rims of one voxel
    count only if nothing else is wrong. Voxels that are annotated already stay as they are.

    :param reference: 3D integer label volume with the true extent of the classes.
    :param annotation: 3D integer label volume on the reference's grid, 0 unknown.
    :param prediction: 3D integer label volume on the reference's grid; every value that is not
        a class counts as background.
    :param classes: name -> label value.
    :param background: value that marks known background in the annotation.
    :param seed: same seed, same stroke.
    :param width: width of the stroke in voxels, 1 or 2.
    :return: the new annotation, of the annotation's pixel type; an unchanged copy if nothing
        that is not annotated yet is wrong.
    :raises PromptSegError: as :func:`scribble`, or a volume lies on another grid.
    """
    given = label_array(annotation, "annotation").copy()
    _check(classes, background, int(np.iinfo(given.dtype).max))
    truth = _merged(label_array(reference, "reference"), classes)
    guess = _merged(label_array(prediction, "prediction"), classes)
    check_same_grid(reference, annotation, "annotation")
    check_same_grid(reference, prediction, "prediction")
    axis = _slicing_axis(reference)
    truth, guess, drawn = (np.moveaxis(array, axis, 0) for array in (truth, guess, given))

    found = _worst(truth, (truth != guess) & (drawn == 0))
    if found is not None:
        index, mask = found
        value = int(truth[index][mask][0])
        stroke = _stroke(mask, _in_plane_spacing(reference, axis), width, np.random.default_rng([seed, index]))
        drawn[index][stroke] = value or background  # a view of ``given``
    return _as_image(given, annotation)


def _check(classes: dict[str, int], background: int, largest: int) -> None:
    check_classes(classes, largest)
    if background in classes.values():
        raise PromptSegError(
            "The background value {background} is also a class: use another value.", background=background
        )
    check_classes({"background": background}, largest)


def _merged(labels: np.ndarray, classes: dict[str, int]) -> np.ndarray:
    """The labels with every value that is no class set to 0."""
    return np.where(np.isin(labels, list(classes.values())), labels, 0)


def _as_image(array: np.ndarray, grid_of: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.CopyInformation(grid_of)
    return image


def _slicing_axis(image: sitk.Image) -> int:
    """The array axis (z, y, x) whose direction is nearest to superior-inferior; the slowest one when in doubt."""
    upward = np.abs(np.reshape(image.GetDirection(), (3, 3))[2])[::-1]
    return int(np.argmax(upward > upward.max() - 1e-6))


def _in_plane_spacing(image: sitk.Image, axis: int) -> np.ndarray:
    """Spacing in mm (row, column) of the slices across array axis ``axis``."""
    return np.delete(np.asarray(image.GetSpacing()[::-1], float), axis)


def _choose_slices(mask: np.ndarray, number: int, rng: np.random.Generator) -> list[int]:
    """Slices of a class, spread over its volume: quantiles of the area, with jitter."""
    areas = mask.sum((1, 2)).astype(float)
    # Slices in which the class is thick enough to be drawn into, unless they are too few.
    wide = ndimage.binary_erosion(mask, _FULL[None]).any((1, 2))
    candidates = np.flatnonzero(wide)
    if len(candidates) < number:
        candidates = np.flatnonzero(areas)
    if len(candidates) <= number:
        return candidates.tolist()
    share = np.cumsum(areas[candidates]) / areas[candidates].sum()
    wanted = np.linspace(0.2, 0.8, number) if number > 1 else np.array([0.5])
    wanted = wanted + rng.uniform(-0.2, 0.2, number) / (number + 1)
    free = list(range(len(candidates)))
    chosen = []
    for position in np.searchsorted(share, wanted):
        nearest = min(free, key=lambda entry: (abs(entry - position), entry))
        free.remove(nearest)
        chosen.append(int(candidates[nearest]))
    return sorted(chosen)


def _spread(indices: np.ndarray) -> list[int]:
    """The indices, each next one as far as possible from those before it; the middle one first."""
    left = [int(index) for index in indices]
    order = [left.pop(len(left) // 2)] if left else []
    while left:
        order.append(max(left, key=lambda index: (min(abs(index - other) for other in order), -index)))
        left.remove(order[-1])
    return order


def _stroke(mask: np.ndarray, spacing: np.ndarray, width: int, rng: np.random.Generator) -> np.ndarray:
    """One freehand stroke inside a 2D mask: along the middle of its largest part, from end to end.

    :return: boolean (row, column), within the mask; off its border where it is thick enough.
    """
    inner = ndimage.binary_erosion(mask, _FULL)
    if not inner.any():
        inner = ndimage.binary_erosion(mask)
    inner = _largest_part(inner if inner.any() else mask)
    depth = ndimage.distance_transform_edt(inner, sampling=spacing)
    wobble = _wobble(mask.shape, rng)
    # Twice to the farthest place: the ends of the longest way through.
    places = np.argwhere(inner)
    start = tuple(places[rng.integers(len(places))])
    start, _ = _farthest(inner, spacing, start)
    goal, _ = _farthest(inner, spacing, start)
    path = _way(inner, wobble / depth.clip(min=1e-6) ** 2, spacing, start, goal)
    # A person stops short of the ends.
    before, after = (rng.uniform(0.05, 0.15, 2) * len(path)).astype(int)
    return _inked(path[before : len(path) - after], inner, width)


def _background_strokes(
    occupied: np.ndarray, region: np.ndarray, spacing: np.ndarray, width: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Background strokes of one slice, boolean (row, column) each, in the order in which they are drawn.

    First part of the way around every structure at a distance of a few mm, then two strokes
    across the rest of the body.
    """
    distance = ndimage.distance_transform_edt(~occupied, sampling=spacing)
    voxel = float(max(spacing))
    gap = max(rng.uniform(3.0, 6.0), 1.5 * voxel)
    free = (distance >= gap) & region
    if not free.any():
        gap = 1.01 * voxel
        free = (distance >= gap) & region
    if not free.any():
        return []
    strokes = []
    ring = free & (distance < gap + 2 * voxel)
    parts, number = ndimage.label(ring, _FULL)
    for part in range(1, number + 1):
        band = parts == part
        places = np.argwhere(band)
        start = tuple(places[rng.integers(len(places))])
        _, reach = _farthest(band, spacing, start)
        # Up to 70 % of the way to the opposite side, so about a third of the contour.
        ends = np.argwhere(band & (np.abs(reach - rng.uniform(0.4, 0.7) * reach[band].max()) < 1.5 * voxel))
        if len(ends):
            goal = tuple(ends[rng.integers(len(ends))])
            path = _way(band, 0.3 + np.abs(distance - gap - voxel), spacing, start, goal)
            strokes.append(_inked(path, free, width))
    rng.shuffle(strokes)

    roam = _largest_part(free)
    places = np.argwhere(roam)
    center = places.mean(0)
    offset = (places - center) * spacing
    angle = np.arctan2(offset[:, 0], offset[:, 1])
    radius = np.hypot(*offset.T)
    for _ in range(2):
        turn = rng.uniform(-np.pi, np.pi)
        tips = []
        for direction in (turn, turn + rng.uniform(0.4, 0.8) * np.pi):
            sector = np.cos(angle - direction) > 0.97
            if sector.any():
                wish = rng.uniform(0.5, 0.95) * radius[sector].max()
                tips.append(tuple(places[sector][np.argmin(np.abs(radius[sector] - wish))]))
        if len(tips) == 2:
            strokes.append(_inked(_way(roam, _wobble(roam.shape, rng), spacing, *tips), free, width))
    return strokes


def _body_region(projection: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Where the body lies in the slices, from the structures alone: their ellipse, grown by 40 mm.

    A generous guess, so that background strokes are mostly tissue rather than air.
    """
    places = np.argwhere(projection)
    low, high = places.min(0), places.max(0)
    half = (high - low + 1) * spacing / 2 + 40.0
    offset = [(np.arange(n) - (a + b) / 2) * s for n, a, b, s in zip(projection.shape, low, high, spacing)]
    rows, columns = np.meshgrid(*offset, indexing="ij")
    region = (rows / half[0]) ** 2 + (columns / half[1]) ** 2 <= 1
    if min(region.shape) > 4:  # not on the outermost voxels
        region[[0, -1], :] = region[:, [0, -1]] = False
    return region


def _worst(truth: np.ndarray, wrong: np.ndarray) -> Optional[tuple[int, np.ndarray]]:
    """Slice index and 2D mask of the thickest slice of the largest wrong component; None if nothing is wrong."""
    if not wrong.any():
        return None
    best: tuple[int, Optional[np.ndarray], tuple] = (0, None, ())
    for rim in (False, True):  # what survives an erosion in the plane; else anything
        for value in np.unique(truth[wrong]):
            mask = wrong & (truth == value)
            core = mask if rim else ndimage.binary_erosion(mask, _FULL[None])
            parts, number = ndimage.label(core, np.ones((3, 3, 3), bool))
            if not number:
                continue
            sizes = np.bincount(parts.ravel())[1:]
            largest = int(sizes.argmax())
            if sizes[largest] > best[0]:
                box = ndimage.find_objects(parts)[largest]
                best = (int(sizes[largest]), parts[box] == largest + 1, box)
        _, part, box = best
        if part is not None:
            within = int(part.sum((1, 2)).argmax())
            index = box[0].start + within
            mask = np.zeros(truth.shape[1:], bool)
            mask[box[1], box[2]] = part[within]
            if not rim:  # back to the part's own extent, so that the stroke's distance is from its true border
                value = truth[index][mask][0]
                mask = ndimage.binary_dilation(mask, _FULL) & wrong[index] & (truth[index] == value)
            return index, mask
    return None


def _largest_part(mask: np.ndarray) -> np.ndarray:
    parts, number = ndimage.label(mask, _FULL)
    if number < 2:
        return mask
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def _wobble(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A smooth random field around 1, varying over six pixels: what makes a shortest path look freehand."""
    coarse = rng.standard_normal([max(2, -(-n // 6)) for n in shape])
    zoomed = ndimage.zoom(coarse, [n / m for n, m in zip(shape, coarse.shape)], order=1)
    return np.exp(0.6 * zoomed[tuple(slice(n) for n in shape)])


def _graph(allowed: np.ndarray, cost: np.ndarray, spacing: np.ndarray):
    """Symmetric graph of the allowed pixels and their eight neighbors; edges are mm times the mean cost."""
    number = np.full(allowed.shape, -1)
    number[allowed] = np.arange(allowed.sum())
    rows, columns, weights = [], [], []
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
        here = (slice(0, -down or None), slice(0, -1) if right == 1 else slice(1, None) if right else slice(None))
        there = (slice(down, None), slice(1, None) if right == 1 else slice(0, -1) if right else slice(None))
        both = allowed[here] & allowed[there]
        rows.append(number[here][both])
        columns.append(number[there][both])
        step = np.hypot(down * spacing[0], right * spacing[1])
        weights.append(step * (cost[here][both] + cost[there][both]) / 2)
    edges = (np.concatenate(rows), np.concatenate(columns))
    size = int(allowed.sum())
    return number, coo_matrix((np.concatenate(weights), edges), shape=(size, size)).tocsr()


def _farthest(allowed: np.ndarray, spacing: np.ndarray, start: tuple) -> tuple[tuple, np.ndarray]:
    """The place farthest from ``start`` within ``allowed``, and the way there to every place (mm, inf elsewhere)."""
    number, graph = _graph(allowed, np.ones(allowed.shape), spacing)
    lengths = dijkstra(graph, directed=False, indices=number[start])
    reach = np.full(allowed.shape, np.inf)
    reach[allowed] = lengths
    return tuple(np.argwhere(allowed)[np.where(np.isfinite(lengths), lengths, -1).argmax()]), reach


def _way(allowed: np.ndarray, cost: np.ndarray, spacing: np.ndarray, start: tuple, goal: tuple) -> np.ndarray:
    """The cheapest path (n, 2) of pixels from ``start`` to ``goal``; both must be connected within ``allowed``."""
    number, graph = _graph(allowed, cost, spacing)
    _, previous = dijkstra(graph, directed=False, indices=number[start], return_predecessors=True)
    path = [number[goal]]
    while path[-1] != number[start]:
        path.append(previous[path[-1]])
    return np.argwhere(allowed)[path[::-1]]


def _inked(path: np.ndarray, allowed: np.ndarray, width: int) -> np.ndarray:
    """The pixels that a brush of ``width`` (1 or 2) leaves along the path, within ``allowed``.

    Corners of the path are rounded as by a hand, except where that would leave ``allowed``.
    """
    dense = np.linspace(0, len(path) - 1, 3 * len(path) - 2)
    points = np.stack([np.interp(dense, np.arange(len(path)), along) for along in path.T], 1)
    rounded = np.rint(ndimage.gaussian_filter1d(points, 6.0, axis=0, mode="nearest")).astype(int)
    outside = ~allowed[tuple(rounded.T)]
    rounded[outside] = path[np.rint(dense).astype(int)][outside]
    ink = np.zeros(allowed.shape, bool)
    ink[tuple(rounded.T)] = True
    if width > 1:
        ink = ndimage.binary_dilation(ink, np.ones((2, 2), bool))
    return ink & allowed

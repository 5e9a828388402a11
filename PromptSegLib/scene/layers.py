"""Which voxels segments have, changed layer by layer: several segments may share one labelmap."""

from __future__ import annotations

from typing import Any, Collection, Iterable, Optional, Sequence

import numpy as np
import SimpleITK as sitk
import slicer
from vtk.util.numpy_support import vtk_to_numpy

from ..annotation.classes import ClassInfo
from ..imaging.geometry import nonzero_extent
from ..inference.result import Segmentation
from .labelmaps import BINARY, is_blank, matrix_of, scalars_of, voxels_of
from .lattices import on_lattice, window
from .segment_snapshot import Layer


def accepted(
    result: Segmentation,
    classes: Sequence[ClassInfo],
    matrix: np.ndarray,
    locked: Collection[tuple[Optional[Layer], int]],
    spared: Collection[tuple[Optional[Layer], int]] = (),
    painted: Optional[Layer] = None,
) -> tuple[Optional[np.ndarray], np.ndarray]:
    """The voxels (k, j, i) of a result that are written, cropped, and the index (i, j, k) of the first one.

    :param classes: those that are written; voxels of others become 0.
    :param matrix: (4, 4), indices of the result to the segmentation's own RAS mm.
    :param locked: layers, None for blank ones, and their labels; what lies under them becomes 0 too.
    :param spared: as ``locked``; but the classes' values in ``painted`` stay.
    :return: None and zeros when nothing is left; otherwise a view or a copy.
    """
    voxels = sitk.GetArrayViewFromImage(result.labels)
    extent = nonzero_extent(voxels)
    if extent is None:
        return None, np.zeros(3, int)
    low, high = np.array(extent[::2]), np.array(extent[1::2]) + 1
    voxels = voxels[window(low, high - low)]
    values = {info.value for info in classes}
    if not values.issuperset(range(1, int(voxels.max()) + 1)):
        voxels = _only(voxels, values)
    elif locked or spared:
        voxels = voxels.copy()

    def placed(layer: Layer) -> tuple[np.ndarray, tuple]:
        under, start = on_lattice(layer.voxels, layer.start, np.linalg.inv(matrix) @ layer.matrix, (low, high))
        return under, window(start - low, under.shape[::-1])

    own = np.zeros(voxels.shape, np.uint16)
    if painted is not None and spared:
        strokes, part = placed(painted)
        own[part] = strokes
    for layers, yields in ((locked, False), (spared, True)):
        for under, part, label in ((*placed(layer), label) for layer, label in layers if layer is not None):
            for plane, above, mine in zip(voxels[part], under, own[part]):
                np.copyto(plane, 0, where=(above == label) & (mine != plane) if yields else above == label)
    return (voxels, low) if any(plane.any() for plane in voxels) else (None, np.zeros(3, int))


def leave_layers(segmentation, leaving: Collection[str]) -> None:
    """Erase segments from the layers that other segments keep using."""
    left = {segmentation.GetSegment(segment_id).GetRepresentation(BINARY) for segment_id in leaving}
    for labelmap, labels in _by_layer(segmentation, segmentation.GetSegmentIDs()):
        staying = [label for segment_id, label in labels.items() if segment_id not in leaving]
        if staying and labelmap in left:
            _set_scalars(labelmap, scalars_of(_only(voxels_of(labelmap), staying)))


def give_way(segmentation, segment_ids: Iterable[str], taking) -> list[str]:
    """Erase segments where a labelmap is not 0; the IDs of those that lost voxels."""
    if is_blank(taking):
        return []
    changed: dict[str, None] = {}
    for labelmap, labels in _by_layer(segmentation, segment_ids):
        start = np.asarray(labelmap.GetExtent()[::2])
        inside = (start, start + labelmap.GetDimensions())
        to_labelmap = np.linalg.inv(matrix_of(labelmap)) @ matrix_of(taking)
        taken, low = on_lattice(voxels_of(taking), np.asarray(taking.GetExtent()[::2]), to_labelmap, inside)
        part = window(low - start, taken.shape[::-1])
        scalars = rest = None
        # Plane by plane: what is in hand stays in the processor's cache, and most planes are soon done.
        for k, (plane, above) in enumerate(zip(voxels_of(labelmap)[part], taken)):
            mask = above != 0
            if not mask.any():
                continue
            for segment_id, label in labels.items():
                lost = (plane == label) & mask
                if lost.any():
                    changed[segment_id] = None
                    if rest is None:
                        scalars = scalars_of(voxels_of(labelmap))
                        rest = vtk_to_numpy(scalars).reshape(labelmap.GetDimensions()[::-1])[part]
                    np.copyto(rest[k], 0, where=lost)
        if scalars is not None:
            _set_scalars(labelmap, scalars)
    return list(changed)


def _by_layer(segmentation, segment_ids: Iterable[str]) -> list[tuple[Any, dict[str, int]]]:
    """Labelmaps that are not blank, and segment ID -> label of those that use them."""
    layers: dict[Any, dict[str, int]] = {}
    for segment_id in segment_ids:
        segment = segmentation.GetSegment(segment_id)
        labelmap = segment.GetRepresentation(BINARY)
        if not is_blank(labelmap):
            layers.setdefault(labelmap, {})[segment_id] = segment.GetLabelValue()
    return list(layers.items())


def _only(voxels: np.ndarray, values: Iterable[int]) -> np.ndarray:
    """A copy of voxels in which all but some values are 0."""
    if voxels.dtype not in (np.uint8, np.uint16):
        return np.where(np.isin(voxels, list(values)), voxels, 0).astype(voxels.dtype)
    table = np.zeros(np.iinfo(voxels.dtype).max + 1, voxels.dtype)
    for value in values:
        if value < table.size:
            table[value] = value
    out = np.zeros_like(voxels)
    for plane, kept in zip(voxels, out):
        if plane.any():
            np.take(table, plane, out=kept, mode="clip")  # the other modes work on a copy
    return out


def _set_scalars(labelmap, scalars) -> None:
    # Setting the array, not modifying the labelmap: that would drop the surfaces of the segments that stay.
    labelmap.GetPointData().SetScalars(scalars)


def renew_derived(segmentation, segment_ids: Iterable[str]) -> None:
    """Make the surfaces of replaced segments again, where the segmentation has surfaces; the others' stay."""
    for segment_id in segment_ids:
        segment = segmentation.GetSegment(segment_id)
        names: list[str] = []
        segment.GetContainedRepresentationNames(names)
        for name in set(names) - {BINARY}:
            labelmap = slicer.vtkOrientedImageData()
            labelmap.ShallowCopy(segment.GetRepresentation(BINARY))
            single = slicer.vtkSegment()
            single.SetLabelValue(segment.GetLabelValue())
            single.AddRepresentation(BINARY, labelmap)
            scratch = slicer.vtkSegmentation()
            scratch.CopyConversionParameters(segmentation)
            scratch.AddSegment(single, segment_id)
            if scratch.CreateRepresentation(name):
                segment.AddRepresentation(name, single.GetRepresentation(name))
        segmentation.InvokeEvent(slicer.vtkSegmentation.RepresentationModified, segment_id)

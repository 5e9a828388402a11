"""Segments to annotations, and results to segments.

Segment voxels are handled as arrays (k, j, i); matrices are those of :mod:`.placement`. Results are
not written with ``ImportLabelmapToSegmentationNode``, which applies the transform between labelmap
and segmentation twice (seen in Slicer 5.12).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterable, Mapping, Optional

import numpy as np
import SimpleITK as sitk
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from ..errors import PromptSegError
from ..inference.result import Segmentation
from ..inference.writing import nonzero_extent
from .placement import (
    image_of,
    image_to_world,
    label_of,
    node_to_world,
    orthogonal,
    to_array,
    to_vtk,
    volume_to_world,
)

BINARY = "Binary labelmap"
RESULT_TAG = "PromptSeg.Result"  # marks segments that a result made, so that the next result may replace them


def segments_by_name(segmentation_node) -> dict[str, str]:
    """Segment name -> segment ID, in the segmentation's order; the first of several with one name."""
    segmentation = segmentation_node.GetSegmentation()
    names: dict[str, str] = {}
    for segment_id in segmentation.GetSegmentIDs():
        names.setdefault(segmentation.GetSegment(segment_id).GetName(), segment_id)
    return names


def annotation_from_segmentation(segmentation_node, volume_node, roles: Mapping[str, int]) -> sitk.Image:
    """What the user painted, as a label image in world space (LPS mm).

    :param volume_node: gives the grid on which segments that only have a surface are voxelised.
    :param roles: segment ID -> value (1 to 65535) that the segment's voxels get. Where segments
        overlap, the later entry wins.
    :return: uint8, or uint16 when a value exceeds 255, on the segmentation's own voxel grid (the finest one,
        when segments differ), cropped to the extent of the segments' labelmaps; 0 where no segment is, and
        everything beyond the image is 0 too. The node itself is left as it is.

    Raises :class:`PromptSegError` when an ID or a value is wrong, when all segments are empty, when
    a surface cannot be voxelised, when voxel axes are sheared, or under a non-linear transform.
    """
    what = label_of(segmentation_node)
    segmentation = segmentation_node.GetSegmentation()
    for segment_id, value in roles.items():
        if segmentation.GetSegment(segment_id) is None:
            raise PromptSegError(f"{what} has no segment with ID '{segment_id}'; choose its segments again.")
        if not 0 < value < 65536:
            raise PromptSegError(f"Value {value} cannot mark a segment of {what}; use 1 to 65535.")
    to_world = node_to_world(segmentation_node)
    labelmaps = _labelmaps(segmentation_node, volume_node, list(roles))
    painted = [labelmap for labelmap, _ in labelmaps.values() if not labelmap.IsEmpty()]
    if not painted:
        raise PromptSegError(f"{what} has no voxels in the chosen segments; paint something first.")

    base = _matrix(min(painted, key=lambda labelmap: np.prod(labelmap.GetSpacing())))
    # Layers are shared by segments, so a layer is placed once.
    placed: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for labelmap in painted:
        if labelmap.GetAddressAsString("") not in placed:
            placed[labelmap.GetAddressAsString("")] = _on_lattice(labelmap, base)
    low = np.min([start for _, start in placed.values()], axis=0)
    high = np.max([start + voxels.shape[::-1] for voxels, start in placed.values()], axis=0)

    out = np.zeros((high - low)[::-1], np.uint8 if max(roles.values()) < 256 else np.uint16)
    for segment_id, value in roles.items():
        labelmap, label = labelmaps[segment_id]
        if labelmap.IsEmpty():
            continue
        voxels, start = placed[labelmap.GetAddressAsString("")]
        window = tuple(slice(at, at + n) for at, n in zip((start - low)[::-1], voxels.shape))
        np.copyto(out[window], value, where=voxels == label)
    matrix = to_world @ base
    matrix[:, 3] = matrix @ [*low, 1.0]
    return image_of(out, matrix, what)


def apply_result(
    segmentation_node,
    volume_node,
    result: Segmentation,
    replace: bool = True,
    segment_ids: Optional[Mapping[str, str]] = None,
) -> dict[str, str]:
    """Write each class of a result as a segment; return class name -> segment ID.

    Voxels keep the labels' own grid and land at the labels' place in the world, whatever the
    transforms of volume and segmentation; the volume gives the segmentation's reference geometry.
    A replaced segment gets new voxels and keeps its ID, name, colour, terminology and display.
    A new one gets the class's name, colour and terminology. Other segments do not change.

    :param replace: replace the segments of ``segment_ids`` and, for classes without one, those of
        the same name that an earlier result made. Segments that the user made are replaced
        only if listed. False makes every class a new segment.
    :param segment_ids: class name -> ID of the segment to replace; an ID that no longer exists
        is given to a new segment.

    Raises :class:`PromptSegError` when the segmentation is made of surfaces, when its transform
    would shear the voxels, or when either node is under a non-linear transform.
    """
    what = label_of(segmentation_node)
    segmentation = segmentation_node.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        segmentation.SetSourceRepresentationName(BINARY)
    if segmentation.GetSourceRepresentationName() != BINARY:
        raise PromptSegError(
            f"{what} is made of surfaces; make binary labelmap its source representation (Segmentations) "
            "or choose another."
        )
    volume_to_world(volume_node)  # refuses what the reference geometry below would silently ignore
    layer = _layer(result.labels, node_to_world(segmentation_node), what)
    targets = _targets(segmentation, result, segment_ids or {}) if replace else {}
    kept = {name: segment_id for name, segment_id in targets.items() if segmentation.GetSegment(segment_id)}

    ids = {}
    with _one_change(segmentation_node):
        segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
        if segmentation_node.GetDisplayNode() is None:
            segmentation_node.CreateDefaultDisplayNodes()
        for segment_id in kept.values():
            _leave_layer(segmentation, segment_id, kept.values())
        for info in result.classes:
            if info.name in kept:
                segment = segmentation.GetSegment(kept[info.name])
                segment.SetLabelValue(info.value)
                segment.AddRepresentation(BINARY, layer)
            else:
                segment = slicer.vtkSegment()
                segment.SetName(info.name)
                segment.SetColor(info.color)
                segment.NameAutoGeneratedOff()
                segment.ColorAutoGeneratedOff()
                segment.SetTag(RESULT_TAG, "1")
                if info.terminology:
                    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), info.terminology)
                segment.SetLabelValue(info.value)
                segment.AddRepresentation(BINARY, layer)
                if not segmentation.AddSegment(segment, targets.get(info.name, "")):
                    raise RuntimeError(f"{what} did not accept segment '{info.name}'")
            ids[info.name] = segmentation.GetSegmentIdBySegment(segment)
        _renew_derived(segmentation, kept.values())
    return ids


def _matrix(labelmap) -> np.ndarray:
    """(4, 4): indices of an oriented image to the segmentation's RAS mm."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)
    return to_array(matrix)


def _voxels(labelmap) -> np.ndarray:
    """View (k, j, i) of an oriented image."""
    return vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(labelmap.GetDimensions()[::-1])


def _labelmaps(segmentation_node, volume_node, segment_ids: list[str]) -> dict[str, tuple]:
    """Segment ID -> (labelmap, label value); what has only a surface is voxelised in a copy."""
    segmentation = segmentation_node.GetSegmentation()
    surfaces = [one for one in segment_ids if segmentation.GetSegment(one).GetRepresentation(BINARY) is None]
    copy = slicer.vtkSegmentation()
    if surfaces:
        copy.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
        copy.CopyConversionParameters(segmentation)
        matrix = np.linalg.inv(node_to_world(segmentation_node)) @ volume_to_world(volume_node)
        data = volume_node.GetImageData()
        if data is None:
            raise PromptSegError(f"{label_of(volume_node)} has no voxels; load or choose another volume.")
        orthogonal(matrix, data.GetDimensions(), label_of(volume_node))
        converter = slicer.vtkSegmentationConverter
        copy.SetConversionParameter(
            converter.GetReferenceImageGeometryParameterName(), converter.SerializeImageGeometry(to_vtk(matrix), data)
        )
        for segment_id in surfaces:
            copy.CopySegmentFromSegmentation(segmentation, segment_id)
        if not copy.CreateRepresentation(BINARY):
            raise PromptSegError(
                f"{label_of(segmentation_node)} cannot be converted to voxels; "
                "create its binary labelmap in the Segmentations module."
            )
    found = {}
    for segment_id in segment_ids:
        segment = (copy if segment_id in surfaces else segmentation).GetSegment(segment_id)
        found[segment_id] = (segment.GetRepresentation(BINARY), segment.GetLabelValue())
    return found


def _on_lattice(labelmap, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (k, j, i) of a labelmap and where they start (i, j, k) on the lattice of ``base``.

    A view when the labelmap lies on that lattice, as all segments painted on one volume do;
    otherwise resampled, nearest neighbour.
    """
    extent = np.asarray(labelmap.GetExtent()).reshape(3, 2)
    ends = np.stack(np.meshgrid(*extent, indexing="ij"), -1).reshape(-1, 3)
    to_base = np.linalg.inv(base) @ _matrix(labelmap)
    moved = ends @ to_base[:3, :3].T + to_base[:3, 3]
    shift = np.round(moved[0] - ends[0]).astype(int)
    if np.abs(moved - ends - shift).max() < 0.01:
        return _voxels(labelmap), extent[:, 0] + shift
    halves = (ends + np.where(ends == extent[:, 0], -0.5, 0.5)) @ to_base[:3, :3].T + to_base[:3, 3]
    reference = slicer.vtkOrientedImageData()
    reference.SetImageToWorldMatrix(to_vtk(base))
    start, stop = np.floor(halves.min(0)).astype(int), np.ceil(halves.max(0)).astype(int)
    reference.SetExtent(*(int(end) for pair in zip(start, stop) for end in pair))
    output = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(labelmap, reference, output)
    return _voxels(output).copy(), np.asarray(output.GetExtent()[::2])


def _layer(labels: sitk.Image, segmentation_to_world: np.ndarray, what: str):
    """Labels as an oriented image in the segmentation's coordinates, cropped to what is not 0."""
    matrix = np.linalg.inv(segmentation_to_world) @ image_to_world(labels)
    orthogonal(matrix, labels.GetSize(), what)
    voxels = sitk.GetArrayViewFromImage(labels)
    extent = nonzero_extent(voxels)
    layer = slicer.vtkOrientedImageData()
    if extent is None:
        layer.SetExtent(0, -1, 0, -1, 0, -1)
        layer.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    else:
        i, i_end, j, j_end, k, k_end = extent
        layer.SetExtent(extent)
        cropped = np.ascontiguousarray(voxels[k : k_end + 1, j : j_end + 1, i : i_end + 1])
        layer.GetPointData().SetScalars(numpy_to_vtk(cropped.ravel(), deep=True))
    layer.SetImageToWorldMatrix(to_vtk(matrix))
    return layer


def _targets(segmentation, result: Segmentation, segment_ids: Mapping[str, str]) -> dict[str, str]:
    """Class name -> ID of the segment that the class replaces."""
    targets = {}
    for info in result.classes:
        if info.name in segment_ids:
            targets[info.name] = segment_ids[info.name]
    for segment_id in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segment_id)
        if segment.HasTag(RESULT_TAG) and segment_id not in targets.values():
            targets.setdefault(segment.GetName(), segment_id)
    return {info.name: targets[info.name] for info in result.classes if info.name in targets}


def _leave_layer(segmentation, segment_id: str, leaving: Iterable[str]) -> None:
    """Erase a segment from a layer that other segments keep using."""
    sharing: list[str] = []
    segmentation.GetSegmentIDsSharingBinaryLabelmapRepresentation(segment_id, sharing, False)
    if not set(sharing) - set(leaving):
        return
    segment = segmentation.GetSegment(segment_id)
    scalars = segment.GetRepresentation(BINARY).GetPointData()
    voxels = vtk_to_numpy(scalars.GetScalars()).copy()
    voxels[voxels == segment.GetLabelValue()] = 0
    # Setting the array, not modifying the labelmap: that would drop the surfaces of the segments that stay.
    scalars.SetScalars(numpy_to_vtk(voxels, deep=True))


def _renew_derived(segmentation, segment_ids: Iterable[str]) -> None:
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


@contextmanager
def _one_change(node):
    """Observers of the node hear of one modification."""
    was_modifying = node.StartModify()
    try:
        yield
    finally:
        node.EndModify(was_modifying)

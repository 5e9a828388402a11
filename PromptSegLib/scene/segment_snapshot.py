"""What is painted at one moment: taken from a segmentation node at once, put together later in any thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterable, Mapping, Optional

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..imaging.geometry import Grid
from .labelmaps import holds, is_blank, labelmaps_of, matrix_of, voxels_of
from .lattices import on_lattice, window
from .placement import RAS_LPS, image_of, image_to_world, label_of, node_to_world
from .segment_tags import segment_of


@dataclass(frozen=True, eq=False)
class Layer:
    """Voxels (k, j, i) that segments share.

    :param start: index (i, j, k) of the first voxel.
    :param matrix: (4, 4), indices to the segmentation's own RAS mm.
    """

    voxels: np.ndarray
    start: np.ndarray
    matrix: np.ndarray


def layer_of(image: sitk.Image, segmentation_node) -> Layer:
    """A label image in the world as a layer of a segmentation."""
    matrix = np.linalg.inv(node_to_world(segmentation_node)) @ image_to_world(image)
    return Layer(sitk.GetArrayFromImage(image), np.zeros(3, int), matrix)


@dataclass(frozen=True, eq=False)
class SegmentSnapshot:
    """Segments as they were at the time of :func:`snapshot`; never changes, and knows no node.

    :param what: the segmentation, for messages.
    :param to_world: (4, 4), the segmentation's own RAS to world RAS.
    :param segments: segment ID -> (its layer, its label there); the layer is None when nothing is painted.
    """

    what: str
    to_world: np.ndarray
    segments: Mapping[str, tuple[Optional[Layer], int]]

    def empty(self, segment_id: str) -> bool:
        """Whether a segment has no voxel. Raises :class:`PromptSegError` for a segment that was not taken."""
        layer, label = self._segment(segment_id)
        return layer is None or not holds(layer.voxels, label)

    def labels(self, values: Mapping[str, int]) -> sitk.Image:
        """What was painted, as a label image in world space (LPS mm).

        :param values: segment ID -> value (1 to 65535) that the segment's voxels get. Where segments
            overlap, the later entry wins. Empty segments add nothing.
        :return: uint8, or uint16 when a value exceeds 255, on the segmentation's own voxel grid (the finest
            one, when segments differ), cropped to the extent of the segments' labelmaps; 0 where no
            segment is, and everything beyond the image is 0 too.

        Raises :class:`PromptSegError` when an ID or a value is wrong, when all segments are empty, or
        when voxel axes are sheared in the world.
        """
        for value in values.values():
            if not 0 < value < 65536:
                raise PromptSegError(
                    "Value {value} cannot mark a segment of {what}; use 1 to 65535.", value=value, what=self.what
                )
        chosen = {segment_id: self._segment(segment_id) for segment_id in values}
        layers = list({id(layer): layer for layer, _ in chosen.values() if layer is not None}.values())
        nothing = PromptSegError("{what} has no voxels in the chosen segments; paint something first.", what=self.what)
        if not layers:
            raise nothing
        base = min(layers, key=lambda layer: abs(np.linalg.det(layer.matrix[:3, :3]))).matrix
        # Layers are shared by segments, so a layer is placed once.
        placed = {id(each): on_lattice(each.voxels, each.start, np.linalg.inv(base) @ each.matrix) for each in layers}
        low = np.min([start for _, start in placed.values()], axis=0)
        high = np.max([start + voxels.shape[::-1] for voxels, start in placed.values()], axis=0)

        out = np.zeros((high - low)[::-1], np.uint8 if max(values.values()) < 256 else np.uint16)
        for segment_id, (layer, label) in chosen.items():
            if layer is not None:
                voxels, start = placed[id(layer)]
                np.copyto(out[window(start - low, voxels.shape[::-1])], values[segment_id], where=voxels == label)
        if not out.any():
            raise nothing
        matrix = self.to_world @ base
        matrix[:, 3] = matrix @ [*low, 1.0]
        return image_of(out, matrix, self.what)

    def masks(self, segment_ids: Iterable[str], grid: Grid) -> dict[str, np.ndarray]:
        """Where segments are on a grid: segment ID -> bool (z, y, x), all False for an empty one.

        The painted voxels themselves when they lie on the grid's lattice; otherwise the voxel nearest
        to each center. Raises :class:`PromptSegError` for a segment that was not taken.
        """
        to_points = np.eye(4)
        to_points[:3, :3], to_points[:3, 3] = grid.matrix, grid.origin
        from_segmentation = np.linalg.inv(to_points) @ RAS_LPS @ self.to_world
        placed: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        masks = {}
        for segment_id in segment_ids:
            layer, label = self._segment(segment_id)
            mask = masks[segment_id] = np.zeros(grid.shape, bool)
            if layer is None:
                continue
            if id(layer) not in placed:
                inside = (np.zeros(3, int), np.asarray(grid.size))
                placed[id(layer)] = on_lattice(layer.voxels, layer.start, from_segmentation @ layer.matrix, inside)
            voxels, start = placed[id(layer)]
            np.equal(voxels, label, out=mask[window(start, voxels.shape[::-1])])
        return masks

    def _segment(self, segment_id: str) -> tuple[Optional[Layer], int]:
        if segment_id not in self.segments:
            raise PromptSegError(
                "{what} has no segment with ID '{segment_id}'; choose its segments again.",
                what=self.what,
                segment_id=segment_id,
            )
        return self.segments[segment_id]


def snapshot(segmentation_node, volume_node, segment_ids: Iterable[str]) -> SegmentSnapshot:
    """Take what is painted in some segments; the node may change or go afterwards.

    Costs one copy of the voxels of each distinct layer. Segments that only have a surface are voxelised
    here, in a copy, which takes its time.

    :param volume_node: gives the grid on which surfaces are voxelised; may be None when there are none.

    Raises :class:`PromptSegError` when a segment is missing, when a surface cannot be voxelised, or
    under a non-linear transform.
    """
    return look(segmentation_node, volume_node, segment_ids, copy=True)


def look(segmentation_node, volume_node, segment_ids: Iterable[str], copy: bool = False) -> SegmentSnapshot:
    """As :func:`snapshot`; without ``copy`` on the segmentation's own voxels, to be used at once."""
    ids = list(dict.fromkeys(segment_ids))
    for segment_id in ids:
        segment_of(segmentation_node, segment_id)
    to_world = node_to_world(segmentation_node)
    layers: dict[str, Layer] = {}
    segments: dict[str, tuple[Optional[Layer], int]] = {}
    for segment_id, (labelmap, label) in labelmaps_of(segmentation_node, volume_node, ids).items():
        if is_blank(labelmap):
            segments[segment_id] = (None, label)
            continue
        address = labelmap.GetAddressAsString("")
        if address not in layers:
            voxels = voxels_of(labelmap)
            layers[address] = Layer(
                voxels.copy() if copy else voxels, np.asarray(labelmap.GetExtent()[::2]), matrix_of(labelmap)
            )
        segments[segment_id] = (layers[address], label)
    return SegmentSnapshot(label_of(segmentation_node), to_world, segments)

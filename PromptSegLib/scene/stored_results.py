"""What was annotated and applied, kept in the scene, so that corrections survive saving and opening.

Each label image is an attribute of the segmentation node: packed voxels, as text. Nodes of their own would be
files of the saved scene, and of hidden nodes Slicer puts those into a folder that is called as the scene, whose
name it does not escape in the scene's XML: a scene saved as "Smith & Jones" could never be opened again. Segments
would not do, either: a saved segmentation resamples layers that lie on different lattices, as a result on the
image and strokes painted on another grid may.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import zlib
from dataclasses import dataclass
from typing import Iterable, Iterator, Mapping, Optional

import numpy as np
import SimpleITK as sitk
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from ..annotation.partial_labels import on_grid
from ..errors import PromptSegError
from ..imaging.geometry import Grid
from . import scene_nodes, segment_snapshot
from .labelmaps import reference_of
from .placement import image_of, image_to_world, label_of, node_to_world, orthogonal, volume_to_world

_ATTRIBUTE = "PromptSeg.Memory."  # then the key
_TYPES = {"uint8": np.uint8, "uint16": np.uint16}
_MOST_BYTES = 1 << 31
_LEVEL = 1  # of zlib: label images are small at any, and this takes a second for 300 MB
# As written before: hidden labelmap volume nodes that the segmentation refers to.
MEMORY_ROLE = "PromptSegMemory"
_OWNER_ROLE = "PromptSegMemoryOf"
_KEY = "PromptSeg.MemoryKey"


@dataclass(frozen=True, eq=False)
class Place:
    """Where a segmentation lies: (4, 4) its own RAS to world RAS; indices of a segment's voxels to world RAS.

    The second is None without such a segment. Indices count from near the first voxel of the grid that the segmentation
    was given: from which a labelmap counts its own, changes when it is saved.
    """

    to_world: np.ndarray
    lattice: Optional[np.ndarray] = None

    @classmethod
    def of(cls, segmentation_node, segment_ids: Iterable[str] = ()) -> Place:
        """Where a segmentation lies now, by the first of some segments that has voxels.

        Raises :class:`PromptSegError` under a non-linear transform.
        """
        to_world = node_to_world(segmentation_node)
        lattice = None
        with contextlib.suppress(PromptSegError):  # the segments were made surfaces meanwhile
            layers = (
                layer for layer, _ in segment_snapshot.look(segmentation_node, None, segment_ids).segments.values()
            )
            lattice = next((layer.matrix for layer in layers if layer is not None), None)
        if lattice is None or not np.linalg.det(lattice):
            return cls(to_world)
        reference, first = reference_of(segmentation_node.GetSegmentation()), np.eye(4)
        if reference is not None:
            first[:3, 3] = np.round(np.linalg.solve(lattice, reference[:, 3])[:3])
        return cls(to_world, to_world @ lattice @ first)

    def moved_to(self, other: Place) -> bool:
        """Whether the segments may have moved in the world. They stay where they are when a transform is hardened."""
        first, *rest = self.motions_to(other)
        return bool(rest) or not np.allclose(first, np.eye(4), rtol=0, atol=1e-6)

    def motions_to(self, other: Place) -> list[np.ndarray]:
        """What may have brought voxels from here to another place, (4, 4) from world RAS to world RAS.

        One where there is no doubt. Otherwise that of the lattice first: it moves with a transform that is hardened
        later, but also when segments are resampled, which then stay where they are.
        """
        none, by_transform = np.eye(4), other.to_world @ np.linalg.inv(self.to_world)
        if self.lattice is None or other.lattice is None:
            return [by_transform]
        for motion in (none, by_transform):
            if np.allclose(motion @ self.lattice, other.lattice, rtol=0, atol=1e-4):
                return [motion]
        by_lattice = other.lattice @ np.linalg.inv(self.lattice)
        same = np.allclose(by_transform, none, rtol=0, atol=1e-6)
        return [by_lattice, none] if same else [by_lattice, by_transform, none]


@dataclass(frozen=True, eq=False)
class Kept:
    """What :func:`read_memory` found: images in the world, where they lay while the segmentation was at ``place``.

    ``place`` is None where the images lie as the segmentation does now.
    """

    images: Mapping[str, sitk.Image]
    place: Optional[Place] = None


def moved(image: sitk.Image, before: Place, now: Place, what: str) -> sitk.Image:
    """An image that lay in the world with a node's voxels, where they are; raises as :func:`.placement.orthogonal`."""
    return _by(before.motions_to(now)[0], image, what) if before.moved_to(now) else image


def followed(
    segmentation_node, images: Mapping[str, sitk.Image], before: Place, now: Place, values: Mapping[str, int]
) -> dict[str, sitk.Image]:
    """Images that lay in the world with a segmentation, as :func:`write_memory` gets them, where that is now.

    :param values: segment ID -> its value in the image "applied", which says how the segmentation came there where
        its place alone does not: what is applied lies under the segments, but for a few corrections.

    Raises as :func:`.placement.orthogonal`.
    """
    if not before.moved_to(now):
        return dict(images)
    what, motions = label_of(segmentation_node), before.motions_to(now)
    if len(motions) > 1:
        with contextlib.suppress(PromptSegError):  # nothing is left in the segments
            painted = segment_snapshot.look(segmentation_node, None, values).labels(values)
            motions = [max(motions, key=lambda motion: _agreement(motion, images["applied"], painted, what))]
    return {key: _by(motions[0], image, what) for key, image in images.items()}


def _by(motion: np.ndarray, image: sitk.Image, what: str) -> sitk.Image:
    return image_of(sitk.GetArrayViewFromImage(image), motion @ image_to_world(image), what)


def _agreement(motion: np.ndarray, image: sitk.Image, painted: sitk.Image, what: str) -> float:
    """How much of a label image agrees with another when it is moved, in 0..1 (Dice); -1 where it cannot be moved."""
    try:
        image = _by(motion, image, what)
    except PromptSegError:
        return -1.0
    here, there = sitk.GetArrayViewFromImage(image), on_grid(painted, Grid.of(image))
    volumes = [np.count_nonzero(sitk.GetArrayViewFromImage(each)) * _voxel(each) for each in (image, painted)]
    return 2 * np.count_nonzero((here == there) & (here > 0)) * _voxel(image) / max(sum(volumes), 1e-12)


def _voxel(image: sitk.Image) -> float:
    """Of a voxel, mm3."""
    return math.prod(image.GetSpacing())


def packed(image: sitk.Image) -> str:
    """The voxels of a label image (3D, uint8 or uint16) as text; for any thread."""
    content = zlib.compress(sitk.GetArrayViewFromImage(image).data, _LEVEL)
    return base64.urlsafe_b64encode(content).decode("ascii")


def write_memory(
    segmentation_node,
    images: Mapping[str, sitk.Image],
    texts: Mapping[str, str] = {},
    place: Optional[Place] = None,
) -> None:
    """Keep label images (3D, world LPS, uint8 or uint16) with a segmentation, instead of what was kept before.

    :param images: name ("applied", "strokes") -> image. :func:`.lattices.cropped` leaves few voxels of one.
    :param texts: what :func:`packed` made of their voxels before, in another thread.
    :param place: where the segmentation lies, by default now.

    Raises :class:`PromptSegError`, and leaves the scene as it was, when the segmentation's transform
    is non-linear or would shear the voxels.
    """
    what = label_of(segmentation_node)
    from_world = np.linalg.inv(node_to_world(segmentation_node))
    for image in images.values():
        orthogonal(from_world @ image_to_world(image), image.GetSize(), what)
    place = place or Place.of(segmentation_node)
    was_modifying = segmentation_node.StartModify()
    try:
        for key in _keys(segmentation_node):
            if key not in images:
                segmentation_node.RemoveAttribute(_ATTRIBUTE + key)
        for key, image in images.items():
            segmentation_node.SetAttribute(_ATTRIBUTE + key, encoded(image, place, texts.get(key)))
    finally:
        segmentation_node.EndModify(was_modifying)
    _remove_nodes(segmentation_node)


def read_memory(segmentation_node) -> Kept:
    """What :func:`write_memory` kept; nothing where there is none or it is damaged.

    Raises :class:`PromptSegError` under a transform that has become non-linear or shears the voxels.
    """
    images, place = {}, None
    for key in _keys(segmentation_node):
        found = decoded(segmentation_node.GetAttribute(_ATTRIBUTE + key), label_of(segmentation_node))
        if found is not None:
            images[key], place = found
    if images:
        return Kept(images, place)
    return Kept(_in_nodes(segmentation_node))


def renew(scene) -> None:
    """Keep what an earlier version kept in hidden nodes as it is kept now, and remove such nodes of no segmentation."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLSegmentationNode") for n in range(count)]:
        if not any(True for _ in _nodes(node)):
            continue
        with contextlib.suppress(PromptSegError):  # it stays as it is
            images = _in_nodes(node)
            if images:
                write_memory(node, images)
    forget_orphans(scene)


def forget_orphans(scene) -> None:
    """Remove what an earlier version kept with segmentations that are gone."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode")
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLLabelMapVolumeNode") for n in range(count)]:
        if node.GetAttribute(_KEY) and node.GetNodeReference(_OWNER_ROLE) is None:
            scene_nodes.remove(node)


def _keys(segmentation_node) -> list[str]:
    names = segmentation_node.GetAttributeNames()
    return [name[len(_ATTRIBUTE) :] for name in names if name.startswith(_ATTRIBUTE)]


def encoded(image: sitk.Image, place: Place, text: Optional[str] = None) -> str:
    """A label image and where its node was, as an attribute; ``text`` is what :func:`packed` made of its voxels."""
    header = {
        "size": image.GetSize(),
        "type": str(sitk.GetArrayViewFromImage(image).dtype),
        "matrix": image_to_world(image).ravel().tolist(),
        "to_world": place.to_world.ravel().tolist(),
        "lattice": None if place.lattice is None else place.lattice.ravel().tolist(),
    }
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).decode("ascii")
    return f"{head}.{packed(image) if text is None else text}"


def decoded(text: str, what: str) -> Optional[tuple[sitk.Image, Place]]:
    """Undo :func:`encoded`; None for what is damaged. ``what`` names it."""
    head, _, body = text.partition(".")
    try:
        header = json.loads(base64.urlsafe_b64decode(head))
        x, y, z = (int(part) for part in header["size"])
        kind = np.dtype(_TYPES[header["type"]])
        length = x * y * z * kind.itemsize
        if min(x, y, z) < 1 or length > _MOST_BYTES:
            return None
        decoder = zlib.decompressobj()
        content = decoder.decompress(base64.urlsafe_b64decode(body), length + 1)
        if not decoder.eof:
            return None
        voxels = np.frombuffer(content, kind).reshape(z, y, x)
        matrix, to_world = (np.asarray(header[name], float).reshape(4, 4) for name in ("matrix", "to_world"))
        lattice = None if header["lattice"] is None else np.asarray(header["lattice"], float).reshape(4, 4)
        if abs(np.linalg.det(to_world)) < 1e-12 or not math.isfinite(float(to_world.sum() + matrix.sum())):
            return None
        if lattice is not None and not (np.isfinite(lattice).all() and np.linalg.det(lattice)):
            return None
        return image_of(voxels, matrix, what), Place(to_world, lattice)
    except (PromptSegError, ValueError, KeyError, TypeError, OverflowError, RecursionError, zlib.error):
        return None


def _in_nodes(segmentation_node) -> dict[str, sitk.Image]:
    """What an earlier version kept, where it lies in the world now."""
    images = {}
    for node in _nodes(segmentation_node):
        data = node.GetImageData()
        scalars = data.GetPointData().GetScalars() if data is not None else None
        if scalars is None or not _is_labels(scalars):  # anybody may write into a scene
            continue
        matrix = volume_to_world(node)
        matrix[:, 3] = matrix @ [*data.GetExtent()[::2], 1.0]
        voxels = vtk_to_numpy(scalars).reshape(data.GetDimensions()[::-1])
        if voxels.dtype.kind in "iu":
            kind = np.uint8 if voxels.max(initial=0) < 256 else np.uint16
            images[node.GetAttribute(_KEY)] = image_of(voxels.astype(kind), matrix, label_of(segmentation_node))
    return images


def _is_labels(scalars) -> bool:
    """Whether these are what :func:`write_memory` writes: one whole number a voxel, of 16 bits at most."""
    kinds = (vtk.VTK_UNSIGNED_CHAR, vtk.VTK_UNSIGNED_SHORT)
    return scalars.GetNumberOfComponents() == 1 and scalars.GetNumberOfTuples() > 0 and scalars.GetDataType() in kinds


def _nodes(segmentation_node) -> Iterator:
    """The memory's nodes. A clone of a segmentation has its original's references, but not its memory."""
    for n in range(segmentation_node.GetNumberOfNodeReferences(MEMORY_ROLE)):
        node = segmentation_node.GetNthNodeReference(MEMORY_ROLE, n)
        if node is None or not node.IsA("vtkMRMLScalarVolumeNode"):  # anybody may write into a scene
            continue
        if node.GetAttribute(_KEY) and node.GetNodeReference(_OWNER_ROLE) is segmentation_node:
            yield node


def _remove_nodes(segmentation_node) -> None:
    for node in list(_nodes(segmentation_node)):
        scene_nodes.remove(node)
    if segmentation_node.GetNumberOfNodeReferences(MEMORY_ROLE):
        segmentation_node.RemoveNodeReferenceIDs(MEMORY_ROLE)  # a clone's may name the memory of its original

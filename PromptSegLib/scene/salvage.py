"""A segmentation as it is at one moment, as bytes: to be put back into another scene when the application was killed.

Taken on the main thread, packed in any. The bytes are a zip file: ``segmentation.json``, a file for the voxels of each
layer, and ``prompts`` as their own file holds them. Nothing in it is executed.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from dataclasses import dataclass
from typing import Any, Iterable, Iterator, Mapping, Optional

import numpy as np
import slicer

from ..errors import PromptSegError
from ..imaging.geometry import Grid
from ..prompts.store import Prompts
from . import node_references, segment_tags
from .labelmaps import BINARY, labelmap_of
from .placement import in_xml
from .segment_list import place_empty
from .segment_snapshot import SegmentSnapshot, snapshot
from .volumes import voxels_of_volume

_PREFIX = "PromptSeg."
_TAGS = ("Result", "Role", "Applied", "Class", "Number")  # of segments, without the prefix
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
_MOST_BYTES = 1 << 31  # of a layer's voxels


@dataclass(frozen=True, eq=False)
class Salvage:
    """What :func:`take` took.

    :param described: everything but voxels, as JSON holds it.
    :param layers: voxels (k, j, i), by the number that ``described`` gives.
    """

    described: Mapping[str, Any]
    layers: Mapping[int, np.ndarray]
    prompts: bytes = b""

    @property
    def name(self) -> str:
        return str(self.described["name"])

    def to_bytes(self) -> bytes:
        """For any thread."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            file.writestr("segmentation.json", json.dumps(self.described))
            file.writestr("prompts", self.prompts)
            for number, voxels in self.layers.items():
                file.writestr(f"layer{number}", voxels.tobytes())
        return out.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Salvage:
        """Undo :meth:`to_bytes`; raises :class:`PromptSegError` for what is damaged."""
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                described = json.loads(file.read("segmentation.json"))
                layers = dict(_layers(file, described))
                _check(described, layers)
                return cls(described, layers, file.read("prompts"))
        except (
            zipfile.BadZipFile,
            zlib.error,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OSError,
            EOFError,
            NotImplementedError,
            RecursionError,
        ) as error:
            raise PromptSegError("What was to be recovered is damaged; it cannot be read.") from error


def take(segmentation_node, volume_node, prompts: bytes = b"") -> Salvage:
    """Take a segmentation with everything that PromptSeg knows of it; one copy of the voxels of each layer.

    :param volume_node: what it is drawn on; may be None.

    Raises :class:`PromptSegError` as :func:`.segment_snapshot.snapshot` does.
    """
    segmentation = segmentation_node.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    painting = snapshot(segmentation_node, volume_node, ids)
    numbers: dict[int, int] = {}
    layers, places = {}, {}
    for layer, _ in painting.segments.values():
        if layer is not None and id(layer) not in numbers:
            number = numbers[id(layer)] = len(numbers)
            labels = [label for other, label in painting.segments.values() if other is layer]
            layers[number] = _whole(layer.voxels, labels)
            places[str(number)] = {
                "size": list(layers[number].shape),
                "type": str(layers[number].dtype),
                "start": layer.start.tolist(),
                "matrix": (painting.to_world @ layer.matrix).ravel().tolist(),
            }
    names = [name for name in segmentation_node.GetAttributeNames() if name.startswith(_PREFIX)]
    described = {
        "name": segmentation_node.GetName() or "",
        "attributes": {name: segmentation_node.GetAttribute(name) for name in names},
        "segments": [_segment(segmentation_node, each, painting, numbers) for each in ids],
        "layers": places,
        "volume": (volume_node.GetName() or "") if volume_node is not None else "",
        "grid": _grid(volume_node),
    }
    return Salvage(described, layers, prompts)


def put_back(scene, salvage: Salvage, volume_node=None):
    """A new segmentation node with what was taken, where it lay in the world.

    :param volume_node: what it belongs to; it becomes its segmentation where it has none.

    Raises :class:`PromptSegError` when nothing can be made of it.
    """
    described = salvage.described
    name = in_xml(f"{salvage.name.replace('&', 'and')} (recovered)")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", scene.GenerateUniqueName(name))
    node.GetSegmentation().SetSourceRepresentationName(BINARY)
    if volume_node is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.CreateDefaultDisplayNodes()
    places = {
        int(number): (np.asarray(place["start"]), np.reshape(place["matrix"], (4, 4)))
        for number, place in described["layers"].items()
    }
    labelmaps = {number: labelmap_of(salvage.layers[number], *place) for number, place in places.items()}
    # For an empty segment on axes of its own, Slicer would resample the others when it saves.
    axes = next((matrix for _, matrix in places.values()), np.eye(4))
    for each in described["segments"]:
        segment = slicer.vtkSegment()
        segment.SetName(each["name"])
        segment.SetColor(each["color"])
        segment.NameAutoGeneratedOff()
        segment.ColorAutoGeneratedOff()
        if each["terminology"]:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), each["terminology"])
        segment.SetLabelValue(each["label"])
        if each["layer"] is not None:
            segment.AddRepresentation(BINARY, labelmaps[each["layer"]])
        else:
            segment.AddRepresentation(BINARY, labelmap_of(None, np.zeros(3), axes))
        node.GetSegmentation().AddSegment(segment, each["id"])
        for key, text in each["tags"].items():
            segment_tags.set_tag(node, each["id"], key, text)
    place_empty(node.GetSegmentation())
    for name, text in described["attributes"].items():
        node.SetAttribute(name, text)
    if volume_node is not None and node_references.remembered(volume_node) is None:
        node_references.remember(volume_node, node)
    return node


def prompts_of(salvage: Salvage) -> Optional[Prompts]:
    """The prompts that the segmentation went on with; None without any or where they are damaged."""
    try:
        return Prompts.from_bytes(salvage.prompts, whole=True) if salvage.prompts else None
    except PromptSegError:
        return None


def volume_for(scene, salvage: Salvage):
    """The volume of a scene that a segmentation was drawn on, by its name and grid; None without it."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode") for n in range(count)]:
        grid, known = _grid(node), salvage.described["grid"]
        if grid is None or known is None or (node.GetName() or "") != salvage.described["volume"]:
            continue
        if len(known) == len(grid) and grid[:3] == known[:3] and np.allclose(grid, known, rtol=0, atol=1e-3):
            return node
    return None


def _whole(voxels: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """Voxels of a type that is put back: scripts paint with arrays of any, but labels are whole numbers."""
    if voxels.dtype.name in _DTYPES:
        return voxels
    whole = np.zeros(voxels.shape, np.int32)
    for label in labels:
        whole[voxels == label] = label
    return whole


def _segment(
    segmentation_node, segment_id: str, painting: SegmentSnapshot, numbers: Mapping[int, int]
) -> dict[str, Any]:
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    layer, label = painting.segments[segment_id]
    tags = {key: segment_tags.tag(segmentation_node, segment_id, key) for key in _TAGS}
    return {
        "id": segment_id,
        "name": segment.GetName() or "",
        "color": list(segment.GetColor()),
        "terminology": segment.GetTerminology() or "",
        "label": label,
        "layer": None if layer is None else numbers[id(layer)],
        "tags": {key: text for key, text in tags.items() if text},
    }


def _grid(volume_node) -> Optional[list[float]]:
    """Size, spacing, origin and directions of a volume's grid, in one list; None where it has none."""
    if volume_node is None:
        return None
    try:
        grid: Grid = voxels_of_volume(volume_node).grid
    except PromptSegError:
        return None
    return [*map(float, grid.size), *grid.spacing, *grid.origin, *grid.direction]


def _layers(file: zipfile.ZipFile, described: Mapping[str, Any]) -> Iterator[tuple[int, np.ndarray]]:
    for number, place in described["layers"].items():
        size = [int(part) for part in place["size"]]
        if place["type"] not in _DTYPES or len(size) != 3 or min(size) < 1:
            raise ValueError(f"layer {number}")
        kind = np.dtype(place["type"])
        length = math.prod(size) * kind.itemsize
        if length > _MOST_BYTES or file.getinfo(f"layer{int(number)}").file_size != length:
            raise ValueError(f"layer {number}")
        yield int(number), np.frombuffer(file.read(f"layer{int(number)}"), kind).reshape(size)


def _check(described: Mapping[str, Any], layers: Mapping[int, np.ndarray]) -> None:
    """Raise ``ValueError``, ``KeyError`` or ``TypeError`` unless :func:`put_back` can make nodes of it."""
    places = described["layers"].values()
    matrices = [np.asarray(place["matrix"], float).reshape(4, 4) for place in places]
    starts = [np.asarray(place["start"], int).reshape(3) for place in places]
    if not all(np.isfinite(matrix).all() and np.linalg.det(matrix[:3, :3]) for matrix in matrices):
        raise ValueError("a matrix")
    if any(np.abs(start).max() > 1 << 30 for start in starts):
        raise ValueError("a place")
    texts = [described["name"], described["volume"], *described["attributes"], *described["attributes"].values()]
    for each in described["segments"]:
        texts += [each["id"], each["name"], each["terminology"], *each["tags"], *each["tags"].values()]
        if len([float(part) for part in each["color"]]) != 3 or type(each["label"]) is not int:
            raise ValueError("a segment")
        if each["layer"] is not None and each["layer"] not in layers:
            raise KeyError("a layer")
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("a text")
    if described["grid"] is not None and not all(isinstance(part, float) for part in described["grid"]):
        raise TypeError("a grid")

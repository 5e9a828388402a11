"""Labeled volumes at several resolutions, from which views are cut at any spacing."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from ...errors import PromptSegError
from ...imaging.geometry import Grid
from ...imaging.reading import read_annotation, read_image
from .recipe import Source

_LEVELS = 3
_SMALL = 24  # voxels: labels with fewer are not asked for


@dataclass
class Level:
    """Image (z, y, x) float32 or None, labels int16, how many voxels of the full resolution one voxel spans."""

    image: Optional[np.ndarray]
    labels: np.ndarray
    factor: tuple[int, int, int]


@dataclass
class LabeledVolume:
    """A label map with or without an image.

    :param grid: of the full resolution.
    :param boxes: label value -> first and last index + 1, (z, y, x) each, at full resolution.
    :param evidence: label value -> row of ``maps``, the backbone's probabilities (rows, z, y, x) uint8 on ``map_grid``.
    """

    name: str
    grid: Grid
    levels: list[Level]
    boxes: dict[int, tuple[np.ndarray, np.ndarray]]
    evidence: dict[int, int] = field(default_factory=dict)
    maps: Optional[np.ndarray] = None
    map_grid: Optional[Grid] = None

    @classmethod
    def of(cls, name: str, image: Optional[sitk.Image], labels: sitk.Image) -> LabeledVolume:
        grid = Grid.of(labels)
        array = None if image is None else sitk.GetArrayFromImage(image).astype(np.float32)
        values = sitk.GetArrayFromImage(labels).astype(np.int16)
        if array is not None and array.shape != values.shape:
            raise PromptSegError("{name}: the image and its labels have different extents.", name=name)
        boxes = {}
        for value, found in enumerate(ndimage.find_objects(values), 1):
            if found is not None and np.count_nonzero(values[found] == value) >= _SMALL:
                boxes[value] = (np.array([s.start for s in found]), np.array([s.stop for s in found]))
        if array is not None:
            array = array.astype(np.float16) if np.abs(array).max() < 6e4 else array
        levels = [Level(array, values, (1, 1, 1))]
        while len(levels) < _LEVELS:
            levels.append(_halved(levels[-1], grid.spacing[::-1]))
        return cls(name, grid, levels, boxes)

    @property
    def spacing(self) -> np.ndarray:
        return np.asarray(self.grid.spacing[::-1])

    def cut(self, low: np.ndarray, spacing: np.ndarray, shape: Any) -> tuple[Optional[np.ndarray], np.ndarray]:
        """Image (float32 or None) and labels (int16) of ``shape`` at ``spacing`` mm, from index ``low`` on."""
        level = self.levels[0]
        for each in self.levels[1:]:
            if (self.spacing * each.factor <= spacing * 1.1).all():
                level = each
        factor = np.asarray(level.factor)
        step = spacing / (self.spacing * factor)  # voxels of the level
        start = (low + 0.5 * spacing / self.spacing) / factor - 0.5  # center of the first voxel
        first = np.maximum(np.floor(start).astype(int) - 1, 0)
        last = np.minimum(np.ceil(start + step * np.asarray(shape)).astype(int) + 2, level.labels.shape)
        box = tuple(slice(int(a), int(max(b, a + 1))) for a, b in zip(first, last))
        arguments = {"offset": start - first, "output_shape": tuple(shape), "mode": "nearest"}
        labels = ndimage.affine_transform(level.labels[box], step, order=0, **arguments)
        if level.image is None:
            return None, labels
        return ndimage.affine_transform(level.image[box].astype(np.float32), step, order=1, **arguments), labels

    def evidence_at(self, value: int, low: np.ndarray, spacing: np.ndarray, shape: Any) -> Optional[np.ndarray]:
        """The backbone's probability (z, y, x) of a label in such a view; None where it knows nothing of it."""
        row = self.evidence.get(value)
        if row is None or self.maps is None or self.map_grid is None:
            return None
        start = low + 0.5 * spacing / self.spacing - 0.5
        steps = spacing / self.spacing
        corners = np.stack([start, *(start + steps * np.eye(3)[axis] for axis in range(3))])[:, ::-1]
        index = self.map_grid.indices(self.grid.points(corners))[:, ::-1]
        matrix = (index[1:] - index[0]).T
        found = ndimage.affine_transform(
            self.maps[row].astype(np.float32), matrix, index[0], output_shape=tuple(shape), order=1, mode="nearest"
        )
        return found / 255


def _halved(level: Level, spacing: Sequence[float]) -> Level:
    now = np.asarray(spacing) * level.factor
    axes = [axis for axis in range(3) if now[axis] <= 1.5 * now.min() and level.labels.shape[axis] >= 4]
    image, labels, factor = level.image, level.labels, list(level.factor)
    for axis in axes:
        even = labels.shape[axis] // 2 * 2
        one, two = ([slice(None)] * 3 for _ in range(2))
        one[axis], two[axis] = slice(0, even, 2), slice(1, even, 2)
        if image is not None:
            image = (image[tuple(one)].astype(np.float32) + image[tuple(two)]) / 2
        labels = labels[tuple(one)]
        factor[axis] *= 2
    if image is not None and level.image is not None:
        image = image.astype(level.image.dtype)
    return Level(image, np.ascontiguousarray(labels), (factor[0], factor[1], factor[2]))


def find_files(source: Source) -> list[tuple[str, Optional[Path], Path]]:
    """Name, image (or None) and labels of the cases of a source that are learned from, sorted by name.

    Raises :class:`PromptSegError` where there is none.
    """
    folder = Path(source.folder)
    expression = re.compile(re.escape(source.label).replace(re.escape("{case}"), "(.+)"))
    found = {}
    for path in sorted(folder.glob(source.label.replace("{case}", "*"))):
        match = expression.fullmatch(path.relative_to(folder).as_posix())
        if match:
            found[match.group(1)] = path
    wanted = source.training or ("*",)
    names = [name for name in found if any(fnmatch.fnmatch(name, each) for each in wanted)]
    names = [name for name in names if not any(fnmatch.fnmatch(name, each) for each in source.held_out)]
    files = []
    for name in names:
        image = folder / source.image.format(case=name) if source.image else None
        if image is None or image.is_file():
            files.append((name, image, found[name]))
    if not files:
        raise PromptSegError(
            "The folder {folder} of the source {name} holds no {label}; correct it.",
            folder=folder,
            name=source.name,
            label=source.label,
        )
    if source.most and len(files) > source.most:
        files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, source.most).round().astype(int))]
    return files


def load_source(source: Source, log: Callable[[str], None] = print) -> list[LabeledVolume]:
    """All cases of a source in memory; those that cannot be used are named and skipped."""
    volumes = []
    for name, image, labels in find_files(source):
        try:
            volume = LabeledVolume.of(
                f"{source.name}/{name}", read_image(image) if image else None, read_annotation(labels)
            )
        except PromptSegError as error:
            log(f"{source.name}/{name} is skipped: {error}")
            continue
        if volume.boxes:
            volumes.append(volume)
    if not volumes:
        raise PromptSegError("No case of the source {name} can be used.", name=source.name)
    return volumes

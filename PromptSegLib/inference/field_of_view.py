"""What of an image is looked at, and what was painted there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.example import Example
from ..annotation.labels import UNKNOWN, excluded_label, labels_on_grid, on_another_grid
from ..annotation.strokes import unpacked
from ..errors import PromptSegError
from ..imaging.geometry import Grid, bounding_box
from ..imaging.volume import Volume
from ..models.backbone import Backbone
from ..models.feature_cache import FeatureCache
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .class_margins import class_margins
from .resample_to_image import labels_on_native
from .tiling import OVERLAP_ALONE, aligned, steps


@dataclass(frozen=True)
class FieldOfView:
    """What of an image is looked at.

    :param whole: all of the image on the model's grid; ``volume`` the part of it that is looked at, which begins at
        ``offset`` (z, y, x).
    :param native: the part on the image's own grid, which is its box ``part`` (z, y, x).
    :param painted: labels on ``native``, or None.
    :param coarse: the same on the model's grid; None where no class is painted.
    """

    image: sitk.Image
    whole: Volume
    volume: Volume
    offset: tuple[int, int, int]
    native: Grid
    part: tuple[slice, ...]
    painted: Optional[np.ndarray]
    coarse: Optional[np.ndarray]

    @classmethod
    def of(
        cls,
        image: sitk.Image,
        whole: Volume,
        painted: Optional[np.ndarray],
        count: int,
        tile: Sequence[int],
        around: Optional[float],
    ) -> FieldOfView:
        """All of an image, or what lies within ``around`` mm of its strokes.

        :param painted: labels (z, y, x) of ``count`` classes on the image's grid.
        """
        native, everywhere = Grid.of(image), (slice(None),) * 3
        if painted is None or not (painted > 0).any():  # background alone says nothing of where a class is
            return cls(image, whole, whole, (0, 0, 0), native, everywhere, painted, None)
        coarse = on_another_grid(painted, image, whole.grid, count)
        if around is None or not (coarse > 0).any():
            return cls(image, whole, whole, (0, 0, 0), native, everywhere, painted, coarse)
        box = _box_around(coarse > 0, around, whole, tile)
        volume, part = whole.part(box)
        offset = (box[0].start, box[1].start, box[2].start)
        return cls(image, whole, volume, offset, volume.native, part, painted[part], coarse[box])

    def margins(
        self, backbone: Backbone, prompts: Prompts, feature_cache: FeatureCache, job: ProgressHandle
    ) -> np.ndarray:
        """Evidence (classes, z, y, x) of the prompts' classes over what is looked at."""
        if self.coarse is None:
            return class_margins(backbone, prompts, self.volume.array, job, overlap=OVERLAP_ALONE)
        maps = feature_cache.maps(self.image, backbone)  # the tiles that were encoded while the user painted
        step = steps(self.whole.array.shape, backbone.tile)
        return class_margins(backbone, prompts, self.volume.array, job, maps=maps, offset=self.offset, step=step)

    def labels(self, fields: Sequence[tuple[np.ndarray, Grid]], values: np.ndarray, job: ProgressHandle) -> np.ndarray:
        """Label values (z, y, x) on ``native``, of fields as :func:`~.resample_to_image.labels_on_native` takes them;
        what was painted is part of them.

        :param values: number of a class -> its value; that of background first.
        """
        labels = labels_on_native(fields, self.native, values, lambda _: job.check())
        if self.painted is not None:
            enforce_strokes(labels, self.painted, values)
        return labels


def strokes_on(
    image: sitk.Image, prompts: Prompts, kept: Prompts, strokes: Optional[Example], feature_cache: FeatureCache
) -> Optional[np.ndarray]:
    """Strokes on the image's grid, labels as in ``annotation.labels``: the given ones, or those that the prompts carry
    of this image; None where there are none.

    :param kept: the part of the prompts whose classes the labels are of. What is painted of another class is known to
        be none of these.
    """
    native, values = Grid.of(image), [each.info.value for each in prompts.active]
    if strokes is not None:
        classes = {f"class {value}": value for value in values}
        labels = labels_on_grid(replace(strokes, image=image), classes, native)
        return _of_kept(labels, prompts, kept) if (labels != UNKNOWN).any() else None
    if not prompts.strokes:
        return None
    own = feature_cache.fingerprints(image)
    packed = [each for each in prompts.strokes if each.image in own and each.shape == native.shape]
    if not packed:
        return None
    try:
        labels = unpacked(packed, values)
    except ValueError as error:
        raise PromptSegError(
            "The strokes in these prompts cannot be used: {error}; tune again.", error=error
        ) from error
    return _of_kept(labels, prompts, kept) if (labels > 0).any() else None


def _of_kept(labels: np.ndarray, prompts: Prompts, kept: Prompts) -> np.ndarray:
    """Labels of all classes of the prompts as labels of those that are kept."""
    names, count = prompts.names, len(prompts.names)
    if len(kept.names) == count:
        return labels
    numbers = {name: number for number, name in enumerate(kept.names, 1)}
    table = np.full(2 * count + 2, UNKNOWN, np.int16)  # of what is certainly not another class, nothing is known
    table[count + 1] = 0
    for number, name in enumerate(names, 1):
        table[count + 1 + number] = numbers.get(name, 0)
        if name in numbers:
            table[count + 1 + excluded_label(number)] = excluded_label(numbers[name])
    return table[labels + (count + 1)]


def enforce_strokes(labels: np.ndarray, painted: np.ndarray, lookup: np.ndarray) -> None:
    """Make what the user painted, and what they erased, part of the result, in place."""
    known = painted >= 0
    labels[known] = lookup[painted[known]]
    erased = painted < UNKNOWN
    if erased.any():
        numbers = UNKNOWN - painted[erased]
        labels[erased] = np.where(labels[erased] == lookup[numbers], lookup[0], labels[erased])


def _box_around(where: np.ndarray, margin: float, volume: Volume, tile: Sequence[int]) -> tuple[slice, ...]:
    """Whole tiles around a mask (z, y, x) with ``margin`` mm."""
    far = np.ceil(margin / np.asarray(volume.grid.spacing[::-1])).astype(int)
    box = bounding_box(where)
    assert box is not None
    low = [max(int(side.start - more), 0) for side, more in zip(box, far)]
    high = [min(int(side.stop + more), extent) for side, more, extent in zip(box, far, where.shape)]
    return aligned(low, high, where.shape, tile, steps(where.shape, tile))

"""The strokes that prompts were tuned on, small enough to travel with them."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Mapping, Optional

import numpy as np
import SimpleITK as sitk

from ..examples.geometry import Grid

MAX_SHARE = 0.02  # denser annotations are not strokes
MAX_BYTES = 64 * 1024
_MAX_VOXELS = 2**32  # positions differ by an uint32
_MAX_COUNT = 1032 * MAX_BYTES // 6  # zlib compresses to no less than 1/1032


def fingerprint(image: sitk.Image) -> str:
    """SHA-256 of an image's voxels and geometry: the same image is recognised, nothing of it can be read back."""
    digest = hashlib.sha256(repr(tuple(np.round(np.concatenate(_numbers(image)), 3).tolist())).encode())
    array = sitk.GetArrayViewFromImage(image)
    for plane in array:  # one slice at a time: a large CT is not copied as a whole
        digest.update(np.ascontiguousarray(plane, np.float32).tobytes())
    return digest.hexdigest()


def is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


def _numbers(image: sitk.Image) -> list[np.ndarray]:
    grid = Grid.of(image)
    return [np.asarray(part, float) for part in (grid.size, grid.spacing, grid.origin, grid.direction)]


@dataclass(frozen=True)
class Strokes:
    """Sparse labels on an image's own grid: 0 background, otherwise the class's label value.

    :param image: fingerprint of the image.
    :param shape: extents (z, y, x) of the image.
    :param data: uint8, zlib-compressed voxel positions (differences, uint32) then labels (uint16).
    """

    image: str
    shape: tuple[int, int, int]
    count: int
    data: np.ndarray

    @classmethod
    def pack(cls, image: str, labels: np.ndarray, values: list[int]) -> Optional[Strokes]:
        """From int16 labels (z, y, x): -1 unknown, 0 background, k the k-th of ``values``.

        None when the annotation is too dense to be strokes, or too large to travel.
        """
        if labels.size > _MAX_VOXELS:
            return None
        positions = np.flatnonzero(labels >= 0)
        if len(positions) > MAX_SHARE * labels.size:
            return None
        known = np.asarray([0, *values], np.uint16)[labels.reshape(-1)[positions]]
        z, y, x = labels.shape
        return cls._packed(image, (z, y, x), positions, known)

    @classmethod
    def _packed(
        cls, image: str, shape: tuple[int, int, int], positions: np.ndarray, known: np.ndarray
    ) -> Optional[Strokes]:
        """From flat indices in ascending order, and the label value at each."""
        steps = np.diff(positions, prepend=0).astype("<u4")
        data = np.frombuffer(zlib.compress(steps.tobytes() + known.astype("<u2").tobytes(), 9), np.uint8)
        if not len(positions) or len(data) > MAX_BYTES:
            return None
        return cls(image, shape, len(positions), data)

    def unpack(self, values: list[int]) -> np.ndarray:
        """Labels int16 (z, y, x) as :meth:`pack` took them; strokes of values that are not listed are unknown.

        Raises ``ValueError`` for damaged strokes, as :meth:`with_values` does.
        """
        positions, known = self._unpacked()
        labels = np.full(self.shape, -1, np.int16)
        lookup = np.full(65536, -1, np.int16)
        lookup[[0, *values]] = np.arange(len(values) + 1)
        labels.reshape(-1)[positions] = lookup[known]
        return labels

    def with_values(self, changed: Mapping[int, int]) -> Optional[Strokes]:
        """The same strokes where classes have other values (old -> new); those of values that are not listed are gone.

        None when none of a class is left: background of classes that are gone may be one that comes.
        """
        positions, known = self._unpacked()
        lookup = np.full(65536, -1, np.int32)
        lookup[[0, *changed]] = [0, *changed.values()]
        known = lookup[known]
        if not (known > 0).any():
            return None
        return self._packed(self.image, self.shape, positions[known >= 0], known[known >= 0])

    def _unpacked(self) -> tuple[np.ndarray, np.ndarray]:
        limit = self.count * 6
        decoder = zlib.decompressobj()
        try:
            raw = decoder.decompress(self.data.tobytes(), limit)
            more = decoder.decompress(decoder.unconsumed_tail, 1)
        except zlib.error as error:
            raise ValueError("strokes are damaged") from error
        if len(raw) != limit or more or not decoder.eof:
            raise ValueError("strokes are damaged")
        positions = np.cumsum(np.frombuffer(raw, "<u4", self.count).astype(np.int64))
        z, y, x = self.shape
        if positions[-1] >= z * y * x:
            raise ValueError("strokes lie outside their image")
        return positions, np.frombuffer(raw, "<u2", self.count, offset=4 * self.count)

    def to_dict(self) -> dict:
        return {"image": self.image, "shape": list(self.shape), "count": self.count}

    @classmethod
    def from_dict(cls, values: dict, data: np.ndarray) -> Strokes:
        z, y, x = values["shape"]
        image, count = values["image"], values["count"]
        if any(type(number) is not int for number in (z, y, x, count)):
            raise ValueError("strokes have an extent that is not a whole number")
        if data.dtype != np.uint8 or data.ndim != 1 or data.size > MAX_BYTES:
            raise ValueError("strokes have the wrong type")
        if min(z, y, x) < 1 or z * y * x > _MAX_VOXELS or not 0 < count <= min(z * y * x, _MAX_COUNT):
            raise ValueError("strokes have an impossible extent")
        if not is_sha256(image):
            raise ValueError("strokes have no fingerprint of an image")
        return cls(image, (z, y, x), count, data)

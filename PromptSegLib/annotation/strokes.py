"""The strokes that prompts were tuned on, small enough to travel with them."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..imaging.geometry import Grid

MAX_BYTES = 64 * 1024  # of one image in a prompts file, for each class that the file holds
MAX_PACKED = 2**24  # of one image anywhere
_MAX_VOXELS = 2**32  # positions differ by an uint32
_MAX_RUNS = 2**23
_HALF = 0.5063  # added before thousandths are cut off: hardly a number that somebody wrote down ends where it goes up
_OLD, _RUN = 6, 10  # bytes of a voxel as older files have them, and of a run


def fingerprint(image: sitk.Image) -> str:
    """SHA-256 of an image's voxels and geometry: the same image is recognized, nothing of it can be read back."""
    return fingerprints(image)[0]


def fingerprints(image: sitk.Image) -> tuple[str, ...]:
    """:func:`fingerprint`, and where that was another one in earlier versions, theirs: older files hold it."""
    numbers = np.concatenate(_numbers(image))
    # Of numbers that are stored with 32 bits, as in NIfTI, and of those that are not, the same three digits; where a
    # fourth one is a 5, as of 0.7125 mm, noise would tell which way. No number is -0, and most look as they did.
    now = np.floor(numbers.astype(np.float32).astype(float) * 1000.0 + _HALF) / 1000.0
    texts = dict.fromkeys(repr(tuple(each.tolist())) for each in (now, np.round(numbers, 3)))
    digests = [hashlib.sha256(text.encode()) for text in texts]
    array = sitk.GetArrayViewFromImage(image)
    for plane in array:  # one slice at a time: a large CT is not copied as a whole
        voxels = np.ascontiguousarray(plane, np.float32).tobytes()
        for digest in digests:
            digest.update(voxels)
    return tuple(digest.hexdigest() for digest in digests)


def is_sha256(text: object) -> bool:
    return isinstance(text, str) and len(text) == 64 and not set(text) - set("0123456789abcdef")


def _numbers(image: sitk.Image) -> list[np.ndarray]:
    grid = Grid.of(image)
    return [np.asarray(part, float) for part in (grid.size, grid.spacing, grid.origin, grid.direction)]


@dataclass(frozen=True)
class Strokes:
    """Labels on an image's own grid: 0 background, otherwise the class's label value; most voxels have none.

    :param image: fingerprint of the image.
    :param shape: extents (z, y, x) of the image.
    :param count: of runs, voxels next to each other (along x, then y, then z) that have the same label; as older files
        have them, of voxels.
    :param data: uint8, zlib-compressed: gaps before the runs (uint32), their lengths (uint32), labels (uint16); as
        older files have them, differences of positions (uint32), then labels (uint16).
    :param runs: False for strokes as older files have them.
    """

    image: str
    shape: tuple[int, int, int]
    count: int
    data: np.ndarray
    runs: bool = True

    @classmethod
    def pack(cls, image: str, labels: np.ndarray, values: list[int]) -> Optional[Strokes]:
        """From int16 labels (z, y, x): -1 unknown, 0 background, k the k-th of ``values``.

        None when nothing is labeled, or when it is more than a file may hold.
        """
        if labels.size > _MAX_VOXELS:
            return None
        z, y, x = labels.shape
        flat = labels.reshape(-1)
        known = np.flatnonzero(flat >= 0)
        if not len(known):
            return None
        own = flat[known]
        first = np.flatnonzero(np.r_[True, (np.diff(known) > 1) | (np.diff(own) != 0)])
        lengths = np.diff(np.r_[first, len(known)])
        return cls._packed(image, (z, y, x), known[first], lengths, np.asarray([0, *values], np.uint16)[own[first]])

    @classmethod
    def _packed(
        cls, image: str, shape: tuple[int, int, int], starts: np.ndarray, lengths: np.ndarray, known: np.ndarray
    ) -> Optional[Strokes]:
        """From flat indices in ascending order, how many voxels begin at each, and their label value."""
        if not 0 < len(starts) <= _MAX_RUNS:
            return None
        gaps = np.diff(starts, prepend=0)
        gaps[1:] -= lengths[:-1]
        raw = gaps.astype("<u4").tobytes() + lengths.astype("<u4").tobytes() + known.astype("<u2").tobytes()
        data = np.frombuffer(zlib.compress(_planes(raw, len(starts)), 9), np.uint8)
        return cls(image, shape, len(starts), data) if len(data) <= MAX_PACKED else None

    def unpack(self, values: list[int]) -> np.ndarray:
        """Labels int16 (z, y, x) as :meth:`pack` took them; strokes of values that are not listed are unknown.

        Raises ``ValueError`` for damaged strokes, as :meth:`with_values` does.
        """
        starts, lengths, known = self._unpacked()
        lookup = np.full(65536, -1, np.int16)
        lookup[[0, *values]] = np.arange(len(values) + 1)
        labels = np.full(self.shape, -1, np.int16)
        flat, known = labels.reshape(-1), lookup[known]
        single = lengths == 1
        flat[starts[single]] = known[single]
        for start, length, label in zip(starts[~single].tolist(), lengths[~single].tolist(), known[~single].tolist()):
            flat[start : start + length] = label
        return labels

    def with_values(self, changed: Mapping[int, int]) -> Optional[Strokes]:
        """The same strokes where classes have other values (old -> new); those of values that are not listed are gone.

        None when none of a class is left: background of classes that are gone may be one that comes.
        """
        starts, lengths, known = self._unpacked()
        lookup = np.full(65536, -1, np.int32)
        lookup[[0, *changed]] = [0, *changed.values()]
        known = lookup[known]
        if not (known > 0).any():
            return None
        kept = known >= 0
        return self._packed(self.image, self.shape, starts[kept], lengths[kept], known[kept])

    def voxels(self) -> int:
        """How many voxels are labeled; raises ``ValueError`` for damaged strokes."""
        return int(self._unpacked()[1].sum())

    def _unpacked(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where runs start (flat indices, ascending), how long they are, and their label values."""
        limit = self.count * (_RUN if self.runs else _OLD)
        decoder = zlib.decompressobj()
        try:
            raw = decoder.decompress(self.data.tobytes(), limit)
            more = decoder.decompress(decoder.unconsumed_tail, 1)
        except zlib.error as error:
            raise ValueError("strokes are damaged") from error
        if len(raw) != limit or more or not decoder.eof:
            raise ValueError("strokes are damaged")
        count, lengths = self.count, np.ones(self.count, np.int64)
        if self.runs:
            raw = _planes(raw, count, undo=True)
            lengths = np.frombuffer(raw, "<u4", count, offset=4 * count).astype(np.int64)
        gaps = np.frombuffer(raw, "<u4", count).astype(np.int64)
        known = np.frombuffer(raw, "<u2", count, offset=(8 if self.runs else 4) * count)
        # Of single voxels, it is the positions that differ by so much, not their ends.
        starts = np.cumsum(gaps) + (np.cumsum(lengths) - lengths if self.runs else 0)
        z, y, x = self.shape
        if starts[-1] + lengths[-1] > z * y * x or lengths.min() < 1:
            raise ValueError("strokes lie outside their image")
        return starts, lengths, known

    def to_dict(self) -> dict:
        return {"image": self.image, "shape": list(self.shape), "runs" if self.runs else "count": self.count}

    @classmethod
    def from_dict(cls, values: dict, data: np.ndarray, largest: int = MAX_PACKED) -> Strokes:
        """Undo :meth:`to_dict`; raises ``ValueError``, ``KeyError`` or ``TypeError`` for what are no strokes of at most
        ``largest`` bytes."""
        z, y, x = values["shape"]
        runs = "runs" in values
        image, count = values["image"], values["runs" if runs else "count"]
        if any(type(number) is not int for number in (z, y, x, count)):
            raise ValueError("strokes have an extent that is not a whole number")
        if data.dtype != np.uint8 or data.ndim != 1 or data.size > largest:
            raise ValueError("strokes have the wrong type")
        # zlib compresses to no less than 1/1032.
        most = min(z * y * x, _MAX_RUNS, 1032 * max(data.size, 64) // (_RUN if runs else _OLD))
        if min(z, y, x) < 1 or z * y * x > _MAX_VOXELS or not 0 < count <= most:
            raise ValueError("strokes have an impossible extent")
        if not is_sha256(image):
            raise ValueError("strokes have no fingerprint of an image")
        return cls(image, (z, y, x), count, data, runs)


def unpacked(strokes: Sequence[Strokes], values: list[int]) -> np.ndarray:
    """:meth:`Strokes.unpack` of several (one or more) on the same image together: where two say something, the last
    one holds."""
    labels = strokes[0].unpack(values)
    for each in strokes[1:]:
        more = each.unpack(values)
        labels[more >= 0] = more[more >= 0]
    return labels


def _planes(raw: bytes, count: int, undo: bool = False) -> bytes:
    """Numbers of 4, 4 and 2 bytes with their first bytes together, their second bytes, and so on, which compress to
    less; or back."""
    parts, start = [], 0
    for width in (4, 4, 2):
        part = np.frombuffer(raw, np.uint8, width * count, offset=start)
        parts.append(part.reshape((width, count) if undo else (count, width)).T.tobytes())
        start += width * count
    return b"".join(parts)

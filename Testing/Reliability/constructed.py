"""A phantom that is sampled on any grid, and files of it: two bright balls in a gray body, in air.

Matrices are (4, 4), voxel indices (i, j, k, 1) to RAS mm. Arrays are (k, j, i).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Optional, Sequence

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

CLASSES = {"ball": 1, "lump": 2}
BACKGROUND = 3
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
# In mm from the middle of the body: center, radius and intensity.
_BODY = ((0, 0, 0), 50.0, -20.0)
_BALLS = (((-18, -6, -4), 17.0, 110.0), ((22, 8, 6), 14.0, 160.0))
SIDE = 108.0  # mm, of what is sampled


@dataclass(frozen=True)
class Place:
    """A grid by how it lies: turned by ``turn`` (degrees about x, y, z), then its index axes permuted and flipped.

    :param size: voxels along i, j, k; by default as many as cover the phantom.
    :param middle: where the middle of the grid and of the phantom lies, RAS mm.
    :param lean: how far the first axis leans towards the second.
    :param scale: size of the phantom; 0.1 for a mouse.
    """

    spacing: Sequence[float] = (3.0, 3.0, 3.0)
    size: Optional[Sequence[int]] = None
    middle: Sequence[float] = (20.0, -35.0, 140.0)
    turn: Sequence[float] = (0.0, 0.0, 0.0)
    axes: Sequence[int] = (0, 1, 2)
    flips: Sequence[int] = (1, 1, 1)
    lean: float = 0.0
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along k, j, i."""
        size = self.size or [max(1, round(SIDE * self.scale / step)) for step in self.spacing]
        return tuple(size[::-1])

    @property
    def matrix(self) -> np.ndarray:
        turned = Rotation.from_euler("xyz", self.turn, degrees=True).as_matrix()[:, list(self.axes)] * self.flips
        turned[:, 0] += self.lean * turned[:, 1]
        turned[:, 0] /= np.linalg.norm(turned[:, 0])
        matrix = np.eye(4)
        matrix[:3, :3] = turned * np.asarray(self.spacing, float)
        matrix[:3, 3] = self.middle - matrix[:3, :3] @ ((np.array(self.shape[::-1]) - 1) / 2)
        return matrix

    def moved(self, voxels: Sequence[float]) -> Place:
        """The same grid, moved by some voxels along i, j and k; the phantom moves with it."""
        return replace(self, middle=tuple(np.asarray(self.middle) + self.matrix[:3, :3] @ np.asarray(voxels, float)))


@dataclass(frozen=True)
class Phantom:
    """Voxels of the phantom on a grid: int16 intensities (HU), its classes, and strokes on some slices along k."""

    place: Place
    matrix: np.ndarray = field(repr=False)
    image: np.ndarray = field(repr=False)
    truth: np.ndarray = field(repr=False)
    strokes: np.ndarray = field(repr=False)


def phantom(place: Place, middle: Optional[Sequence[float]] = None) -> Phantom:
    """Sample the phantom, whose middle is that of the grid unless another is given."""
    matrix, shape = place.matrix, place.shape
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")[::-1], -1)
    points = index @ matrix[:3, :3].T + matrix[:3, 3] - np.asarray(middle or place.middle)

    def away(center: Sequence[float], radius: float) -> np.ndarray:
        return np.linalg.norm(points / place.scale - center, axis=-1) / radius

    image = np.full(shape, -1000.0)
    body = away(*_BODY[:2])
    image[body < 1] = _BODY[2]
    distances = [away(center, radius) for center, radius, _ in _BALLS]
    truth = np.zeros(shape, np.uint8)
    for value, (distance, (_, _, intensity)) in enumerate(zip(distances, _BALLS), 1):
        image[distance < 1] = intensity
        truth[distance < 1] = value
    image += np.random.default_rng(0).normal(0, 8, shape)
    return Phantom(place, matrix, np.round(image).astype(np.int16), truth, _strokes(body, distances))


def _strokes(body: np.ndarray, distances: list[np.ndarray]) -> np.ndarray:
    """Three slices through each ball, with a ring of background around it."""
    strokes = np.zeros(body.shape, np.uint8)
    nearest = np.min(distances, 0)
    outside = (nearest > 1.25) & (nearest < 1.4) & (body < 1.1)
    for value, distance in enumerate(distances, 1):
        depth = distance.min((1, 2))
        inner = np.flatnonzero(depth < 0.62)
        for k in {int(inner[0]), int(depth.argmin()), int(inner[-1])} if inner.size else ():
            strokes[k][outside[k] & (strokes[k] == 0)] = BACKGROUND
            strokes[k][distance[k] < max(0.5, depth[k] + 0.05)] = value
    return strokes


def image_of(array: np.ndarray, matrix: np.ndarray, vector: bool = False) -> sitk.Image:
    """An array as a SimpleITK image."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    lps = RAS_LPS @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def write(path: Path, array: np.ndarray, matrix: np.ndarray, packed: bool = False, vector: bool = False) -> Path:
    """Write a file with ITK."""
    sitk.WriteImage(image_of(array, matrix, vector), str(path), packed)
    return path


def write_nifti(
    path: Path,
    array: np.ndarray,
    sform: Optional[np.ndarray] = None,
    qform: Optional[np.ndarray] = None,
    codes: tuple[int, int] = (1, 1),
    kind: Any = nibabel.Nifti1Image,
    order: Literal["<", ">"] = "<",
    **fields: Any,
) -> Path:
    """Write a NIfTI file with the positions that are given, and then header fields as they are given."""
    image = kind(array.T, None, kind(array.T, None).header.as_byteswapped(order))
    image.header.set_data_dtype(array.dtype.newbyteorder(order))
    image.set_qform(qform, codes[1] if qform is not None else 0)
    image.set_sform(sform, codes[0] if sform is not None else 0)
    if qform is None and sform is not None:
        image.header["pixdim"][1:4] = np.linalg.norm(sform[:3, :3], axis=0)
    nibabel.save(image, str(path))
    if fields:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rb") as file:
            content = bytearray(file.read())
        header = np.frombuffer(content, image.header.template_dtype.newbyteorder(order), 1)
        for name, value in fields.items():
            header[name] = value
        with opened(path, "wb") as file:
            file.write(content)
    return path

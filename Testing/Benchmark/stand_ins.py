"""Stand-ins for labeled abdominal MR: labeled CTs, drawn with the intensities of tissues on MR.

What they look like was written down by hand, of three weightings, and has nothing to do with how training images are
drawn (``PromptSegLib/pretraining/synthesis.py``).
"""

from __future__ import annotations

from typing import Iterator

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from shipped import RECIPES

from PromptSegLib.pretraining.recipe import Recipe

# The classes of BTCV, spleen first, in the order of their values.
_BTCV = next(each for each in Recipe.load(RECIPES / "ct-body.json").sources if each.name == "BTCV")
ON_CT = {name: _BTCV.values_of(name)[0] for name in _BTCV.classes}
# Of each weighting, 0..1: fat, muscle, other soft tissue (bowel, marrow), and the organs in the order of ON_CT.
WEIGHTINGS = {
    "T2": (0.8, 0.13, 0.35, (0.5, 0.62, 0.62, 0.95, 0.25, 0.27, 0.45, 0.08, 0.15, 0.12, 0.35, 0.25, 0.25)),
    "T1": (0.85, 0.28, 0.3, (0.26, 0.3, 0.3, 0.2, 0.28, 0.42, 0.25, 0.12, 0.14, 0.2, 0.45, 0.3, 0.3)),
    "T2, fat dark": (0.1, 0.15, 0.4, (0.6, 0.7, 0.7, 1.0, 0.3, 0.3, 0.5, 0.06, 0.12, 0.12, 0.42, 0.3, 0.3)),
}
_GAS, _BONE = 0.02, 0.04


def stand_in(ct: sitk.Image, labels: sitk.Image, weighting: str, seed: int = 7) -> sitk.Image:
    """An image on the grid of a labeled abdominal CT (HU from -125), int16, with an MR's tissues, bias and noise."""
    rng = np.random.default_rng(seed)
    hu, organs = sitk.GetArrayFromImage(ct).astype(np.float32), sitk.GetArrayFromImage(labels)
    fat, muscle, other, of_organs = WEIGHTINGS[weighting]
    free, smooth, wide = organs == 0, ndimage.gaussian_filter(hu, 0.6), ndimage.gaussian_filter(hu, 2)
    body = _body(hu)
    bone = body & free & (smooth >= 180)
    marrow = ndimage.binary_closing(bone, iterations=3) & free & (smooth >= 80) & (smooth < 260)
    gas = body & (wide < -122) & ndimage.binary_erosion(body, iterations=12)
    drawn = np.where(body, np.float32(muscle), np.float32(0))
    drawn[body & free & (smooth >= -30) & (wide < 45)] = other * 0.8
    for where, value in ((body & (smooth < -30), fat), (bone, _BONE), (marrow, other), (gas, _GAS)):
        drawn[where] = value
    for value, brightness in zip(ON_CT.values(), of_organs):
        drawn[organs == value] = brightness * rng.uniform(0.9, 1.1)
    drawn *= 1 + 0.36 * ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), 1.2)
    drawn = ndimage.gaussian_filter(drawn, (0.5, 0.7, 0.7))
    slopes = (axis * rng.normal(0, size) for axis, size in zip(_axes(hu.shape), (0.125, 0.25, 0.25)))
    drawn = drawn * np.exp(sum(slopes))
    noise = 0.02 * rng.standard_normal((2, *hu.shape), np.float32)
    image = sitk.GetImageFromArray((700 * np.hypot(drawn + noise[0], noise[1])).astype(np.int16))
    image.CopyInformation(ct)
    return image


def _axes(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """-1..1 along each axis, to be broadcast."""
    for axis, extent in enumerate(shape):
        yield np.linspace(-1, 1, extent, dtype=np.float32).reshape([-1 if each == axis else 1 for each in range(3)])


def _body(hu: np.ndarray) -> np.ndarray:
    """The largest part that is no air (z, y, x), without the table where that is apart, and without holes."""
    parts, _ = ndimage.label(ndimage.binary_opening(ndimage.gaussian_filter(hu, 1.0) > -122, iterations=2))
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(each) for each in largest])


def as_t2(ct: sitk.Image, labels: sitk.Image) -> tuple[sitk.Image, sitk.Image]:
    """The pair as abdominal T2 with fat dark, in thick slices."""
    return as_thick_slices(stand_in(ct, labels, "T2, fat dark"), labels)


def as_thick_slices(image: sitk.Image, labels: sitk.Image, slice_mm: float = 7.7) -> tuple[sitk.Image, sitk.Image]:
    """The pair with axial slices as thick as those of many an abdominal MR; the image's are means of what they hold."""
    size, spacing = list(image.GetSize()), list(image.GetSpacing())
    thickness = slice_mm / spacing[2]
    size[2], spacing[2] = max(int(size[2] / thickness), 1), slice_mm
    start = [0.0, 0.0, (thickness - 1) / 2]
    grid = sitk.Image(size, sitk.sitkUInt8)
    grid.SetSpacing(spacing)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint(start))
    array = sitk.GetArrayFromImage(image).astype(np.float32)
    blurred = sitk.GetImageFromArray(ndimage.uniform_filter1d(array, max(round(thickness), 1), axis=0))
    blurred.CopyInformation(image)
    drawn = sitk.Resample(blurred, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    thick = sitk.Resample(labels, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0, labels.GetPixelID())
    return sitk.Cast(drawn, image.GetPixelID()), thick

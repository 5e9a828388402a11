"""Volumes made by code whose truth is known: thin, small, crowded or oddly scaled structures.

Every function takes a seed, gives an image (float32, rounded to whole units) and its reference (uint8) on the same
grid, and gives the same ones for the same seed. None is trivial: noise, a bias field, partial volume at every border,
texture, and other things of similar intensity nearby that are not labeled.

Arrays are (z, y, x); ``spacing`` is (z, y, x) in mm; places and distances are in mm from the middle of the volume.
"""

from __future__ import annotations

from typing import Callable, Optional

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial import cKDTree

Phantom = tuple[tuple[sitk.Image, sitk.Image], dict[str, int]]
VESSEL_MM, JOINT_MM = 2.0, 2.0


def vessel(seed: int, shape=(128, 112, 112)) -> Phantom:
    """A winding vessel of 2 mm on 0.5 mm voxels, a fainter one that runs along it, and bone at one side."""
    rng, spacing = np.random.default_rng([1, seed]), (0.5, 0.5, 0.5)
    places = _places(shape, spacing)
    half = np.asarray(shape) * spacing / 2
    along = np.linspace(-0.95 * half[0], 0.95 * half[0], 1200)
    line = np.stack([along, _wave(along, 5.0, 24.0, rng), _wave(along, 5.0, 24.0, rng)], 1)
    away = np.array([0.0, *_unit(rng, 2)]) * 5.0
    other = line + away + np.stack([0 * along, _wave(along, 1.0, 11.0, rng), _wave(along, 1.0, 11.0, rng)], 1)
    tube = _distance_to(line, places, 6.0) - VESSEL_MM / 2
    vein = _distance_to(other, places, 6.0) - 1.4
    bone = np.linalg.norm(places[..., 1:] - 0.8 * half[1:] * [1, -1], axis=-1) - 8.0
    values = 50 + _texture(shape, spacing, 3.0, 14.0, rng)
    voxel = spacing[0]
    for distance, value in ((vein, 135.0), (bone, 420.0), (tube, 190.0)):
        values = _into(values, distance, value, voxel)
    return _volume(values, (tube <= 0).astype(np.uint8), spacing, rng, noise=16.0, bias=0.06), {"vessel": 1}


def sheet(seed: int, shape=(96, 112, 112)) -> Phantom:
    """A curved sheet one voxel thick (along x) on 0.5 mm voxels, with a second, unlabeled one beside it."""
    rng, spacing = np.random.default_rng([2, seed]), (0.5, 0.5, 0.5)
    z, y, x = (np.arange(n, dtype=np.float32) for n in shape)

    def height() -> np.ndarray:
        return 4.0 * _smooth((shape[0], shape[1]), 20.0, rng)

    first = shape[2] * 0.42 + height()
    second = first + 9.0 + np.abs(height())
    labels = np.zeros(shape, np.uint8)
    inside = (np.abs(z - shape[0] / 2)[:, None] < 0.42 * shape[0]) & (np.abs(y - shape[1] / 2)[None] < 0.42 * shape[1])
    values = 60 + _texture(shape, spacing, 3.0, 8.0, rng) + 30 * (x > second[..., None])
    for middle, value, labeled in ((second, 150.0, False), (first, 170.0, True)):
        share = np.clip(1 - np.abs(x - middle[..., None]), 0, 1) * inside[..., None]
        values = values + share * (value - values)
        if labeled:
            labels[(x == np.rint(middle)[..., None]) & inside[..., None]] = 1
    return _volume(values, labels, spacing, rng, noise=9.0, bias=0.06), {"sheet": 1}


def joint(seed: int, shape=(120, 128, 128)) -> Phantom:
    """Two bones with a joint space of 2 mm on 0.5 mm voxels: dense shells, spongy insides, cartilage between."""
    rng, spacing = np.random.default_rng([3, seed]), (0.5, 0.5, 0.5)
    places = _places(shape, spacing)
    surface = 3.0 * _smooth(shape[1:], 26.0, rng) + 0.012 * (places[0, ..., 1] ** 2 - places[0, ..., 2] ** 2)
    slopes = np.gradient(surface, *spacing[1:])
    steep = np.sqrt(1 + slopes[0] ** 2 + slopes[1] ** 2)
    from_surface = (places[..., 0] - surface) / steep  # signed, mm; right as long as the surface is gently curved
    shaft = np.sqrt((places[..., 1] / 24) ** 2 + (places[..., 2] / 21) ** 2)
    side = (shaft - 1) * 21
    values = 40 + _texture(shape, spacing, 4.0, 18.0, rng)
    values = _into(values, np.maximum(np.abs(from_surface) - 3, side), 75.0, spacing[0])  # cartilage and fluid
    labels = np.zeros(shape, np.uint8)
    for value, upward in ((1, 1), (2, -1)):
        ends = JOINT_MM / 2 - upward * from_surface
        bone = np.maximum(np.maximum(ends, side), np.abs(places[..., 0]) - 27)
        values = _into(values, bone, 850.0, spacing[0])
        sponge = 170 + _texture(shape, spacing, 0.8, 110.0, rng)
        values = _into(values, bone + 1.3, sponge, spacing[0])
        labels[bone <= 0] = value
    return _volume(values, labels, spacing, rng, noise=45.0, bias=0.05), {"upper bone": 1, "lower bone": 2}


def teeth(seed: int, shape=(104, 96, 176)) -> Phantom:
    """Six teeth in their jaw on a cone-beam-like volume of 0.25 mm: enamel, dentin and pulp, one class each."""
    rng, spacing = np.random.default_rng([4, seed]), (0.25, 0.25, 0.25)
    places = _places(shape, spacing)
    up, across = places[..., 0], places[..., 1]
    values = np.where(up > 3.0, -900.0, 60.0) + _texture(shape, spacing, 1.5, 25.0, rng)  # air, gum
    jaw = np.maximum(np.abs(across) - 7.5, up + 1.5 + _smooth(shape[1:], 12.0, rng))
    values = _into(values, jaw, 1000 + _texture(shape, spacing, 0.6, 260.0, rng), spacing[0])
    labels = np.zeros(shape, np.uint8)
    for index in range(6):
        middle = np.array([rng.normal(0, 0.5), (index - 2.5) * 7.0 + rng.normal(0, 0.15)])
        lean = rng.normal(0, 0.06, 2)
        offset = places[..., 1:] - middle - lean * up[..., None]
        wide = 3.15 + rng.normal(0, 0.1)
        # Height of the crown's top, of the neck and of the root's tip.
        top, neck, tip = 8.5 + rng.normal(0, 0.5), 1.0 + rng.normal(0, 0.3), -10.5 + rng.normal(0, 0.7)
        girth = np.interp(up, [tip, tip + 1.5, neck, neck + 3, top - 1.5, top], [0.5, 1.2, 2.4, wide, wide, 2.2])
        radius = np.hypot(offset[..., 0], offset[..., 1])
        tooth = np.maximum(np.maximum(radius - girth, up - top), tip - up)
        canal = np.interp(up, [tip, neck - 1, neck + 2, neck + 3.5], [0.25, 0.5, 0.9, 0.3])
        pulp = np.maximum(np.maximum(radius - canal, up - neck - 3.5), tip + 0.5 - up)
        enamel = np.maximum(np.maximum(tooth, -(tooth + 1.1)), neck + 0.3 - up)
        values = _into(values, tooth - 0.3, 50.0, spacing[0])  # the ligament around the root
        for distance, value, label in ((tooth, 1750.0, 2), (enamel, 2700.0, 1), (pulp, 90.0, 3)):
            values = _into(values, distance, value, spacing[0])
            labels[distance <= 0] = label
    values = ndimage.gaussian_filter(values, 0.6)  # the blur of cone beams
    image, reference = _volume(values, labels, spacing, rng, noise=130.0, bias=0.1)
    return (sitk.Clamp(image, sitk.sitkFloat32, -1000.0, 3071.0), reference), {"enamel": 1, "dentin": 2, "pulp": 3}


def thirty(seed: int, shape=(80, 120, 120)) -> Phantom:
    """Thirty touching compartments of a body, nine intensities among them, so that many neighbors are alike."""
    rng, spacing = np.random.default_rng([5, seed]), (2.0, 1.5, 1.5)
    places = _places(shape, spacing)
    half = np.asarray(shape) * spacing / 2
    body = np.linalg.norm(places / (0.92 * half), axis=-1)
    seeds = np.concatenate([_unit(rng, 3)[None] * rng.uniform(0, 0.75) ** (1 / 3) * half for _ in range(400)])
    chosen = [seeds[0]]
    for _ in range(33):  # each one far from those before it
        reach = cKDTree(chosen).query(seeds)[0]
        chosen.append(seeds[int(reach.argmax())])
    bent = places + 5.0 * np.stack([_smooth(shape, 14.0, rng) for _ in range(3)], -1)
    nearest = cKDTree(chosen).query(bent.reshape(-1, 3))[1].reshape(shape)
    labels = np.where((body < 1) & (nearest < 30), nearest + 1, 0).astype(np.uint8)  # four of them are background
    levels = rng.permutation(np.repeat(np.linspace(-60, 180, 9), 4))[:34]
    values = np.where(body < 1, levels[nearest], -150.0) + _texture(shape, spacing, 5.0, 7.0, rng)
    values = ndimage.gaussian_filter(values, 0.5)
    classes = {f"compartment {value}": value for value in range(1, 31)}
    return _volume(values, labels, spacing, rng, noise=12.0, bias=0.04), classes


def small_numbers(seed: int, shape=(72, 128, 128)) -> Phantom:
    """Five organs of a body, in an image whose values are 0..100."""
    image, labels, classes = _organs(seed, shape, (3.0, 2.0, 2.0))
    array = sitk.GetArrayFromImage(image)
    return (_image(np.rint(np.clip((array + 150) / 4, 0, 100)), image.GetSpacing()[::-1]), labels), classes


def thick_slices(seed: int, shape=(28, 256, 256)) -> Phantom:
    """Five organs of a body on voxels of 0.5 mm in plane and 6 mm across, one to twelve."""
    image, labels, classes = _organs(seed, shape, (6.0, 0.5, 0.5), scale=0.62)
    return (image, labels), classes


def _organs(seed: int, shape, spacing, scale: float = 1.0) -> tuple[sitk.Image, sitk.Image, dict[str, int]]:
    """Deformed ellipsoids in a body; two more of them have no label and look like their neighbors."""
    rng = np.random.default_rng([6, seed])
    places = _places(shape, spacing)
    half = np.asarray(shape) * spacing / 2
    body = (np.linalg.norm(places[..., 1:] / (0.93 * half[1:]), axis=-1) - 1) * half[1]
    between = np.clip(2 * _smooth(shape, _voxels(7.0, spacing), rng) + 0.5, 0, 1)  # fat and bowel
    values = np.where(body > 0, -150.0, -100 + 145 * between + _texture(shape, spacing, 3.0, 10.0, rng))
    values = _into(values, np.maximum(body, -(body + 6)), 45.0, spacing[1])
    sizes = scale * np.array(
        [[62, 46, 40], [40, 26, 26], [44, 20, 22], [44, 20, 22], [70, 11, 11], [40, 24, 24], [50, 9, 9]]
    )
    turns = rng.uniform(0, 2 * np.pi) + np.arange(7) * 2 * np.pi / 7
    order = [0, 4, 2, 1, 6, 3, 5]
    levels = (100.0, 110.0, 135.0, 135.0, 150.0, 95.0, 145.0)
    labels = np.zeros(shape, np.uint8)
    voxel = spacing[1]
    for turn, index in zip(turns, order):
        reach = (0.55 if index != 4 else 0.25) * half[1:] * [np.sin(turn), np.cos(turn)]
        middle = np.array([rng.uniform(-0.25, 0.25) * half[0], *reach])
        bent = (
            places
            - middle
            + 3.5 * scale * np.stack([_smooth(shape, _voxels(14.0, spacing), rng) for _ in range(3)], -1)
        )
        distance = (np.linalg.norm(bent / sizes[index], axis=-1) - 1) * sizes[index].min()
        values = _into(values, distance, levels[index] + _texture(shape, spacing, 4.0, 8.0, rng), voxel)
        labels[distance <= 0] = index + 1 if index < 5 else 0
    classes = {f"organ {value}": value for value in range(1, 6)}
    return *_volume(values, labels, spacing, rng, noise=14.0, bias=0.06), classes


PHANTOMS: dict[str, Callable[[int], Phantom]] = {
    "vessel": vessel,
    "sheet": sheet,
    "joint": joint,
    "teeth": teeth,
    "thirty": thirty,
    "small_numbers": small_numbers,
    "thick_slices": thick_slices,
}


def _places(shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Where every voxel's middle is: (z, y, x, 3), mm from the middle of the volume."""
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(shape, spacing)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).astype(np.float32)


def _distance_to(line: np.ndarray, places: np.ndarray, most: float) -> np.ndarray:
    """Distance of every place to a densely sampled line, mm; ``most`` beyond it."""
    found = cKDTree(line).query(places.reshape(-1, 3), distance_upper_bound=most)[0]
    return np.minimum(found, most).reshape(places.shape[:-1])


def _into(values: np.ndarray, distance: np.ndarray, inside, voxel: float) -> np.ndarray:
    """Put a thing in: ``distance`` (mm) to its border, negative inside; at the border in part, as in a real voxel."""
    share = np.clip(0.5 - distance / voxel, 0, 1)
    return values + share * (inside - values)


def _voxels(sigma_mm: float, spacing: tuple[float, ...]) -> list[float]:
    return [sigma_mm / step for step in spacing]


def _smooth(shape: tuple[int, ...], sigma, rng: np.random.Generator) -> np.ndarray:
    """A smooth random field of mean 0 and deviation 1; ``sigma`` in voxels."""
    field = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), sigma, mode="nearest")
    field -= field.mean()
    return field / (field.std() or 1.0)


def _texture(shape, spacing, sigma_mm: float, strength: float, rng: np.random.Generator) -> np.ndarray:
    return strength * _smooth(shape, _voxels(sigma_mm, spacing), rng)


def _wave(along: np.ndarray, strength: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """A sum of three sines, as a vessel winds: ``length`` is the longest one's, mm."""
    waves = [np.sin(2 * np.pi * along * n / length / 1.7 + rng.uniform(0, 2 * np.pi)) / n for n in (1, 1.7, 2.6)]
    return strength * sum(waves, start=np.zeros(len(along))) / 2


def _unit(rng: np.random.Generator, axes: int) -> np.ndarray:
    direction = rng.standard_normal(axes)
    return direction / np.linalg.norm(direction)


def _volume(
    values, labels, spacing, rng: np.random.Generator, noise: float, bias: float
) -> tuple[sitk.Image, sitk.Image]:
    """The image with a bias field (relative) and noise (absolute, slightly blurred as detectors do), and its labels."""
    factor = 1 + bias * _smooth(values.shape, [n / 3 for n in values.shape], rng)
    grain = ndimage.gaussian_filter(rng.standard_normal(values.shape, np.float32), 0.5)
    array = np.rint(values * factor + noise * grain / grain.std())
    return _image(array, spacing), _image(labels, spacing, np.uint8)


def _image(array: np.ndarray, spacing, kind: Optional[type] = np.float32) -> sitk.Image:
    image = sitk.GetImageFromArray(array.astype(kind))
    image.SetSpacing([float(step) for step in spacing[::-1]])
    return image

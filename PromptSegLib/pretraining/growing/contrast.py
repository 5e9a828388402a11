"""Images with another contrast: redrawn by a random curve, or synthesized from a label map.

Synthesis as in SynthSeg (Billot et al., Medical Image Analysis 86, 2023): an intensity for every label, texture, blur,
a bias field and noise, so that no modality comes as a surprise.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def redrawn(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The image (z, y, x) float32 through a random curve: other windows, other modalities, inverted too."""
    low, high = np.percentile(image[::2, ::2, ::2], (rng.uniform(0, 3), rng.uniform(97, 100)))
    scaled = np.clip((image - low) / max(high - low, 1e-6), 0, 1)
    knots = int(rng.integers(3, 7))
    positions = np.linspace(0, 1, knots)
    if rng.random() < 0.6:  # in order, however steep
        heights = np.cumsum(rng.exponential(1.0, knots))
        heights = (heights - heights[0]) / (heights[-1] - heights[0])
    else:
        heights = rng.random(knots)
    if rng.random() < 0.4:
        heights = 1 - heights
    return np.interp(scaled, positions, heights).astype(np.float32)


def synthesized(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image (z, y, x) float32 in which every label has an intensity of its own, some alike."""
    values, index = np.unique(labels, return_inverse=True)
    means = rng.random(len(values))
    if rng.random() < 0.5:  # some tissues look the same
        kinds = rng.random(max(3, len(values) // int(rng.integers(2, 6))))
        means = rng.choice(kinds, len(values)) + rng.normal(0, 0.03, len(values))
    image = means.astype(np.float32)[index].reshape(labels.shape)
    if rng.random() < 0.6:
        roughness = rng.uniform(0, 0.15, len(values)).astype(np.float32)[index].reshape(labels.shape)
        image += roughness * smooth_noise(labels.shape, rng.uniform(1, 6), rng)
    if rng.random() < 0.8:
        image = ndimage.gaussian_filter(image, rng.uniform(0.2, 1.2, 3))
    return image


def with_clusters(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Labels int16 in which tissue without a label is told apart by its intensity, for :func:`synthesized`."""
    smooth = ndimage.gaussian_filter(image, 1.0)
    edges = np.quantile(smooth[::2, ::2, ::2], np.sort(rng.random(int(rng.integers(3, 8)))))
    clusters = np.searchsorted(edges, smooth.ravel()).reshape(image.shape)
    return np.where(labels > 0, labels, -1 - clusters).astype(np.int16)


def spoiled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With a bias field, noise, and thick slices, each at times."""
    span = max(float(image.max() - image.min()), 1e-6)
    if rng.random() < 0.3:
        field = smooth_noise(image.shape, max(image.shape) / rng.uniform(2, 4), rng)
        image = (image - image.min()) * np.exp(rng.uniform(0.05, 0.35) * field)
    if rng.random() < 0.5:
        noise = rng.standard_normal(image.shape, np.float32)
        if rng.random() < 0.3:
            noise = ndimage.gaussian_filter(noise, 0.6) * 2
        image = image + noise * np.float32(span * rng.uniform(0.005, 0.08))
    if rng.random() < 0.15:
        axis, factor = int(rng.integers(3)), int(rng.integers(2, 4))
        rows = np.arange(image.shape[axis]) // factor * factor
        image = image.take(rows, axis)
    return image


def smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Random field (float32, about a standard normal) that varies over ``scale`` voxels."""
    coarse = rng.standard_normal([max(2, int(np.ceil(extent / scale)) + 1) for extent in shape]).astype(np.float32)
    steps = [(size - 1) / max(extent - 1, 1) for size, extent in zip(coarse.shape, shape)]
    return ndimage.affine_transform(coarse, np.asarray(steps), output_shape=tuple(shape), order=1, mode="nearest") * 1.5

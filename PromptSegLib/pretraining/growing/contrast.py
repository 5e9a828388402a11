"""Images with another contrast: redrawn by a random curve, or synthesized from a label map.

Synthesis as in SynthSeg (Billot et al., Medical Image Analysis 86, 2023): an intensity for every label, texture, blur,
a bias field and noise, so that no modality comes as a surprise.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..synthesis import smooth_noise


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

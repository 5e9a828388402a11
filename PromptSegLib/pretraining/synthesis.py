"""Images drawn from regions alone, so that no modality, contrast phase or body part comes as a surprise.

As in SynthSeg (Billot et al., Medical Image Analysis 86, 2023): an intensity for every region, texture, blur, a bias
field, noise and thick slices. Regions are labels and, where nothing is labeled, clusters of an image's own tissues.
"""

from __future__ import annotations

from typing import Optional

import numpy as np
import torch
from scipy import ndimage
from scipy.cluster.vq import kmeans2, vq
from torch.nn import functional as F

OUTSIDE, GAS = 0, 1  # regions of an image: air around the body, and what is as dark inside of it
AIR = -0.95  # of normalized intensities: nothing darker is tissue
_GAS = -0.98  # of smoothed ones: single voxels of noisy fat are as dark as gas (fat of BTCV 14 is at -115 HU)
_FAT = -0.4  # of normalized intensities: tissue of a CT that is darker is mostly fat
_REGIONS = 256
_CLUSTERS = (6, 11)
_SAMPLE = 4000  # voxels that are enough to find clusters
_INTENSITY, _PLACE = 3.0, 0.7  # how much clusters follow intensity (-1..1) and place (-1..1)


def regions_of(image: Optional[np.ndarray], values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Regions uint8 (z, y, x): each label value is one, and so is each cluster of unlabeled tissue, from 2 on.

    Without an image, what has no label is one region, 0. Where there are more than 255 values, some share a region.

    :param image: (z, y, x) in [-1, 1], or None.
    :param values: label values (z, y, x), 0 where nothing is labeled.
    """
    regions = np.zeros(values.shape, np.uint8) if image is None else _clusters(image, values == 0, rng)
    found = np.unique(values[values > 0])
    first = 1 if image is None else int(regions.max()) + 1
    ids = (max(first, 1) + np.arange(len(found)) % (_REGIONS - max(first, 1))).astype(np.uint8)
    labeled = values > 0
    regions[labeled] = ids[np.searchsorted(found, values[labeled])]
    return regions


def _clusters(image: np.ndarray, free: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """:data:`OUTSIDE`, :data:`GAS`, and from 2 on clusters by intensity and place, found in the voxels ``free``."""
    smooth = ndimage.gaussian_filter(image.astype(np.float32), 0.7, truncate=3)
    dark = (image <= AIR) & ndimage.binary_dilation(smooth <= _GAS)
    regions = np.where(dark, GAS, 2).astype(np.uint8)
    parts, _ = ndimage.label(dark[::2, ::2, ::2])
    sides = np.unique(np.concatenate([parts[:, [0, -1]].ravel(), parts[:, :, [0, -1]].ravel()]))
    outside = np.isin(parts, sides[sides > 0])
    for axis, extent in enumerate(image.shape):
        outside = np.repeat(outside, 2, axis).take(range(extent), axis)
    regions[dark & outside] = OUTSIDE
    places = np.flatnonzero((free & ~dark).ravel())
    if places.size < 100:
        return regions

    def features(some: np.ndarray) -> np.ndarray:
        at = np.stack(np.unravel_index(some, image.shape), -1) / np.asarray(image.shape) * 2 - 1
        return np.column_stack([_INTENSITY * smooth.ravel()[some], _PLACE * at]).astype(np.float32)

    sample = features(rng.choice(places, min(_SAMPLE, places.size), replace=False))
    centers, _ = kmeans2(sample, int(rng.integers(*_CLUSTERS)), iter=12, minit="points", seed=rng, missing="warn")
    for part in np.array_split(places, max(1, places.size // 500_000)):  # features are 16 bytes of each voxel
        regions.reshape(-1)[part] = 2 + vq(features(part), centers)[0]
    return regions


def synthesized_from(
    regions: np.ndarray, image: Optional[np.ndarray], rng: np.random.Generator, alike: Optional[np.ndarray] = None
) -> np.ndarray:
    """An image (z, y, x) float32 in units of its own, in which every region looks anew and air is mostly dark.

    :param regions: as :func:`regions_of` says.
    :param image: the image of which they are, in [-1, 1]; its contrast or its texture is kept at times.
    :param alike: (256,) region -> the one whose intensity it mostly has.
    """
    count = int(regions.max()) + 1
    if image is None and rng.random() < 0.5:  # nothing is known of what is not labeled: it may be of several tissues
        field = smooth_noise(regions.shape, rng.uniform(8, 40), rng)
        other = np.where(field > rng.uniform(-0.5, 1.0), count, 0)
        regions, count = np.where(regions == OUTSIDE, other, regions), count + 1
        shaded = True
    else:
        shaded = False
    means = rng.random(count)
    if rng.random() < 0.3:  # some tissues look the same
        kinds = rng.random(max(3, count // int(rng.integers(2, 5))))
        means = rng.choice(kinds, count) + rng.normal(0, 0.03, count)
    if alike is not None and rng.random() < 0.8:
        of = alike[:count]  # which may be one less than there are
        means[: len(of)] = np.where(of < count, means[np.minimum(of, count - 1)], means[: len(of)])
    own = None
    if image is not None:
        sizes = np.bincount(regions.ravel(), minlength=count)
        own = np.bincount(regions.ravel(), image.ravel(), count) / np.maximum(sizes, 1)
        kind = rng.random()
        if kind < 0.3:  # another curve of the same contrast, inverted too
            means = np.interp(own, np.linspace(-1, 1, 5), rng.random(5)) + rng.normal(0, 0.06, count)
        elif kind < 0.6:  # organs and muscles alike, fat apart, as on most MR
            means = rng.random() + rng.normal(0, rng.uniform(0.03, 0.2), count)
            means = np.where(own < _FAT, rng.random() + rng.normal(0, 0.04, count), means)
    dark = [OUTSIDE] * (not shaded and rng.random() < 0.9) + [GAS] * (image is not None and rng.random() < 0.7)
    means[[each for each in dark if each < count]] = rng.uniform(0, 0.05)
    rough = rng.uniform(0, 0.1, count) * (rng.random() < 0.6)
    rough[[each for each in dark if each < count]] = 0
    drawn = means.astype(np.float32)[regions]
    if image is not None and own is not None and rng.random() < 0.6:  # the original texture of each region
        kept = rng.uniform(-0.6, 0.6, count) if rng.random() < 0.5 else np.full(count, rng.uniform(-0.6, 0.6))
        drawn += kept.astype(np.float32)[regions] * (image - own.astype(np.float32)[regions])
    if rough.any():
        drawn += rough.astype(np.float32)[regions] * smooth_noise(regions.shape, rng.uniform(1.5, 6), rng)
    if rng.random() < 0.8:  # partial volume
        drawn = ndimage.gaussian_filter(drawn, rng.uniform(0.2, 0.9, 3), truncate=2.5)
    drawn = spoiled(drawn, rng)
    return thick(drawn, int(rng.integers(3)), rng.uniform(1.3, 4)) if rng.random() < 0.3 else drawn


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


def thick(image: np.ndarray, axis: int, factor: float) -> np.ndarray:
    """As if each slice across an axis were ``factor`` voxels thick, and resampled since; float32, same shape."""
    z, y, x = (max(2, round(n / factor)) if each == axis else n for each, n in enumerate(image.shape))
    volume = torch.from_numpy(np.ascontiguousarray(image, np.float32))[None, None]
    slices = F.adaptive_avg_pool3d(volume, (z, y, x))
    return F.interpolate(slices, image.shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def smooth_noise(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Random field (float32, about a standard normal) that varies over ``scale`` voxels."""
    coarse = rng.standard_normal([max(2, int(np.ceil(extent / scale)) + 1) for extent in shape]).astype(np.float32)
    volume = torch.from_numpy(coarse)[None, None]
    return F.interpolate(volume, tuple(shape), mode="trilinear", align_corners=True)[0, 0].numpy() * np.float32(1.5)

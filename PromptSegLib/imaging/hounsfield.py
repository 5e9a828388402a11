"""Whether intensities are a CT's, and how they become Hounsfield units (HU).

A CT is recognized by what bodies are made of. In HU, fat lies near -94 and soft tissue near 42, whoever made the scan
(chosen on the development data of docs/intensities.md; single scans are some 10 HU from it), air is at -1000 or where
the file was clipped, and there is next to nothing between lung and fat. No other modality has all of that at these
places; where a file keeps CT values with an offset or rescaled, they show by how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional

import numpy as np

_FAT, _FAT_SPREAD = -94.0, 15.0
_SOFT, _SOFT_SPREAD = 42.0, 18.0
_LUNG, _EMPTY = -700.0, -200.0  # air and lung below, next to nothing up to the second
# Zero points of files without negative numbers. The first is by far the most frequent.
_OFFSETS = (1024.0, 1000.0, 2048.0, 2000.0, 4096.0, 8192.0, 10000.0, 16384.0, 32768.0, 31744.0, 31768.0, 33768.0)
# Windows to which CTs are clipped when they are exported, beside the model's own.
_WINDOWS = (
    (-160.0, 240.0),
    (-150.0, 250.0),
    (-175.0, 250.0),
    (-135.0, 215.0),
    (-125.0, 225.0),
    (-125.0, 275.0),
    (-200.0, 200.0),
    (-200.0, 300.0),
    (-250.0, 250.0),
    (-500.0, 500.0),
    (-500.0, 775.0),
    (-1000.0, 400.0),
    (-1000.0, 1000.0),
    (-1024.0, 1024.0),
    (-1000.0, 1550.0),
    (-1000.0, 2000.0),
    (-1000.0, 3000.0),
    (-1024.0, 3071.0),
)
# Ranges onto which exports map a window, whether or not the image reaches their ends.
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 100.0), (0.0, 255.0), (0.0, 1000.0), (0.0, 4095.0), (0.0, 65535.0))
_WIDE = -400.0  # a window that begins below shows air and fat apart, with next to nothing between them
_STEP = 2.0
_AXIS = np.arange(-1400.0, 3400.0, _STEP)
# In squared spreads: what is more usual needs less evidence.
_OWN_BONUS, _FIRST_BONUS, _SHIFT_BONUS = 4.0, 1.5, 4.0


@dataclass(frozen=True)
class Units:
    """HU are ``scale * value + offset``."""

    scale: float = 1.0
    offset: float = 0.0

    @property
    def plain(self) -> bool:
        return self.scale == 1.0 and self.offset == 0.0


@dataclass(frozen=True)
class Histogram:
    """The different values of an image with their shares of it, and without what is no measurement.

    :param low: lowest and highest value, padding left out, and the shares that are exactly that.
    :param values: values between, without constants that were filled in; ``shares`` of what is left, 1 together.
    """

    low: float
    high: float
    low_share: float
    high_share: float
    values: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, sample: np.ndarray) -> Optional[Histogram]:
        """Of intensities (any shape, finite); None where nothing but a few constants is there."""
        sample = sample.astype(np.float64).ravel()
        first, last = np.percentile(sample, (0.5, 99.5))
        if not last > first:
            first, last = sample.min(), sample.max()
        if not last > first:
            return None
        step = (last - first) / 2048
        start = sample.min()
        values, counts = np.unique(np.round((sample - start) / step), return_counts=True)
        values, shares = values * step + start, counts / counts.sum()
        values, shares = _unpadded(values, shares)
        if len(values) < 8:
            return None
        keep = np.ones(len(values), bool)
        keep[[0, -1]] = False
        around = (shares[:-2] + shares[2:]) / 2
        keep[1:-1] &= ~((shares[1:-1] > 0.05) & (shares[1:-1] > 4 * around))
        if shares[keep].sum() < 0.02:
            return None
        left = shares[keep] / shares[keep].sum()
        return cls(float(values[0]), float(values[-1]), float(shares[0]), float(shares[-1]), values[keep], left)

    def between(self, low: float, high: float, units: Units) -> float:
        """Share of the measured values above ``low`` up to ``high`` HU."""
        inside = (units.scale * self.values + units.offset > low) & (units.scale * self.values + units.offset <= high)
        return float(self.shares[inside].sum())


def _unpadded(values: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without a constant far below or above everything else: what fills the corners around a scan."""
    for end, inner in ((0, slice(1, None)), (-1, slice(None, -1))):
        rest = values[inner]
        if len(rest) < 8 or shares[end] < 0.001:
            continue
        reach = np.searchsorted(np.cumsum(shares[inner]) / shares[inner].sum(), (0.001, 0.999))
        width = rest[min(reach[1], len(rest) - 1)] - rest[reach[0]]
        if abs(values[end] - rest[end]) > width:
            values, shares = rest, shares[inner]
    return values, shares


@dataclass(frozen=True)
class _Tissue:
    """What a histogram holds under a hypothesis: shares of the values above lung, and how far the peaks of fat and
    soft tissue are from their places (squared spreads; None where there are no two such peaks)."""

    air: float
    empty: float
    soft: float
    lobes: float
    misfit: Optional[float]
    valley: float
    top: float

    @classmethod
    def of(cls, histogram: Histogram, units: Units) -> Optional[_Tissue]:
        def share(low: float, high: float) -> float:
            return histogram.between(low, high, units)

        air = share(-np.inf, _LUNG)
        rest = 1 - air
        if rest < 0.05:
            return None
        lobes = (share(-140.0, -50.0) + share(0.0, 100.0)) / rest
        misfit, valley, top = _peaks(histogram, units)
        return cls(air, share(_LUNG, _EMPTY) / rest, share(_EMPTY, 200.0) / rest, lobes, misfit, valley, top)

    @property
    def body(self) -> bool:
        """Whether nearly everything is fat and soft tissue, and next to nothing between lung and fat."""
        return self.soft >= 0.75 and self.empty <= 0.12 and self.lobes >= 0.45

    @property
    def lean(self) -> Optional[float]:
        """Misfit of soft tissue alone, where it is the most of a body with too little fat for a peak."""
        if self.misfit is not None or not (self.body and self.lobes >= 0.55):
            return None
        misfit = ((self.top - _SOFT) / _SOFT_SPREAD) ** 2
        return 3.0 + misfit if misfit < 2 else None


def _peaks(histogram: Histogram, units: Units) -> tuple[Optional[float], float, float]:
    """Misfit of the best pair of peaks, the density between them as a share of the lower peak, and where the highest
    peak of all is, in HU."""
    values = units.scale * histogram.values + units.offset
    near = values[(values > -200) & (values < 200)]
    if len(near) < 4:
        return None, 1.0, np.nan
    sigma = max(10.0, 0.8 * float(np.median(np.diff(near))))
    if sigma > 40:
        return None, 1.0, np.nan
    places = np.clip(np.round((values - _AXIS[0]) / _STEP), 0, len(_AXIS) - 1).astype(int)
    heights = np.bincount(places, histogram.shares, len(_AXIS))
    line = np.arange(-int(4 * sigma / _STEP), int(4 * sigma / _STEP) + 1) * _STEP
    kernel = np.exp(-0.5 * (line / sigma) ** 2)
    density = np.convolve(heights, kernel / kernel.sum(), "same")
    tops = np.flatnonzero((density[1:-1] >= density[:-2]) & (density[1:-1] > density[2:])) + 1
    inside = tops[_AXIS[tops] > _LUNG]
    highest = float(_AXIS[inside[density[inside].argmax()]]) if len(inside) else np.nan
    tops = tops[(_AXIS[tops] > -160) & (_AXIS[tops] < 120)]
    tops = tops[density[tops] > 0.12 * density[_AXIS > _LUNG].max()]
    best: Optional[float] = None
    valley = 1.0
    for fat in tops[_AXIS[tops] < -35]:
        for soft in tops[_AXIS[tops] > -15]:
            if not 80 <= _AXIS[soft] - _AXIS[fat] <= 195:
                continue
            misfit = ((_AXIS[fat] - _FAT) / _FAT_SPREAD) ** 2 + ((_AXIS[soft] - _SOFT) / _SOFT_SPREAD) ** 2
            if best is None or misfit < best:
                best = float(misfit)
                valley = float(density[fat:soft].min() / min(density[fat], density[soft]))
    return best, valley, highest


def found(sample: np.ndarray, window: tuple[float, float], known: bool = False) -> Optional[Units]:
    """How the values of an image become HU, or None where they do not look like a CT's.

    :param sample: intensities, finite, enough of them to know their distribution.
    :param window: of the model, in HU.
    :param known: the file says that it is a CT.
    """
    if _plain(sample, window):
        return Units()
    histogram = Histogram.of(sample)
    if histogram is None:
        return None
    ranked = [
        *_shifted(histogram, known),
        *_rescaled(histogram, window, known),
    ]
    if not ranked:
        ranked = list(_from_air(histogram))
    return min(ranked, key=lambda each: each[0])[1] if ranked else None


def _plain(sample: np.ndarray, window: tuple[float, float]) -> bool:
    """Whether values are HU as they are.

    That is the usual case, so little is asked for: some values below water, as hardly anything but HU has; a spread
    of tissue and not of normalized values; and that the window shows something.
    """
    low, high = window
    first, last = (float(value) for value in np.percentile(sample, (0.5, 99.5)))
    below = float(((sample < -20) & (sample > -1100)).mean())
    saturated = float((sample > high).mean())
    if below < 0.01 or saturated > 0.25 or last <= low or last - first <= max(20.0, 0.05 * (high - low)):
        return False
    tissue = float(((sample > -250) & (sample < 250)).mean())
    air = float((sample < -200).mean())
    return tissue >= 0.03 and tissue + air >= 0.7


def _shifted(histogram: Histogram, known: bool) -> Iterator[tuple[float, Units]]:
    """Misfit and units for CT values whose zero is elsewhere."""
    for index, zero in enumerate(_OFFSETS):
        units = Units(1.0, -zero)
        tissue = _Tissue.of(histogram, units)
        if tissue is None or not tissue.body:
            continue
        low = histogram.low - zero
        outside = histogram.low_share if low <= -100 else 0.0
        if tissue.air + outside < 0.03 and not (known or (tissue.misfit or 99.0) < 6):
            continue
        misfit = 6.0 if tissue.misfit is None else tissue.misfit
        usual = low in (-1024.0, -1000.0, -500.0, -200.0, -125.0)
        yield misfit - _SHIFT_BONUS - (_FIRST_BONUS if index == 0 else 0.0) - (2.0 if usual else 0.0), units


def _rescaled(histogram: Histogram, window: tuple[float, float], known: bool) -> Iterator[tuple[float, Units]]:
    """Misfit and units for CT values clipped to a window that was mapped onto another range."""
    low, high = histogram.low, histogram.high
    ends = [(low, high)] + [
        (a, b) for a, b in _RANGES if a <= low and high <= b and high - low > 0.5 * (b - a) and (a, b) != (low, high)
    ]
    for a, b in ends:
        for index, (first, last) in enumerate(dict.fromkeys((window, *_WINDOWS))):
            scale = (last - first) / (b - a)
            if scale == 1.0 and first == a:
                continue
            units = Units(scale, first - scale * a)
            tissue = _Tissue.of(histogram, units)
            if tissue is None or not tissue.body:
                continue
            misfit = tissue.misfit
            if misfit is None and first <= _WIDE and histogram.low_share >= 0.3 and histogram.high_share >= 0.002:
                misfit = tissue.lean
            if misfit is None:
                continue
            # Between the limits of a narrow window other modalities have two peaks in these places as well; and if the
            # window is the model's, the image's own range comes to the same.
            outside = tissue.air + (histogram.low_share if low == a else 0.0) >= 0.03
            if not (known or (first <= _WIDE and outside)):
                continue
            if misfit <= (9.0 if index == 0 or known else 5.0):
                yield misfit - (_OWN_BONUS if index == 0 else 0.0), units


def _from_air(histogram: Histogram) -> Iterator[tuple[float, Units]]:
    """Misfit and units for CT values on any scale whose lowest are air's -1000 HU."""
    width = histogram.high - histogram.low
    for scale in 1000 / np.geomspace(0.1, 0.95, 160) / width:
        units = Units(float(scale), float(-1000 - scale * histogram.low))
        tissue = _Tissue.of(histogram, units)
        if tissue is None or tissue.misfit is None or not tissue.body:
            continue
        if tissue.misfit < 3 and tissue.valley < 0.9 and tissue.air + histogram.low_share >= 0.1:
            yield tissue.misfit, units

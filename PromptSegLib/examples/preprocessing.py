"""How an image must look before a model sees it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

_ROBUST = (0.5, 99.5)
_SATURATED = 0.25  # share of voxels above the window from which it does not fit; bone and contrast stay far below
_FLAT = 0.05  # share of the window's width that the image must span


@dataclass(frozen=True)
class Preprocessing:
    """Spacing in mm, (z, y, x), and the intensity window that is mapped to [-1, 1].

    ``rule`` is ``window`` (fixed limits in the image's unit, HU for CT) or ``percentile``
    (limits are percentiles of the image, for MR's arbitrary units).
    """

    spacing: tuple[float, float, float] = (3.0, 2.0, 2.0)
    intensity: tuple[float, float] = (-125.0, 275.0)
    rule: str = "window"

    @classmethod
    def from_dict(cls, values: dict) -> Preprocessing:
        """From a JSON object; raises ``ValueError``, ``KeyError`` or ``TypeError`` for one that makes no sense."""
        spacing, intensity = (tuple(float(part) for part in values[key]) for key in ("spacing", "intensity"))
        rule = values.get("rule", "window")
        if len(spacing) != 3 or not all(0 < step < np.inf for step in spacing):
            raise ValueError("the spacing is not three positive numbers")
        if len(intensity) != 2 or not -np.inf < intensity[0] < intensity[1] < np.inf:
            raise ValueError("the intensity window is not two increasing numbers")
        if rule not in ("window", "percentile"):
            raise ValueError("there is no such intensity rule")
        if rule == "percentile" and not 0 <= intensity[0] < intensity[1] <= 100:
            raise ValueError("the intensity window is not two percentiles")
        return cls(spacing, intensity, rule)

    def to_dict(self) -> dict:
        return asdict(self)

    def limits(self, array: np.ndarray) -> tuple[float, float]:
        """Intensities that become -1 and 1 for this image.

        An image whose intensities do not fit the fixed window (an MR given to a CT model, a CT
        stored with another scale) is mapped by its own percentiles instead: a saturated
        image would hold nothing to segment or to grow over.
        """
        sample = array[:: _stride(array, 0), :: _stride(array, 1), :: _stride(array, 2)]
        low, high = self.intensity
        if self.rule == "window":
            first, last = (float(value) for value in np.percentile(sample, _ROBUST))
            saturated = float((sample > high).mean())
            if saturated <= _SATURATED and last > low and last - first > _FLAT * (high - low):
                return self.intensity
            low, high = _ROBUST
        first, last = (float(value) for value in np.percentile(sample, (low, high)))
        return first, max(last, first + 1e-6)

    def normalize(self, array: np.ndarray) -> np.ndarray:
        """Intensities -> float32 in [-1, 1], clipped."""
        low, high = self.limits(array)
        return np.clip((array.astype(np.float32) - low) * (2.0 / (high - low)) - 1.0, -1.0, 1.0)


def _stride(array: np.ndarray, axis: int) -> int:
    """Every how many voxels are enough to know an image's distribution."""
    return max(1, array.shape[axis] // 64)

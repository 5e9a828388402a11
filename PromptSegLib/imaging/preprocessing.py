"""How an image must look before a model sees it: what a model's file says of that."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Optional

import numpy as np

RANGE = "range"
RULES = ("window", "percentile", RANGE)
_LARGEST = 1024  # voxels of a crop along an axis


@dataclass(frozen=True)
class Preprocessing:
    """Spacing in mm, (z, y, x), and the intensity window that is mapped to [-1, 1].

    ``rule`` is ``window`` (fixed limits in the image's unit, HU for CT), ``percentile`` (limits are percentiles of the
    image) or ``range`` (of the image without its constant background, for MR's arbitrary units). What becomes of one
    image is decided in :mod:`.intensity`. ``crop`` are the extents, voxels (z, y, x), of the crops that a task was
    trained on where these are its own.
    """

    spacing: tuple[float, float, float] = (3.0, 2.0, 2.0)
    intensity: tuple[float, float] = (-125.0, 275.0)
    rule: str = "window"
    crop: Optional[tuple[int, int, int]] = None

    @classmethod
    def from_dict(cls, values: dict) -> Preprocessing:
        """From a JSON object; raises ``ValueError``, ``KeyError`` or ``TypeError`` for one that makes no sense."""
        spacing, intensity = (tuple(float(part) for part in values[key]) for key in ("spacing", "intensity"))
        rule = values.get("rule", "window")
        if len(spacing) != 3 or not all(0 < step < np.inf for step in spacing):
            raise ValueError("the spacing is not three positive numbers")
        if len(intensity) != 2 or not -np.inf < intensity[0] < intensity[1] < np.inf:
            raise ValueError("the intensity window is not two increasing numbers")
        if rule not in RULES:
            raise ValueError("there is no such intensity rule")
        if rule != "window" and not 0 <= intensity[0] < intensity[1] <= 100:
            raise ValueError("the intensity window is not two percentiles")
        crop = values.get("crop")
        if crop is not None and not (len(crop) == 3 and all(type(n) is int and 0 < n <= _LARGEST for n in crop)):
            raise ValueError("the crop is not three small positive numbers")
        return cls(spacing, intensity, rule, None if crop is None else tuple(crop))

    def to_dict(self) -> dict:
        values = asdict(self)
        return values if self.crop is not None else {key: values[key] for key in values if key != "crop"}

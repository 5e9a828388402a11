"""How an image must look before a model sees it: what a model's file says of that."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class Preprocessing:
    """Spacing in mm, (z, y, x), and the intensity window that is mapped to [-1, 1].

    ``rule`` is ``window`` (fixed limits in the image's unit, HU for CT) or ``percentile``
    (limits are percentiles of the image, for MR's arbitrary units). What becomes of one image is
    decided in :mod:`.intensity`.
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

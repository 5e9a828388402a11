"""Numbers of the self-supervision; needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Assignment:
    """How student features are assigned to a teacher's prototypes (METHODS.md 1.9), lengths in mm.

    :param weight: of this loss against the segmentation loss.
    :param reduction: features are averaged to ``1 / reduction`` of their grid before they are compared.
    :param seed_stride: prototypes start from every ``seed_stride``-th voxel of the feature grid.
    :param fwhm: full width at half maximum of the weight with which far features enter a prototype.
    :param max_distance: a position that is farther than this from every position of the teacher is left out.
    """

    weight: float = 0.1
    reduction: int = 2
    seed_stride: int = 4
    iterations: int = 3
    teacher_temperature: float = 0.033
    student_temperature: float = 0.066
    fwhm: float = 64.0
    max_distance: float = 6.5

    @classmethod
    def from_dict(cls, values: dict) -> Assignment:
        """From a JSON object; unknown keys and values that make no sense raise ``ValueError``."""
        if not isinstance(values, dict):
            raise ValueError("the prototype assignment is not described by an object")
        known: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        unknown = [str(key) for key in values if key not in known]
        if unknown:
            raise ValueError(f"unknown settings of the prototype assignment: {', '.join(sorted(unknown))}")
        settings: dict[str, Any] = {}
        for key, value in values.items():
            whole = known[key] is int
            if type(value) not in ((int,) if whole else (int, float)):
                raise ValueError(f'"{key}" of the prototype assignment is not a {"whole " if whole else ""}number')
            if not (0 < value < math.inf or (key == "weight" and value == 0)):
                raise ValueError(f'"{key}" of the prototype assignment is not a positive number')
            settings[key] = known[key](value)
        return cls(**settings)

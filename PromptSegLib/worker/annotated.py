"""An image with what was said about its voxels, on its way to a worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional

import numpy as np
import SimpleITK as sitk

from ..imaging.geometry import Grid
from .packing import grid_of, grid_values

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Annotated:
    """An image with what was said about its voxels: an :class:`~PromptSegLib.annotation.example.Example` on its way.

    :param image: the key of an image that was sent.
    :param voxels: values of the annotation, (z, y, x) on ``grid``.
    :param excluded: value of a voxel -> value of the class that it is not.
    :param painted: not 0 where the user painted or erased himself, on any grid; None where that is not said.
    """

    image: str
    grid: Grid
    voxels: np.ndarray
    background: Optional[int] = None
    complete: bool = False
    excluded: Mapping[int, int] = field(default_factory=dict)
    name: str = "The volume"
    painted: Optional[sitk.Image] = None

    def values(self) -> dict[str, Any]:
        painted = {} if self.painted is None else {"painted": grid_values(Grid.of(self.painted))}
        return {
            **painted,
            "image": self.image,
            "name": self.name,
            "grid": grid_values(self.grid),
            "background": self.background,
            "complete": self.complete,
            "barred": {str(value): other for value, other in self.excluded.items()},
        }

    def arrays(self, index: int) -> dict[str, np.ndarray]:
        """Those of the message, for the example at ``index`` in it."""
        painted = {} if self.painted is None else {f"painted{index}": sitk.GetArrayFromImage(self.painted)}
        return {f"annotation{index}": self.voxels, **painted}

    @classmethod
    def of(cls, values: Mapping[str, Any], arrays: Arrays, index: int) -> Annotated:
        voxels = arrays[f"annotation{index}"]
        marked = grid_of(values["painted"]).image(arrays[f"painted{index}"]) if "painted" in values else None
        return cls(
            values["image"],
            grid_of(values["grid"]),
            voxels,
            values.get("background"),
            bool(values.get("complete")),
            {int(value): int(other) for value, other in values.get("barred", {}).items()},
            str(values.get("name", "The volume")),
            marked,
        )

    @property
    def annotation(self) -> sitk.Image:
        return self.grid.image(self.voxels)

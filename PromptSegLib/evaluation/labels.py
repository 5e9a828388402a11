"""Label volumes that can be compared: the checks that scores and simulated users share."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..imaging.geometry import Grid


def label_array(image: sitk.Image, what: str) -> np.ndarray:
    """The integer array (z, y, x) of a 3D label volume; ``what`` names it in messages.

    :raises PromptSegError: it is not 3D, has several components per voxel, or is not of an integer pixel type.
    """
    if image.GetDimension() != 3:
        raise PromptSegError(
            "The {what} has {getdimension} dimensions: give a single 3D label volume.",
            what=what,
            getdimension=image.GetDimension(),
        )
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise PromptSegError("The {what} has several components per voxel: give one label value per voxel.", what=what)
    array = sitk.GetArrayFromImage(image)
    if not np.issubdtype(array.dtype, np.integer):
        raise PromptSegError(
            "The {what} has voxels of type {getpixelidtypeasstring}: convert it to integer label values.",
            what=what,
            getpixelidtypeasstring=image.GetPixelIDTypeAsString(),
        )
    return array


def check_same_grid(reference: sitk.Image, other: sitk.Image, what: str, than: str = "reference") -> None:
    """:raises PromptSegError: ``other`` (in messages ``what``) does not place its voxels where ``reference`` does."""
    if not Grid.of(reference).same_as(Grid.of(other)):
        raise PromptSegError(
            "The {what} lies on another grid than the {than}: resample the {what} to the {than} (nearest neighbor).",
            what=what,
            than=than,
        )


def check_classes(classes: dict[str, int], largest: int | None = None) -> None:
    """:raises PromptSegError: no class, a value below 1 (0 is unknown or background), above ``largest``, or twice."""
    if not classes:
        raise PromptSegError("No classes were given: name at least one class and its label value.")
    names: dict[int, str] = {}
    for name, value in classes.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise PromptSegError(
                "The label value of {name} is {value}: use a whole number.", name=name, value=repr(value)
            )
        if value < 1 or (largest is not None and value > largest):
            limit = "of 1 or more" if largest is None else f"from 1 to {largest}"
            raise PromptSegError(
                "The label value of {name} is {value}: use a value {limit}.", name=name, value=value, limit=limit
            )
        if value in names:
            raise PromptSegError(
                "The classes {names} and {name} share the label value {value}: use two values.",
                names=names[value],
                name=name,
                value=value,
            )
        names[value] = name

"""An example: an image and what the user painted on it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional

import SimpleITK as sitk


@dataclass(frozen=True)
class Example:
    """An image and its annotation, each on its own grid.

    :param image: 3D scalar volume, any grid.
    :param annotation: 3D integer label volume, any grid (it need not share the image's).
        0 is unknown; every other value is a class, known background, or ignored.
    :param background: the annotation value that marks known background, or None.
    :param complete: the annotation is complete, so 0 is background too.
    :param excluded: annotation value -> value of the class that its voxels certainly are not (what a user erased
        from a result); what they are instead is unknown.
    :param name: what the user calls it, for messages and provenance.
    :param painted: 3D integer volume, any grid, not 0 where the user painted or erased himself; of a complete
        annotation, training looks there more often.
    """

    image: sitk.Image
    annotation: sitk.Image
    background: Optional[int] = None
    complete: bool = False
    name: str = "image"
    excluded: Mapping[int, int] = field(default_factory=dict)
    painted: Optional[sitk.Image] = None

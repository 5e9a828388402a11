"""What segmenting an image gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

import SimpleITK as sitk

from ..annotation.classes import ClassInfo


@dataclass(frozen=True)
class Segmentation:
    """Labels (uint8, or uint16 when a value exceeds 255) on the input image's grid; 0 is background.

    ``probabilities`` maps class names to float32 images in [0, 1]; ``uncertainty`` is the
    normalized entropy of the class probabilities in [0, 1]. Both are None unless asked for.
    ``places`` are world points (LPS mm) where a look is worth most, if uncertainty was asked for.
    ``place_classes`` are the names of the classes that these are about, one each.
    ``notes`` are sentences for the user: what is unusual about this image or this result, one each.
    A result around strokes only covers a part of the image's grid.
    """

    labels: sitk.Image
    classes: tuple[ClassInfo, ...]
    probabilities: Optional[dict[str, sitk.Image]] = None
    uncertainty: Optional[sitk.Image] = None
    seconds: dict[str, float] = field(default_factory=dict)
    places: tuple[tuple[float, float, float], ...] = ()
    notes: tuple[str, ...] = ()
    place_classes: tuple[str, ...] = ()

"""One rule for the intensities of one image, decided from the image: which of them become -1 and 1 for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional, Union

import numpy as np
import SimpleITK as sitk

from ..errors import Sentence
from .hounsfield import found
from .preprocessing import RANGE, Preprocessing

WINDOW, SHIFTED, PERCENTILE = "window", "shifted", "percentile"
KINDS = (WINDOW, SHIFTED, PERCENTILE)
MODALITY = "0008|0060"  # DICOM's tag, as SimpleITK calls it
ROBUST_PERCENTILES = (0.5, 99.5)
_BACKGROUND = 0.1  # share of one value from which it is the background and not a measurement
_SAMPLED = 64  # voxels along each axis that are enough to know an image's distribution
_LARGEST = 1e30


@dataclass(frozen=True)
class IntensityRule:
    """How the intensities of one image become -1..1.

    :param kind: ``window``: the model's own limits, in the image's unit. ``shifted``: the same limits, of an image
        whose values become the model's unit by ``scale * value + offset``. ``percentile``: percentiles of the image.
    :param low: the image's intensity that becomes -1; ``high``: the one that becomes 1.
    :param sentence: for the user, where the image is not what the model knows; "" where it is.
    """

    kind: str
    low: float
    high: float
    scale: float = 1.0
    offset: float = 0.0
    sentence: str = ""

    @property
    def fits_window(self) -> bool:
        """Whether the model's fixed limits are used: the image has the model's unit, or a known relation to it."""
        return self.kind != PERCENTILE

    def normalize(self, array: np.ndarray) -> np.ndarray:
        """Intensities of this image -> float32 in [-1, 1], clipped."""
        low, high = self.low, self.high
        return np.clip((array.astype(np.float32) - low) * (2.0 / (high - low)) - 1.0, -1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """What prompts keep of the image that they were tuned on."""
        return {
            "kind": self.kind,
            "low": self.low,
            "high": self.high,
            "scale": self.scale,
            "offset": self.offset,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> IntensityRule:
        """Undo :meth:`to_dict`; raises ``ValueError``, ``KeyError`` or ``TypeError`` for one that makes no sense."""
        kind = values["kind"]
        if kind not in KINDS:
            raise ValueError("there is no such kind of intensities")
        low, high, scale, offset = (float(values[key]) for key in ("low", "high", "scale", "offset"))
        if not -_LARGEST < low < high < _LARGEST or not 0 < scale < _LARGEST or not abs(offset) < _LARGEST:
            raise ValueError("the intensity limits make no sense")
        return cls(kind, low, high, scale, offset)


def modality_of(image: sitk.Image) -> str:
    """What the file says the image is (``CT``, ``MR``, ...), or "" where it says nothing."""
    return image.GetMetaData(MODALITY).strip().upper() if image.HasMetaDataKey(MODALITY) else ""


def decide(
    image: Union[sitk.Image, np.ndarray],
    preprocessing: Preprocessing,
    modality: Optional[str] = None,
    given: Optional[IntensityRule] = None,
) -> IntensityRule:
    """The rule for one image.

    A model with percentiles, or for images without a unit, has its rule for every image. One with a window has it for
    images in its unit, also where they are kept with an offset or rescaled in a way that shows; every other image is
    mapped by its own percentiles.

    :param image: intensities (z, y, x), finite, or an image.
    :param modality: as DICOM has it; None to ask the image.
    :param given: the rule of the image that prompts were tuned on. Where that was mapped by percentiles, so is this.
    """
    if modality is None:
        modality = modality_of(image) if isinstance(image, sitk.Image) else ""
    array = sitk.GetArrayViewFromImage(image) if isinstance(image, sitk.Image) else image
    sample = np.asarray(array[tuple(slice(None, None, max(1, extent // _SAMPLED)) for extent in array.shape)])
    if preprocessing.rule == RANGE:
        return _by_range(sample, _ct_for_another(sample, modality), preprocessing.intensity)
    if preprocessing.rule == PERCENTILE:
        low, high = np.percentile(sample.astype(np.float64), preprocessing.intensity)
        return IntensityRule(PERCENTILE, float(low), _above(float(low), float(high)))
    rule = _fitted(sample, preprocessing, modality)
    if rule is None:
        return _by_range(sample, _unknown(modality, given))
    if given is not None and not given.fits_window:
        return _by_range(
            sample,
            "The prompts were tuned on an image that was not in the model's unit, and this one seems to be; its own "
            "range is used, as it was for theirs.",
        )
    return rule


def _fitted(sample: np.ndarray, preprocessing: Preprocessing, modality: str) -> Optional[IntensityRule]:
    """The rule of an image that the model's window fits; None for every other."""
    low, high = preprocessing.intensity
    if modality not in ("", "CT"):
        return None
    units = found(sample, preprocessing.intensity, modality == "CT")
    if units is None:
        return None
    if units.plain:
        return IntensityRule(WINDOW, low, high)
    first, last = ((limit - units.offset) / units.scale for limit in (low, high))
    if units.scale == 1.0:
        text = Sentence(
            "This looks like a CT whose values are {value:g} too high; it is read as such.", value=-units.offset
        )
    else:
        text = Sentence(
            "This looks like a CT whose values were rescaled; {first:.4g} is read as {low:g} HU, {last:.4g} as "
            "{high:g} HU.",
            first=first,
            low=low,
            last=last,
            high=high,
        )
    return IntensityRule(SHIFTED, first, last, units.scale, units.offset, text)


def _unknown(modality: str, given: Optional[IntensityRule]) -> str:
    """What to say of an image that the window does not fit."""
    if given is not None and given.fits_window:
        return (
            "The prompts were tuned on a CT in Hounsfield units, and this image does not look like one; its own range "
            "is used, and the result may be poor."
        )
    if given is not None:
        return ""  # as the prompts know it
    what = f"is {modality}" if modality not in ("", "CT") else "does not look like one"
    return Sentence("The model knows CT in Hounsfield units; this image {what}, so its own range is used.", what=what)


def _ct_for_another(sample: np.ndarray, modality: str) -> str:
    """What to say of a CT where the model is for images without a unit; "" for every other image."""
    fits = modality == "CT" or _fitted(sample, Preprocessing(), modality) is not None
    return "The model is for MR, and this is a CT or looks like one; a model for CT may do better." if fits else ""


def _by_range(
    sample: np.ndarray, sentence: str, percentiles: tuple[float, float] = ROBUST_PERCENTILES
) -> IntensityRule:
    """By percentiles of what is no constant background."""
    sample = sample.astype(np.float64).ravel()
    values, counts = np.unique(sample, return_counts=True)
    constants = values[counts > _BACKGROUND * sample.size]
    rest = sample[~np.isin(sample, constants)] if len(constants) < len(values) - 1 else sample
    low, high = (float(value) for value in np.percentile(rest, percentiles))
    if not high > low:  # a few voxels are all that differs
        low, high = float(rest.min()), float(rest.max())
    # The background of most images is just below what is in them; padding may be anywhere.
    low = min([low, *(float(value) for value in constants if low - (high - low) <= value)])
    return IntensityRule(PERCENTILE, low, _above(low, high), sentence=sentence)


def _above(low: float, high: float) -> float:
    """``high``, or a little more than ``low`` where that is the same."""
    return high if high > low else low + max(1e-6 * abs(low), 1e-6)

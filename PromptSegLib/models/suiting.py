"""Which of the models that come along suits an image, where nobody chose one; needs no torch."""

from __future__ import annotations

from typing import Optional, Union

import numpy as np
import SimpleITK as sitk

from ..imaging.intensity import decide, modality_of
from ..imaging.preprocessing import Preprocessing
from . import catalogue

_SAMPLED = 64  # voxels along each axis: enough to know the unit


def suited(image: Union[sitk.Image, np.ndarray], modality: Optional[str] = None) -> catalogue.Entry:
    """The model for a CT where the image has Hounsfield units, or what shows as them; for any other the one for MR,
    which learned from contrasts drawn anew. The catalogue's first where there is none for it.

    :param image: intensities (z, y, x), or an image.
    :param modality: as DICOM has it; None to ask the image.
    """
    entries = catalogue.entries()
    if isinstance(image, sitk.Image):
        modality = modality_of(image) if modality is None else modality
        image = sitk.GetArrayViewFromImage(image)
    sample = image[tuple(slice(None, None, max(1, extent // _SAMPLED)) for extent in image.shape)].astype(np.float64)
    finite = np.isfinite(sample)
    if not finite.any():
        return entries[0]
    sample[~finite] = sample[finite].min()
    wanted = "CT" if decide(sample, Preprocessing(), modality or "").fits_window else "MR"
    bundled = (entry for entry in entries if entry.bundled and not entry.own and wanted in entry.modality)
    return next(bundled, entries[0])


def name_for(image: Union[sitk.Image, np.ndarray], sha256: str = "", modality: Optional[str] = None) -> str:
    """The name of the model to go on with: the one that prompts belong to, or else as :func:`suited` says.

    :param sha256: of the model of prompts to go on from; "" where there are none.
    """
    entry = catalogue.find_sha256(sha256) if sha256 else None
    return (entry or suited(image, modality)).name

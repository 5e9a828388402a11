"""A reference of the lungs from the CT itself: air inside the body, without the large airways and without bowel gas.

Lungs are the one organ that a threshold finds well enough to be compared with: they differ from tissue by some 800 HU.
The reference is what such a threshold gives, not a radiologist's: its border is the half-way value, thin vessels in
the lungs belong to it, while thick ones, the hila and consolidated lung do not.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

BORDER_HU = -500.0  # half-way between inflated lung and soft tissue
GAS_HU = -930.0  # lung holds blood, so its median lies above; that of bowel gas lies below
AIRWAY_HU = -955.0
LUNG_ML, AIRWAY_ML = 100.0, 3.0
WALL_MM, VESSEL_MM = 3.0, 3.0


def lungs(ct: sitk.Image) -> sitk.Image:
    """Both lungs as one label (1) on the CT's grid, uint8.

    The body is the largest piece above ``BORDER_HU``, filled in every axial slice. Of the air in it, the airways go:
    pieces of at least ``AIRWAY_ML`` whose means over 3 x 3 x 3 voxels are below ``AIRWAY_HU``, grown by ``WALL_MM`` to
    their wall. Of the rest, pieces of at least ``LUNG_ML`` with a median above ``GAS_HU`` are lung (bowel gas is small
    or too dark); gaps of ``VESSEL_MM`` in them are closed, but not towards the airways.

    :param ct: 3D, HU, its slices axial.
    """
    array = sitk.GetArrayFromImage(ct).astype(np.float32)
    step = np.asarray(ct.GetSpacing()[::-1])
    voxel_ml = float(step.prod()) / 1000
    body = _pieces(array > BORDER_HU)[0]
    air = np.stack([ndimage.binary_fill_holes(each) for each in body]) & (array < BORDER_HU)

    gas = air & (ndimage.uniform_filter(array, 3, mode="nearest") < AIRWAY_HU)
    airways = np.zeros_like(air)
    for piece in _pieces(gas, AIRWAY_ML / voxel_ml):
        airways |= piece
    if airways.any():
        airways = air & (ndimage.distance_transform_edt(~airways, sampling=step) <= WALL_MM)
    found = np.zeros_like(air)
    for piece in _pieces(air & ~airways, LUNG_ML / voxel_ml):
        if np.median(array[piece]) > GAS_HU:
            found |= piece
    reach = [np.hypot(*np.ogrid[-3:4, -3:4]) * step[1] <= VESSEL_MM]
    found = ndimage.binary_closing(found, reach) & ~airways | found
    labels = sitk.GetImageFromArray(found.astype(np.uint8))
    labels.CopyInformation(ct)
    return labels


def _pieces(mask: np.ndarray, least: float = 0.0) -> list[np.ndarray]:
    """Connected pieces of at least so many voxels, the largest first."""
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())[1:]
    return [parts == index + 1 for index in np.argsort(-sizes, kind="stable")[:20] if sizes[index] >= least]

"""Optional clean-up of a result: largest component, holes, smoothing. All off by default."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk


def clean(
    labels: sitk.Image,
    values: Sequence[int],
    largest: bool = False,
    fill: bool = False,
    smooth: float = 0.0,
    painted: Optional[np.ndarray] = None,
    never: Optional[Mapping[int, np.ndarray]] = None,
) -> sitk.Image:
    """Clean some values of a label image, each for itself; what others hold is never taken.

    :param largest: keep the largest connected component (faces, edges and corners), and those that hold strokes.
    :param fill: fill cavities that are closed in 3D.
    :param smooth: standard deviation in mm of a Gaussian that smooths the outline; 0 is off.
    :param painted: (z, y, x) what the user painted: its values stay, 0 is nothing painted.
    :param never: value -> bool (z, y, x), where the user erased it or painted something else: it is not put there.
    """
    if not (largest or fill or smooth > 0):
        return labels
    array = sitk.GetArrayFromImage(labels)
    for value in values:
        mask = sitk.Equal(labels, int(value))
        if largest:
            mask = _components(mask, None if painted is None else painted == value)
        if fill:
            mask = sitk.BinaryFillhole(mask, True)
        if smooth > 0:
            # The filter goes on with the border's value, here 0, and needs four voxels along each axis.
            padded = sitk.ConstantPad(sitk.Cast(mask, sitk.sitkFloat32), [2] * 3, [2] * 3)
            mask = sitk.Crop(sitk.SmoothingRecursiveGaussian(padded, smooth) > 0.5, [2] * 3, [2] * 3)
        new, old = sitk.GetArrayViewFromImage(mask) > 0, array == value
        array[old & ~new] = 0
        taken = new & (array == 0)
        if never is not None and value in never:
            taken &= ~never[value]
        array[taken] = value
    if painted is not None:
        known = np.isin(painted, list(values))
        array[known] = painted[known]
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(labels)
    return result


def _components(mask: sitk.Image, strokes: Optional[np.ndarray]) -> sitk.Image:
    """The largest component of a mask, and those with a stroke."""
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(mask, True))
    array = sitk.GetArrayViewFromImage(parts)
    kept = {1} if strokes is None else {1, *np.unique(array[strokes & (array > 0)]).tolist()}
    result = sitk.GetImageFromArray(np.isin(array, sorted(kept)).astype(np.uint8))
    result.CopyInformation(mask)
    return result

"""A result that corrects another one: what was accepted and not touched stays, and what else would change is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Collection, Optional

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import label_values
from ..annotation.example import Example
from ..annotation.labels import labels_on_grid
from ..errors import Sentence
from ..growing.grow import COARSE
from ..growing.locality import contradictions, growing_steps, near_corrections
from ..imaging.geometry import Grid, resample
from .result import Segmentation

_MUCH = 0.02  # of what was accepted of the classes that are retuned


@dataclass(frozen=True)
class Retuned:
    """What a retuning gives.

    :param shown: changed only where that has to do with what was painted or erased since, and as it was elsewhere;
        where nothing was corrected, as the retuned prompts have it.
    :param other: labels of the other of these two; None where they are not much different.
    :param keeps: whether it is ``shown`` that keeps what nobody corrected.
    """

    shown: Segmentation
    other: Optional[sitk.Image] = None
    keeps: bool = True


def retuned(result: Segmentation, example: Example, accepted: Optional[sitk.Image], wanted: Collection[str]) -> Retuned:
    """Tell what the corrections change in a result from what else is different in it.

    :param accepted: label image of the result that is corrected; values as those of ``result``. Without one, all
        that is in ``result`` is taken.
    :param wanted: names of the classes that are retuned.
    """
    if accepted is None:
        return Retuned(result)
    native, infos = Grid.of(result.labels), result.classes
    lookup = label_values(infos)
    painted = labels_on_grid(example, {info.name: info.value for info in infos}, native)
    full = numbers_of(result.labels, native, lookup)
    full[full == len(lookup)] = 0
    local, accepted_numbers = (
        keep_accepted(full, accepted, painted, native, lookup),
        numbers_of(accepted, native, lookup),
    )
    asked = [1 + index for index, info in enumerate(infos) if info.name in wanted]
    for number in asked:  # of a new structure nothing was accepted: it is where it takes nothing from another one
        if not (accepted_numbers == number).any():
            local[(full == number) & (local == 0)] = number
    before, mine, other = (np.where(np.isin(each, asked), each, 0) for each in (accepted_numbers, local, full))
    differs = mine != other
    small = differs.sum() <= _MUCH * max(int((before > 0).sum()), 1)
    kept = replace(result, labels=native.image(lookup[local]))
    if small:
        return Retuned(kept)
    voxel = float(np.prod(native.spacing)) / 1000
    added, removed = (float((differs & (each > 0)).sum()) * voxel for each in (other, mine))
    keeps = bool(contradictions(accepted_numbers, painted).any())
    if keeps:
        note = Sentence(
            "The prompts would also add {added} ml and remove {removed} ml that nobody corrected: "
            "uncheck Keep previous to see that.",
            added=f"{added:.1f}",
            removed=f"{removed:.1f}",
        )
        return Retuned(replace(kept, notes=(*result.notes, note)), result.labels)
    note = Sentence(
        "Nothing was corrected. The prompts add {added} ml and remove {removed} ml: check Keep previous to leave that.",
        added=f"{added:.1f}",
        removed=f"{removed:.1f}",
    )
    return Retuned(replace(result, notes=(*result.notes, note)), kept.labels, keeps=False)


def keep_accepted(
    numbers: np.ndarray, accepted: sitk.Image, painted: np.ndarray, native: Grid, lookup: np.ndarray
) -> np.ndarray:
    """Numbers of classes (z, y, x) as they were accepted, but where corrections change them.

    :param numbers: as they would be now; not changed.
    :param painted: what is painted, on the same grid, labeled as in ``annotation.labels``.
    :param lookup: number -> value in ``accepted``; what has another value is no class and stays.
    """
    before = numbers_of(accepted, native, lookup)
    now = np.where(before == len(lookup), before, numbers)
    steps, (x, y, z) = growing_steps(native, painted, COARSE), native.spacing
    result = near_corrections(before, now, painted, steps=steps, spacing=(z, y, x))
    result[result == len(lookup)] = 0
    return result


def numbers_of(labels: sitk.Image, native: Grid, lookup: np.ndarray) -> np.ndarray:
    """A label image as numbers of classes (z, y, x) on another grid; another value becomes a number of no class."""
    values = sitk.GetArrayFromImage(resample(labels, native, sitk.sitkNearestNeighbor, 0))
    table = np.full(max(int(values.max()), int(lookup.max())) + 1, len(lookup), np.uint16)
    table[lookup] = np.arange(len(lookup))
    return table[values]

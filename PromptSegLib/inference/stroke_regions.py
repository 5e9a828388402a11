"""Strokes alone: the painted structures of an image by growing, without a backbone and without tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo, label_values
from ..annotation.example import Example
from ..annotation.labels import labels_on_grid
from ..growing.guard import Verdict
from ..growing.network import GrowingNet
from ..imaging.checking import check_image
from ..imaging.geometry import Grid
from ..progress import ProgressHandle
from .field_of_view import enforce_strokes
from .regions import grown_regions, notes_of
from .resample_to_image import labels_on_native
from .result import Segmentation
from .retuning import keep_accepted


def segment_strokes(
    example: Example,
    infos: Sequence[ClassInfo],
    quick: bool = False,
    verdicts: Optional[Sequence[Verdict]] = None,
    accepted: Optional[sitk.Image] = None,
    job: Optional[ProgressHandle] = None,
    checked: bool = False,
    on_found: Optional[Callable[[Segmentation], None]] = None,
    network: Optional[GrowingNet] = None,
) -> Segmentation:
    """Grow what was painted on an image: any modality, any spacing; seconds, and nothing is learned.

    :param infos: the classes, with their values in the annotation.
    :param quick: leave out the guard and the passes on finer voxels.
    :param verdicts: which way each class is grown, instead of what the guard finds.
    :param accepted: label image of a result that the user corrects: it changes only where that has to do with what
        was painted or erased since. Its values are the classes'; what has another value is no class and stays.
    :param checked: hold slices back also of classes for whose regions that decides nothing, to say how well they are
        predicted; without, the notes say that of the others.
    :param on_found: called with the result before that, where there are such classes.
    :param network: what answers (``growing.model.load_growing``); the one that comes with PromptSeg when None.
    :raises PromptSegError: an image that cannot be used.
    """
    job = job or ProgressHandle()
    check_image(example.image, example.name)
    native = Grid.of(example.image)
    painted = labels_on_grid(example, {info.name: info.value for info in infos}, native)
    lookup = label_values(infos)
    grown = grown_regions(example.image, painted, len(infos), None, quick, verdicts, job.part(0.0, 0.7), network)
    fields = [(region.logits, region.place.grid) for region in grown.regions] if grown is not None else []
    numbers = labels_on_native(fields, native, np.arange(len(lookup), dtype=np.uint16), lambda _: job.check())
    enforce_strokes(numbers, painted, np.arange(len(lookup)))
    if accepted is not None:
        numbers = keep_accepted(numbers, accepted, painted, native, lookup)
    names = [info.name for info in infos]
    notes = notes_of(names, grown) if grown is not None else ()
    result = Segmentation(native.image(lookup[numbers]), tuple(infos), notes=notes)
    if checked and grown is not None and grown.unchecked:
        if on_found is not None:
            on_found(result)
        result = replace(result, notes=notes_of(names, grown.checked(job.part(0.7, 1.0))))
    return result

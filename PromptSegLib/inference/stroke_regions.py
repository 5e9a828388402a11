"""Strokes alone: the painted structures of an image by growing, without a backbone and without tuning."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from ..examples.annotation import labels_on_grid
from ..examples.checking import check_image
from ..examples.example import Example
from ..examples.geometry import Grid
from ..growing.guard import Verdict
from ..progress import Job
from ..prompts.classes import ClassInfo
from .native import labels_on_native
from .regions import grown_regions, notes_of
from .result import Segmentation
from .segmenting import honour


def segment_strokes(
    example: Example,
    infos: Sequence[ClassInfo],
    quick: bool = False,
    verdicts: Optional[Sequence[Verdict]] = None,
    job: Optional[Job] = None,
) -> Segmentation:
    """Grow what was painted on an image: any modality, any spacing; seconds, and nothing is learned.

    :param infos: the classes, with their values in the annotation.
    :param quick: leave out the guard and the passes on finer voxels.
    :param verdicts: which way each class is grown, instead of what the guard finds.
    :raises PromptSegError: an image that cannot be used.
    """
    job = job or Job()
    check_image(example.image, example.name)
    native = Grid.of(example.image)
    painted = labels_on_grid(example, {info.name: info.value for info in infos}, native)
    lookup = np.zeros(len(infos) + 1, np.uint8 if max(info.value for info in infos) < 256 else np.uint16)
    lookup[1:] = [info.value for info in infos]
    grown = grown_regions(example.image, painted, len(infos), None, quick, verdicts, job.part(0.0, 0.95))
    if grown is None:
        return Segmentation(native.image(np.zeros(native.shape, lookup.dtype)), tuple(infos))
    fields = [(region.logits, region.place.grid) for region in grown.regions]
    labels = labels_on_native(fields, native, lookup, lambda _: job.check())
    honour(labels, painted, lookup)
    notes = notes_of([info.name for info in infos], grown.verdicts)
    return Segmentation(native.image(labels), tuple(infos), notes=notes)

"""The first look: what the shipped prompts know of the painted classes, grown from the strokes, before any tuning."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from ..annotation.classes import ClassInfo
from ..annotation.example import Example
from ..annotation.labels import labels_on_grid
from ..imaging.geometry import Grid
from ..models.backbone import Backbone
from ..models.matching import matched
from ..models.workspace import Workspace
from ..progress import Job
from .evidence import Probabilities, evidence
from .native import labels_on_native, winner
from .regions import SharedEvidence, grown_regions
from .result import Segmentation
from .segmenting import box_around, honour, on_model_grid
from .tiling import steps


def first_look(
    backbone: Backbone,
    example: Example,
    infos: Sequence[ClassInfo],
    workspace: Optional[Workspace] = None,
    around: Optional[float] = None,
    job: Optional[Job] = None,
) -> Optional[Segmentation]:
    """Labels of an example's classes from one sweep with the shipped prompts: seconds, and no gradient.

    Each class takes the evidence of the shipped class that it agrees with; one that agrees with none is grown
    without evidence. None where the backbone ships nothing or nothing is painted.

    :param infos: the classes, with their values in the annotation.
    :param around: as for :func:`~.segmenting.segment`.
    """
    if backbone.shipped is None:
        return None
    job, workspace, shipped = job or Job(), workspace or Workspace(0), backbone.shipped.decoder_only()
    native = Grid.of(example.image)
    whole = volume = workspace.volume(example.image, backbone.preprocessing)
    painted = everything = labels_on_grid(example, {info.name: info.value for info in infos}, native)
    coarse = on_model_grid(painted, example.image, native, whole.grid, len(infos))
    if not (coarse > 0).any():
        return None
    offset = (0, 0, 0)
    if around is not None:
        box = box_around(coarse > 0, around, whole, backbone.tile)
        volume, part = whole.part(box)
        coarse, offset = coarse[box], (box[0].start, box[1].start, box[2].start)
        painted, native = painted[part], volume.native
    maps, step = workspace.maps(example.image, backbone), steps(whole.array.shape, backbone.tile)
    scores = evidence(backbone, shipped, volume.array, job.part(0.0, 0.8), maps=maps, offset=offset, step=step)
    rows = _known(scores, coarse, len(infos))
    known = SharedEvidence(Probabilities(scores), volume.grid, rows, set(rows))
    grown = grown_regions(example.image, everything, len(infos), known, quick=True, job=job.part(0.8, 1.0))
    if grown is None:
        return None
    lookup = np.zeros(len(infos) + 1, np.uint8 if max(info.value for info in infos) < 256 else np.uint16)
    lookup[1:] = [info.value for info in infos]
    fields = [(region.logits, region.place.grid) for region in grown.regions]
    labels = labels_on_native(fields, native, lookup, lambda _: job.check())
    honour(labels, painted, lookup)
    sentence = whole.rule.sentence
    return Segmentation(native.image(labels), tuple(infos), notes=(sentence,) if sentence else ())


def _known(scores: np.ndarray, strokes: np.ndarray, count: int) -> dict[int, int]:
    """Painted class (from 1) -> row (from 1) of the shipped class that agrees best with its strokes."""
    known = strokes >= 0
    said, own = winner(scores[:, known].astype(np.float32)), strokes[known]
    agreed = np.zeros((count, len(scores)))
    for index in range(count):
        for other in range(len(scores)):
            one, two = own == index + 1, said == other + 1
            agreed[index, other] = 2 * (one & two).sum() / max(1, one.sum() + two.sum())
    return {index + 1: row + 1 for index, row in matched(agreed).items()}

"""The first look: what the shipped prompts know of the painted classes, grown from the strokes, before any tuning."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from ..examples.annotation import labels_on_grid
from ..examples.example import Example
from ..examples.geometry import Grid
from ..models.backbone import Backbone
from ..models.matching import matched
from ..models.workspace import Workspace
from ..progress import Job
from ..prompts.classes import ClassInfo
from .evidence import ABSENT, Probabilities, evidence
from .growing import grow_quickly
from .native import labels_on_native, winner
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

    Each class takes the evidence of the shipped class that it agrees with; one that agrees with none grows
    through what no known class claims. None where the backbone ships nothing or nothing is painted.

    :param infos: the classes, with their values in the annotation.
    :param around: as for :func:`~.segmenting.segment`.
    """
    if backbone.shipped is None:
        return None
    job, workspace, shipped = job or Job(), workspace or Workspace(0), backbone.shipped.decoder_only()
    native = Grid.of(example.image)
    whole = volume = workspace.volume(example.image, backbone.preprocessing)
    painted = labels_on_grid(example, {info.name: info.value for info in infos}, native)
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
    fields = grow_quickly(
        volume.array,
        Probabilities(_matched(scores, coarse, len(infos))),
        coarse,
        backbone.preprocessing.spacing,
        job.part(0.8, 1.0),
    )
    lookup = np.zeros(len(fields) + 1, np.uint8 if max(info.value for info in infos) < 256 else np.uint16)
    lookup[1 : len(infos) + 1] = [info.value for info in infos]
    labels = labels_on_native(fields, volume.grid.halved(), native, lookup, lambda _: job.check())
    honour(labels, painted, lookup)
    sentence = whole.rule.sentence
    return Segmentation(native.image(labels), tuple(infos), notes=(sentence,) if sentence else ())


def _matched(scores: np.ndarray, strokes: np.ndarray, count: int) -> np.ndarray:
    """Evidence of the painted classes first, then of the shipped classes that none of them took."""
    known = strokes >= 0
    said, own = winner(scores[:, known].astype(np.float32)), strokes[known]
    agreed = np.zeros((count, len(scores)))
    for index in range(count):
        for other in range(len(scores)):
            one, two = own == index + 1, said == other + 1
            agreed[index, other] = 2 * (one & two).sum() / max(1, one.sum() + two.sum())
    taken = matched(agreed)
    neutral = np.zeros(scores.shape[1:], scores.dtype)
    neutral[(scores == ABSENT).all(0)] = ABSENT  # nothing is there
    rest = [other for other in range(len(scores)) if other not in taken.values()]
    return np.stack([*(scores[taken[i]] if i in taken else neutral for i in range(count)), *(scores[i] for i in rest)])

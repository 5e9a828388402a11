"""The first look: what the shipped prompts know of the painted classes, grown from the strokes, before any tuning."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from ..annotation.classes import ClassInfo, label_values
from ..annotation.example import Example
from ..annotation.labels import labels_on_grid
from ..imaging.geometry import Grid
from ..models.backbone import Backbone
from ..models.feature_cache import FeatureCache
from ..models.matching import assign_one_to_one
from ..progress import ProgressHandle
from .class_margins import Probabilities
from .field_of_view import FieldOfView
from .options import SegmentationOptions
from .regions import SharedEvidence, grown_regions
from .resample_to_image import winner
from .result import Segmentation


def zero_shot_preview(
    backbone: Backbone,
    example: Example,
    infos: Sequence[ClassInfo],
    options: Optional[SegmentationOptions] = None,
    job: Optional[ProgressHandle] = None,
) -> Optional[Segmentation]:
    """Labels of an example's classes from one sweep with the shipped prompts: seconds, and no gradient.

    Each class takes the evidence of the shipped class that it agrees with; one that agrees with none is grown
    without evidence. None where the backbone ships nothing or nothing is painted.

    :param infos: the classes, with their values in the annotation.
    :param options: ``around`` and ``feature_cache``, as for :func:`~.segmenting.segment`; nothing else counts.
    """
    if backbone.shipped is None:
        return None
    job, options, shipped = job or ProgressHandle(), options or SegmentationOptions(), backbone.shipped.decoder_only()
    feature_cache = options.feature_cache or FeatureCache(0)
    whole = feature_cache.volume(example.image, backbone.preprocessing)
    painted = labels_on_grid(example, {info.name: info.value for info in infos}, Grid.of(example.image))
    view = FieldOfView.of(example.image, whole, painted, len(infos), backbone.tile, options.around)
    if view.coarse is None or not (view.coarse > 0).any():
        return None
    scores = view.margins(backbone, shipped, feature_cache, job.part(0.0, 0.8))
    rows = _known(scores, view.coarse, len(infos))
    known = SharedEvidence(Probabilities(scores), view.volume.grid, rows, set(rows))
    grown = grown_regions(example.image, painted, len(infos), known, quick=True, job=job.part(0.8, 1.0))
    if grown is None:
        return None
    fields = [(region.logits, region.place.grid) for region in grown.regions]
    labels = view.labels(fields, label_values(infos), job)
    sentence = whole.rule.sentence
    return Segmentation(view.native.image(labels), tuple(infos), notes=(sentence,) if sentence else ())


def _known(scores: np.ndarray, strokes: np.ndarray, count: int) -> dict[int, int]:
    """Painted class (from 1) -> row (from 1) of the shipped class that agrees best with its strokes."""
    known = strokes >= 0
    said, own = winner(scores[:, known].astype(np.float32)), strokes[known]
    agreed = np.zeros((count, len(scores)))
    for index in range(count):
        for other in range(len(scores)):
            one, two = own == index + 1, said == other + 1
            agreed[index, other] = 2 * (one & two).sum() / max(1, one.sum() + two.sum())
    return {index + 1: row + 1 for index, row in assign_one_to_one(agreed).items()}

"""Which method suits what is annotated, where nobody has said which to use."""

from __future__ import annotations

from typing import Mapping, Optional, Sequence

import numpy as np

from ..annotation.example import Example
from ..annotation.labels import labels_on_grid
from ..models.backbone import Backbone
from ..models.feature_cache import FeatureCache
from ..models.matching import assign_one_to_one
from ..network.methods.registry import DEFAULT
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .crops import cover
from .encoded import EncodedCrops
from .settings import AUTO, Settings
from .warm_start import nearest_shipped

FOR_NEW = "side"  # for what is completely annotated and new to the backbone; docs/methods.md#tuning-as-training


def chosen_method(
    settings: Settings,
    examples: Sequence[Example],
    classes: Mapping[str, int],
    backbone: Backbone,
    start: Optional[Prompts],
    feature_cache: FeatureCache,
    job: ProgressHandle,
) -> str:
    """The method that ``settings`` name; for ``auto``, that of ``start``, or one by what is annotated.

    Strokes, and organs that the backbone ships prompts of, are for the default method, which leans on what the body
    was taught; what is completely annotated and new to it, be it a single class, is for ``FOR_NEW``, which is trained.
    """
    if settings.method != AUTO:
        return settings.method
    if start is not None:
        return start.method
    training = settings.training if settings.training is not None else all(each.complete for each in examples)
    if not training:
        return DEFAULT
    known = _all_known(examples[0], classes, backbone, feature_cache, job, settings.seed)
    return DEFAULT if known else FOR_NEW


def _all_known(
    example: Example,
    classes: Mapping[str, int],
    backbone: Backbone,
    feature_cache: FeatureCache,
    job: ProgressHandle,
    seed: int,
) -> bool:
    """Whether each class that an example shows agrees with a shipped one of its own."""
    if backbone.shipped is None:
        return False
    volume = feature_cache.volume(example.image, backbone.preprocessing)
    labels = labels_on_grid(example, classes, volume.grid)
    shown = [index for index in range(1, len(classes) + 1) if (labels == index).any()]
    crops = cover(volume.array, labels, backbone.tile, len(classes) + 1, np.random.default_rng(seed))
    encoded = EncodedCrops(backbone, crops, True, job)
    score = nearest_shipped(encoded, len(classes), job)[0].numpy()
    return bool(shown) and len(assign_one_to_one(score[[index - 1 for index in shown]])) == len(shown)

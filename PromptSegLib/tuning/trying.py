"""Which method carries to the next patient: each learns for a while from all examples but one, and answers that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Mapping, Optional, Sequence

import numpy as np
import torch

from ..annotation.checking import holds
from ..annotation.example import Example
from ..annotation.labels import labels_on_grid
from ..inference.class_margins import class_margins
from ..inference.deciding import decided_for_dice, rows_for_dice
from ..inference.resample_to_image import winner
from ..models.backbone import Backbone
from ..models.feature_cache import FeatureCache
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .objective import agreement, mean
from .options import TuningOptions
from .settings import Settings

CANDIDATES = ("side", "punet")  # where they agree alike, the first
SHARE = 0.15  # of the budget, for each candidate
TRIALS = SHARE * len(CANDIDATES)
LEAST_SECONDS, LEAST_STEPS = 20.0, 40  # of a budget that is shared so; below, no trial says anything
TELLING = 10  # steps of a trial: with fewer, as a slow machine makes them, it says nothing either


@dataclass(frozen=True)
class Trial:
    """The method that did best, its prompts to go on from, and Dice by method on the example ``left_out``, nothing
    where trials would have been too short.

    :param settings: how to go on; seconds count from where the whole tuning began.
    """

    method: str
    prompts: Prompts
    settings: Settings
    found: Mapping[str, float]
    left_out: str


def worth_trying(examples: Sequence[Example], classes: Mapping[str, int], settings: Settings) -> bool:
    """Whether there is an example to leave out, a budget that can be shared, and doubt about the method.

    Of several classes there is none: on both sets with several that were tried, the first candidate did better, and
    trials cost it .01 (hippocampus) and .2 (five vertebrae). Tumors are single classes.
    """
    if len(examples) < 2 or len(classes) > 1 or settings.passes != "joint":
        return False
    if settings.steps is not None:
        return settings.steps >= LEAST_STEPS
    return (settings.seconds or 0.0) >= LEAST_SECONDS


def best_of(
    tune: Callable[..., Prompts],
    examples: Sequence[Example],
    classes: Mapping[str, int],
    backbone: Backbone,
    settings: Settings,
    feature_cache: FeatureCache,
    job: ProgressHandle,
) -> Optional[Trial]:
    """Try every candidate on what the next patient is: a volume that it did not learn from.

    Boxes held out of volumes that are learned from say little of it: on three sarcomas they agreed to .85 where other
    patients did to .26. None where the example left out, or every other one, does not show the class.
    Where time is for fewer than ``TELLING`` steps, the first goes on without any other being tried.

    :param tune: :func:`~.pipeline.tune`.
    :param classes: a single class, see :func:`worth_trying`.
    """
    *taught, left_out = examples
    (value,) = classes.values()
    if not holds(left_out.annotation, value) or not any(holds(each.annotation, value) for each in taught):
        return None
    part = replace(
        settings,
        seconds=None if settings.seconds is None else SHARE * settings.seconds,
        steps=None if settings.steps is None else int(SHARE * settings.steps),
    )
    found: dict[str, float] = {}
    made: dict[str, Prompts] = {}
    for index, name in enumerate(CANDIDATES):
        share = job.part(index / len(CANDIDATES), (index + 1) / len(CANDIDATES))
        options = TuningOptions(keep_strokes=False, feature_cache=feature_cache)
        made[name] = tune(taught, classes, backbone, settings=replace(part, method=name), options=options, job=share)
        steps = sum(each["steps"] for each in made[name].tuning.values())
        if name == CANDIDATES[0] and settings.seconds is not None and steps < TELLING:
            return Trial(name, made[name], settings, {}, left_out.name)
        found[name] = round(agreement_on(made[name], left_out, classes, backbone, feature_cache), 4)
    best = max(CANDIDATES, key=lambda name: found[name])
    if settings.steps is not None and part.steps is not None:
        settings = replace(settings, steps=settings.steps - len(CANDIDATES) * part.steps)
    return Trial(best, made[best], settings, found, left_out.name)


def agreement_on(
    prompts: Prompts, example: Example, classes: Mapping[str, int], backbone: Backbone, feature_cache: FeatureCache
) -> float:
    """Mean Dice over the whole of a completely annotated example, on the prompts' grid, decided as a next patient."""
    own = backbone.working_at(prompts.preprocessing)
    volume = feature_cache.volume(example.image, own.preprocessing, prompts.intensity)
    margins = class_margins(own, prompts, volume.array)
    with decided_for_dice(margins, rows_for_dice(prompts)):
        said = winner(margins).ravel()
    labels = labels_on_grid(example, classes, volume.grid).ravel()
    known = labels >= 0
    guess, truth = (torch.from_numpy(np.asarray(each[known], np.int64)) for each in (said, labels))
    return mean(agreement(guess, truth, len(classes)))

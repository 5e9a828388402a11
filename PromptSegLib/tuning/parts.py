"""Tuning a few classes at a time, for machines whose memory does not hold all of them at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Mapping, Optional, Sequence

from ..annotation.example import Example
from ..models.backbone import Backbone
from ..models.feature_cache import FeatureCache
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .kept_strokes import strokes_to_keep
from .options import TuningOptions
from .pipeline import tune
from .settings import Settings


def tune_in_parts(
    examples: Sequence[Example],
    parts: Sequence[Mapping[str, int]],
    backbone: Backbone,
    *,
    start: Optional[Prompts],
    settings: Settings,
    options: Optional[TuningOptions] = None,
    job: Optional[ProgressHandle] = None,
) -> Prompts:
    """As :func:`~.pipeline.tune` for the classes of all ``parts``, but part after part, each a group of its own.

    What is painted of the other parts is known not to be the classes of this one. The budget is shared out by the
    number of classes; what a part leaves of its seconds is for those after it.

    :param parts: class name -> its value in the annotations.
    :param options: there are no previews, as they would lack the classes that are still to come.
    """
    job, settings, options, prompts = job or ProgressHandle(), settings.checked(), options or TuningOptions(), start
    feature_cache = options.feature_cache or FeatureCache(0)
    classes = {name: value for part in parts for name, value in part.items()}
    deadline = time.monotonic() + (settings.seconds or 0.0)
    done = 0
    for part in parts:
        share = len(part) / (len(classes) - done)
        own = settings
        if settings.seconds is not None:
            own = replace(settings, seconds=max(share * (deadline - time.monotonic()), 0.1))
        others = [*options.others, *(value for name, value in classes.items() if name not in part)]
        here = replace(
            options, others=others, keep_strokes=False, on_preview=None, looked=None, feature_cache=feature_cache
        )
        steps = job.part(done / len(classes), (done + len(part)) / len(classes))
        prompts = tune(examples, part, backbone, start=prompts, settings=own, options=here, job=steps)
        done += len(part)
    assert prompts is not None
    kept = options.keep_strokes
    strokes = strokes_to_keep(examples, classes, start, feature_cache, others=options.others) if kept else []
    return replace(prompts, strokes=tuple(strokes))

"""Tuning a few classes at a time, for machines whose memory does not hold all of them at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

import SimpleITK as sitk

from ..annotation.example import Example
from ..models.workspace import Workspace
from ..progress import Job
from ..prompts.store import Prompts
from .settings import Settings
from .tuning import strokes_to_keep, tune


def tune_in_parts(
    examples: Sequence[Example],
    parts: Sequence[Mapping[str, int]],
    backbone: Any,
    *,
    start: Optional[Prompts],
    settings: Settings,
    keep_strokes: bool = True,
    job: Optional[Job] = None,
    **options: Any,
) -> Prompts:
    """As :func:`~.tuning.tune` for the classes of all ``parts``, but one part after the other, each a group of its own.

    What is painted of the other parts is known not to be the classes of this one. The budget is shared out by the
    number of classes; what a part leaves of its seconds is for those after it.

    :param parts: class name -> its value in the annotations.
    :param options: of ``tune``; there are no previews, as they would lack the classes that are still to come.
    """
    job, settings, prompts = job or Job(), settings.checked(), start
    workspace = options.pop("workspace", None) or Workspace(0)
    classes = {name: value for part in parts for name, value in part.items()}
    deadline = time.monotonic() + (settings.seconds or 0.0)
    done = 0
    for part in parts:
        share = len(part) / (len(classes) - done)
        own = settings
        if settings.seconds is not None:
            own = replace(settings, seconds=max(share * (deadline - time.monotonic()), 0.1))
        others = [value for name, value in classes.items() if name not in part]
        prompts = tune(
            [without(each, others) for each in examples],
            part,
            backbone,
            start=prompts,
            settings=own,
            keep_strokes=False,
            job=job.part(done / len(classes), (done + len(part)) / len(classes)),
            workspace=workspace,
            **options,
        )
        done += len(part)
    assert prompts is not None
    strokes = strokes_to_keep(examples, classes, start, workspace) if keep_strokes else []
    return replace(prompts, strokes=tuple(strokes))


def without(example: Example, values: Sequence[int]) -> Example:
    """The example with what is painted of some values as known background, as it is anyway in a complete one."""
    if not values or (example.complete and example.background is None):
        return example
    background = int(values[0]) if example.background is None else example.background
    changed = sitk.ChangeLabel(example.annotation, {int(value): float(background) for value in values})
    return replace(example, annotation=changed, background=background)

"""Tuning a few classes at a time, for machines whose memory does not hold all of them at once."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence

from ..annotation.example import Example
from ..models.workspace import Workspace
from ..progress import Job
from ..prompts.store import Prompts
from .kept_strokes import strokes_to_keep
from .settings import Settings
from .tuning import tune


def tune_in_parts(
    examples: Sequence[Example],
    parts: Sequence[Mapping[str, int]],
    backbone: Any,
    *,
    start: Optional[Prompts],
    settings: Settings,
    others: Sequence[int] = (),
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
        prompts = tune(
            examples,
            part,
            backbone,
            start=prompts,
            others=[*others, *(value for name, value in classes.items() if name not in part)],
            settings=own,
            keep_strokes=False,
            job=job.part(done / len(classes), (done + len(part)) / len(classes)),
            workspace=workspace,
            **options,
        )
        done += len(part)
    assert prompts is not None
    strokes = strokes_to_keep(examples, classes, start, workspace, others=others) if keep_strokes else []
    return replace(prompts, strokes=tuple(strokes))

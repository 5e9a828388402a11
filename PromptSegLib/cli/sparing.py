"""Tuning and segmenting on the command line with less where memory runs out, and saying so."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any, Mapping, Optional, Sequence, Union

from ..annotation.example import Example
from ..progress import Job
from ..prompts.store import Prompts
from ..worker.thrift import Thrift, sparingly


def tune(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    model: Optional[str],
    *,
    settings: Any,
    device: str,
    job: Job,
    **options: Any,
) -> Prompts:
    """As :func:`~PromptSegLib.tuning.tuning.tune`."""
    from ..models.backbone import load_model
    from ..tuning.parts import tune_in_parts
    from ..tuning.tuning import tune as tune_prompts

    def attempt(thrift: Thrift) -> Prompts:
        backbone = thrift.backbone(load_model(model, "cpu" if thrift.cpu else device))
        own = settings if thrift.crops is None else replace(settings, crops=min(settings.crops, thrift.crops))
        parts = [{name: classes[name] for name in part} for part in thrift.parts_of(list(classes))]
        if len(parts) > 1:
            return tune_in_parts(examples, parts, backbone, settings=own, job=job, **options)
        return tune_prompts(examples, classes, backbone, settings=own, job=job, **options)

    prompts, thrift = sparingly(attempt, job, lambda: _is_gpu(device))
    _tell(thrift)
    return prompts


class Backbones:
    """The backbone of some prompts, loaded once, and on the CPU as well when its own device is too small."""

    def __init__(self, prompts: Prompts, model: Union[str, None], device: str):
        from ..inference.segmenting import backbone_for

        self._load = lambda place: backbone_for(prompts, model, place)
        self._device = device
        self._loaded = {device: self._load(device)}

    def segment(self, prompts: Prompts, image: Any, *, job: Job, **options: Any) -> Any:
        """As :func:`~PromptSegLib.inference.segmenting.segment`."""
        from ..inference.segmenting import segment as segment_image

        def attempt(thrift: Thrift) -> Any:
            place = "cpu" if thrift.cpu else self._device
            if place not in self._loaded:
                self._loaded[place] = self._load(place)
            backbone = thrift.backbone(self._loaded[place])
            return segment_image(prompts, image, backbone, quick=thrift.coarse, job=job, **options)

        result, thrift = sparingly(attempt, job, lambda: self._loaded[self._device].device.type != "cpu")
        _tell(thrift)
        return result


def _is_gpu(device: str) -> bool:
    from ..models.backbone import choose_device

    return choose_device(device).type != "cpu"


def _tell(thrift: Thrift) -> None:
    if thrift.note:
        print(f"promptseg: {thrift.note}", file=sys.stderr)

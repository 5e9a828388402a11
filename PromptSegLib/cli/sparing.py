"""Tuning and segmenting on the command line with less where memory runs out, and saying so."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Mapping, Optional, Sequence, Union

import SimpleITK as sitk

from ..annotation.example import Example
from ..inference.options import SegmentationOptions
from ..inference.result import Segmentation
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from ..tuning.options import TuningOptions
from ..tuning.settings import Settings
from ..worker.thrift import Thrift, sparingly


def tune(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    model: Optional[str],
    *,
    start: Optional[Prompts],
    settings: Settings,
    options: TuningOptions,
    job: ProgressHandle,
) -> Prompts:
    """As :func:`~PromptSegLib.tuning.pipeline.tune`."""
    from ..models.backbone import load_model, name_of

    called = model or name_of(start)

    def attempt(thrift: Thrift) -> Prompts:
        backbone = thrift.backbone(load_model(called, "cpu" if thrift.cpu else options.device))
        return thrift.tune(examples, classes, backbone, start=start, settings=settings, options=options, job=job)

    prompts, thrift = sparingly(attempt, job, lambda: _is_gpu(options.device))
    _tell(thrift)
    return prompts


class Backbones:
    """The backbone of some prompts, loaded once, and on the CPU as well when its own device is too small."""

    def __init__(self, prompts: Prompts, model: Union[str, None], device: str):
        from ..inference.segmenting import backbone_for

        self._load = lambda place: backbone_for(prompts, model, place)
        self._device = device
        self._loaded = {device: self._load(device)}

    def segment(
        self,
        prompts: Prompts,
        image: sitk.Image,
        classes: Sequence[str],
        strokes: Optional[Example],
        options: SegmentationOptions,
        job: ProgressHandle,
    ) -> Segmentation:
        """As :func:`~PromptSegLib.inference.segmenting.segment`."""
        from ..inference.segmenting import segment as segment_image

        def attempt(thrift: Thrift) -> Segmentation:
            place = "cpu" if thrift.cpu else self._device
            if place not in self._loaded:
                self._loaded[place] = self._load(place)
            backbone = thrift.backbone(self._loaded[place])
            own = replace(options, quick=thrift.coarse)
            return segment_image(prompts, image, backbone, classes=classes, strokes=strokes, options=own, job=job)

        result, thrift = sparingly(attempt, job, lambda: self._loaded[self._device].device.type != "cpu")
        _tell(thrift)
        return result


def _is_gpu(device: str) -> bool:
    from ..models.backbone import choose_device

    return choose_device(device).type != "cpu"


def _tell(thrift: Thrift) -> None:
    if thrift.note:
        print(f"promptseg: {thrift.note}", file=sys.stderr)

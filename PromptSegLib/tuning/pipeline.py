"""Tuning: from examples to prompts, on a body that never changes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Mapping, Optional, Sequence, Union

import numpy as np
import torch

from ..annotation.checking import check_examples
from ..annotation.classes import class_infos
from ..annotation.example import Example
from ..annotation.labels import excluded_label
from ..errors import PromptSegError
from ..models.backbone import Backbone, load_model, name_of
from ..models.feature_cache import FeatureCache
from ..network.methods.registry import method as method_called
from ..progress import ProgressHandle
from ..prompts.store import MAX_CLASSES, Prompts
from .choosing import FOR_NEW, chosen_method
from .crops import Crop
from .encoded import EncodedCrops
from .group import Shared, tune_group
from .kept_strokes import strokes_to_keep, without
from .options import TuningOptions
from .reading import covering_crops, read_examples
from .settings import AUTO, Settings
from .training import hold_out
from .trying import TRIALS, Trial, best_of, worth_trying
from .working_grid import said_of, working_preprocessing


def tune(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    model: Union[Backbone, str, None] = None,
    *,
    start: Union[Prompts, str, Path, None] = None,
    settings: Optional[Settings] = None,
    options: Optional[TuningOptions] = None,
    job: Optional[ProgressHandle] = None,
) -> Prompts:
    """Tune class prompts on annotated examples; the backbone's parameters and buffers stay bit-identical.

    :param examples: one or several images with annotations.
    :param classes: class name -> its value in the annotations and in results.
    :param model: a backbone, or its name or file; None for that of ``start``, or the default.
    :param start: prompts to go on from, or the path of their file: classes of the same name start there, all other
        classes are kept as they are, bit-identical.
    :param settings: how to tune, and for how long.
    :param options: all else.
    :raises PromptSegError: bad examples, prompts of another backbone.
    :raises Cancelled: the job's caller cancelled; nothing is changed.

    Deterministic for a seed on the CPU when bounded by steps.
    """
    began = time.monotonic()
    job, settings, options = job or ProgressHandle(), (settings or Settings()).checked(), options or TuningOptions()
    classes, feature_cache = dict(classes), options.feature_cache or FeatureCache(0)
    taught = [without(each, options.others) for each in examples]
    check_examples(taught, classes)
    if start is not None and not isinstance(start, Prompts):
        start = Prompts.load(Path(start))
    backbone = model if isinstance(model, Backbone) else load_model(model or name_of(start), options.device)
    if start is not None:
        start = start.called(classes)
    plan, job = _planned(taught, classes, backbone, settings, start, feature_cache, job)
    backbone, settings, start, notes = plan.backbone, plan.settings, plan.start, plan.notes
    infos = class_infos(classes, options.appearance, [each.info for each in start.active] if start else ())
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)

    reading = job.part(0.0, 0.05)
    read = read_examples(taught, classes, backbone.preprocessing, start, feature_cache, plan.training, reading)
    notes += read.notes
    given = (
        strokes_to_keep(examples, classes, start, feature_cache, notes, options.others) if options.keep_strokes else []
    )
    volumes, held = hold_out(read.volumes, backbone.crop, rng) if plan.training else (read.volumes, [])
    crops = covering_crops(volumes, len(classes), backbone.tile, settings.crops, rng, plan.training)
    _check_seen(crops, classes, backbone.preprocessing.spacing)

    cached = settings.mode in ("decoder", "end")
    maps = feature_cache.maps(examples[0].image, backbone) if len(examples) == 1 else None
    encoded = EncodedCrops(backbone, crops, cached, job.part(0.05, 0.15), maps)
    shared = Shared(backbone, settings, infos, read.records, given, read.intensity, notes, rng, generator, began)
    shared = replace(shared, on_preview=options.on_preview, looked=options.looked)
    if plan.training:
        boxes = EncodedCrops(backbone, held, cached, ProgressHandle()) if held else None
        shared = replace(shared, trial=plan.trial, volumes=volumes, held=boxes)
    return _tuned(shared, encoded, list(classes), start, job.part(0.15, 1.0))


@dataclass(frozen=True)
class _Plan:
    """How to tune, once it is clear with what: ``settings`` with a method, the backbone on its working grid, prompts to
    go on from, whether it is a training, and what to tell the user."""

    backbone: Backbone
    settings: Settings
    start: Optional[Prompts]
    trial: Optional[Trial]
    training: bool
    notes: list[str]


def _planned(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    backbone: Backbone,
    settings: Settings,
    start: Optional[Prompts],
    feature_cache: FeatureCache,
    job: ProgressHandle,
) -> tuple[_Plan, ProgressHandle]:
    """Choose method, grid and start; also gives what is left of the job."""
    named = chosen_method(settings, examples, classes, backbone, start, feature_cache, job.part(0.0, 0.02))
    training = settings.training if settings.training is not None else all(each.complete for each in examples)
    trial = None
    if settings.method == AUTO and named == FOR_NEW and start is None and worth_trying(examples, classes, settings):
        trial = best_of(tune, examples, classes, backbone, settings, feature_cache, job.part(0.02, 0.02 + TRIALS))
        job = job.part(0.02 + TRIALS, 1.0)
    if trial is not None:  # its prompts are gone on from all of the way: they are no prompts of somebody else
        settings, named = replace(trial.settings, trust=1.0), trial.method
    settings = replace(settings, method=named)
    if start is not None:
        _check_start(start, backbone, settings, classes)
    notes: list[str] = []
    if start is None and training and not method_called(settings.method).output_tokens:
        chosen = working_preprocessing(examples, backbone, classes)
        notes += said_of(examples, backbone.preprocessing, chosen)
        backbone = backbone.working_at(chosen)
    start = trial.prompts if trial is not None else start
    if start is not None:
        backbone = backbone.working_at(start.preprocessing)
    return _Plan(backbone, settings, start, trial, training, notes), job


def _tuned(
    shared: Shared, encoded: EncodedCrops, names: list[str], start: Optional[Prompts], job: ProgressHandle
) -> Prompts:
    """The prompts, all classes in one pass or one after the other."""
    if shared.settings.passes == "joint" or len(names) == 1:
        return tune_group(shared, encoded, names, start, job)
    # As published: a class alone in its pass, against all others. A group of one for each, so that none needs another.
    for index, name in enumerate(names):
        share = job.part(index / len(names), (index + 1) / len(names))
        start = tune_group(shared.part(index, len(names)), encoded.alone(index + 1), [name], start, share)
    assert start is not None
    return start


def _check_start(start: Prompts, backbone: Backbone, settings: Settings, classes: Mapping[str, int]) -> None:
    start.check_backbone(backbone.name, backbone.sha256, backbone.config)
    if (start.mode, start.method) != (settings.mode, settings.method):
        raise PromptSegError(
            "The given prompts have mode {mode} and method {method}; tune with the same, or start anew.",
            mode=start.mode,
            method=start.method,
        )
    if len(start.classes) + len(classes) > MAX_CLASSES:
        raise PromptSegError(
            "Prompts hold at most {max_classes} classes; tune the new ones into a file of their own.",
            max_classes=MAX_CLASSES,
        )
    others = {each.info.value: each.info.name for each in start.active if each.info.name not in classes}
    for name, value in classes.items():
        if value in others:
            raise PromptSegError(
                "The value {value} of {name} already belongs to {others} in the given prompts; choose another.",
                value=value,
                name=name,
                others=others[value],
            )


def _check_seen(crops: Sequence[Crop], classes: Mapping[str, int], spacing: Sequence[float]) -> None:
    """Refuse classes of which nothing is left on the model's grid, of ``spacing`` (z, y, x) mm."""
    seen = set().union(*(crop.labels.unique().tolist() for crop in crops))
    gone = [name for index, name in enumerate(classes, 1) if not seen & {index, excluded_label(index)}]
    if gone:
        voxel = " x ".join(f"{step:g}" for step in spacing[::-1])
        raise PromptSegError(
            "What is painted of {gone} disappears among other strokes on the model's voxels of {voxel} "
            "mm; paint more of it, or less close to others, and check the voxel spacing of the image.",
            gone=", ".join(gone),
            voxel=voxel,
        )

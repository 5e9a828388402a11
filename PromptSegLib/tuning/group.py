"""One group of classes: tuned together, from a warm start to prompts beside those that were there before."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional, Sequence

import monai
import numpy as np
import torch

from ..annotation.classes import ClassInfo
from ..annotation.strokes import Strokes
from ..imaging.intensity import IntensityRule
from ..inference.deciding import DICE
from ..models.backbone import Backbone
from ..network.attention import PromptTensors
from ..network.tokens import unstack
from ..progress import ProgressHandle
from ..prompts.store import ClassPrompts, Prompts
from .encoded import EncodedCrops
from .held_out import SHARE
from .optimization import Previews, Tuner
from .settings import Settings
from .training import Annotated, RandomCrops, Trainer
from .trying import Trial
from .warm_start import ClassInit, WarmStart, warm_start

_TOKENS = 0.6  # share of the budget after which output tokens alone are no longer tuned


@dataclass(frozen=True)
class Shared:
    """What the groups of a tuning have in common; ``began`` and ``settings.seconds`` are those of the group."""

    backbone: Backbone
    settings: Settings
    infos: list[ClassInfo]
    shapes: list[dict[str, Any]]
    strokes: list[Strokes]
    intensity: Optional[IntensityRule]
    notes: list[str]
    rng: np.random.Generator
    generator: torch.Generator
    began: float
    on_preview: Optional[Callable[[Prompts], None]] = None
    looked: Optional[float] = None
    volumes: Sequence[Annotated] = ()
    held: Optional[EncodedCrops] = None
    trial: Optional[Trial] = None

    def part(self, index: int, count: int) -> Shared:
        """For the class at ``index`` of ``count`` in turn, alone: an equal share of the time that is left."""
        now, settings = time.monotonic(), self.settings
        if settings.seconds is not None:
            settings = replace(settings, seconds=max((settings.seconds - (now - self.began)) / (count - index), 0.1))
        volumes = [each.alone(index + 1) for each in self.volumes]
        held = self.held.alone(index + 1) if self.held else None
        return replace(self, began=now, settings=settings, volumes=volumes, held=held)


def tune_group(
    shared: Shared, encoded: EncodedCrops, names: Sequence[str], start: Optional[Prompts], job: ProgressHandle
) -> Prompts:
    """Tune the classes ``names`` (as the labels of ``encoded`` have them) as one group beside what ``start`` holds."""
    settings, backbone, began = shared.settings, shared.backbone, shared.began
    inits = [_class_init(start, name) for name in names]
    warm = warm_start(encoded, inits, settings, shared.generator, job.part(0.0, 0.06), shared.held is None)
    tuner = Tuner(encoded, warm, len(names), settings, shared.rng)
    if shared.volumes:
        crops = RandomCrops(shared.volumes, len(names), backbone.crop, settings.seed)
        tuner = Trainer(encoded, warm, len(names), settings, shared.rng, crops, shared.held)
    first = [math.nan] * len(names)
    if len(warm.features):
        first = tuner.agreement(warm.prompts, warm.features, warm.labels)

    if shared.held is None:
        until = None if settings.seconds is None else time.monotonic() + SHARE * settings.seconds
        tuner.hold_back(backbone.preprocessing.spacing, encoded.places, until)

    def packed(state: PromptTensors, scores: list[float]) -> Prompts:
        record = _record(shared, names, inits, warm, tuner, scores)
        return _assemble(shared, [each for each in shared.infos if each.name in names], state, record, start)

    def look() -> None:
        if shared.on_preview:
            shared.on_preview(packed(tuner.trusted() if tuner.token_steps else warm.prompts, first))

    previews = Previews(look, shared.looked)
    if shared.looked is None:
        previews.show()
    tuner.tokens(job.part(0.06, 0.12), None if settings.seconds is None else began + _TOKENS * settings.seconds)
    if tuner.token_steps and (shared.looked is None or previews.due(None)):
        previews.show()
    tuner.run(began, job.part(0.12, 0.98), previews)
    state, scores = tuner.best(first, job.part(0.98, 1.0))
    job.report("done", 1.0, agreement=tuner.told, step=tuner.step)
    return packed(state, scores)


def _record(
    shared: Shared,
    names: Sequence[str],
    inits: Sequence[ClassInit],
    warm: WarmStart,
    tuner: Tuner,
    scores: Sequence[float],
) -> dict[str, Any]:
    """How prompts came about, as their file says; ``scores`` are agreements with what was learned from."""
    trial = shared.trial
    new = [each.new or not lent for each, lent in zip(inits, warm.from_prompts)]
    return {
        "examples": shared.shapes,
        "classes": {
            name: {
                "start": warm.origin[i] if trial is None else "a trial on all examples but the last",
                "new": new[i],
                **({"decision": DICE} if new[i] else {}),
                "agreement": _number(scores[i]),  # with what was learned from; no measure of quality
                "held_back": _number(tuner.held_back[i]),
            }
            for i, name in enumerate(names)
        },
        "steps": tuner.step,
        "token_steps": tuner.token_steps,
        "seconds": round(time.monotonic() - shared.began, 2),
        "passes": shared.settings.passes,
        **({"held_out": tuner.checks} if isinstance(tuner, Trainer) else {}),
        **({"left_out": dict(trial.found), "left_out_name": trial.left_out} if trial and trial.found else {}),
        "seed": shared.settings.seed,
        "device": str(shared.backbone.device),
        "notes": shared.notes,
        "versions": {"torch": torch.__version__, "monai": monai.__version__, "python": platform.python_version()},
    }


def _class_init(start: Optional[Prompts], name: str) -> ClassInit:
    """What the given prompts hold of a class, and whether it was new to the body when it was first tuned, as far as
    they say."""
    if start is None or name not in start.names:
        return ClassInit()
    given = start.find(name)
    record: Any = start.tuning.get(str(given.group))
    for key in ("classes", name):
        record = record.get(key) if isinstance(record, dict) else None
    tensors = {key: torch.from_numpy(array.copy()) for key, array in given.tensors.items()}
    return ClassInit(tensors, isinstance(record, dict) and record.get("new") is True)


def _assemble(
    shared: Shared, infos: list[ClassInfo], state: PromptTensors, record: dict[str, Any], start: Optional[Prompts]
) -> Prompts:
    """The tuned classes as a new group beside everything ``start`` holds, which stays bit-identical."""
    tuned = {info.name for info in infos}
    kept: list[ClassPrompts] = []
    if start:
        retired = [replace(each, retired=each.retired or each.info.name in tuned) for each in start.classes]
        alive = {each.group for each in retired if not each.retired}
        kept = [each for each in retired if each.group in alive]
    group = 1 + max((each.group for each in kept), default=-1)
    added = tuple(
        ClassPrompts(info, {key: tensor.cpu().numpy() for key, tensor in tensors.items()}, group)
        for info, tensors in zip(infos, unstack(state))
    )
    records = dict(start.tuning) if start else {}
    before = dict.fromkeys(str(start.find(name).group) for name in tuned if name in start.names) if start else {}
    record["earlier"] = [step for key in before for step in _history(records.get(key))]
    records = {key: value for key, value in records.items() if key in {str(each.group) for each in kept}}
    backbone, settings = shared.backbone, shared.settings
    return Prompts(
        (*kept, *added),
        backbone.name,
        backbone.sha256,
        backbone.config,
        backbone.preprocessing,
        settings.mode,
        settings.method,
        {**records, str(group): record},
        tuple(shared.strokes),
        shared.intensity,
    )


def _history(record: Any) -> list[dict[str, Any]]:
    """What is kept of a tuning that a later one went on from, and of those before it; of a file from anywhere."""
    if not isinstance(record, dict):
        return []
    before = record.get("earlier")
    steps = [each for each in before if isinstance(each, dict)] if isinstance(before, list) else []
    return [*steps, {key: record[key] for key in ("steps", "seconds", "seed", "examples") if key in record}]


def _number(value: float) -> Optional[float]:
    return None if value != value else round(value, 4)

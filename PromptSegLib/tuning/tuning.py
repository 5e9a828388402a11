"""Tuning: from examples to prompts, on a body that never changes."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import monai
import numpy as np
import torch

from ..annotation.checking import check_examples
from ..annotation.classes import ClassInfo, describe
from ..annotation.example import Example
from ..annotation.labels import barred_label, labels_on_grid, painted_on_grid
from ..annotation.strokes import Strokes
from ..errors import PromptSegError
from ..imaging.checking import check_extent
from ..imaging.geometry import Grid
from ..imaging.intensity import IntensityRule
from ..models.backbone import Backbone, load_model
from ..models.workspace import Workspace
from ..network.attention import PromptTensors
from ..network.methods.registry import method as method_called
from ..network.tokens import unstack
from ..progress import Job
from ..prompts.store import MAX_CLASSES, ClassPrompts, Prompts
from .choosing import FOR_NEW, chosen_method
from .crops import Crop, cover
from .encoded import EncodedCrops
from .held_out import SHARE
from .kept_strokes import strokes_to_keep, without
from .settings import AUTO, Settings
from .training import Annotated, RandomCrops, Trainer, hold_out
from .trying import TRIALS, Trial, best_of, worth_trying
from .tuner import Previews, Tuner
from .warm_start import Beginning, warm_start
from .working_grid import said_of, working_preprocessing

_TOKENS = 0.6  # share of the budget after which output tokens alone are no longer tuned


def tune(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    model: Union[Backbone, str, None] = None,
    *,
    start: Union[Prompts, str, Path, None] = None,
    others: Sequence[int] = (),
    settings: Optional[Settings] = None,
    device: str = "auto",
    keep_strokes: bool = True,
    appearance: Optional[Mapping[str, ClassInfo]] = None,
    job: Optional[Job] = None,
    on_preview: Optional[Callable[[Prompts], None]] = None,
    looked: Optional[float] = None,
    workspace: Optional[Workspace] = None,
) -> Prompts:
    """Tune class prompts on annotated examples; the backbone's parameters and buffers stay bit-identical.

    :param examples: one or several images with annotations.
    :param classes: class name -> its value in the annotations and in results.
    :param start: prompts to go on from: classes of the same name start there, all other
        classes are kept as they are, bit-identical.
    :param others: values of further classes in the annotations, which are not tuned now: what is painted of them is
        known not to be the classes that are, and stays what prompts of them carry.
    :param keep_strokes: let the prompts carry sparse annotations, so that the same images are
        grown from the same strokes when they are segmented; if not, those of ``start`` are left out as well.
    :param appearance: colour and terminology of classes, where the user has chosen them.
    :param on_preview: called with prompts worth a look: after the warm start, after the output tokens, and then
        whenever three times as long as its last call took has passed. Its time counts towards the budget.
    :param looked: seconds of a first look that the caller has shown already, see :class:`~.tuner.Previews`.
    :param workspace: what is kept from one call to the next on the same images.
    :raises PromptSegError: bad examples, prompts of another backbone.
    :raises Cancelled: the job's caller cancelled; nothing is changed.

    Deterministic for a seed on the CPU when bounded by steps.
    """
    began = time.monotonic()
    job, settings, workspace = job or Job(), (settings or Settings()).checked(), workspace or Workspace(0)
    classes, given = dict(classes), examples
    examples = [without(each, others) for each in given]
    check_examples(examples, classes)
    backbone = model if isinstance(model, Backbone) else load_model(model, device)
    if start is not None and not isinstance(start, Prompts):
        start = Prompts.load(Path(start))
    if start is not None:
        start = start.called(classes)
    named = chosen_method(settings, examples, classes, backbone, start, workspace, job.part(0.0, 0.02))
    training = settings.training if settings.training is not None else all(each.complete for each in examples)
    trial = None
    if settings.method == AUTO and named == FOR_NEW and start is None and worth_trying(examples, settings):
        trial = best_of(tune, examples, classes, backbone, settings, workspace, job.part(0.02, 0.02 + TRIALS))
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
    infos = _infos(classes, appearance, start)
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)

    crops, shapes, volumes = [], [], []
    intensity = start.intensity if start else None
    for index, example in enumerate(examples):
        job.part(0.0, 0.05).report("reading examples", index / len(examples))
        check_extent(Grid.of(example.image), backbone.preprocessing.spacing, example.name)
        volume = workspace.volume(example.image, backbone.preprocessing, intensity)
        intensity = intensity or volume.rule
        if volume.rule.sentence:
            notes.append(volume.rule.sentence if len(examples) == 1 else f"{example.name}: {volume.rule.sentence}")
        labels = labels_on_grid(example, classes, volume.grid)
        volumes.append(Annotated(volume.array, labels, painted_on_grid(example, volume.grid) if training else None))
        described = {"name": example.name, "shape": list(volume.native.shape), "spacing": _rounded(volume.native)}
        shapes.append({**described, "complete": example.complete})
    strokes = strokes_to_keep(given, classes, start, workspace, notes, others) if keep_strokes else []
    held: list[Crop] = []
    if training:
        volumes, held = hold_out(volumes, backbone.crop, rng)
    limit = max(settings.crops // len(examples), len(classes) + 1)
    for each in volumes:
        crops += cover(each.array, each.labels, backbone.tile, limit, rng)
    if not crops:
        raise PromptSegError("No annotated voxel lies inside its image; check that they belong together.")
    _check_seen(crops, classes, backbone.preprocessing.spacing)

    cached = settings.mode in ("decoder", "end")
    maps = workspace.maps(examples[0].image, backbone) if len(examples) == 1 else None
    encoded = EncodedCrops(backbone, crops, cached, job.part(0.05, 0.15), maps)
    shared = _Shared(
        backbone, settings, infos, shapes, strokes, intensity, notes, rng, generator, began, on_preview, looked
    )
    if training:
        boxes = EncodedCrops(backbone, held, cached, Job()) if held else None
        shared = replace(shared, trial=trial, volumes=volumes, held=boxes)
    if settings.passes == "joint" or len(classes) == 1:
        return _tune_group(shared, encoded, list(classes), start, job.part(0.15, 1.0))
    # As published: a class alone in its pass, against all others. A group of one for each, so that none needs another.
    for index, name in enumerate(classes):
        share = job.part(0.15 + 0.85 * index / len(classes), 0.15 + 0.85 * (index + 1) / len(classes))
        part = shared.part(index, len(classes))
        start = _tune_group(part, encoded.alone(index + 1), [name], start, share)
    assert start is not None
    return start


@dataclass(frozen=True)
class _Shared:
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
    on_preview: Optional[Callable[[Prompts], None]]
    looked: Optional[float]
    volumes: Sequence[Annotated] = ()
    held: Optional[EncodedCrops] = None
    trial: Optional[Trial] = None

    def part(self, index: int, count: int) -> _Shared:
        """For the class at ``index`` of ``count`` in turn, alone: an equal share of the time that is left."""
        now, settings = time.monotonic(), self.settings
        if settings.seconds is not None:
            settings = replace(settings, seconds=max((settings.seconds - (now - self.began)) / (count - index), 0.1))
        volumes = [each.alone(index + 1) for each in self.volumes]
        held = self.held.alone(index + 1) if self.held else None
        return replace(self, began=now, settings=settings, volumes=volumes, held=held)


def _tune_group(
    shared: _Shared, encoded: EncodedCrops, names: Sequence[str], start: Optional[Prompts], job: Job
) -> Prompts:
    """Tune the classes ``names`` (as the labels of ``encoded`` have them) as one group beside what ``start`` holds."""
    settings, infos = shared.settings, [each for each in shared.infos if each.name in names]
    backbone, began = shared.backbone, shared.began
    beginnings = [_beginning(start, name) for name in names]
    warm = warm_start(encoded, beginnings, settings, shared.generator, job.part(0.0, 0.06))
    tuner = Tuner(encoded, warm, len(names), settings, shared.rng)
    if shared.volumes:
        crops = RandomCrops(shared.volumes, len(names), backbone.crop, settings.seed)
        tuner = Trainer(encoded, warm, len(names), settings, shared.rng, crops, shared.held)
    first = tuner.agreement(warm.prompts, warm.features, warm.labels)

    if shared.held is None:
        until = None if settings.seconds is None else time.monotonic() + SHARE * settings.seconds
        tuner.hold_back(backbone.preprocessing.spacing, encoded.places, until)

    def packed(state: PromptTensors, scores: list[float]) -> Prompts:
        record = {
            "examples": shared.shapes,
            "classes": {
                name: {
                    "start": warm.origin[i] if shared.trial is None else "a trial on all examples but the last",
                    "new": beginnings[i].new or not warm.lent[i],
                    "agreement": _number(scores[i]),  # with what was learned from; no measure of quality
                    "held_back": _number(tuner.held_back[i]),
                }
                for i, name in enumerate(names)
            },
            "steps": tuner.step,
            "token_steps": tuner.token_steps,
            "seconds": round(time.monotonic() - began, 2),
            "passes": settings.passes,
            **({"held_out": tuner.checks} if isinstance(tuner, Trainer) else {}),
            **({"left_out": dict(shared.trial.found), "left_out_name": shared.trial.left_out} if shared.trial else {}),
            "seed": settings.seed,
            "device": str(backbone.device),
            "notes": shared.notes,
            "versions": {"torch": torch.__version__, "monai": monai.__version__, "python": platform.python_version()},
        }
        return _assemble(backbone, settings, infos, state, record, start, shared.strokes, shared.intensity)

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
    gone = [name for index, name in enumerate(classes, 1) if not seen & {index, barred_label(index)}]
    if gone:
        voxel = " x ".join(f"{step:g}" for step in spacing[::-1])
        raise PromptSegError(
            "What is painted of {gone} disappears among other strokes on the model's voxels of {voxel} "
            "mm; paint more of it, or less close to others, and check the voxel spacing of the image.",
            gone=", ".join(gone),
            voxel=voxel,
        )


def _beginning(start: Optional[Prompts], name: str) -> Beginning:
    """What the given prompts hold of a class, and whether it was new to the body when it was first tuned, as far as
    they say."""
    if start is None or name not in start.names:
        return Beginning()
    given = start.find(name)
    record: Any = start.tuning.get(str(given.group))
    for key in ("classes", name):
        record = record.get(key) if isinstance(record, dict) else None
    tensors = {key: torch.from_numpy(array.copy()) for key, array in given.tensors.items()}
    return Beginning(tensors, isinstance(record, dict) and record.get("new") is True)


def _assemble(
    backbone: Backbone,
    settings: Settings,
    infos: list[ClassInfo],
    state: PromptTensors,
    record: dict[str, Any],
    start: Optional[Prompts],
    strokes: list[Strokes],
    intensity: Optional[IntensityRule],
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
    return Prompts(
        (*kept, *added),
        backbone.name,
        backbone.sha256,
        backbone.config,
        backbone.preprocessing,
        settings.mode,
        settings.method,
        {**records, str(group): record},
        tuple(strokes),
        intensity,
    )


def _infos(
    classes: Mapping[str, int], given: Optional[Mapping[str, ClassInfo]], start: Optional[Prompts]
) -> list[ClassInfo]:
    """How each class is shown: as the caller says, as the start had it, or as its name suggests."""
    known = {each.info.name: each.info for each in start.active} if start else {}
    others = [info for name, info in known.items() if name not in classes]
    infos: list[ClassInfo] = []
    for name, value in classes.items():
        info = (given or {}).get(name) or known.get(name) or describe(name, value, [*others, *infos])
        infos.append(replace(info, name=name, value=value))
    return infos


def _history(record: Any) -> list[dict[str, Any]]:
    """What is kept of a tuning that a later one went on from, and of those before it; of a file from anywhere."""
    if not isinstance(record, dict):
        return []
    before = record.get("earlier")
    steps = [each for each in before if isinstance(each, dict)] if isinstance(before, list) else []
    return [*steps, {key: record[key] for key in ("steps", "seconds", "seed", "examples") if key in record}]


def _rounded(grid: Grid) -> list[float]:
    return [round(step, 4) for step in grid.spacing[::-1]]


def _number(value: float) -> Optional[float]:
    return None if value != value else round(value, 4)

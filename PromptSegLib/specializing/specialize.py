"""A model of its own: a backbone whose decoder, or all of it, is trained on with complete annotations."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass, replace
from typing import Any, Mapping, Optional, Sequence, Union

import monai
import numpy as np
import SimpleITK as sitk
import torch

from ..annotation.checking import check_examples
from ..annotation.classes import ClassInfo, class_infos
from ..annotation.example import Example
from ..annotation.strokes import fingerprint
from ..errors import PromptSegError, Sentence
from ..imaging.intensity import IntensityRule
from ..inference.deciding import DICE
from ..models import own
from ..models.backbone import Backbone, load_model
from ..models.catalogue import Entry
from ..models.feature_cache import FeatureCache
from ..network.attention import PromptTensors
from ..network.tokens import unstack
from ..pretraining.checkpoint import check_room
from ..progress import ProgressHandle
from ..prompts.store import ClassPrompts, Prompts
from ..tuning.crops import Crop
from ..tuning.encoded import EncodedCrops
from ..tuning.objective import agreement, mean
from ..tuning.reading import covering_crops, read_examples
from ..tuning.settings import Settings
from ..tuning.training import Annotated, RandomCrops, hold_out
from ..tuning.warm_start import ClassInit, warm_start
from ..tuning.working_grid import said_of, working_preprocessing
from . import cards
from .adaptations import Prompted, adaptation
from .training import Training

FEWEST = 3  # annotated volumes
SECONDS = 240.0
WHAT = {"full": "full fine-tuning", "decoder": "decoder fine-tuning"}


@dataclass(frozen=True)
class Effort:
    """How to train: ``what`` moves (``full``: the whole body; ``decoder``: that alone), and for how long, all attempts
    together: ``seconds``, or ``steps``, which are reproducible on the CPU."""

    what: str = "full"
    seconds: Optional[float] = None
    steps: Optional[int] = None
    seed: int = 0

    def checked(self) -> Effort:
        """With a default time; raises :class:`PromptSegError` for values that make no sense."""
        if self.what not in WHAT:
            raise PromptSegError(
                "A model can be specialized in {known}, not {what}; choose one of these.",
                known=" or ".join(WHAT),
                what=repr(self.what),
            )
        Settings(seconds=self.seconds, steps=self.steps, seed=self.seed).checked()
        if self.steps == 0:
            raise PromptSegError("Without any step there is no model; give 1 or more.")
        return replace(self, seconds=SECONDS) if self.seconds is None and self.steps is None else self


def specialize(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    name: str,
    model: Union[Backbone, str, None] = None,
    *,
    effort: Optional[Effort] = None,
    title: str = "",
    device: str = "auto",
    appearance: Optional[Mapping[str, ClassInfo]] = None,
    job: Optional[ProgressHandle] = None,
) -> Entry:
    """Make a model of its own in the model folder, with prompts of ``classes``; gives its entry in the catalogue.

    The parent stays as it is. Cancelled or killed, the training is gone on from by the next call with the same name,
    examples and classes, in their order. Files: ``NAME.safetensors`` (fp16), ``NAME.prompts.safetensors``, ``NAME.md``,
    the card.

    :param examples: three or more images with complete annotations; grids and intensities are chosen by them.
    :param classes: class name -> its value in the annotations and in results.
    :param name: of the model, in the catalogue and as a file.
    :param appearance: color and terminology of classes, where the user has chosen them.
    :raises PromptSegError: bad examples or names, a folder that cannot be written, no room on the disk.
    :raises Cancelled: the job's caller cancelled.
    """
    job, effort = job or ProgressHandle(), (effort or Effort()).checked()
    weights = own.place_for(name)
    _check(examples, classes)
    parent = model if isinstance(model, Backbone) else load_model(model, device)
    check_room(weights, parent.net.state_dict())
    task = _Task.of(examples, dict(classes), parent, effort, job.part(0.0, 0.04))
    made = _adapted(task, job.part(0.04, 0.1))
    about = {"name": name, "parent": parent.sha256, "what": effort.what, "seed": effort.seed, "examples": task.digest}
    training = Training(
        made,
        RandomCrops(task.volumes, len(classes), task.backbone.crop, effort.seed),
        seconds=effort.seconds,
        steps=effort.steps,
        saved=own.unfinished(name),
        task=about,
        device=parent.device,
    )
    training.run(job.part(0.1, 0.95))
    return _kept(task, made, training, name, title or name, appearance or {}, job.part(0.95, 1.0))


def _check(examples: Sequence[Example], classes: Mapping[str, int]) -> None:
    check_examples(examples, classes)
    partly = [each.name for each in examples if not each.complete]
    if partly:
        raise PromptSegError(
            "A model of its own needs complete annotations, and that of {name} has unknown voxels; complete it, or "
            "tune prompts instead.",
            name=partly[0],
        )
    if len(examples) < FEWEST:
        raise PromptSegError(
            "A model of its own needs {fewest} annotated volumes or more, and here are {count}; annotate another, or "
            "tune prompts instead.",
            fewest=FEWEST,
            count=len(examples),
        )


@dataclass(frozen=True)
class _Task:
    """What is learned from, on the task's own grid; ``held`` are boxes that nothing is learned from."""

    classes: dict[str, int]
    effort: Effort
    parent: Backbone
    backbone: Backbone
    volumes: list[Annotated]
    held: list[Crop]
    shapes: list[dict[str, Any]]
    notes: list[str]
    intensity: Optional[IntensityRule]
    digest: str
    rng: np.random.Generator

    @classmethod
    def of(
        cls, examples: Sequence[Example], classes: dict[str, int], parent: Backbone, effort: Effort, job: ProgressHandle
    ) -> _Task:
        chosen = working_preprocessing(examples, parent, classes)
        backbone, notes = parent.working_at(chosen), said_of(examples, parent.preprocessing, chosen)
        rng, digest = np.random.default_rng(effort.seed), hashlib.sha256(repr(list(classes.items())).encode())
        read = read_examples(examples, classes, chosen, None, FeatureCache(0), False, job)
        for each in examples:
            digest.update(fingerprint(each.image).encode())
            digest.update(np.ascontiguousarray(sitk.GetArrayViewFromImage(each.annotation)).tobytes())
        volumes, held = hold_out(read.volumes, backbone.crop, rng)
        told = read.records, notes, read.intensity, digest.hexdigest()
        return cls(classes, effort, parent, backbone, volumes, held, *told, rng)

    def agreement(self, net_of: Backbone, prompts: PromptTensors) -> Optional[float]:
        """Mean Dice of the classes over the held-out boxes; None where there are none."""
        if not self.held:
            return None
        held = EncodedCrops(net_of, self.held, False, ProgressHandle())
        with torch.no_grad():
            said = torch.cat([held.logits(index, prompts).argmax(1) for index in range(len(held))])
        return round(mean(agreement(said, torch.cat(held.labels), len(self.classes))), 4)


def _adapted(task: _Task, job: ProgressHandle) -> Prompted:
    """The body with prompts that begin as prototypes of the annotated voxels, ready to be trained."""
    backbone, effort = task.backbone, task.effort
    settings = Settings(method="punet", mode="full" if effort.what == "full" else "decoder", outputs="all", steps=0)
    generator = torch.Generator().manual_seed(effort.seed)
    crops = covering_crops(task.volumes, len(task.classes), backbone.tile, settings.crops, task.rng)
    encoded = EncodedCrops(backbone, crops, True, job.part(0.0, 0.5))
    warm = warm_start(encoded, [ClassInit()] * len(task.classes), settings, generator, job.part(0.5, 1.0))
    start = {name: tensor.detach().clone() for name, tensor in {**warm.extra_output_tokens, **warm.prompts}.items()}
    made = adaptation(WHAT[effort.what], backbone, len(task.classes), generator, outputs="all", start=start)
    assert isinstance(made, Prompted)
    return made


def _kept(
    task: _Task,
    made: Prompted,
    training: Training,
    name: str,
    title: str,
    appearance: Mapping[str, ClassInfo],
    job: ProgressHandle,
) -> Entry:
    """Write the model, its prompts and its card."""
    job.report("writing the model", 0.0)
    net = made.net.eval().requires_grad_(False)
    state = {key: tensor.detach() for key, tensor in made.stacked().items()}
    with torch.no_grad():
        for each in net.parameters():  # what users get is halved in precision: that is what is looked at
            each.copy_(each.half().float())
    agreed = task.agreement(replace(task.backbone, net=net), state)
    card = cards.card(
        title=title,
        parent=task.parent,
        classes=list(task.classes),
        data=task.shapes,
        training={
            "what": WHAT[task.effort.what],
            "steps": training.step,
            "seconds": round(training.spent, 1),
            "seed": task.effort.seed,
            "device": str(task.parent.device),
            "versions": {"torch": torch.__version__, "monai": monai.__version__, "python": platform.python_version()},
        },
        held_out=agreed,
    )
    record = _record(task, training, agreed)
    infos = class_infos(task.classes, appearance)

    def prompts(sha256: str) -> Prompts:
        tensors = [{key: tensor.cpu().numpy() for key, tensor in each.items()} for each in unstack(state)]
        return Prompts(
            tuple(ClassPrompts(info, own_tensors, 0) for info, own_tensors in zip(infos, tensors)),
            name,
            sha256,
            net.config,
            task.backbone.preprocessing,
            "full" if task.effort.what == "full" else "decoder",
            "punet",
            {"0": record},
            (),
            task.intensity,
        )

    return own.keep(name, net, task.backbone, card, prompts, cards.as_text(name, card))


def _record(task: _Task, training: Training, agreed: Optional[float]) -> dict[str, Any]:
    """How the prompts came about, as their file says."""
    return {
        "examples": task.shapes,
        "classes": {
            each: {"start": "the model itself", "new": False, "agreement": agreed, "decision": DICE}
            for each in task.classes
        },
        "steps": training.step,
        "seconds": round(training.spent, 1),
        "seed": task.effort.seed,
        "device": str(task.parent.device),
        "held_out": [] if agreed is None else [agreed],
        "notes": [*task.notes, _said(agreed)],
    }


def _said(agreed: Optional[float]) -> str:
    if agreed is None:
        return ""
    return Sentence("Agreement with what was held out of the examples: {agreed:.0%}.", agreed=agreed)

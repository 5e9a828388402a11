"""Tuning: from examples to prompts, on a body that never changes."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import monai
import numpy as np
import torch
from torch import Tensor

from ..errors import PromptSegError
from ..examples.annotation import labels_on_grid, strokes_on_image
from ..examples.checking import check_examples
from ..examples.example import Example
from ..examples.geometry import Grid
from ..examples.volume import Volume
from ..models.backbone import Backbone, load_model
from ..network.attention import PromptTensors
from ..network.config import METHODS, MODES
from ..network.tokens import unstack
from ..progress import Job
from ..prompts.classes import ClassInfo, describe
from ..prompts.store import MAX_CLASSES, ClassPrompts, Prompts
from ..prompts.strokes import Strokes, fingerprint
from .crops import cover
from .encoded import EncodedCrops
from .objective import agreement, annotated_loss, class_weights, mean
from .warm_start import WarmStart, warm_start

MAX_CROPS = 24
DEFAULT_SECONDS = 60.0


@dataclass(frozen=True)
class Settings:
    """How to tune. ``seconds`` (from the call to the end) or ``steps`` bounds it; steps are reproducible.

    :param mode: which blocks hold tokens; ``decoder`` lets the encoder be computed once.
    :param method: ``punet`` (tokens), ``dvpt`` (dynamic tokens) or ``ept`` (sinks).
    :param trust: how far a class lent by a shipped one moves from it towards what was tuned. A
        few strokes of one patient teach that patient: between the two, prompts are better on
        it and on the next (weight-space ensembling, Wortsman et al., CVPR 2022).
    :param token_steps: full-batch steps on the output tokens alone, before the decoder is run again.
    """

    mode: str = "decoder"
    method: str = "punet"
    seconds: Optional[float] = None
    steps: Optional[int] = None
    token_steps: int = 60
    token_rate: float = 0.01
    rate: float = 2e-3
    average: float = 0.95
    trust: float = 0.5
    seed: int = 0

    def checked(self) -> Settings:
        """Fill in the default budget; raises :class:`PromptSegError` for values that make no sense."""
        if self.mode not in MODES:
            raise PromptSegError(f"There is no mode {self.mode!r}; choose one of {', '.join(MODES)}.")
        if self.method not in METHODS:
            raise PromptSegError(f"There is no method {self.method!r}; choose one of {', '.join(METHODS)}.")
        if self.seconds is not None and self.steps is not None:
            raise PromptSegError("Give a budget in seconds or in steps, not both.")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise PromptSegError(f"A budget of {self.seconds} seconds makes no sense; give more than 0.")
        if self.steps is not None and self.steps < 0:
            raise PromptSegError(f"A budget of {self.steps} steps makes no sense; give 0 or more.")
        if not 0 <= self.seed < 2**63:
            raise PromptSegError(f"The seed {self.seed} makes no sense; give 0 or more, below 2^63.")
        if self.seconds is None and self.steps is None:
            return replace(self, seconds=DEFAULT_SECONDS)
        return self


def tune(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    model: Union[Backbone, str, None] = None,
    *,
    start: Union[Prompts, str, Path, None] = None,
    settings: Optional[Settings] = None,
    device: str = "auto",
    keep_strokes: bool = True,
    appearance: Optional[Mapping[str, ClassInfo]] = None,
    job: Optional[Job] = None,
    on_preview: Optional[Callable[[Prompts], None]] = None,
) -> Prompts:
    """Tune class prompts on annotated examples; the backbone's parameters and buffers stay bit-identical.

    :param examples: one or several images with annotations.
    :param classes: class name -> its value in the annotations and in results.
    :param start: prompts to go on from: classes of the same name start there, all other
        classes are kept as they are, bit-identical.
    :param keep_strokes: let the prompts carry sparse annotations, so that the same images are
        grown from the same strokes when they are segmented.
    :param appearance: colour and terminology of classes, where the user has chosen them.
    :param on_preview: called with prompts worth a look: after the warm start, before any gradient step.
    :raises PromptSegError: bad examples, prompts of another backbone.
    :raises Cancelled: the job's caller cancelled; nothing is changed.

    Deterministic for a seed on the CPU when bounded by steps.
    """
    began = time.monotonic()
    job, settings = job or Job(), (settings or Settings()).checked()
    classes = dict(classes)
    check_examples(list(examples), classes)
    backbone = model if isinstance(model, Backbone) else load_model(model, device)
    if start is not None and not isinstance(start, Prompts):
        start = Prompts.load(Path(start))
    if start is not None:
        _check_start(start, backbone, settings, classes)
    infos = _infos(classes, appearance, start)
    rng = np.random.default_rng(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)

    crops, kept, shapes = [], [], []
    for index, example in enumerate(examples):
        job.part(0.0, 0.05).report("reading examples", index / len(examples))
        volume = Volume.of(example.image, backbone.preprocessing)
        labels = labels_on_grid(example, classes, volume.grid)
        limit = max(MAX_CROPS // len(examples), len(classes) + 1)
        crops += cover(volume.array, labels, backbone.tile, limit, rng)
        shapes.append({"name": example.name, "shape": list(volume.native.shape), "spacing": _rounded(volume.native)})
        if keep_strokes and not example.complete:
            strokes = _strokes(example, classes, start)
            kept += [strokes] if strokes else []
    if not crops:
        raise PromptSegError("No annotated voxel lies inside its image; check that they belong together.")

    cached = settings.mode in ("decoder", "end")
    encoded = EncodedCrops(backbone, crops, cached, job.part(0.05, 0.15))
    given: list[Optional[PromptTensors]] = [_given(start, name) for name in classes]
    warm = warm_start(encoded, len(classes), settings.mode, settings.method, given, generator, job.part(0.15, 0.2))
    tuner = _Tuner(encoded, warm, len(classes), settings, rng)
    first = tuner.agreement(warm.prompts, warm.features, warm.labels)

    def packed(state: PromptTensors, scores: list[float]) -> Prompts:
        record = {
            "examples": shapes,
            "classes": {
                name: {"start": warm.origin[i], "agreement": _number(scores[i])} for i, name in enumerate(classes)
            },
            "steps": tuner.step,
            "token_steps": tuner.token_steps,
            "seconds": round(time.monotonic() - began, 2),
            "seed": settings.seed,
            "device": str(backbone.device),
            "versions": {"torch": torch.__version__, "monai": monai.__version__, "python": platform.python_version()},
        }
        return _assemble(backbone, settings, infos, state, record, start, kept)

    if on_preview:
        on_preview(packed(warm.prompts, first))
    tuner.tokens(job.part(0.2, 0.25))
    tuner.run(began, job.part(0.25, 0.98))
    state, scores = tuner.best(warm.prompts, first, job.part(0.98, 1.0))
    job.report("done", 1.0, agreement=mean(scores), step=tuner.step)
    return packed(state, scores)


class _Tuner:
    """The optimisation of one group of classes on encoded crops."""

    def __init__(
        self, encoded: EncodedCrops, warm: WarmStart, classes: int, settings: Settings, rng: np.random.Generator
    ):
        self.encoded, self.warm, self.classes, self.settings, self.rng = encoded, warm, classes, settings, rng
        self.prompts = {name: tensor.detach().clone().requires_grad_() for name, tensor in warm.prompts.items()}
        self.average = {name: tensor.detach().clone() for name, tensor in warm.prompts.items()}
        self.weights = class_weights(torch.bincount(warm.labels, minlength=classes + 1))
        # Crops by class, so that every class is seen equally often whatever its size.
        self.holders = [
            [i for i, labels in enumerate(encoded.labels) if (labels == index).any()] for index in range(classes + 1)
        ]
        self.step = self.token_steps = 0

    def agreement(self, prompts: PromptTensors, features: Tensor, labels: Tensor) -> list[float]:
        """Dice per class over the annotated voxels, from their features under ``prompts``."""
        with torch.no_grad():
            said = self._logits(features, prompts).argmax(1)
        return agreement(said, labels, self.classes)

    def _logits(self, features: Tensor, prompts: PromptTensors) -> Tensor:
        """Features (n, C0) -> logits (n, 1 + classes)."""
        rows = features.t()[None, :, :, None, None]
        return self.encoded.backbone.net.similarity(rows, prompts)[0, :, :, 0, 0].t()

    def tokens(self, job: Job) -> None:
        """Full-batch steps on the output tokens over fixed features: cheap, and most of the way."""
        steps = self.settings.token_steps if self.settings.steps != 0 else 0
        chosen = {name: self.prompts[name] for name in ("output.foreground", "output.background")}
        optimizer = torch.optim.Adam(chosen.values(), lr=self.settings.token_rate)
        for step in range(steps):
            logits = self._logits(self.warm.features, chosen)
            loss = annotated_loss(logits, self.warm.labels, self.weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            job.report("output tokens", step / steps, loss=float(loss.detach()))
        self.token_steps = steps
        for name, tensor in chosen.items():
            self.average[name].copy_(tensor.detach())

    def run(self, began: float, job: Job) -> None:
        """Steps through the decoder (or the whole network) until the budget is spent."""
        settings = self.settings
        optimizer = torch.optim.Adam(self.prompts.values(), lr=settings.rate)
        begin = time.monotonic()
        while True:
            if settings.steps is not None:
                share = self.step / settings.steps if settings.steps else 1.0
            else:
                # What is left of the user's seconds, less the last look at the agreement.
                budget = (settings.seconds or 0.0) - (begin - began) - self.warm.seconds
                share = (time.monotonic() - begin) / budget if budget > 0 else 1.0
            if share >= 1.0:
                break
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
            index = self._pick()
            logits = self.encoded.logits(index, self.prompts)
            labels = self.encoded.labels[index]
            loss = annotated_loss(logits, labels, self.weights)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.prompts.values()), 1.0)
            optimizer.step()
            self.step += 1
            decay = min(settings.average, self.step / (self.step + 4))
            with torch.no_grad():
                for name, tensor in self.average.items():
                    tensor.lerp_(self.prompts[name], 1 - decay)
            agreed = mean(agreement(logits.argmax(1), labels, self.classes))
            job.report("tuning", share, loss=float(loss.detach()), agreement=agreed, step=self.step)

    def _pick(self) -> int:
        present = [holders for holders in self.holders[1:] if holders]
        holders = present[self.rng.integers(len(present))]
        return holders[self.rng.integers(len(holders))]

    def best(self, start: PromptTensors, first: list[float], job: Job) -> tuple[PromptTensors, list[float]]:
        """The averaged prompts, lent classes part of the way; or the start where that agrees less with the strokes."""
        if not self.step and not self.token_steps:
            return start, first
        shares = torch.tensor([self.settings.trust if lent else 1.0 for lent in self.warm.lent])
        final = {}
        for name, tensor in self.average.items():
            share = shares.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            final[name] = torch.lerp(start[name], tensor, share.expand_as(tensor))
        features, labels = self.encoded.annotated_features(final, job)
        scores = self.agreement(final, features, labels)
        if mean(scores) < mean(first):
            return start, first
        return final, scores


def _check_start(start: Prompts, backbone: Backbone, settings: Settings, classes: Mapping[str, int]) -> None:
    start.check_backbone(backbone.name, backbone.sha256, backbone.config)
    if (start.mode, start.method) != (settings.mode, settings.method):
        raise PromptSegError(
            f"The given prompts have mode {start.mode} and method {start.method}; tune with the same, or start anew."
        )
    if len(start.classes) + len(classes) > MAX_CLASSES:
        raise PromptSegError(f"Prompts hold at most {MAX_CLASSES} classes; tune the new ones into a file of their own.")
    others = {each.info.value: each.info.name for each in start.active if each.info.name not in classes}
    for name, value in classes.items():
        if value in others:
            raise PromptSegError(
                f"The value {value} of {name} already belongs to {others[value]} in the given prompts; choose another."
            )


def _strokes(example: Example, classes: Mapping[str, int], start: Optional[Prompts]) -> Optional[Strokes]:
    """What was painted on an example, with the strokes that ``start`` holds of its other classes on the same image."""
    image, labels, values = fingerprint(example.image), strokes_on_image(example, classes), list(classes.values())
    for each in start.strokes if start else ():
        if start and each.image == image and each.shape == labels.shape:
            others = [value for name, value in start.values.items() if name not in classes]
            try:
                earlier = each.unpack(others)
            except ValueError as error:
                raise PromptSegError(f"The strokes in the given prompts are unusable: {error}; start anew.") from error
            if (labels == 0).any():
                earlier[earlier == 0] = -1  # background was painted anew: what was erased stays erased
            earlier[earlier > 0] += len(classes)
            labels, values = np.where(labels >= 0, labels, earlier), values + others
    return Strokes.pack(image, labels, values)


def _given(start: Optional[Prompts], name: str) -> Optional[PromptTensors]:
    if start is None or name not in start.names:
        return None
    return {key: torch.from_numpy(array.copy()) for key, array in start.find(name).tensors.items()}


def _assemble(
    backbone: Backbone,
    settings: Settings,
    infos: list[ClassInfo],
    state: PromptTensors,
    record: dict[str, Any],
    start: Optional[Prompts],
    strokes: list[Strokes],
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
    earlier = [records[key] for key in before if isinstance(records.get(key), dict)]
    record["earlier"] = [step for each in earlier for step in (*each.get("earlier", []), _brief(each))]
    records = {key: value for key, value in records.items() if key in {str(each.group) for each in kept}}
    images = {each.image for each in strokes}
    return Prompts(
        (*kept, *added),
        backbone.name,
        backbone.sha256,
        backbone.config,
        backbone.preprocessing,
        settings.mode,
        settings.method,
        {**records, str(group): record},
        (*(each for each in (start.strokes if start else ()) if each.image not in images), *strokes),
    ).fitted()


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


def _brief(record: Any) -> dict[str, Any]:
    """What is kept of a tuning that a later one went on from."""
    return {key: record[key] for key in ("steps", "seconds", "seed", "examples") if key in record}


def _rounded(grid: Grid) -> list[float]:
    return [round(step, 4) for step in grid.spacing[::-1]]


def _number(value: float) -> Optional[float]:
    return None if value != value else round(value, 4)

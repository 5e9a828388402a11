"""Prompts before the first gradient step: the nearest shipped class, or prototypes of the annotated voxels."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Optional, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..annotation.labels import excluded_label
from ..models.matching import assign_one_to_one
from ..network.attention import PromptTensors
from ..network.config import NetworkConfig, outputs_of
from ..network.methods.registry import method as method_called
from ..network.punet import maps_of
from ..network.tokens import from_arrays, new_prompts, select, unstack, without_encoder
from ..progress import ProgressHandle
from .encoded import EncodedCrops
from .objective import agreement, known_counts
from .settings import Settings


@dataclass(frozen=True)
class ClassInit:
    """What there is of a class before it is tuned: its prompts, if any, and whether it was new to the body when they
    were first tuned."""

    prompts: Optional[PromptTensors] = None
    new: bool = False

    @property
    def outputs(self) -> str:
        """Which maps its output tokens are for."""
        return outputs_of(self.prompts or ())


@dataclass(frozen=True)
class WarmStart:
    """Stacked prompts, where each class's come from, which were prompts already (given, or lent by a shipped class),
    and for each tensor of which classes it was (a method may have tensors that no shipped class can lend);
    features (n, C) and labels (n,) of the annotated voxels, with the seconds it took to compute them; no features where
    given prompts need none.

    ``extra_output_tokens``: output tokens that classes without any in further maps could have there, stacked too; zeros
    for the other classes.
    """

    prompts: PromptTensors
    extra_output_tokens: PromptTensors
    origin: list[str]
    from_prompts: list[bool]
    borrowed: dict[str, list[bool]]
    features: Tensor
    labels: Tensor
    seconds: float


def nearest_shipped(
    encoded: EncodedCrops, classes: int, job: ProgressHandle
) -> tuple[Tensor, list[PromptTensors], list[str]]:
    """How well every shipped class agrees with every annotated class.

    Looks at one crop a class, the one that holds most of it: enough to recognize an organ.

    :return: agreement (classes, shipped classes) in 0..1, the shipped classes' prompts and names.
    """
    backbone = encoded.backbone
    shipped = backbone.shipped
    assert shipped is not None
    counts = torch.stack([known_counts(labels, classes) for labels in encoded.labels])
    chosen = sorted(set(counts[:, 1:].argmax(0).tolist()))
    members = shipped.groups()[0]
    group = from_arrays([each.tensors for each in members], backbone.device)
    said = []
    with torch.no_grad():
        decoder_only = without_encoder(group)
        for step, index in enumerate(chosen):
            job.report("comparing with known classes", step / len(chosen))
            said.append(encoded.logits(index, decoder_only).argmax(1))
    guess, known = torch.cat(said), torch.cat([encoded.labels[index] for index in chosen])
    names = [each.info.name for each in members]
    score = torch.zeros(classes, len(names))
    for index in range(classes):
        for other in range(len(names)):
            score[index, other] = agreement((guess == other + 1).long(), (known == index + 1).long(), 1)[0]
    return torch.nan_to_num(score), unstack(group), names


def prototypes(features: Tensor, tokens: int, generator: torch.Generator, rounds: int = 8) -> Tensor:
    """Directions (tokens, C) that represent ``features`` (n, C): spherical k-means from farthest points."""
    features = F.normalize(features, dim=1)
    if len(features) > 4096:
        features = features[torch.randperm(len(features), generator=generator)[:4096].to(features.device)]
    centers = F.normalize(features.mean(0, keepdim=True), dim=1)
    while len(centers) < tokens:
        nearest = (features @ centers.t()).max(1).values
        centers = torch.cat([centers, features[nearest.argmin()][None]])
    for _ in range(rounds):
        member = F.one_hot((features @ centers.t()).argmax(1), tokens).to(features.dtype)
        sums = member.t() @ features
        centers = torch.where(member.sum(0)[:, None] > 0, F.normalize(sums, dim=1), centers)
    return centers


def warm_start(
    encoded: EncodedCrops,
    inits: Sequence[ClassInit],
    settings: Settings,
    generator: torch.Generator,
    job: ProgressHandle,
    look: bool = True,
) -> WarmStart:
    """Prompts to start from, and for each class where they come from.

    A class that has prompts starts there. Otherwise the shipped class that agrees best
    with its annotated voxels lends its tokens (each shipped class once); where none agrees,
    the output tokens are prototypes of the annotated voxels' features. No gradient is needed.

    With ``settings.outputs`` ``all``, given prompts keep their output tokens of further maps, and classes that start
    from prototypes get ``extra_output_tokens``, as do given ones that were new to the body and have none yet: more
    strokes may show that they need them. Shipped classes have none: what they learned from many patients is in the
    last map.

    :param look: whether features are wanted of given prompts that need none to start from.
    """
    backbone, classes, mode, method = encoded.backbone, len(inits), settings.mode, settings.method
    config, device, shipped = backbone.config, backbone.device, backbone.shipped
    if not method_called(method).output_tokens:
        return _fitted(encoded, inits, settings, generator, job, look)
    wide = settings.outputs == "all" and any(each.outputs == "all" for each in inits)
    fresh = new_prompts(config, classes, mode, method, generator, "all" if wide else "last")
    prompts = {name: tensor.to(device) for name, tensor in fresh.items()}
    for index, each in enumerate(inits):
        _lend(prompts, index, each.prompts or {})
    origin = ["the given prompts" if each.prompts else "" for each in inits]
    if shipped is not None and not all(origin):
        _lend_shipped(encoded, prompts, origin, job.part(0.0, 0.6))
    lent = [bool(each) for each in origin]
    lendable = set(shipped.groups()[0][0].tensors) if shipped is not None else set()
    borrowed = {
        name: [there and bool(each.prompts or name in lendable) for there, each in zip(lent, inits)] for name in prompts
    }
    silent = [
        index
        for index, each in enumerate(inits)
        if settings.outputs == "all" and each.new and each.prompts and each.outputs == "last"
    ]
    # Output tokens come after the features: these do not depend on them.
    began = time.monotonic()
    outputs = settings.outputs if wide or silent or not all(origin) else "last"
    features, labels = encoded.annotated_features(prompts, job.part(0.6, 1.0), outputs)
    seconds = time.monotonic() - began
    shapes = config.prompt_shapes(mode, method, outputs).items()
    extra = {n: torch.zeros(classes, *shape, device=device) for n, shape in shapes if outputs_of([n]) == "all"}
    for index in range(classes):
        if lent[index] and index not in silent:
            continue
        # Of given prompts, the tokens in the last map stay.
        tokens = {**(select(prompts, range(classes)) if lent[index] else prompts), **extra}
        known = (labels >= 0) | (labels == excluded_label(index + 1))
        own, rest = features[labels == index + 1], features[known & (labels != index + 1)]
        output_tokens(config, tokens, index, own, rest, generator)
        origin[index] = origin[index] or "prototypes of the annotated voxels"
    return WarmStart(prompts, extra, origin, lent, borrowed, features, labels, seconds)


def _fitted(
    encoded: EncodedCrops,
    inits: Sequence[ClassInit],
    settings: Settings,
    generator: torch.Generator,
    job: ProgressHandle,
    look: bool = True,
) -> WarmStart:
    """The start of a method without output tokens, which no shipped class can lend it: given prompts, or a fit."""
    backbone, began = encoded.backbone, time.monotonic()
    own = method_called(settings.method)
    fresh = new_prompts(backbone.config, len(inits), settings.mode, settings.method, generator)
    prompts = {name: tensor.to(backbone.device) for name, tensor in fresh.items()}
    if not look and all(each.prompts for each in inits):
        features, labels = torch.zeros(0, 1), encoded.annotated_labels("all")
    else:
        features, labels = encoded.annotated_features(prompts, job, "all")
        own.fit(backbone.config, prompts, features, labels)
    seconds = time.monotonic() - began
    for index, each in enumerate(inits):
        _lend(prompts, index, each.prompts or {})
    origin = ["the given prompts" if each.prompts else "a linear fit of the annotated voxels" for each in inits]
    lent = [bool(each.prompts) for each in inits]
    return WarmStart(prompts, {}, origin, lent, dict.fromkeys(prompts, lent), features, labels, seconds)


def _lend_shipped(encoded: EncodedCrops, prompts: PromptTensors, origin: list[str], job: ProgressHandle) -> None:
    """Give each class without an origin the tokens of the shipped class that agrees with it, in place; where none
    agrees, the tokens of the nearest, but no origin."""
    score, lent, names = nearest_shipped(encoded, len(origin), job)
    new = [index for index, each in enumerate(origin) if not each]
    pairs = assign_one_to_one(score[new].numpy())
    for place, index in enumerate(new):
        # Attention tokens of the nearest keep the pass in familiar terms.
        other = pairs.get(place, int(score[index].argmax()))
        _lend(prompts, index, lent[other])
        if place in pairs:
            origin[index] = f"the shipped class {names[other]}"


def output_tokens(
    config: NetworkConfig, prompts: PromptTensors, index: int, own: Tensor, rest: Tensor, generator: torch.Generator
) -> None:
    """Let the output tokens of a class be prototypes of its features ``own`` and of the ``rest``, in place.

    Features: (n, C), the channels of the maps that ``prompts`` have tokens for, one after the other. Tokens of an
    empty set stay.
    """
    for features, kind in ((own, "foreground"), (rest, "background")):
        if len(features):
            for each, part in zip(config.output_maps, features.split(widths(config, prompts), 1)):
                prompts[f"{each.name}.{kind}"][index] = prototypes(part, each.tokens, generator)


def widths(config: NetworkConfig, prompts: PromptTensors) -> list[int]:
    """Channels of the maps that ``prompts`` look at."""
    return [each.channels for each in config.output_maps[: None if maps_of(prompts) == "all" else 1]]


def _lend(prompts: PromptTensors, index: int, lent: PromptTensors) -> None:
    for name, tensor in lent.items():
        if name in prompts:
            prompts[name][index].copy_(tensor)

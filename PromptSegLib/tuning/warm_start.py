"""Prompts before the first gradient step: the nearest shipped class, or prototypes of the annotated voxels."""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.nn import functional as F

from ..inference.evidence import group_tensors
from ..models.backbone import Backbone
from ..network.attention import PromptTensors
from ..network.tokens import new_prompts, unstack, without_encoder
from ..progress import Job
from .encoded import EncodedCrops
from .objective import agreement

KNOWN = 0.5  # agreement (Dice on annotated voxels) from which a class is taken to be the shipped one


def nearest_shipped(encoded: EncodedCrops, classes: int, job: Job) -> tuple[Tensor, list[PromptTensors], list[str]]:
    """How well every shipped class agrees with every annotated class.

    :return: agreement (classes, shipped classes) in 0..1, the shipped classes' prompts and names.
    """
    backbone = encoded.backbone
    shipped = backbone.shipped
    assert shipped is not None
    table: list[Tensor] = []
    labels: list[Tensor] = []
    group = group_tensors(shipped, backbone.device)[0]
    with torch.no_grad():
        decoder_only = without_encoder(group)
        for index in range(len(encoded)):
            job.report("comparing with known classes", index / len(encoded))
            table.append(encoded.logits(index, decoder_only).argmax(1))
            labels.append(encoded.labels[index])
    said, known = torch.cat(table), torch.cat(labels)
    names = [each.info.name for each in shipped.groups()[0]]
    score = torch.zeros(classes, len(names))
    for index in range(classes):
        for other in range(len(names)):
            predicted = torch.where(said == other + 1, 1, 0)
            score[index, other] = agreement(predicted, (known == index + 1).long(), 1)[0]
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
    classes: int,
    mode: str,
    method: str,
    given: list[Optional[PromptTensors]],
    generator: torch.Generator,
    job: Job,
) -> tuple[PromptTensors, list[str]]:
    """Prompts (stacked) to start from, and for each class where they come from.

    A class with ``given`` prompts starts there. Otherwise the shipped class that agrees best
    with its annotated voxels lends its tokens (each shipped class once); where none agrees,
    the output tokens are prototypes of the annotated voxels' features. No gradient is needed.
    """
    backbone: Backbone = encoded.backbone
    config, device = backbone.config, backbone.device
    fresh = new_prompts(config, classes, mode, method, generator)
    prompts = {name: tensor.to(device) for name, tensor in fresh.items()}
    origin = ["the given prompts" if each is not None else "" for each in given]
    for index, each in enumerate(given):
        for name in prompts:
            if each is not None and name in each:
                prompts[name][index] = each[name].to(device)
    if backbone.shipped is not None and not all(origin):
        score, lent, names = nearest_shipped(encoded, classes, job.part(0.0, 0.6))
        free = set(range(len(names)))
        for flat in score.flatten().argsort(descending=True).tolist():
            index, other = divmod(flat, len(names))
            if origin[index] or score[index, other] < KNOWN or other not in free:
                continue
            free.discard(other)
            origin[index] = f"the shipped class {names[other]}"
            _lend(prompts, index, lent[other])
        for index in range(classes):
            if not origin[index]:  # nothing agrees: attention tokens of the nearest keep the pass in familiar terms
                _lend(prompts, index, lent[int(score[index].argmax())])
    novel = [index for index in range(classes) if not origin[index]]
    if novel:
        features, labels = encoded.annotated_features(prompts, job.part(0.6, 1.0))
        for index in novel:
            own, rest = features[labels == index + 1], features[labels != index + 1]
            prompts["output.foreground"][index] = prototypes(own, config.tokens, generator)
            if len(rest):
                prompts["output.background"][index] = prototypes(rest, config.tokens, generator)
            origin[index] = "prototypes of the annotated voxels"
    return prompts, origin


def _lend(prompts: PromptTensors, index: int, lent: PromptTensors) -> None:
    for name, tensor in lent.items():
        if name in prompts:
            prompts[name][index] = tensor

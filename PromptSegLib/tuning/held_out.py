"""Agreement with strokes that were held back: of a painted slice by output tokens that were fitted to the others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Callable, Optional, Sequence

import torch
from torch import Tensor

from ..annotation.labels import excluded_label
from ..network.attention import PromptTensors
from ..network.config import NetworkConfig
from .objective import agreement, annotated_loss, class_weights, known_counts
from .settings import Settings
from .warm_start import WarmStart, output_tokens, widths

FOLDS = 3
_STEPS = 25  # of fitting, full-batch: the start is near already
_DENSE = 8  # painted slices from which neighbors show the same
_APART = 10.0  # mm that is then left out beside a slice
SHARE = 0.05  # of a budget in seconds that may go into this


@dataclass(frozen=True)
class Rows:
    """Where the rows of a warm start's features come from.

    :param places: (n, 3) int64, voxels (z, y, x) of the model's grid.
    :param spacing: mm (z, y, x).
    """

    places: Tensor
    spacing: Sequence[float]


def held_out(
    config: NetworkConfig,
    logits: Callable[[Tensor, PromptTensors], Tensor],
    warm: WarmStart,
    rows: Rows,
    settings: Settings,
    until: Optional[float] = None,
) -> list[float]:
    """Dice of each class on slices that were held back, nan where none could be.

    Classes that a shipped class lent its prompts begin with these, all others with prototypes of what is not held
    back, also those that have been tuned before: their prompts may have learned from it.

    :param logits: features (n, C) and prompts -> (n, 1 + classes).
    :param until: the time (``time.monotonic``) after which no more slices are held back.
    """
    classes = len(warm.origin)
    features = warm.features[:, : sum(widths(config, warm.prompts))]
    said, known = [], []
    for hidden, others in _folds(rows, warm.labels):
        # A class that is on no other slice is not told by them.
        there = torch.cat([torch.zeros(1, dtype=torch.long), warm.labels[others & (warm.labels > 0)].cpu().unique()])
        usable = hidden & torch.isin(warm.labels, there.to(warm.labels.device))
        if not (warm.labels[usable] > 0).any():
            continue
        tokens = _fitted(config, logits, warm, features[others], warm.labels[others], settings, until)
        if tokens is None:
            break
        with torch.no_grad():
            said.append(logits(features[usable], tokens).argmax(1))
        known.append(warm.labels[usable])
    if not said:
        return [float("nan")] * classes
    return agreement(torch.cat(said), torch.cat(known), classes)


def _folds(rows: Rows, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Rows of a slice, and those of the others that may predict it, bool (n,); slices that hold most classes first."""
    own = labels > 0
    extents = rows.places.amax(0) - rows.places.amin(0) + 1
    filled = [len(rows.places[:, axis].unique()) / int(extents[axis]) for axis in range(3)]
    axis = filled.index(min(filled))
    along = rows.places[:, axis]
    planes = along[own].unique().tolist()
    apart = _APART / rows.spacing[axis] if len(planes) >= _DENSE else 1.0
    open_ = set(labels[own].unique().tolist())
    chosen: list[int] = []
    while planes and len(chosen) < FOLDS:
        held = {plane: set(labels[own & (along == plane)].tolist()) for plane in planes}
        best = max(planes, key=lambda plane: (len(held[plane] & open_), len(held[plane])))
        chosen.append(best)
        planes.remove(best)
        open_ -= held[best]
    return [(along == plane, (along - plane).abs() > apart) for plane in chosen]


def _fitted(
    config: NetworkConfig,
    logits: Callable[[Tensor, PromptTensors], Tensor],
    warm: WarmStart,
    features: Tensor,
    labels: Tensor,
    settings: Settings,
    until: Optional[float],
) -> Optional[PromptTensors]:
    """Output tokens for what is not held back; None where there was no time."""
    generator = torch.Generator().manual_seed(settings.seed)
    tokens = {name: each.detach().clone() for name, each in warm.prompts.items() if name.startswith("output")}
    for index, origin in enumerate(warm.origin):
        if not origin.startswith("the shipped class"):
            known = (labels >= 0) | (labels == excluded_label(index + 1))
            own = labels == index + 1
            output_tokens(config, tokens, index, features[own], features[known & ~own], generator)
    weights = class_weights(known_counts(labels, len(warm.origin)))
    for tensor in tokens.values():
        tensor.requires_grad_()
    optimizer = torch.optim.Adam(tokens.values(), lr=settings.token_rate)
    for _ in range(_STEPS):
        if until is not None and time.monotonic() >= until:
            return None
        loss = annotated_loss(logits(features, tokens), labels, weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return tokens

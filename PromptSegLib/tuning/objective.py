"""The loss and the agreement, on annotated voxels only."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

DICE_WEIGHT = 0.5


def known_counts(labels: Tensor, classes: int) -> Tensor:
    """Number of voxels of background and each class (1 + classes,); excluded voxels belong to neither."""
    return torch.bincount(labels[labels >= 0], minlength=classes + 1)


def class_weights(counts: Tensor) -> Tensor:
    """Weight per class (1 + classes) from its number of annotated voxels: every annotated class counts the same."""
    counts = counts.float()
    weights = torch.where(counts > 0, counts.sum() / counts.clamp(min=1.0), torch.zeros_like(counts))
    # Square root: a stroke of ten voxels must not shout down one of a thousand.
    weights = weights.sqrt()
    return weights / weights.sum() * (counts > 0).sum()


def annotated_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy + Dice over annotated voxels.

    Restricting both to annotated voxels is the strongest simple recipe for scribbles
    (ScribbleBench, MICCAI 2025; docs/methods.md#losses-on-strokes).

    A voxel that is anything but the k-th class costs ``-log(1 - p_k)``.

    :param logits: (n, 1 + classes), one row per annotated voxel.
    :param labels: (n,) 0 background, k the k-th class, -(k + 1) not the k-th class.
    """
    excluded = labels < 0
    classes = -1 - labels[excluded]
    costs = _excluded_costs(logits[excluded], classes) * weights[classes]
    logits, labels = logits[~excluded], labels[~excluded]
    total = weights[labels].sum() + weights[classes].sum()
    # One mean over both: a small erased part must not count as much as all strokes.
    known = F.cross_entropy(logits, labels, weight=weights, reduction="sum")
    loss = (known + costs.sum()) / total.clamp(min=1e-6)
    if not len(labels):
        return loss
    present = torch.bincount(labels, minlength=logits.shape[1]) > 0
    present[0] = False
    if present.any():
        onehot = F.one_hot(labels, logits.shape[1]).float()
        dice = DiceLoss(smooth_nr=1e-2, smooth_dr=1e-2, reduction="none", batch=True)
        each = dice(logits.softmax(1).t()[None], onehot.t()[None]).flatten()
        loss = loss + DICE_WEIGHT * each[present].mean()
    return loss


def _excluded_costs(logits: Tensor, classes: Tensor) -> Tensor:
    """-log(1 - p) of the excluded classes (n,), in logits (n, 1 + classes): stable where p is close to 1."""
    others = logits.scatter(1, classes[:, None], float("-inf"))
    return logits.logsumexp(1) - others.logsumexp(1)


def agreement(predicted: Tensor, labels: Tensor, classes: int) -> list[float]:
    """Dice per class over annotated voxels; nan for a class that has none.

    :param predicted: (n,) 0 background, k the k-th class; ``labels``: (n,) the same, or -(k + 1) for not the k-th.
    """
    scores = []
    for index in range(1, classes + 1):
        own, said = labels == index, (predicted == index) & ((labels >= 0) | (labels == -1 - index))
        total = int(own.sum() + said.sum())
        scores.append(float(2 * (own & said).sum() / total) if own.any() else float("nan"))
    return scores


def mean(scores: list[float]) -> float:
    """Mean over the classes that have a score."""
    known = [score for score in scores if score == score]
    return sum(known) / len(known) if known else 0.0

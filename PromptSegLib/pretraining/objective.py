"""What a segmentation is asked to be where labels are complete, partial or missing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_SMOOTH = 1e-2
# Voxels whose logits stay in a CPU's cache while all is computed of them; a GPU wants few and large kernels.
_PART = 4096


def segmentation_loss(logits: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy + Dice over what is known of each image (docs/methods.md#pretraining).

    Where an active class was not labeled in an image, an unlabeled voxel of it may be background or that
    class: the cross-entropy there asks for their sum (the marginal loss of Shi et al., "Marginal loss and
    exclusion loss for partially supervised multi-organ segmentation", MedIA 70, 101979). Dice is averaged over
    the labeled classes that the view holds; averaging over absent ones stalls training
    (docs/methods.md#measured-with-a-prototype). It is that of ``monai.losses.DiceLoss``, from sums that are computed
    in parts: one softmax of all classes on the input's grid is larger than the rest of a training step.

    :param logits: (B, 1 + K, D, H, W), index 0 background.
    :param label: (B, D, H, W), 0 unlabeled or background, k the k-th active class.
    :param known: (B, K) bool, whether the class is labeled in the image (if only by its absence).
    :return: (B,): the loss of each image, whatever else is in the batch; 0 where nothing is known.
    """
    maybe = torch.cat([known.new_ones(len(known), 1), ~known], 1)  # what an unlabeled voxel may be
    flat, label = logits.flatten(2), label.flatten(1)
    entropy, claimed, shared = _Sums.apply(flat, label, maybe)
    voxels = torch.zeros(len(flat), flat.shape[1], device=flat.device, dtype=flat.dtype)
    voxels.scatter_add_(1, label, torch.ones((), device=flat.device, dtype=flat.dtype).expand(label.shape))
    present = (voxels[:, 1:] > 0) & known
    dice = 1 - (2 * shared[:, 1:] + _SMOOTH) / (claimed[:, 1:] + voxels[:, 1:] + _SMOOTH)
    loss: Tensor = entropy / flat.shape[2] + (dice * present).sum(1) / present.sum(1).clamp(min=1)
    return loss


class _Sums(torch.autograd.Function):
    """Of logits (B, 1 + K, n), labels (B, n) and what an unlabeled voxel may be (B, 1 + K), summed over voxels: the
    cross-entropy (B,), the probability of each class (B, 1 + K), and that where the label is the class (B, 1 + K)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, label: Tensor, maybe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(logits, label, maybe)
        entropy = logits.new_zeros(len(logits))
        claimed, shared = logits.new_zeros(logits.shape[:2]), logits.new_zeros(logits.shape[:2])
        for part in _parts(logits):
            given = label[:, part]
            likely, own, possible = _likely(logits[:, :, part], given, maybe)
            entropy -= torch.where(given == 0, possible, own).log().sum(1)
            claimed += likely.sum(2)
            shared.scatter_add_(1, given, own)
        return entropy, claimed, shared

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        logits, label, maybe = ctx.saved_tensors
        to_entropy, to_claimed, to_shared = slopes
        found = torch.empty_like(logits)
        for part in _parts(logits):
            given = label[:, part]
            likely, own, possible = _likely(logits[:, :, part], given, maybe)
            # Of the logarithm of a sum of probabilities p: each one's share of the sum less p.
            unlabeled = (given == 0).to(logits.dtype) * to_entropy[:, None]
            asked = likely * maybe[:, :, None]
            asked *= (unlabeled / possible)[:, None]
            asked.scatter_add_(1, given[:, None], (to_entropy[:, None] - unlabeled)[:, None])
            # Of sums of probabilities, weighed: p (weight - mean weight).
            weight = to_claimed[:, :, None].expand_as(likely).contiguous()
            weight.scatter_add_(1, given[:, None], to_shared.gather(1, given)[:, None])
            weight -= (weight * likely).sum(1, keepdim=True)
            weight += to_entropy[:, None, None]
            torch.sub(weight.mul_(likely), asked, out=weight)
            found[:, :, part] = weight
        return found, None, None


def _likely(logits: Tensor, label: Tensor, maybe: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (B, 1 + K, n), that of the label (B, n), and that of what an unlabeled voxel may be (B, n)."""
    likely = logits.softmax(1)
    tiny = torch.finfo(likely.dtype).tiny
    own = likely.gather(1, label[:, None])[:, 0].clamp(min=tiny)
    return likely, own, (likely * maybe[:, :, None]).sum(1).clamp(min=tiny)


def _parts(logits: Tensor) -> list[slice]:
    size = _PART if logits.device.type == "cpu" else logits.shape[2]
    return [slice(first, first + size) for first in range(0, logits.shape[2], size)]

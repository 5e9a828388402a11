"""What a segmentation is asked to be where labels are complete, partial or missing."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional as F

_NEVER = -1e4


def segmentation_loss(logits: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy + Dice over what is known of each image (docs/methods.md#pretraining).

    Where an active class was not labelled in an image, an unlabelled voxel of it may be background or that
    class: the cross-entropy there asks for their sum (the marginal loss of Shi et al., "Marginal loss and
    exclusion loss for partially supervised multi-organ segmentation", MedIA 70, 101979). Dice is averaged over
    the labelled classes that the view holds; averaging over absent ones stalls training
    (docs/methods.md#measured-with-a-prototype).

    :param logits: (B, 1 + K, D, H, W), index 0 background.
    :param label: (B, D, H, W), 0 unlabelled or background, k the k-th active class.
    :param known: (B, K) bool, whether the class is labelled in the image (if only by its absence).
    :return: (B,): the loss of each image, whatever else is in the batch; 0 where nothing is known.
    """
    maybe = torch.cat([known.new_ones(len(known), 1), ~known], 1)  # what an unlabelled voxel may be
    blocked = torch.where(maybe, 0.0, _NEVER)[:, :, None, None, None].to(logits.dtype)
    unlabelled = torch.logsumexp(logits + blocked, 1)
    own = logits.gather(1, label[:, None])[:, 0]
    entropy = torch.logsumexp(logits, 1) - torch.where(label == 0, unlabelled, own)
    loss = entropy.flatten(1).mean(1)
    onehot = F.one_hot(label, logits.shape[1]).movedim(-1, 1)
    present = onehot.flatten(2).any(2)[:, 1:] & known
    dice = DiceLoss(include_background=False, smooth_nr=1e-2, smooth_dr=1e-2, reduction="none")
    each = dice(logits.softmax(1), onehot.to(logits.dtype)).flatten(1)
    return loss + (each * present).sum(1) / present.sum(1).clamp(min=1)

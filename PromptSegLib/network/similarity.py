"""How alike features and tokens are: cosines to all tokens of a class, aggregated in favor of the nearest."""

from __future__ import annotations

from typing import Any, Iterator, Optional

import torch
from torch import Tensor
from torch.nn import functional as F

AGGREGATION_TEMPERATURE = 0.1
CHUNK = 1024  # voxels whose similarities to all tokens stay in a CPU's cache; a GPU wants few and large kernels


def similarity(features: Tensor, background: Tensor, foreground: Tensor) -> Tensor:
    """Features (B, C, d, h, w), tokens (classes, n, C) each -> aggregated cosines float32 (B, 1 + classes, d, h, w).

    A token of zeros has no say and no gradient. The first is background: the mean over the classes' tokens for it.
    """
    tokens = torch.cat([background, foreground])
    groups, count, _ = tokens.shape
    flat = F.normalize(features.float().flatten(2), dim=1)
    tokens = (F.normalize(tokens.float(), dim=-1) * tokens.any(-1, keepdim=True)).flatten(0, 1)
    tokens = tokens * (1.0 / AGGREGATION_TEMPERATURE)
    value: Tensor = AGGREGATION_TEMPERATURE * _Aggregated.apply(flat, tokens, count, _dtype(flat))
    classes = groups // 2
    value = torch.cat([value[:, :classes].mean(1, keepdim=True), value[:, classes:]], 1)
    return value.view(features.shape[0], 1 + classes, *features.shape[2:])


def _dtype(flat: Tensor) -> torch.dtype:
    """What a matrix product would be computed in here."""
    product = torch.mm(flat.new_zeros(1, 1), flat.new_zeros(1, 1))
    return product.dtype


class _Aggregated(torch.autograd.Function):
    """Features (B, C, n), tokens (groups x count, C) -> mean product of each group float32 (B, groups, n).

    Tokens of a group weigh exp(product); weights are constants to the gradient. Products with all tokens are far larger
    than what goes in and out: they are computed in parts, again in the way back, and never kept.
    """

    @staticmethod
    def forward(ctx: Any, flat: Tensor, tokens: Tensor, count: int, dtype: torch.dtype) -> Tensor:
        flat, tokens = flat.to(dtype), tokens.to(dtype)
        value = flat.new_empty((flat.shape[0], len(tokens) // count, flat.shape[2]), dtype=torch.float32)
        for sample, seen, part in _parts(flat):
            product = (tokens @ seen).unflatten(0, (-1, count))
            weights = product.exp()
            total = weights.sum(1).float()
            value[sample, :, part] = weights.mul_(product).sum(1) / total
        ctx.save_for_backward(flat, tokens)
        ctx.count = count
        return value

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Optional[Tensor], Tensor, None, None]:
        flat, tokens = ctx.saved_tensors
        to_flat = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        to_tokens = torch.zeros_like(tokens, dtype=torch.float32)
        turned = tokens.t().contiguous()
        for sample, seen, part in _parts(flat):
            weights = (tokens @ seen).unflatten(0, (-1, ctx.count)).exp_()
            factor = slope[sample, :, part] / weights.sum(1).float()
            rows = weights.mul_(factor.to(weights.dtype)[:, None]).flatten(0, 1)
            if to_flat is not None:  # features stay as they are while output tokens alone are fitted
                to_flat[sample, :, part] = turned @ rows
            to_tokens += rows @ seen.t()
        return None if to_flat is None else to_flat.float(), to_tokens, None, None


def _parts(flat: Tensor) -> Iterator[tuple[int, Tensor, slice]]:
    """Sample, its features (C, voxels) and their place. Products are bounded, so a softmax of them needs no maximum."""
    size = CHUNK if flat.device.type == "cpu" else flat.shape[2]
    for sample, features in enumerate(flat):
        for first in range(0, flat.shape[2], size):
            part = slice(first, first + size)
            yield sample, features[:, part], part

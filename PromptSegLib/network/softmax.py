"""Attention of windows and of extra keys by one softmax.

Logits of extra keys are by far the largest there is: 64 voxels of a window see 64 keys of their own and 16 for each
class. On a CPU they are never written to memory (Dao et al., "FlashAttention", NeurIPS 2022; torch's kernel), and
joined with those of the windows by the sums of both.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Optional, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .methods.method import ExtraKeys

_NEVER = -1e4  # instead of minus infinity, whose products with zero are no numbers


def attended(qkv: Tensor, bias: Tensor, mask: Optional[Tensor], extra: Sequence[ExtraKeys]) -> Tensor:
    """What the queries of each window take of the values of their window and of extra keys.

    :param qkv: queries, keys and values (B, windows, n, 3, heads, head channels); queries are scaled here.
    :param bias: (heads, n, n), added to the logits.
    :param mask: (windows, n, n), added to the logits; no gradient.
    :return: (B, windows, n, heads * head channels).
    """
    if qkv.device.type != "cpu" or kernels() is None:
        return plainly_attended(qkv, bias, mask, extra)
    keyed, sinks = [each for each in extra if each.keys is not None], [each for each in extra if each.keys is None]
    sink = _sink(sinks) if sinks else None
    keys, values = _joined(keyed, qkv.dtype) if keyed else (None, None)
    value: Tensor = _Joined.apply(qkv, bias, mask, keys, values, sink)
    return value


@lru_cache(maxsize=1)
def kernels() -> Optional[tuple[Any, Any]]:
    """torch's kernel for a CPU's attention, there and back; None in a torch that has another one, or none."""
    operators = torch.ops.aten
    try:
        forward = operators._scaled_dot_product_flash_attention_for_cpu
        backward = operators._scaled_dot_product_flash_attention_for_cpu_backward
        tiny = torch.ones(1, 1, 2, 8)
        out, sums = forward(tiny, tiny, tiny, 0.0, False, scale=1.0)
        found = backward(tiny, tiny, tiny, tiny, out, sums, 0.0, False, scale=1.0)
    except (AttributeError, RuntimeError, TypeError, ValueError):
        return None
    usable = sums.shape == (1, 1, 2) and len(found) == 3 and torch.allclose(out, tiny)
    return (forward, backward) if usable else None


def plainly_attended(qkv: Tensor, bias: Tensor, mask: Optional[Tensor], extra: Sequence[ExtraKeys]) -> Tensor:
    """:func:`attended` as it is written down, for GPUs, and for tests to compare with."""
    batch, count, n, _, heads, width = qkv.shape
    q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)  # (B, heads, windows, n, head channels)
    q = q * width**-0.5
    own = q @ k.transpose(-2, -1) + bias[:, None]
    if mask is not None:
        own = own + mask.to(own.dtype)
    logits = [own]
    for each in extra:
        scores: Tensor = each.scores[:, :, None].to(own.dtype)  # (B or 1, heads or 1, 1, n or 1, m)
        if each.keys is not None:
            scores = (q.flatten(2, 3) @ each.keys.transpose(-2, -1)).view(batch, heads, count, n, -1) + scores
        logits.append(scores.expand(batch, heads, count, n, -1))
    weights = torch.cat(logits, -1).softmax(-1)
    first, *others = weights.split([each.shape[-1] for each in logits], -1)
    out = first @ v
    for share, each in zip(others, extra):
        if each.values is not None:
            out = out + (share.flatten(2, 3) @ each.values).view_as(out)
    return out.permute(0, 2, 3, 1, 4).reshape(batch, count, n, heads * width)


def _joined(extra: Sequence[ExtraKeys], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Keys with their scores as one channel more, and values with a channel of zeros (B or 1, heads, m, channels)."""
    keys, values = [], []
    for each in extra:
        assert each.keys is not None and each.values is not None
        batch, heads, count, _ = each.keys.shape
        scores = each.scores[:, :, 0, :, None].clamp(min=_NEVER).to(dtype).expand(batch, heads, count, 1)
        keys.append(torch.cat([each.keys.to(dtype), scores], -1))
        values.append(F.pad(each.values.to(dtype), (0, 1)))
    return torch.cat(keys, 2), torch.cat(values, 2)


def _sink(extra: Sequence[ExtraKeys]) -> Tensor:
    """Keys without values as one: the logit (B or 1, heads or 1, 1, n or 1) that takes what all of them take."""
    sums = [each.scores.float().logsumexp(-1) for each in extra]
    total = sums[0]
    for each in sums[1:]:
        total = torch.logaddexp(total, each)
    return total[:, :, None]


class _Joined(torch.autograd.Function):
    """:func:`attended` with keys and values as :func:`_joined` makes them and the logits of sinks (B or 1, heads or 1,
    1, n or 1); logits of a window are kept in the precision of the product, those of extra keys not at all."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        bias: Tensor,
        mask: Optional[Tensor],
        keys: Optional[Tensor],
        values: Optional[Tensor],
        sink: Optional[Tensor],
    ) -> Tensor:
        batch, count, n, _, heads, width = qkv.shape
        ctx.extra = None if keys is None else keys.shape
        with torch.autocast("cpu", enabled=False):
            q, k, v = qkv.permute(3, 0, 4, 1, 2, 5)  # (B, heads, windows, n, head channels)
            q = q * width**-0.5
            own = (q @ k.transpose(-2, -1)).float()
            own += bias[:, None]
            if mask is not None:
                own += mask
            total = own.logsumexp(-1)  # (B, heads, windows, n)
            if keys is not None and values is not None:
                asked = F.pad(q.flatten(2, 3), (0, 1), value=1.0)
                keys, values = (each.expand(batch, -1, -1, -1) for each in (keys, values))
                forward, _ = kernels()  # type: ignore[misc]
                more, sums = forward(asked, keys, values, 0.0, False, scale=1.0)
                sums = sums.view_as(total)
                total = torch.logaddexp(total, sums)
            if sink is not None:
                total = torch.logaddexp(total, sink.expand_as(total))
            weights = (own - total[..., None]).exp_().to(qkv.dtype)
            out = weights @ v
            if keys is not None:
                part = (sums - total).exp_()[..., None]
                out += (part * more.view(batch, heads, count, n, -1)[..., :width]).to(out.dtype)
        ctx.save_for_backward(q, k, v, weights, out, total, keys, values, sink)
        return out.permute(0, 2, 3, 1, 4).reshape(batch, count, n, heads * width)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Optional[Tensor], ...]:
        q, k, v, weights, out, total, keys, values, sink = ctx.saved_tensors
        width = q.shape[-1]
        slope = slope.to(q.dtype).unflatten(-1, (-1, width)).permute(0, 3, 1, 2, 4).contiguous()
        taken = (slope.float() * out).sum(-1)  # (B, heads, windows, n)
        own = weights * ((slope @ v.transpose(-2, -1)).float() - taken[..., None])
        to_bias = own.sum((0, 2)) if ctx.needs_input_grad[1] else None
        own = own.to(q.dtype)
        to_q, to_k = own @ k, own.transpose(-2, -1) @ q
        to_v = weights.transpose(-2, -1) @ slope
        to_keys = to_values = to_sink = None
        if keys is not None:
            asked = F.pad(q.flatten(2, 3), (0, 1), value=1.0)
            padded = [F.pad(each.flatten(2, 3), (0, 1)) for each in (slope, out)]
            sums = total.flatten(2)
            _, back = kernels()  # type: ignore[misc]
            found = back(padded[0], asked, keys, values, padded[1], sums, 0.0, False, scale=1.0)
            to_q += found[0].view(*q.shape[:-1], -1)[..., :width]
            to_keys, to_values = (each.sum_to_size(ctx.extra) for each in found[1:])
        if sink is not None:
            to_sink = (-(sink - total).exp() * taken).sum_to_size(sink.shape)
        to_qkv = torch.stack([to_q * width**-0.5, to_k, to_v]).permute(1, 3, 4, 0, 2, 5)
        return to_qkv, to_bias, None, to_keys, to_values, to_sink

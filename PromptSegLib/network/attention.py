"""Shifted-window attention in which class prompts are additional keys and values.

Sources: PUNet (Fischer et al., arXiv 2211.09233, section 3.1) with the window, mask and
projection defects of the released code mended (docs/methods.md#attention); windows as in
Swin (Liu et al., 2021); after embedded prompts (Zu et al., MedIA 97, 103258), zero-valued
sink keys; after dynamic prompts (He et al., Neural Networks 185, 107168), gated queries
over the patch. Neither is what its paper describes (docs/methods.md#ept, docs/methods.md#dvpt).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Prompt tensors of the active classes, stacked along a leading class axis; names as in
# NetworkConfig.prompt_shapes.
PromptTensors = dict[str, Tensor]

POOLED = 8  # dynamic prompts look at no more than POOLED**3 averaged features of the patch


def partition(x: Tensor, window: tuple[int, int, int]) -> Tensor:
    """(B, D, H, W, C) with extents divisible by ``window`` -> (B, windows, window voxels, C)."""
    b, d, h, w, c = x.shape
    wd, wh, ww = window
    x = x.view(b, d // wd, wd, h // wh, wh, w // ww, ww, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, -1, wd * wh * ww, c)


def merge(windows: Tensor, window: tuple[int, int, int], size: tuple[int, int, int]) -> Tensor:
    """Undo :func:`partition` for a map of extents ``size``."""
    b, _, _, c = windows.shape
    (d, h, w), (wd, wh, ww) = size, window
    x = windows.view(b, d // wd, h // wh, w // ww, wd, wh, ww, c)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, d, h, w, c)


@lru_cache(maxsize=64)
def relative_index(window: tuple[int, int, int], base: int) -> Tensor:
    """(n, n) indices into a table of (2 base - 1)**3 relative positions."""
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return _relative_index(window, base)


def _relative_index(window: tuple[int, int, int], base: int) -> Tensor:
    axes = torch.meshgrid(*(torch.arange(extent) for extent in window), indexing="ij")
    position = torch.stack(axes).flatten(1)
    difference = position[:, :, None] - position[:, None, :] + base - 1
    span = 2 * base - 1
    return (difference[0] * span + difference[1]) * span + difference[2]


@lru_cache(maxsize=64)
def window_mask(
    size: tuple[int, int, int], padded: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int, int]
) -> Optional[Tensor]:
    """(windows, n, n) additive mask, or None when every pair of a window may meet.

    Padding is a region of its own, and the parts that a shift wraps around a border are
    regions of their own: only voxels of one region attend to each other.
    """
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return _window_mask(size, padded, window, shift)


def _window_mask(
    size: tuple[int, int, int], padded: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int, int]
) -> Optional[Tensor]:
    if size == padded and not any(shift):
        return None
    region = torch.zeros(padded, dtype=torch.long)
    for axis in range(3):
        code = torch.zeros(padded[axis], dtype=torch.long)
        code[size[axis] :] = 1
        code = torch.roll(code, -shift[axis])
        if shift[axis]:
            code[padded[axis] - shift[axis] :] += 2
        shape = [1, 1, 1]
        shape[axis] = -1
        region = region * 4 + code.view(shape)
    ids = partition(region[None, ..., None], window)[0, :, :, 0]
    mask = torch.zeros(ids.shape[0], ids.shape[1], ids.shape[1])
    return mask.masked_fill_(ids[:, :, None] != ids[:, None, :], float("-inf"))


class PromptedWindowAttention(nn.Module):
    """LayerNorm, windowed attention with prompts, residual; LayerNorm, MLP, residual.

    Content attends to its own window and to the prompts of all active classes; prompts are
    keys and values only. Without prompts it is plain (shifted-)window attention, exactly.
    """

    def __init__(self, name: str, channels: int, heads: int, window: int, shifted: bool, dynamic_rank: int):
        super().__init__()
        self.name, self.level_name = name, f"level{name.split('.')[0][-1]}"
        self.heads, self.window, self.shifted = heads, window, shifted
        self.scale = (channels // heads) ** -0.5
        self.dynamic_scale = dynamic_rank**-0.5
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.project = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))
        self.relative_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 3, heads))
        # LayerScale: without it attention slows early learning (docs/methods.md#measured-with-a-prototype).
        self.gamma1 = nn.Parameter(torch.full((channels,), 0.1))
        self.gamma2 = nn.Parameter(torch.full((channels,), 0.1))
        nn.init.trunc_normal_(self.relative_bias, std=0.02)

    def forward(self, x: Tensor, prompts: Optional[PromptTensors] = None) -> Tensor:
        """x (B, D, H, W, C) -> same shape; ``prompts`` of the active classes or None."""
        x = x + self.gamma1 * self._attend(self.norm1(x), prompts or {})
        return x + self.gamma2 * self.mlp(self.norm2(x))

    def _attend(self, x: Tensor, prompts: PromptTensors) -> Tensor:
        batch, *extents, channels = x.shape
        size = (extents[0], extents[1], extents[2])
        window, padded, shift = self._geometry(size)
        pooled = x
        if padded != size:  # padding only at the end keeps content where it was
            x = F.pad(x, [0, 0] + [n for p, s in zip(padded[::-1], size[::-1]) for n in (0, p - s)])
        if any(shift):
            x = torch.roll(x, [-s for s in shift], dims=(1, 2, 3))
        windows = partition(x, window)
        count, n = windows.shape[1:3]
        qkv = self.qkv(windows).view(batch, count, n, 3, self.heads, -1).permute(3, 0, 4, 1, 2, 5)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]  # (B, heads, windows, n, head channels)

        bias = self.relative_bias[relative_index(window, self.window).to(x.device)].permute(2, 0, 1)
        logits = q @ k.transpose(-2, -1) + bias[:, None]
        mask = window_mask(size, padded, window, shift)
        if mask is not None:
            logits = logits + mask.to(device=x.device, dtype=logits.dtype)

        extra, values = self._prompt_logits(q, pooled, prompts)
        if extra is None:
            out = logits.softmax(-1) @ v
        else:
            weights = torch.cat([logits, extra.to(logits.dtype)], dim=-1).softmax(-1)
            out = weights[..., :n] @ v
            if values is not None:
                tokens = weights[..., n : n + values.shape[2]].flatten(2, 3)
                out = out + (tokens @ values).view_as(out)
        out = self.project(out.permute(0, 2, 3, 1, 4).reshape(batch, count, n, channels))
        out = merge(out, window, padded)
        if any(shift):
            out = torch.roll(out, list(shift), dims=(1, 2, 3))
        return out[:, : size[0], : size[1], : size[2]]

    def _geometry(self, size: tuple[int, int, int]):
        """Window, padded extents and shift for a map of extents ``size``."""
        triples = []
        for extent in size:
            window = min(self.window, extent)
            shift = window // 2 if self.shifted and extent > window else 0
            triples.append((window, -(-extent // window) * window, shift))
        windows, padded, shifts = zip(*triples)
        return windows, padded, shifts

    def _prompt_logits(self, q: Tensor, x: Tensor, prompts: PromptTensors):
        """Logits (B, heads, windows, n, tokens + sinks) and values (B or 1, heads, tokens, head channels)."""
        extra, values = [], None
        tokens = self._tokens(x, prompts)
        if tokens is not None:
            batch = tokens.shape[0]
            weight = self.qkv.weight.chunk(3)
            normed = self.norm1(tokens)
            keys, values = (
                F.linear(normed, part).view(batch, -1, self.heads, part.shape[0] // self.heads).transpose(1, 2)
                for part in weight[1:]
            )
            b, heads, count, n, _ = q.shape
            scores = prompts[f"{self.name}.scores"].permute(1, 0, 2).flatten(1)  # (heads, classes * tokens)
            product = q.flatten(2, 3) @ keys.transpose(-2, -1) + scores[:, None]
            extra.append(product.view(b, heads, count, n, -1))
        sinks = prompts.get(f"{self.name}.sinks")
        if sinks is not None:
            column = sinks.t()[None, :, None, None, :]
            extra.append(column.expand(*q.shape[:4], -1).to(q.dtype))
        return (torch.cat(extra, -1) if extra else None), values

    def _tokens(self, x: Tensor, prompts: PromptTensors) -> Optional[Tensor]:
        """Key/value tokens (B or 1, classes * tokens, C) of the active classes."""
        tokens = prompts.get(f"{self.name}.tokens")
        if tokens is None:
            return None
        gate = prompts.get(f"{self.name}.gate")
        if gate is None:
            return tokens.flatten(0, 1)[None]
        down, up = prompts[f"{self.level_name}.down"], prompts[f"{self.level_name}.up"]
        target = (min(POOLED, x.shape[1]), min(POOLED, x.shape[2]), min(POOLED, x.shape[3]))
        context = F.adaptive_avg_pool3d(x.permute(0, 4, 1, 2, 3), target).flatten(2).transpose(1, 2)  # (B, m, C)
        context = context[:, None] @ down  # (B, classes, m, rank)
        queries = prompts[f"{self.name}.queries"]
        attention = (queries @ context.transpose(-2, -1) * self.dynamic_scale).softmax(-1)
        dynamic = tokens + gate[:, :, None] * (attention @ context @ up)
        return dynamic.flatten(1, 2)


class AttentionPair(nn.Module):
    """Window attention followed by shifted-window attention on a (B, C, D, H, W) map."""

    def __init__(self, name: str, channels: int, heads: int, window: int, dynamic_rank: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            PromptedWindowAttention(f"{name}.{index}", channels, heads, window, bool(index), dynamic_rank)
            for index in range(2)
        )

    def forward(self, x: Tensor, prompts: Optional[PromptTensors] = None) -> Tensor:
        x = x.permute(0, 2, 3, 4, 1)
        for block in self.blocks:
            x = block(x, prompts)
        return x.permute(0, 4, 1, 2, 3)

"""Shifted-window attention in which class prompts are additional keys and values.

Sources: PUNet (Fischer et al., arXiv 2211.09233, section 3.1) with the window, mask and
projection defects of the released code mended (docs/methods.md#attention); windows as in
Swin (Liu et al., 2021). What prompts do here is for their method to say (:mod:`.methods`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .methods.method import Method
from .methods.registry import acting
from .softmax import attended

# Prompt tensors of the active classes, stacked along a leading class axis; names as in
# NetworkConfig.prompt_shapes.
PromptTensors = dict[str, Tensor]


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

    Content attends to its own window and to the keys that the prompts of all active classes bring. Without prompts it
    is plain (shifted-)window attention, exactly.
    """

    def __init__(self, name: str, channels: int, heads: int, window: int, shifted: bool):
        super().__init__()
        self.name, self.heads, self.window, self.shifted = name, heads, window, shifted
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
        prompts = prompts or {}
        methods = acting(prompts)
        x = x + self.gamma1 * self._attend(self.norm1(x), prompts, methods)
        normed = self.norm2(x)
        x = x + self.gamma2 * self.mlp(normed)
        for method in methods:
            beside = method.beside_mlp(self, normed, prompts)
            x = x if beside is None else x + beside
        return x

    def _attend(self, x: Tensor, prompts: PromptTensors, methods: Sequence[Method]) -> Tensor:
        batch, *extents, channels = x.shape
        size = (extents[0], extents[1], extents[2])
        window, padded, shift = self._geometry(size)
        normed = x
        if padded != size:  # padding only at the end keeps content where it was
            x = F.pad(x, [0, 0] + [n for p, s in zip(padded[::-1], size[::-1]) for n in (0, p - s)])
        if any(shift):
            x = torch.roll(x, [-s for s in shift], dims=(1, 2, 3))
        windows = partition(x, window)
        count, n = windows.shape[1:3]
        qkv = self.qkv(windows).view(batch, count, n, 3, self.heads, -1)
        bias = self.relative_bias[relative_index(window, self.window).to(x.device)].permute(2, 0, 1)
        mask = window_mask(size, padded, window, shift)
        if mask is not None:
            mask = mask.to(x.device)
        found = [method.extra_keys(self, normed, window, prompts) for method in methods]
        out = self.project(attended(qkv, bias, mask, [each for each in found if each is not None]))
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


class AttentionPair(nn.Module):
    """Window attention followed by shifted-window attention on a (B, C, D, H, W) map."""

    def __init__(self, name: str, channels: int, heads: int, window: int):
        super().__init__()
        self.blocks = nn.ModuleList(
            PromptedWindowAttention(f"{name}.{index}", channels, heads, window, bool(index)) for index in range(2)
        )

    def forward(self, x: Tensor, prompts: Optional[PromptTensors] = None) -> Tensor:
        x = x.permute(0, 2, 3, 4, 1)
        for block in self.blocks:
            x = block(x, prompts)
        return x.permute(0, 4, 1, 2, 3)

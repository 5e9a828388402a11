"""The growing network: a small class-agnostic 3D U-Net that is asked for one class at a time.

Works at any spacing: at each level it halves only the axes that are as fine as the finest one (as nnU-Net plans it;
Isensee et al., Nature Methods 18, 2021), with the same weights. It has no normalization layers, whose statistics would
depend on the part of the image that is looked at: weights are standardized instead (Brock et al., "High-performance
large-scale image recognition without normalization", ICML 2021).
"""

from __future__ import annotations

from typing import Optional, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .inputs import CHANNELS

WIDTHS = (32, 64, 96, 80)
_TAIL = 8
_ADDED = 0.3  # gain of what is added to other maps, at the beginning: so that sums do not grow with depth
_ALIKE = 1.5  # axes up to this many times as coarse as the finest one are halved

Stride = tuple[int, int, int]


def strides(spacing: Sequence[float], levels: int = len(WIDTHS)) -> list[Stride]:
    """By what each level divides the grid, (z, y, x), for voxels of ``spacing`` (z, y, x)."""
    now, found = list(spacing), []
    for _ in range(levels):
        finest = min(now)
        z, y, x = (2 if step <= _ALIKE * finest else 1 for step in now)
        found.append((z, y, x))
        now = [step * each for step, each in zip(now, found[-1])]
    return found


class StandardizedConv(nn.Conv3d):
    """A convolution of standardized weights with a learned gain per output channel."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, gain: float = 1.0):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.gain = nn.Parameter(torch.full((outputs,), gain))
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        self._kept: Optional[dict[tuple[torch.dtype, torch.device], Tensor]] = None

    def keep_standardized(self) -> None:
        """From now on, standardize once for every precision and device: the weights do not change any more."""
        self._kept = {}

    def forward(self, maps: Tensor, stride: Stride = (1, 1, 1)) -> Tensor:
        key = (maps.dtype, maps.device)
        weight = None if self._kept is None else self._kept.get(key)
        if weight is None:
            weight = self._standardized().to(maps.dtype).contiguous(memory_format=torch.channels_last_3d)
            if self._kept is not None:
                self._kept[key] = weight
        bias = self.bias.to(maps.dtype) if self.bias is not None else None
        return functional.conv3d(maps, weight, bias, stride, self.padding)

    def _standardized(self) -> Tensor:
        weight = self.weight.float()
        variance, average = torch.var_mean(weight, (1, 2, 3, 4), keepdim=True)
        scale = torch.rsqrt(variance * weight[0].numel() + 1e-5) * self.gain.view(-1, 1, 1, 1, 1)
        return (weight - average) * scale


class GrowingNet(nn.Module):
    """(B, CHANNELS, D, H, W) -> logits (B, 1, D, H, W) of "this voxel belongs to the class that is asked for"."""

    def __init__(self) -> None:
        super().__init__()
        pairs = list(zip(WIDTHS, WIDTHS[1:]))
        self.stem = StandardizedConv(CHANNELS, WIDTHS[0])
        self.stem_again = StandardizedConv(WIDTHS[0], WIDTHS[0], gain=_ADDED)
        self.down = nn.ModuleList(StandardizedConv(fine, coarse) for fine, coarse in pairs)
        self.down_again = nn.ModuleList(StandardizedConv(coarse, coarse, gain=_ADDED) for _, coarse in pairs)
        self.lift = nn.ModuleList(StandardizedConv(coarse, fine, 1, _ADDED) for fine, coarse in pairs)
        self.up = nn.ModuleList(StandardizedConv(fine, fine, gain=_ADDED) for fine, _ in pairs)
        self.tail = StandardizedConv(WIDTHS[0], _TAIL, 1)
        self.fine = StandardizedConv(CHANNELS + _TAIL, 16)
        self.fine_again = StandardizedConv(16, 16, gain=_ADDED)
        self.answer = nn.Conv3d(16, 1, 1)
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)  # type: ignore[arg-type]

    def frozen(self) -> GrowingNet:
        """Itself, which is not trained any more and need not standardize its weights for every question."""
        self.eval().requires_grad_(False)
        for each in self.modules():
            if isinstance(each, StandardizedConv):
                each.keep_standardized()
        return self

    def forward(self, questions: Tensor, steps: Sequence[Stride]) -> Tensor:
        """:param steps: :func:`strides` of the voxels; the extents are multiples of their products."""
        maps = functional.relu(self.stem(questions, steps[0]))
        skips = [maps + functional.relu(self.stem_again(maps))]
        for step, conv, again in zip(steps[1:], self.down, self.down_again):
            maps = functional.relu(conv(functional.avg_pool3d(skips[-1], step, step)))
            skips.append(maps + functional.relu(again(maps)))
        maps = skips[-1]
        for level in range(len(self.up) - 1, -1, -1):
            maps = skips[level] + _enlarged(self.lift[level](maps), steps[level + 1])
            maps = maps + functional.relu(self.up[level](maps))
        coarse = _enlarged(self.tail(maps), steps[0])
        maps = functional.relu(self.fine(torch.cat([questions, coarse], 1)))
        maps = maps + functional.relu(self.fine_again(maps))
        return self.answer(maps)


def _enlarged(maps: Tensor, step: Stride) -> Tensor:
    return functional.interpolate(maps, scale_factor=[float(each) for each in step], mode="nearest")


def multiples(steps: Sequence[Stride]) -> Stride:
    """What the extents of a question must be multiples of, (z, y, x)."""
    z, y, x = 1, 1, 1
    for step in steps:
        z, y, x = z * step[0], y * step[1], x * step[2]
    return z, y, x

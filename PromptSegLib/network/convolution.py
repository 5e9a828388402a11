"""3D convolutions that go neither wrong nor slow where torch's would."""

from __future__ import annotations

import math
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .precision import on_cpu_casts

SLOW_BELOW = 20480  # batch x channels x depth x height


class Convolution(nn.Conv3d):
    """A convolution in full precision where bfloat16 goes wrong, and by oneDNN where torch would take the slow way."""

    def forward(self, input: Tensor) -> Tensor:
        if (self.kernel_size, self.stride, self.padding) == ((3, 3, 3), (1, 1, 1), (1, 1, 1)):
            return convolved(input, self.weight, self.bias, self.groups)
        if _goes_wrong(input, self.weight):
            with torch.autocast("cpu", enabled=False):
                return super().forward(input.float())
        return super().forward(input)


def convolved(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, groups: int = 1) -> Tensor:
    """x (B, C, D, H, W) by kernels (C', C / groups, 3, 3, 3), padded by one -> (B, C', D, H, W).

    oneDNN's bfloat16 weight gradient of a kernel of 3 or 4 reads memory that nobody wrote where an extent of the
    input is 2 (torch 2.13): another result each time, at times NaN. Such maps are tiny, so precision costs nothing.

    A single small image in float32, as on CPUs without AVX-512 BF16, goes to ``slow_conv3d`` instead of oneDNN: five
    to six times slower on maps of 32 x 24^3, forward and backward. Two halves of it are a batch, which does not.
    """
    if _goes_wrong(x, weight):
        with torch.autocast("cpu", enabled=False):
            return _convolved(x.float(), weight, bias, groups)
    return _convolved(x, weight, bias, groups)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """x (B, C, D, H, W) by a matrix (C', C) at every voxel -> (B, C', D, H, W), laid out as x is.

    The same as a convolution of 1 x 1 x 1, which torch does the slow way for a single image in float32 (as
    :func:`convolved`), copying it for every call.
    """
    if x.is_contiguous():
        return (weight @ x.flatten(2)).unflatten(2, x.shape[2:])
    return F.linear(x.movedim(1, -1), weight).movedim(-1, 1)


def _goes_wrong(x: Tensor, weight: Tensor) -> bool:
    return x.device.type == "cpu" and 2 in x.shape[2:] and weight.requires_grad


def _convolved(x: Tensor, weight: Tensor, bias: Optional[Tensor], groups: int) -> Tensor:
    if groups > 1 or not _slow(x):
        return F.conv3d(x, weight, bias, padding=1, groups=groups)
    depth, half = x.shape[2], -(-x.shape[2] // 2)
    x = F.pad(x, (0, 0, 0, 0, 1, 1 + 2 * half - depth))
    halves = torch.cat([x[:, :, : half + 2], x[:, :, half : 2 * half + 2]])
    found = F.conv3d(halves, weight, bias, padding=(0, 1, 1))
    return torch.cat([found[:1], found[1:]], 2)[:, :, :depth]


def _slow(x: Tensor) -> bool:
    """Whether torch's choice of a convolution is the slow one (``use_mkldnn`` of ATen's Convolution.cpp)."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not on_cpu_casts()
        and torch.backends.mkldnn.is_available()
        and x.shape[0] == 1
        and x.shape[2] > 1
        and math.prod(x.shape[:4]) <= SLOW_BELOW
    )

"""A small network without weights, and something to show to it."""

from __future__ import annotations

import pytest
import torch

from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.network.punet import PUNet

SMALL = NetworkConfig(channels=(8, 16, 32), head_channels=8, tokens=4, dynamic_rank=4)


@pytest.fixture
def net() -> PUNet:
    torch.manual_seed(0)
    return PUNet(SMALL).eval().requires_grad_(False)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(1, 1, 12, 24, 16, generator=torch.Generator().manual_seed(1))

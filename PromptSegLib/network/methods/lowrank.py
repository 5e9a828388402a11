"""Low-rank deltas of the frozen body's matrices and convolutions.

Hu et al., "LoRA", ICLR 2022: W + B A, with B zero at first, here for every matrix and convolution of the decoder, its
kernels of 3 x 3 x 3 flattened to a matrix (out, in x 27); with the encoder as well where the mode says so, of rank 1
then. Of several classes in one pass the deltas add up. They merge into the body's weights.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Mapping, Optional

from ..body import steerable
from .method import Method, Shapes
from .punet import truncated_normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..config import NetworkConfig
    from ..punet import PUNet

UP_SIZE = 0.5  # of B, where A is of the size of the body's own weights


class LowRank(Method):
    name = "lowrank"
    title = "Low-rank deltas (LoRA)"
    tip = "Small changes of the network's own matrices and convolutions."
    kinds = ("low_up", "low_down")
    order = 40
    stored = (2, "lowrank")

    def __init__(self, rank: int = 2):
        self.rank = rank

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        shapes: Shapes = {}
        rank = self.rank if mode in ("decoder", "end") else 1
        for name, shape in steerable(config, mode).items():
            if len(shape) > 1 and not name.endswith("relative_bias"):
                shapes[f"{name}.low_up"] = (shape[0], rank)
                shapes[f"{name}.low_down"] = (rank, math.prod(shape[1:]))
        return shapes

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        if name.endswith("_down"):
            truncated_normal(tensor, tensor.shape[-1] ** -0.5, generator)

    def size(self, name: str) -> Optional[float]:
        return UP_SIZE if name.endswith("_up") else None

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_zeros(tensor.shape) if name.endswith("_up") else tensor

    def body_weights(self, net: PUNet, prompts: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        changed = {}
        for name in names:
            up = prompts.get(f"{name}.low_up")
            if up is not None:
                weight = net.get_parameter(name)
                changed[name] = weight + (up @ prompts[f"{name}.low_down"]).sum(0).view_as(weight)
        return changed


METHOD = LowRank()

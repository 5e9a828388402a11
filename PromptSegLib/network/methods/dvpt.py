"""DVPT: a bottleneck of the frozen features, attended by learned queries and added back beside the MLP.

He, Wang, Wang, Li, Fu, "DVPT: dynamic visual prompt tuning of large pre-trained models for medical image analysis",
Neural Networks 185 (2025) 107168. The features are projected down to a few channels; learned queries attend to them,
over the whole patch, and become dynamic prompts; both together pass an activation, are projected up, and are added to
the features, parallel to the MLP, through a gate that is zero at first. One such module serves all blocks of a level.

Done otherwise: the bottleneck takes what the MLP takes, the block's normalized features, as the features themselves
differ in size by a factor of 25 between the levels of this body; and every voxel takes back its share of the dynamic
prompts by attending to them, where the publication has tokens of their own for them, or adds them to the first few
voxels of a map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Optional

from .method import Method, Shapes, part_of
from .punet import truncated_normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig

RANK, QUERIES = 16, 16
GATE_SIZE = 5.0  # features of this body's levels are 4 to 11 in size, what the bottleneck adds is about 1


class Bottleneck(Method):
    name = "dvpt"
    title = "DVPT: prompts that look at the image"
    tip = "Learned queries look at the image's features, and what they find is added to these."
    kinds = ("dynamic_gate", "dynamic_down", "dynamic_queries", "dynamic_up")
    order = 10
    stored = (2, "dvpt")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        shapes: Shapes = {}
        for block in config.blocks(mode):
            place = part_of(block)
            shapes[f"{place}.dynamic_down"] = (block.channels, RANK)
            shapes[f"{place}.dynamic_queries"] = (QUERIES, RANK)
            shapes[f"{place}.dynamic_up"] = (RANK, block.channels)
            shapes[f"{place}.dynamic_gate"] = (1,)
        return shapes

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        if name.endswith("_queries"):
            truncated_normal(tensor, 1.0, generator)
        elif not name.endswith("_gate"):
            truncated_normal(tensor, tensor.shape[1] ** -0.5, generator)  # (classes, in, out)

    def size(self, name: str) -> Optional[float]:
        return GATE_SIZE if name.endswith("_gate") else None

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_zeros(tensor.shape) if name.endswith("_gate") else tensor

    def beside_mlp(self, block: PromptedWindowAttention, x: Tensor, prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        from torch.nn import functional as F

        place = part_of(block)
        gate = prompts.get(f"{place}.dynamic_gate")
        if gate is None:
            return None
        low = x.flatten(1, 3)[:, None] @ prompts[f"{place}.dynamic_down"]  # (B, K, voxels, rank)
        scale = low.shape[-1] ** -0.5
        queries = prompts[f"{place}.dynamic_queries"]
        dynamic = (queries @ low.transpose(-2, -1) * scale).softmax(-1) @ low  # (B, K, queries, rank)
        shared = (low @ dynamic.transpose(-2, -1) * scale).softmax(-1) @ dynamic
        added = F.gelu(low + shared) @ prompts[f"{place}.dynamic_up"]
        return (gate[:, :, None] * added).sum(1).view_as(x)


METHOD = Bottleneck()

"""PUNet: class tokens as additional keys and values of the windowed attention.

Fischer, Bartler, Yang, "Prompt tuning for parameter-efficient medical image segmentation", MedIA 91 (2024) 103024,
section 3.1: 16 tokens of every attention sub-block and class, through the block's own norm and projections, with a
learned score for every head and token. Here scores are plain numbers of the class, where the publication makes them of
an embedding and of weights that all classes share: tuning one class would change the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Optional

from .method import TOKEN_SIZE, ExtraKeys, Method, Shapes, Triple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig


class Tokens(Method):
    name = "punet"
    title = "PUNet: prompts as keys and values"
    tip = "Prompts join the windowed attention of every block."
    kinds: tuple[str, ...] = ("tokens", "scores")
    order = 0
    stored = (1, "punet")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        shapes: Shapes = {}
        for block in config.blocks(mode):
            shapes[f"{block.name}.tokens"] = (config.tokens, block.channels)
            shapes[f"{block.name}.scores"] = (block.heads, config.tokens)
        return shapes

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        if name.endswith(".tokens"):
            truncated_normal(tensor, TOKEN_SIZE, generator)

    def size(self, name: str) -> Optional[float]:
        return TOKEN_SIZE

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_full(tensor.shape, float("-inf")) if name.endswith(".scores") else tensor

    def extra_keys(
        self, block: PromptedWindowAttention, x: Tensor, window: Triple, prompts: Mapping[str, Tensor]
    ) -> Optional[ExtraKeys]:
        from torch.nn import functional as F

        tokens = self.tokens(block, x, prompts)
        if tokens is None:
            return None
        normed = block.norm1(tokens)
        keys, values = (
            F.linear(normed, part).view(tokens.shape[0], -1, block.heads, part.shape[0] // block.heads).transpose(1, 2)
            for part in block.qkv.weight.chunk(3)[1:]
        )
        scores = prompts[f"{block.name}.scores"].permute(1, 0, 2).flatten(1)  # (heads, classes * tokens)
        return ExtraKeys(keys, scores[None, :, None], values)

    def tokens(self, block: PromptedWindowAttention, x: Tensor, prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        """Tokens (B or 1, classes * tokens, C) of the active classes."""
        tokens = prompts.get(f"{block.name}.tokens")
        return None if tokens is None else tokens.flatten(0, 1)[None]


def truncated_normal(tensor: Tensor, std: float, generator: Optional[torch.Generator]) -> None:
    """Fill in place, with nothing beyond two standard deviations."""
    import torch

    torch.nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std, generator=generator)


METHOD = Tokens()

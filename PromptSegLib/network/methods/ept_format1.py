"""What was called EPT in prompts files of format 1: one sink for every head of a block, whatever the query.

Not the published method (:mod:`.ept`), which has its columns for every query position. Here so that such files load and
segment as they did.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Mapping, Optional

from .method import TOKEN_SIZE, ExtraKeys, Method, Shapes, Triple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig


class HeadSinks(Method):
    name = "ept-format1"
    title = "EPT of earlier prompts: a sink for every head"
    tip = "For prompts of earlier versions."
    kinds = ("sinks",)
    offered = False
    order = 220
    stored = (1, "ept")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        return {f"{block.name}.sinks": (block.heads,) for block in config.blocks(mode)}

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        tensor.fill_(math.log(config.window**3) - 3.0)  # takes some 5 % of the attention at first

    def size(self, name: str) -> Optional[float]:
        return TOKEN_SIZE

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_full(tensor.shape, float("-inf"))

    def extra_keys(
        self, block: PromptedWindowAttention, x: Tensor, window: Triple, prompts: Mapping[str, Tensor]
    ) -> Optional[ExtraKeys]:
        sinks = prompts.get(f"{block.name}.sinks")
        if sinks is None:
            return None
        return ExtraKeys(None, sinks.t()[None, :, None], None)


METHOD = HeadSinks()

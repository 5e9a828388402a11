"""What was called DVPT in prompts files of format 1: PUNet's tokens, moved by gated queries over the patch.

Not the published method (:mod:`.dvpt`): the attended features move tokens, which are keys and values, instead of
joining the features themselves. Here so that such files load and segment as they did.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Optional

from .method import TOKEN_SIZE, Shapes
from .punet import Tokens, truncated_normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig

POOLED = 8  # the queries look at no more than POOLED**3 averaged features of the patch


class MovedTokens(Tokens):
    name = "dvpt-format1"
    title = "DVPT of earlier prompts: tokens that the image moves"
    tip = "For prompts of earlier versions."
    kinds = ("queries", "gate", "down", "up", *Tokens.kinds)
    replaces = ("punet",)
    offered = False
    order = 210
    stored = (1, "dvpt")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        shapes, blocks = {}, config.blocks(mode)
        tokens = super().shapes(config, mode)
        for block in blocks:
            shapes.update({name: shape for name, shape in tokens.items() if name.startswith(f"{block.name}.")})
            shapes[f"{block.name}.queries"] = (config.tokens, config.dynamic_rank)
            shapes[f"{block.name}.gate"] = (1,)
        for level in sorted({block.level for block in blocks}):
            shapes[f"level{level}.down"] = (config.channels[level], config.dynamic_rank)
            shapes[f"level{level}.up"] = (config.dynamic_rank, config.channels[level])
        return shapes

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        super().initialize(name, tensor, config, generator)
        kind = name.rpartition(".")[2]
        if kind in ("down", "up"):
            truncated_normal(tensor, TOKEN_SIZE, generator)
        elif kind == "queries":
            truncated_normal(tensor, 1.0, generator)

    def tokens(self, block: PromptedWindowAttention, x: Tensor, prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        from torch.nn import functional as F

        tokens, gate = prompts.get(f"{block.name}.tokens"), prompts.get(f"{block.name}.gate")
        if tokens is None or gate is None:
            return super().tokens(block, x, prompts)
        level = f"level{block.name.split('.')[0][-1]}"
        down, up = prompts[f"{level}.down"], prompts[f"{level}.up"]
        target = (min(POOLED, x.shape[1]), min(POOLED, x.shape[2]), min(POOLED, x.shape[3]))
        context = F.adaptive_avg_pool3d(x.permute(0, 4, 1, 2, 3), target).flatten(2).transpose(1, 2)  # (B, m, C)
        context = context[:, None] @ down  # (B, classes, m, rank)
        queries = prompts[f"{block.name}.queries"]
        attention = (queries @ context.transpose(-2, -1) * down.shape[-1] ** -0.5).softmax(-1)
        dynamic = tokens + gate[:, :, None] * (attention @ context @ up)
        return dynamic.flatten(1, 2)


METHOD = MovedTokens()

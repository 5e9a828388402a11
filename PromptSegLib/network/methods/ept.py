"""EPT: embedded prompts, columns of the attention that take a share of every query and give nothing.

Zu et al., "Embedded prompt tuning: towards enhanced calibration of pretrained models for medical images", MedIA 97
(2024) 103258. In every block, learned columns for every query position are set beside the attention's logits before the
softmax and dropped after it, the same for every head and image.

A query loses to its columns p_1..p_d what it would lose to one key with logit log(sum exp p_j) and value zero, so that
is how they are computed here; exactly the same, in exact arithmetic, and up to rounding in floating-point arithmetic.

Done otherwise: a query position is one of a window, as this body attends in windows, and there are 5 columns, the
fewest the publication tried: with its 100, columns would begin with 61 % of the attention of a window of 64 voxels, for
a frozen body that never saw any. Of several classes in one pass the mean of exp counts, for the same reason.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Mapping, Optional

from .method import ExtraKeys, Method, Shapes, Triple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig

COLUMNS = 5
START = 0.02  # standard deviation, as published
# Of the columns' logits: what attention adds to this body's features is small, so much of it must go to be seen. With 4
# in place of 20, a tuning on BTCV 12 changed .3 % of a class's voxels on BTCV 13 against its start.
SIZE = 20.0


class Columns(Method):
    name = "ept"
    title = "EPT: attention that lets go"
    tip = "Learned columns of the attention take a share of it, for every place in a window; few numbers."
    kinds = ("columns",)
    order = 20
    stored = (2, "ept")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        return {f"{block.name}.columns": (config.window**3, COLUMNS) for block in config.blocks(mode)}

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        tensor.normal_(0.0, START, generator=generator)

    def size(self, name: str) -> Optional[float]:
        return SIZE

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_full(tensor.shape, float("-inf"))

    def extra_keys(
        self, block: PromptedWindowAttention, x: Tensor, window: Triple, prompts: Mapping[str, Tensor]
    ) -> Optional[ExtraKeys]:
        columns = prompts.get(f"{block.name}.columns")
        if columns is None:
            return None
        sinks = reduced(columns, window, block.window)
        return ExtraKeys(None, sinks[None, None, :, None], None)


def reduced(columns: Tensor, window: Triple, base: int) -> Tensor:
    """Columns (K, base^3, d) -> one logit for every voxel (n,) of a window (z, y, x), of ``base`` at most."""
    z, y, x = window
    grid = columns.float().unflatten(1, (base, base, base))[:, :z, :y, :x].flatten(1, 3)
    return grid.logsumexp(2).logsumexp(0) - math.log(len(columns))


METHOD = Columns()

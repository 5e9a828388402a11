"""All of it: a linear head and a thin network on all maps, and a frozen body that scales, shifts and bends a little."""

from __future__ import annotations

from ..config import NetworkConfig
from .linear import METHOD as LINEAR
from .lowrank import LowRank
from .method import Combination, Method, Shapes
from .scale import METHOD as SCALES
from .side import ThinNetwork


class Combined(Combination):
    name = "combined"
    title = "Combined: head, thin network, scales and deltas"
    tip = "A linear head, a thin network beside the frozen one, and small changes of its weights."
    order = 70
    stored = (2, "combined network")
    output_tokens = False
    parts: tuple[Method, ...] = (LINEAR, ThinNetwork(8), SCALES, LowRank(1))

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        # With the encoder's, a class would have more than .85 % of the body's numbers.
        return super().shapes(config, "decoder" if mode == "full" else mode)


METHOD = Combined()

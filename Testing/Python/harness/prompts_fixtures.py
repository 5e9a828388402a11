"""Prompts with random numbers."""

from __future__ import annotations

import numpy as np

from PromptSegLib.annotation.classes import describe
from PromptSegLib.imaging.preprocessing import Preprocessing
from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.prompts.store import ClassPrompts, Prompts

NETWORK = NetworkConfig(channels=(16, 16, 32), head_channels=8, tokens=4, dynamic_rank=4)


def some_prompts(*names, backbone="ct-test", seed=0):
    rng = np.random.default_rng(seed)
    classes = tuple(
        ClassPrompts(
            describe(name, value),
            {key: rng.normal(size=n).astype(np.float32) for key, n in NETWORK.prompt_shapes("full", "punet").items()},
        )
        for value, name in enumerate(names, start=1)
    )
    return Prompts(classes, backbone, "ab" * 32, NETWORK, Preprocessing((3.0, 2.0, 2.0), (-100.0, 200.0)), "full")


SMALL = NetworkConfig(channels=(8, 16, 16), head_channels=8, tokens=2, dynamic_rank=2)


SHA = "0123456789abcdef" * 4


def tensors_of(
    network: NetworkConfig, mode: str, method: str, seed: int = 0, outputs: str = "last"
) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = network.prompt_shapes(mode, method, outputs)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def make(
    *classes: tuple[str, int],
    network: NetworkConfig = SMALL,
    mode: str = "decoder",
    method: str = "punet",
    outputs: str = "last",
    **more,
) -> Prompts:
    """Prompts of ``classes`` (name, group); label values count from 1."""
    made: list[ClassPrompts] = []
    for index, (name, group) in enumerate(classes or (("liver", 0), ("spleen", 0))):
        info = describe(name, index + 1, [each.info for each in made])
        made.append(ClassPrompts(info, tensors_of(network, mode, method, index, outputs), group))
    return Prompts(tuple(made), "ct-body", SHA, network, Preprocessing(), mode, method, **more)

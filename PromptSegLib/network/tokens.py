"""Making, stacking and filtering the prompt tensors that the network takes."""

from __future__ import annotations

from typing import Iterable, Mapping, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from .attention import PromptTensors
from .config import NetworkConfig, outputs_of
from .methods.registry import method as method_called


def new_prompts(
    config: NetworkConfig,
    classes: int,
    mode: str = "full",
    method: str = "punet",
    generator: Optional[torch.Generator] = None,
    outputs: str = "last",
) -> PromptTensors:
    """Fresh prompts for ``classes`` classes, stacked along axis 0.

    The method fills in its own tensors. Output tokens of the last map are truncated normal, those of further maps zero,
    without a say (``PUNet.similarity``).
    """
    prompts, own = {}, method_called(method)
    for name, shape in config.prompt_shapes(mode, method, outputs).items():
        prompts[name] = tensor = torch.zeros(classes, *shape)
        if not own.output_tokens or not name.startswith("output"):
            own.initialize(name, tensor, config, generator)
        elif outputs_of([name]) == "last":
            torch.nn.init.trunc_normal_(tensor, std=1.0, a=-2.0, b=2.0, generator=generator)
    return prompts


def stack(classes: Sequence[PromptTensors]) -> PromptTensors:
    """Prompts of several classes (no class axis) -> one set with a leading class axis."""
    return {name: torch.stack([each[name] for each in classes]) for name in classes[0]}


def from_arrays(classes: Sequence[Mapping[str, np.ndarray]], device: torch.device) -> PromptTensors:
    """Tensors of several classes as a prompts file holds them -> one stacked set on ``device``."""
    return to_device(
        stack([{name: torch.from_numpy(array) for name, array in each.items()} for each in classes]), device
    )


def unstack(prompts: PromptTensors) -> list[PromptTensors]:
    """Undo :func:`stack`; tensors are copies."""
    count = len(next(iter(prompts.values())))
    return [{name: tensor[index].detach().clone() for name, tensor in prompts.items()} for index in range(count)]


def select(prompts: PromptTensors, indices: Iterable[int]) -> PromptTensors:
    """The prompts of some of the stacked classes, in that order."""
    chosen = list(indices)
    return {name: tensor[chosen] for name, tensor in prompts.items()}


def without_encoder(prompts: PromptTensors) -> PromptTensors:
    """The same prompts held back from the encoder, so that its maps no longer depend on the class."""
    return {name: tensor for name, tensor in prompts.items() if not name.startswith("encoder")}


def touches_encoder(prompts: PromptTensors) -> bool:
    """Whether the encoder's maps depend on these prompts."""
    return any(name.startswith("encoder") for name in prompts)


def to_device(prompts: PromptTensors, device: torch.device | str) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in prompts.items()}

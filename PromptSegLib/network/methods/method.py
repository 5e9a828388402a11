"""What a method of prompt tuning is: the tensors of a class, and where they act on the frozen body.

A method is one file of this folder with an object ``METHOD`` of a subclass of :class:`Method`; :mod:`.registry` finds
it there, and with it the command line, the panel's list and the prompts file do. Files of this folder import without
torch, which the panel and the reading of prompts do without: what needs it imports it where it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional, Sequence

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig
    from ..punet import PUNet

Shapes = dict[str, tuple[int, ...]]
Triple = tuple[int, int, int]

TOKEN_SIZE = 0.1  # of a fresh token: what the tuning's rate is meant for


class ExtraKeys(NamedTuple):
    """Keys beside those of a window, for every query.

    ``keys`` (B or 1, heads, m, head channels), or None where only the scores count; ``scores`` (B or 1, heads or 1, n
    or 1, m), added to the logits; ``values`` (B or 1, heads, m, head channels), or None where these are zero.
    """

    keys: Optional[Tensor]
    scores: Tensor
    values: Optional[Tensor]


class Method:
    """One way to steer the body. A subclass says what it has, and takes part where it overrides a hook.

    A class's tensors are named ``<place>.<kind>``; the place begins with ``encoder`` or ``decoder``, to tell which of
    them the encoder's maps depend on. Hooks get the prompts of all active classes, stacked along a leading
    class axis K, and are asked wherever ``kinds[0]`` is among the kinds of these.

    :cvar name: in the command line and in memory.
    :cvar title: in the panel's list, as ``tip``, what it does in one sentence.
    :cvar kinds: last parts of the names of its tensors; no two methods share the first.
    :cvar replaces: methods that take no part where this one does, as it has their kinds.
    :cvar offered: whether a new tuning may choose it; others are there for prompts that are.
    :cvar order: place in lists.
    :cvar stored: (format, name) of prompts files.
    :cvar output_tokens: whether classes have output tokens; if not, the method says what a class is.
    :cvar all_maps: whether it looks at all of ``NetworkConfig.output_maps``.
    :cvar pointwise: whether a voxel's logits depend on its features alone.
    """

    name = ""
    title = ""
    tip = ""
    kinds: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    offered = True
    order = 100
    stored: tuple[int, str] = (2, "")
    output_tokens = True
    all_maps = False
    pointwise = True

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        """Name and shape of every tensor of one class, but output tokens."""
        raise NotImplementedError

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        """Fill a tensor of zeros (classes, ...) with what a tuning starts from, in place."""

    def size(self, name: str) -> Optional[float]:
        """How far a tensor must move to matter; a step moves it in proportion. None: as far as it is large."""
        return None

    def off(self, name: str, tensor: Tensor) -> Tensor:
        """The tensor with which the prompts have no say in the body."""
        return tensor

    def extra_keys(
        self, block: PromptedWindowAttention, x: Tensor, window: Triple, prompts: Mapping[str, Tensor]
    ) -> Optional[ExtraKeys]:
        """Keys that every query of a block sees beside the n voxels of its ``window`` (z, y, x), row by row.

        :param x: the block's normalized features (B, D, H, W, C).
        """
        return None

    def beside_mlp(self, block: PromptedWindowAttention, x: Tensor, prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        """What is added to a block's output, parallel to its MLP, whose input ``x`` (B, D, H, W, C) is."""
        return None

    def body_weights(self, net: PUNet, prompts: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        """Parameter of the body -> what stands in for it, of those called ``names``."""
        return {}

    def output_logits(self, net: PUNet, features: Sequence[Tensor], prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        """What is added to the classes' logits (B, K, d, h, w) on the grid of the first of ``features``, which are as
        ``PUNet.decode`` gives them."""
        return None

    def image_logits(
        self, net: PUNet, image: Tensor, features: Sequence[Tensor], prompts: Mapping[str, Tensor]
    ) -> Optional[Tensor]:
        """What is added to the classes' logits (B, K, D, H, W) on the grid of the image (B, 1, D, H, W)."""
        return None

    def fit(self, config: NetworkConfig, prompts: dict[str, Tensor], features: Tensor, labels: Tensor) -> bool:
        """Start from annotated voxels, in place: features (n, C) of all maps, each map's part of length 1, and labels
        (n,) as in ``annotation.labels``. Whether there is anything to start from so."""
        return False

    def __repr__(self) -> str:
        return f"<method {self.name}>"


class Combination(Method):
    """Several methods at once; each takes part where its own tensors are."""

    parts: tuple[Method, ...] = ()

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        return {name: shape for part in self.parts for name, shape in part.shapes(config, mode).items()}

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        self._part(name).initialize(name, tensor, config, generator)

    def size(self, name: str) -> Optional[float]:
        return self._part(name).size(name)

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return self._part(name).off(name, tensor)

    def fit(self, config: NetworkConfig, prompts: dict[str, Tensor], features: Tensor, labels: Tensor) -> bool:
        found = [part.fit(config, prompts, features, labels) for part in self.parts]  # every one
        return any(found)

    def _part(self, name: str) -> Method:
        kind = name.rpartition(".")[2]
        return next(part for part in self.parts if kind in part.kinds)


def part_of(block: Any) -> str:
    """``decoder2`` for the block ``decoder2.1``: what the blocks of a level have in common."""
    return str(block.name).split(".")[0]

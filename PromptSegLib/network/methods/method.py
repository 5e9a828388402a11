"""What a method of prompt tuning is: the tensors of a class, and where they act on the frozen body.

A method is one file of this folder with an object ``METHOD`` of a subclass of :class:`Method`; :mod:`.registry` finds
it there, and with it the command line, the panel's list and the prompts file do. Files of this folder import without
torch, which the panel and the reading of prompts do without: what needs it imports it where it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Optional

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..attention import PromptedWindowAttention
    from ..config import NetworkConfig

Shapes = dict[str, tuple[int, ...]]
Triple = tuple[int, int, int]

TOKEN_SIZE = 0.1  # of a fresh token: what the tuning's rate is meant for


class ExtraKeys(NamedTuple):
    """Keys beside those of a window: their logits (B, heads, windows, n, keys), and their values (B or 1, heads,
    keys, head channels), or None where these are zero."""

    logits: Tensor
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
    """

    name = ""
    title = ""
    tip = ""
    kinds: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()
    offered = True
    order = 100
    stored: tuple[int, str] = (2, "")

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
        self, block: PromptedWindowAttention, q: Tensor, x: Tensor, window: Triple, prompts: Mapping[str, Tensor]
    ) -> Optional[ExtraKeys]:
        """Keys that every query of a block sees beside its window.

        :param q: scaled queries (B, heads, windows, n, head channels); n voxels of a ``window`` (z, y, x), row by row.
        :param x: the block's normalized features (B, D, H, W, C).
        """
        return None

    def beside_mlp(self, block: PromptedWindowAttention, x: Tensor, prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        """What is added to a block's output, parallel to its MLP, whose input ``x`` (B, D, H, W, C) is."""
        return None

    def __repr__(self) -> str:
        return f"<method {self.name}>"


def part_of(block: Any) -> str:
    """``decoder2`` for the block ``decoder2.1``: what the blocks of a level have in common."""
    return str(block.name).split(".")[0]

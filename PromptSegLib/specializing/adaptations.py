"""Ways to teach a pretrained body new classes, and two networks that begin from nothing.

The methods that the paper compares (Fischer et al., MedIA 91, 103024; docs/methods.md#its-protocol), without its
adapters, and LoRA (Hu et al., ICLR 2022). Each is a module of its own with a copy of the body; none changes the
backbone it is made from.
"""

from __future__ import annotations

import copy
import importlib.util
import math
from dataclasses import replace
from typing import Iterable, Optional, Sequence

import torch
from monai.networks.nets import DynUNet, SwinUNETR
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ..errors import PromptSegError
from ..models.backbone import Backbone
from ..network.attention import PromptedWindowAttention, PromptTensors
from ..network.punet import Convolution, PUNet
from ..network.tokens import new_prompts

PROMPTED = ("prompts", "decoder prompts", "full fine-tuning", "decoder fine-tuning")
HEADED = ("linear head", "linear head on all maps", "bias", "LoRA")
SCRATCH = ("DynUNet", "SwinUNETR")
METHODS = (*PROMPTED, *HEADED, *SCRATCH)
Extents = tuple[int, int, int]

CROP, SPACING = (32, 64, 64), (3.0, 2.0, 2.0)  # of the shipped backbone's training
TILE = (48, 96, 96)
# Beside those of all other maps, so that a class's prompts stay below the paper's 0.85 % of this small body.
TOKENS_IN_LAST = 10
TILE_FACTOR = 1.5  # tiles against views, as pretraining has them
SMALLEST = 4  # voxels of an axis on the coarsest map of a network from scratch, as nnU-Net has it
RANK = 4
DECAY = 1e-2  # where a body is trained; a handful of numbers on a frozen one needs none
TOKEN_RATE, HEAD_RATE, INSIDE_RATE = 5e-3, 1e-2, 3e-3  # INSIDE: biases and LoRA, which sit inside the body
TUNED_TOKEN_RATE, BODY_RATE = 3e-3, 1e-3  # where body and prompts move together, as in pretraining
DYNUNET_RATE, SWIN_RATE = 1e-3, 5e-4

_DOT = ":"  # a parameter's name must not hold a dot


class Adaptation(nn.Module):
    """Images (B, 1, D, H, W), normalized -> logits (B, 1 + classes, D, H, W), index 0 background.

    ``trained`` lists (parameters, learning rate); no other parameter requires a gradient. ``body`` is how many
    parameters the network has without what was added for the classes, ``tile`` what it is applied to.
    """

    def __init__(self, net: nn.Module, classes: int, tile: tuple[int, int, int] = TILE):
        super().__init__()
        self.net, self.classes, self.tile = net, classes, tile
        self.body = sum(parameter.numel() for parameter in net.parameters())
        self.trained: list[tuple[list[nn.Parameter], float]] = []
        self.decay = 0.0

    def train_only(self, *groups: tuple[Iterable[nn.Parameter], float], decay: float = 0.0) -> None:
        self.requires_grad_(False)
        self.trained, self.decay = [(list(parameters), rate) for parameters, rate in groups], decay
        for parameters, _ in self.trained:
            for parameter in parameters:
                parameter.requires_grad_(True)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Prompted(Adaptation):
    """The body steered by prompts; all classes are asked for together."""

    net: PUNet

    def __init__(
        self,
        net: PUNet,
        classes: int,
        mode: str,
        generator: torch.Generator,
        outputs: str = "last",
        start: Optional[PromptTensors] = None,
    ):
        """``start``: stacked prompts to begin with; without them, fresh ones."""
        super().__init__(net, classes)
        self.config = net.config if outputs == "last" or start else replace(net.config, tokens=TOKENS_IN_LAST)
        fresh = start or new_prompts(self.config, classes, mode, generator=generator, outputs=outputs)
        self.prompts = nn.ParameterDict({name.replace(".", _DOT): tensor for name, tensor in fresh.items()})

    def stacked(self) -> PromptTensors:
        """Prompts as ``NetworkConfig.prompt_shapes`` names them."""
        return {name.replace(_DOT, "."): tensor for name, tensor in self.prompts.items()}

    def features(self, x: Tensor) -> list[Tensor]:
        """As ``PUNet.decode`` gives them."""
        prompts = self.stacked()
        return self.net.decode(self.net.encode(x, prompts), prompts)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x, self.stacked())


class Headed(Adaptation):
    """The body without prompts, a linear head on F (docs/methods.md#its-protocol; GroupNorm for its BatchNorm)."""

    net: PUNet

    def __init__(self, net: PUNet, classes: int):
        super().__init__(net, classes)
        channels = net.config.channels[0]
        self.head = nn.Sequential(nn.GroupNorm(8, channels), nn.LeakyReLU(0.01), nn.Conv3d(channels, 1 + classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous: on channels last, the backward of a GroupNorm whose input needs no gradient crashes (torch 2.13).
        features = self.net.decode(self.net.encode(x))[0].contiguous()
        return self.net.upsample(self.head(features), x.shape[2:])


class HeadedAll(Adaptation):
    """The body without prompts, a linear head on every map that output tokens can be compared with."""

    net: PUNet

    def __init__(self, net: PUNet, classes: int):
        super().__init__(net, classes)
        # The decoder gives normalized maps; the sum of the heads is one head on all channels.
        self.heads = nn.ModuleList(nn.Conv3d(each.channels, 1 + classes, 1) for each in net.config.output_maps)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.net.decode(self.net.encode(x), outputs="all")
        grid = maps[0].shape[2:]
        logits = [head(map_.to(maps[0].dtype)) for head, map_ in zip(self.heads, maps)]
        fine = [F.interpolate(each, grid, mode="trilinear", align_corners=False) for each in logits]
        return self.net.upsample(torch.stack(fine).sum(0), x.shape[2:])


class LowRank(nn.Module):
    """A weight W (out, in) as W + B A, with B zero at first."""

    def __init__(self, weight: Tensor, rank: int):
        super().__init__()
        self.down = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=5**0.5)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def adaptation(
    name: str,
    backbone: Optional[Backbone],
    classes: int,
    generator: torch.Generator,
    crop: Extents = CROP,
    spacing: tuple[float, ...] = SPACING,
    outputs: str = "last",
    start: Optional[PromptTensors] = None,
) -> Adaptation:
    """A fresh adaptation by its name in ``METHODS``; those of ``SCRATCH`` need no backbone.

    ``crop`` (voxels) and ``spacing`` (mm), both (z, y, x), of the views shape a network from scratch. ``outputs``:
    the maps that prompts have output tokens for, ``last`` or ``all``; ``start``: prompts that those of ``PROMPTED``
    begin with, stacked, whatever ``outputs``.

    Raises ``ValueError`` for another name, or a missing backbone.
    """
    if name not in METHODS:
        raise ValueError(f"There is no adaptation {name!r}; choose one of {', '.join(METHODS)}.")
    # Most modules initialize themselves from the global generator: lend it the caller's seed.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        if name in SCRATCH:
            return _from_scratch(name, classes, crop, spacing)
        if backbone is None:
            raise ValueError(f"The adaptation {name!r} needs a backbone.")
        # Channels last is faster for these bodies (by up to 20 %), and slower for DynUNet.
        net = copy.deepcopy(backbone.net).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if name in PROMPTED:
            made: Adaptation = _prompted(name, net, classes, generator, outputs, start)
        else:
            made = _headed(name, net, classes)
        made.tile = backbone.tile
        return made


def _prompted(
    name: str,
    net: PUNet,
    classes: int,
    generator: torch.Generator,
    outputs: str,
    start: Optional[PromptTensors],
) -> Prompted:
    made = Prompted(net, classes, "decoder" if name.startswith("decoder") else "full", generator, outputs, start)
    prompts = made.prompts.parameters()
    if name == "full fine-tuning":
        made.train_only((prompts, TUNED_TOKEN_RATE), (net.parameters(), BODY_RATE), decay=DECAY)
    elif name == "decoder fine-tuning":
        decoder = [*net.decoder.parameters(), *net.norm.parameters(), net.scale]
        made.train_only((prompts, TUNED_TOKEN_RATE), (decoder, BODY_RATE), decay=DECAY)
    else:
        made.train_only((prompts, TOKEN_RATE))
    return made


def _headed(name: str, net: PUNet, classes: int) -> Adaptation:
    if name == "linear head on all maps":
        whole = HeadedAll(net, classes)
        whole.train_only((whole.heads.parameters(), HEAD_RATE))
        return whole
    made = Headed(net, classes)
    head = (made.head.parameters(), HEAD_RATE)
    if name == "bias":
        made.train_only(head, (biases(net), INSIDE_RATE))
    elif name == "LoRA":
        pairs = []
        for block in net.modules():
            if isinstance(block, PromptedWindowAttention):
                pairs.append(LowRank(block.qkv.weight, RANK))
                parametrize.register_parametrization(block.qkv, "weight", pairs[-1])
        made.train_only(head, ([each for pair in pairs for each in pair.parameters()], INSIDE_RATE))
    else:
        made.train_only(head)
    return made


def biases(net: nn.Module) -> list[nn.Parameter]:
    """All biases, and the weights of all norms."""
    norms = (nn.GroupNorm, nn.LayerNorm)
    return [
        parameter
        for module in net.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or (name == "weight" and isinstance(module, norms))
    ]


def _from_scratch(name: str, classes: int, crop: Extents, spacing: tuple[float, ...]) -> Adaptation:
    if name == "DynUNet":
        strides = halvings(crop, spacing)
        net: nn.Module = DynUNet(3, 1, 1 + classes, [(3, 3, 3)] * len(strides), strides, strides[1:])
        made = Adaptation(net, classes, tile_for(crop, [math.prod(axis) for axis in zip(*strides)]))
        made.train_only((net.parameters(), DYNUNET_RATE), decay=DECAY)
        return _safe(made)
    if importlib.util.find_spec("einops") is None:
        raise PromptSegError("MONAI's SwinUNETR needs einops; install it (pip install einops) or leave SwinUNETR out.")
    net = SwinUNETR(1, 1 + classes, feature_size=24, spatial_dims=3)
    made = Adaptation(net, classes, tile_for(crop, (32, 32, 32)))
    made.train_only((net.parameters(), SWIN_RATE), decay=DECAY)
    return _safe(made)


def _safe(made: Adaptation) -> Adaptation:
    """With the body's own convolutions: SwinUNETR's maps of two voxels gave NaN after 50 steps in bfloat16."""
    for module in made.modules():
        if type(module) is nn.Conv3d:
            module.__class__ = Convolution
    return made


def halvings(crop: Extents, spacing: tuple[float, ...]) -> list[Extents]:
    """Strides of a DynUNet's levels by nnU-Net's rule (Isensee et al., Nature Methods 2021).

    An axis is halved while its map keeps ``SMALLEST`` voxels and its voxels are not twice as long as the shortest.
    """
    size, step, strides = list(crop), list(spacing), [(1, 1, 1)]
    while True:
        z, y, x = (2 if n >= 2 * SMALLEST and mm < 2 * min(step) else 1 for n, mm in zip(size, step))
        if (z, y, x) == (1, 1, 1):
            return strides
        strides.append((z, y, x))
        size = [n // by for n, by in zip(size, strides[-1])]
        step = [mm * by for mm, by in zip(step, strides[-1])]


def tile_for(crop: Extents, multiple: Sequence[int]) -> Extents:
    """Extents of the tiles of a network that was trained on views of ``crop`` and takes multiples of ``multiple``."""
    z, y, x = (math.ceil(size * TILE_FACTOR / step) * step for size, step in zip(crop, multiple))
    return z, y, x

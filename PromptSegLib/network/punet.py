"""PUNet: a U-Net whose attention is steered by the prompts of the active classes.

Source: Fischer, Bartler, Yang, "Prompt tuning for parameter-efficient medical image
segmentation", MedIA 91 (2024) 103024; what is done otherwise here, and why, is in
docs/methods.md#punet (among it the cheaper layout: no attention at the finest level, MLP ratio 1).
"""

from __future__ import annotations

from typing import Any, Optional, Sequence, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from .attention import AttentionPair, PromptTensors
from .config import NetworkConfig, outputs_of
from .convolution import Convolution
from .methods.method import Method
from .methods.registry import acting
from .norm import GroupNorm
from .similarity import similarity

# An unbounded scale drifts to 50-90 and makes probabilities over-confident (docs/methods.md#measured-with-a-prototype).
MAX_SCALE = 30.0
FURTHER_SCALE = 14.0  # of every map but the last; chosen on BTCV 14 and 15: better than 1.5


class ResidualConvolution(nn.Sequential):
    """x + conv(LeakyReLU(GroupNorm(x))), 3 x 3 x 3."""

    def __init__(self, channels: int):
        super().__init__(
            GroupNorm(8, channels), nn.LeakyReLU(0.01), Convolution(channels, channels, 3, padding=1, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class EncoderLevel(nn.Module):
    """Halve the grid, widen, convolve (finer levels) and attend."""

    def __init__(self, level: int, config: NetworkConfig):
        super().__init__()
        channels = config.channels[level]
        layers: list[nn.Module] = []
        if level:
            narrow = config.channels[level - 1]
            layers = [GroupNorm(8, narrow), nn.LeakyReLU(0.01), nn.Conv3d(narrow, channels, 2, stride=2)]
        if level <= config.convolutions_to_level:
            layers.append(ResidualConvolution(channels))
        self.convolutions = nn.Sequential(*layers)
        self.attention = _attention("encoder", level, config)

    def forward(self, x: Tensor, prompts: Optional[PromptTensors]) -> Tensor:
        x = self.convolutions(x)
        return x if self.attention is None else self.attention(x, prompts)


class DecoderLevel(nn.Module):
    """Narrow, double the grid, add the skip, convolve and attend."""

    def __init__(self, level: int, config: NetworkConfig):
        super().__init__()
        channels = config.channels[level]
        self.narrow = nn.Conv3d(config.channels[level + 1], channels, 1)
        self.convolution = ResidualConvolution(channels)
        self.attention = _attention("decoder", level, config)

    def forward(self, x: Tensor, skip: Tensor, prompts: Optional[PromptTensors]) -> Tensor:
        x = F.interpolate(self.narrow(x), scale_factor=2, mode="trilinear", align_corners=False)
        x = self.convolution(x + skip)
        return x if self.attention is None else self.attention(x, prompts)


def _attention(part: str, level: int, config: NetworkConfig) -> Optional[AttentionPair]:
    if level < config.attention_from_level:
        return None
    channels = config.channels[level]
    heads = channels // config.head_channels
    return AttentionPair(f"{part}{level}", channels, heads, config.window)


class PUNet(nn.Module):
    """The body: everything that is frozen once pretraining is over."""

    def __init__(self, config: Optional[NetworkConfig] = None):
        super().__init__()
        self.config = config = config or NetworkConfig()
        kernel = cast(tuple[int, int, int], tuple(4 if stride == 2 else 3 for stride in config.stem_stride))
        # Kernel 4 on strided axes keeps the half-resolution grid aligned with align_corners=False.
        self.stem = Convolution(1, config.channels[0], kernel, stride=config.stem_stride, padding=1)
        self.encoder = nn.ModuleList(EncoderLevel(level, config) for level in range(config.levels))
        self.decoder = nn.ModuleList(DecoderLevel(level, config) for level in range(config.levels - 2, -1, -1))
        self.norm = GroupNorm(8, config.channels[0])
        self.scale = nn.Parameter(torch.tensor(10.0))

    def _steered(self, part: str, prompts: Optional[PromptTensors], *arguments: Any) -> Any:
        """Call ``_encoded`` or ``_decoded`` with what the prompts' methods put in place of the body's parameters."""
        names = [name for name, _ in self.named_parameters() if name.startswith("encoder") == (part == "_encoded")]
        changed: dict[str, Tensor] = {}
        for method in acting(prompts or {}):
            changed.update(method.body_weights(self, prompts or {}, names))
        if not changed:
            return getattr(self, part)(*arguments, prompts)
        renamed = {f"net.{name}": tensor for name, tensor in changed.items()}
        return functional_call(_Part(self, part), renamed, (*arguments, prompts))

    def encode(self, x: Tensor, prompts: Optional[PromptTensors] = None) -> list[Tensor]:
        """x (B, 1, D, H, W), normalized intensities, any extents -> one map per level, finest first.

        Extents are padded at the end to multiples of ``config.stride``.
        """
        return self._steered("_encoded", prompts, x)

    def _encoded(self, x: Tensor, prompts: Optional[PromptTensors]) -> list[Tensor]:
        extents, stride = x.shape[2:], self.config.stride
        missing = [-extent % step for extent, step in zip(extents, stride)]
        if any(missing):
            pad = [n for m in missing[::-1] for n in (0, m)]
            x = F.pad(x, pad, mode="replicate")
        x = self.stem(x)
        maps = []
        for level in self.encoder:
            x = level(x, prompts)
            maps.append(x)
        return maps

    def decode(
        self, maps: Sequence[Tensor], prompts: Optional[PromptTensors] = None, outputs: Optional[str] = None
    ) -> list[Tensor]:
        """Maps of :meth:`encode` -> normalized features, (B, C, d, h, w) each.

        The first is F (C0 channels) on the stem's grid; with ``outputs`` ``all``, the others of ``config.output_maps``
        follow, coarser levels on coarser grids. By default, those that ``prompts`` look at.
        """
        return self._steered("_decoded", prompts, maps, outputs or maps_of(prompts or {}))

    def _decoded(self, maps: Sequence[Tensor], outputs: str, prompts: Optional[PromptTensors]) -> list[Tensor]:
        x = maps[-1]
        found = {("encoder", level): map_ for level, map_ in enumerate(maps)}
        for level, (layer, skip) in enumerate(zip(self.decoder, maps[-2::-1])):
            x = layer(x, skip, prompts)
            found["decoder", len(maps) - 2 - level] = x
        # Without parameters of their own: what a map holds is for the tokens to say.
        further = self.config.output_maps[1:] if outputs == "all" else ()
        others = [F.group_norm(found[each.part, each.level].float(), 8) for each in further]
        return [self.norm(x), *others]

    def similarity(self, features: Sequence[Tensor], prompts: PromptTensors) -> Tensor:
        """Class logits (B, 1 + classes, d, h, w) on the grid of the first of ``features``; index 0 is background.

        Logit of a class: scaled cosine similarity between the feature and the class's output tokens, aggregated with
        weights that favor the nearest tokens (docs/methods.md#output-tokens). Background: the mean over the active
        classes' background tokens. Further maps add theirs; a token of zeros has no say and no gradient, so that a
        class that was learned without them stays as it was beside one that has them.
        """
        count, grid = len(next(iter(prompts.values()))), features[0].shape[2:]
        total: Optional[Tensor] = None
        for each, map_ in zip(self.config.output_maps, features):
            if each.foreground not in prompts:
                continue
            factor = self.scale.clamp(1.0, MAX_SCALE) if total is None else FURTHER_SCALE
            value = factor * similarity(map_, prompts[each.background], prompts[each.foreground])
            if value.shape[2:] != grid:
                value = F.interpolate(value, size=grid, mode="trilinear", align_corners=False)
            total = value if total is None else total + value
        if total is None:
            total = features[0].new_zeros((len(features[0]), 1 + count, *grid), dtype=torch.float32)
        for method in acting(prompts):
            total = _with_classes(total, method.output_logits(self, features, prompts))
        return total

    def logits(self, x: Tensor, maps: Sequence[Tensor], prompts: PromptTensors) -> Tensor:
        """Class logits (B, 1 + classes, D, H, W) of x (B, 1, D, H, W), from its ``maps`` as :meth:`encode` gives them
        under these prompts."""
        return self.logits_from(x, self.decode(maps, prompts), prompts)

    def logits_from(self, x: Tensor, features: Sequence[Tensor], prompts: PromptTensors) -> Tensor:
        """As :meth:`logits`, from what :meth:`decode` gives under these prompts."""
        logits = self.upsample(self.similarity(features, prompts), x.shape[2:])
        for method in acting(prompts):
            logits = _with_classes(logits, method.image_logits(self, x, features, prompts))
        return logits

    def upsample(self, logits: Tensor, extents: Sequence[int]) -> Tensor:
        """Logits from the stem's grid to the input's grid, cropped to its extents."""
        for axis, step in enumerate(self.config.stem_stride, start=2):
            if step != 1:
                logits = _finer(logits, axis, step)
        return logits[:, :, : extents[0], : extents[1], : extents[2]]

    def forward(self, x: Tensor, prompts: PromptTensors) -> Tensor:
        """x (B, 1, D, H, W) and stacked prompts of K classes -> logits (B, 1 + K, D, H, W)."""
        return self.logits(x, self.encode(x, prompts), prompts)


def leaves_features(prompts: PromptTensors) -> bool:
    """Whether the prompts change nothing of what :meth:`PUNet.decode` gives: whatever steers is beside the body."""
    hooks = ("extra_keys", "beside_mlp", "body_weights")
    return not any(getattr(type(each), hook) is not getattr(Method, hook) for each in acting(prompts) for hook in hooks)


def maps_of(prompts: PromptTensors) -> str:
    """Which of ``config.OUTPUTS`` the prompts look at."""
    return "all" if any(method.all_maps for method in acting(prompts)) else outputs_of(prompts)


def _finer(x: Tensor, axis: int, step: int) -> Tensor:
    """x with ``step`` times as many voxels along an axis, interpolated linearly between the centers of voxels.

    What ``F.interpolate`` does, as a product with a matrix: for the logits of all classes of a training view a third of
    the time, there and back.
    """
    unit = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
    matrix = F.interpolate(unit[None], scale_factor=float(step), mode="linear", align_corners=False)[0]  # (n, step n)
    with torch.autocast(x.device.type, enabled=False):
        if axis == x.ndim - 1:
            return x @ matrix
        flat = matrix.t() @ x.flatten(axis + 1)
        return flat.unflatten(-1, x.shape[axis + 1 :])


class _Part(nn.Module):
    """One of the ways through a net, as ``functional_call`` wants it."""

    def __init__(self, net: PUNet, name: str):
        super().__init__()
        self.net, self.name = net, name

    def forward(self, *arguments: Any) -> Any:
        return getattr(self.net, self.name)(*arguments)


def _with_classes(logits: Tensor, more: Optional[Tensor]) -> Tensor:
    """Logits (B, 1 + classes, ...) and what is added to those of the classes (B, classes, ...)."""
    return logits if more is None else torch.cat([logits[:, :1], logits[:, 1:] + more.to(logits.dtype)], 1)

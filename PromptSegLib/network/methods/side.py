"""A thin U-Net beside the frozen body: on the image itself, taking in the body's maps; its answer is added.

Ladder side-tuning (Sung, Cho, Bansal, NeurIPS 2022), with a side network as large as a class may have: what the body
gave up, the image's own grid and contrast, joins what the body knows. It has the image's grid, the stem's, and up to
two coarser ones; each of the body's maps is narrowed and added on the grid that is nearest to it. The linear head of
:mod:`.linear` carries it; the last layer is zero at first. Every class has a network of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Optional, Sequence

from .linear import METHOD as LINEAR
from .method import Combination, Method, Shapes
from .punet import truncated_normal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from ..config import NetworkConfig
    from ..punet import PUNet

FINE = 8  # channels on the image's grid
WIDTH = 16  # on all others
LEVELS = 3  # of the others, at most
SLOPE = 0.01
SIZE = 0.15  # of convolutions: Adam's usual rate for networks that begin from nothing


class ThinNetwork(Method):
    name = "side network"
    offered = False
    output_tokens = False
    pointwise = False
    all_maps = True
    kinds = ("side_last", "side_kernel", "side_meet", "side_maps", "side_bias", "side_norm")

    def __init__(self, width: int = WIDTH):
        self.width = width

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        fine, width, count = FINE, self.width, levels(config)
        shapes: Shapes = {"side.image.side_kernel": (fine, 1, 3, 3, 3)}
        for name in ("first", "final"):
            shapes[f"side.{name}.side_kernel"] = (fine, fine, 3, 3, 3)
        for name in _coarse(count):
            shapes[f"side.{name}.side_kernel"] = (width, width, 3, 3, 3)
        for name in ("image", "first", "final", *_coarse(count)):
            channels = width if name[:-1] in ("down", "up") else fine
            shapes[f"side.{name}.side_norm"] = shapes[f"side.{name}.side_bias"] = (channels,)
        shapes["side.narrow.side_meet"] = (width, fine)
        shapes["side.widen.side_meet"] = (fine, width)
        for each in config.output_maps:
            shapes[f"side.{each.name}.side_maps"] = (width, each.channels)
        return {**shapes, "side.side_last": (fine,)}

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        if name.endswith("side_maps"):  # as many maps come together
            truncated_normal(tensor, (tensor.shape[2] * len(config.output_maps)) ** -0.5, generator)
        elif name.endswith("side_norm"):
            tensor.fill_(1.0)
        elif tensor.ndim > 2:
            truncated_normal(tensor, (2.0 / tensor[0, 0].numel()) ** 0.5, generator)

    def size(self, name: str) -> Optional[float]:
        return 0.2 if name.endswith(("side_last", "side_bias", "side_norm")) else SIZE

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_zeros(tensor.shape) if name.endswith("side_last") else tensor

    def image_logits(
        self, net: PUNet, image: Tensor, features: Sequence[Tensor], prompts: Mapping[str, Tensor]
    ) -> Optional[Tensor]:
        return _Pass(net, prompts).logits(image, features)


class _Pass:
    """One pass of the thin networks of K classes: channels are those of the first class, then of the second, ..."""

    def __init__(self, net: PUNet, prompts: Mapping[str, Tensor]):
        self.net, self.prompts = net, prompts
        self.last = prompts["side.side_last"]
        self.classes = len(self.last)

    def logits(self, image: Tensor, features: Sequence[Tensor]) -> Tensor:
        """(B, K, D, H, W) for image (B, 1, D, H, W) and the body's ``features``."""
        import torch
        from torch.nn import functional as F

        extents, stride, grid = image.shape[2:], self.net.config.stem_stride, features[0].shape[2:]
        image = image.contiguous(memory_format=torch.channels_last_3d)
        fine = self.layer("first", self.layer("image", image, 1))
        missing = [n * step - extent for n, step, extent in zip(grid, stride, extents)]
        padded = F.pad(fine, [n for m in missing[::-1] for n in (0, m)], mode="replicate") if any(missing) else fine
        x, skips, count = self.mix("narrow", F.avg_pool3d(padded, stride)), [], levels(self.net.config)
        for level in range(count):
            x = self.layer(f"down{level}", self.taken_in(x, features, level, level + 1 == count))
            skips.append(x)
            x = F.avg_pool3d(x, 2) if level + 1 < count else x
        for level in range(count - 2, -1, -1):
            x = self.layer(f"up{level}", _as_large(x, skips[level]) + skips[level])
        both = fine + self.net.upsample(self.mix("widen", x), extents)
        answers = self.layer("final", both).unflatten(1, (self.classes, -1))
        return (answers * self.last[:, :, None, None, None]).sum(2)

    def layer(self, name: str, x: Tensor, groups: Optional[int] = None) -> Tensor:
        """Convolution, norm over all of a class's channels, activation."""
        from torch.nn import functional as F

        from ..convolution import convolved

        kernel, norm, bias = (self.prompts[f"side.{name}.side_{kind}"].flatten(0, 1) for kind in _LAYER)
        x = convolved(x, kernel, None, self.classes if groups is None else groups)
        return F.leaky_relu(F.group_norm(x, self.classes, norm, bias), SLOPE)

    def mix(self, name: str, x: Tensor) -> Tensor:
        """A matrix for each class, at every voxel."""
        from torch.nn import functional as F

        from ..convolution import pointwise

        weight = self.prompts[f"side.{name}.side_meet"].flatten(0, 1)
        if self.classes == 1:
            return pointwise(x, weight)
        return F.conv3d(x, weight[:, :, None, None, None], groups=self.classes)

    def taken_in(self, x: Tensor, features: Sequence[Tensor], level: int, coarsest: bool) -> Tensor:
        """x with those maps of the body that belong to this level; to the coarsest belong all that are coarser, too."""
        from ..convolution import pointwise

        for each, map_ in zip(self.net.config.output_maps, features):
            if each.level == level or (coarsest and each.level > level):
                weight = self.prompts[f"side.{each.name}.side_maps"].flatten(0, 1)
                x = x + _as_large(pointwise(map_.to(x.dtype), weight), x)
        return x


_LAYER = ("kernel", "norm", "bias")


def levels(config: NetworkConfig) -> int:
    """How many grids a thin network has beside the image's own."""
    return min(LEVELS, config.levels)


def _coarse(count: int) -> list[str]:
    return [*(f"down{level}" for level in range(count)), *(f"up{level}" for level in range(count - 1))]


def _as_large(x: Tensor, as_this: Tensor) -> Tensor:
    from torch.nn import functional as F

    if x.shape[2:] == as_this.shape[2:]:
        return x
    return F.interpolate(x, size=as_this.shape[2:], mode="trilinear", align_corners=False)


class Side(Combination):
    name = "side"
    title = "Thin network beside the frozen one"
    tip = "A small network on the image itself takes in all that the frozen one sees."
    order = 60
    stored = (2, "side network")
    output_tokens = False
    parts = (LINEAR, ThinNetwork())


METHOD = Side()
METHODS = (METHOD, *METHOD.parts[1:])

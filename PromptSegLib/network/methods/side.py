"""A thin network beside the frozen body: on the image itself, taking in the body's maps; its answer is added.

Ladder side-tuning (Sung, Cho, Bansal, NeurIPS 2022) with a side network as shallow as a class may have: what the body
gave up, the image's own grid and contrast, joins what the body knows. The linear head of :mod:`.linear` carries it; the
last layer is zero at first. There are no norms, whose answer would depend on where a tile ends.
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

WIDTH = 8
SLOPE = 0.01
_LAYERS = {"side_image": 1, "side_meet": 2 * WIDTH, "side_deep": WIDTH, "side_fine": 2 * WIDTH}  # channels they take


class ThinNetwork(Method):
    name = "side network"
    offered = False
    pointwise = False
    all_maps = True
    kinds = ("side_last", *_LAYERS, "side_maps", "side_bias")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        shapes: Shapes = {f"side.{kind}": (WIDTH, channels, 3, 3, 3) for kind, channels in _LAYERS.items()}
        for kind in _LAYERS:
            shapes[f"side.{kind}.side_bias"] = (WIDTH,)
        for each in config.output_maps:
            shapes[f"side.{each.name}.side_maps"] = (WIDTH, each.channels)
        return {**shapes, "side.side_last": (WIDTH,)}

    def initialize(
        self, name: str, tensor: Tensor, config: NetworkConfig, generator: Optional[torch.Generator]
    ) -> None:
        if name.endswith("side_maps"):  # as many maps come together
            truncated_normal(tensor, (tensor.shape[2] * len(config.output_maps)) ** -0.5, generator)
        elif tensor.ndim > 3:
            truncated_normal(tensor, (2.0 / tensor[0, 0].numel()) ** 0.5, generator)

    def size(self, name: str) -> Optional[float]:
        return 0.2 if name.endswith(("side_last", "side_bias")) else None

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_zeros(tensor.shape) if name.endswith("side_last") else tensor

    def image_logits(
        self, net: PUNet, image: Tensor, features: Sequence[Tensor], prompts: Mapping[str, Tensor]
    ) -> Optional[Tensor]:
        import torch
        from torch.nn import functional as F

        last = prompts["side.side_last"]
        count = len(last)

        def layer(kind: str, x: Tensor, groups: int) -> Tensor:
            weight, bias = prompts[f"side.{kind}"].flatten(0, 1), prompts[f"side.{kind}.side_bias"].flatten()
            return F.leaky_relu(F.conv3d(x, weight, bias, padding=1, groups=groups), SLOPE)

        def beside(one: Tensor, two: Tensor) -> Tensor:
            """The channels of both, class by class."""
            return torch.cat([one.unflatten(1, (count, -1)), two.unflatten(1, (count, -1))], 2).flatten(1, 2)

        fine = layer("side_image", image, 1)
        grid, extents = features[0].shape[2:], image.shape[2:]
        known: Optional[Tensor] = None
        for each, map_ in zip(net.config.output_maps, features):
            weights = prompts[f"side.{each.name}.side_maps"].flatten(0, 1)
            value = F.conv3d(map_.to(image.dtype), weights[:, :, None, None, None])
            if value.shape[2:] != grid:
                value = F.interpolate(value, size=grid, mode="trilinear", align_corners=False)
            known = value if known is None else known + value
        assert known is not None
        stride = net.config.stem_stride
        missing = [n * step - extent for n, step, extent in zip(grid, stride, extents)]
        padded = F.pad(fine, [n for m in missing[::-1] for n in (0, m)], mode="replicate")
        coarse = layer("side_deep", layer("side_meet", beside(F.avg_pool3d(padded, stride), known), count), count)
        both = beside(fine, net.upsample(coarse, extents))
        return (layer("side_fine", both, count).unflatten(1, (count, -1)) * last[:, :, None, None, None]).sum(2)


class Side(Combination):
    name = "side"
    title = "Thin network beside the frozen one"
    tip = "A small network on the image itself takes in all that the frozen one sees."
    order = 60
    stored = (2, "side")
    output_tokens = False
    parts = (LINEAR, ThinNetwork())


METHOD = Side()
METHODS = (METHOD, *METHOD.parts[1:])

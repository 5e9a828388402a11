"""A linear head on all maps of the frozen body, instead of output tokens.

Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016, and the ``fixed`` comparator
of PUNet's publication, which has one on the last map. A class's logit is a weighted sum of the features of all maps of
``NetworkConfig.output_maps``, each voxel's features of a map brought to length sqrt(channels), plus a number; that of
the background is zero. It starts from the least-squares fit to the annotated voxels, which needs no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Optional, Sequence

from .method import Method, Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import NetworkConfig
    from ..punet import PUNet

RIDGE = 0.1  # of the features' own mean square; on four hippocampi .544 Dice, with 1e-3 .426
CHUNK = 8192  # voxels in hand at a time
MARGIN = 4.0  # logits for least-squares answers of 0 and 1


class LinearHead(Method):
    name = "linear"
    title = "Linear head on all maps"
    tip = "Nothing in the network moves; the class is a weighted sum of everything that it sees."
    kinds = ("head_bias", "head")
    all_maps = True
    order = 50
    stored = (2, "linear")
    output_tokens = False

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        return {"output.head_bias": (1,), **{f"{each.name}.head": (each.channels,) for each in config.output_maps}}

    def size(self, name: str) -> Optional[float]:
        return 0.1

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_zeros(tensor.shape)

    def output_logits(self, net: PUNet, features: Sequence[Tensor], prompts: Mapping[str, Tensor]) -> Optional[Tensor]:
        from torch.nn import functional as F

        from ..convolution import pointwise

        bias = prompts["output.head_bias"].float()  # (K, 1)
        grid = features[0].shape[2:]
        total = bias.view(1, -1, 1, 1, 1)
        for each, map_ in zip(net.config.output_maps, features):
            weights = prompts[f"{each.name}.head"].float() * each.channels**0.5  # (K, C)
            # Normalized after the weighting, which makes few maps of many.
            value = pointwise(map_.float(), weights)
            value = value / map_.float().norm(dim=1, keepdim=True).clamp_min(1e-12)
            if value.shape[2:] != grid:
                value = F.interpolate(value, size=grid, mode="trilinear", align_corners=False)
            total = total + value
        return total

    def fit(self, config: NetworkConfig, prompts: dict[str, Tensor], features: Tensor, labels: Tensor) -> bool:
        import torch

        solved = least_squares(config, features, labels, len(prompts["output.head_bias"]))
        for name, value in solved.items():
            prompts[name].copy_(value)
        return all(bool(torch.isfinite(value).all()) for value in solved.values())


def least_squares(config: NetworkConfig, features: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """The head (classes, ...) that answers 1 for a class and 0 for everything else best, every class weighing the same.

    :param features: (n, C), the channels of all maps one after the other, each map's part of length 1.
    :param labels: (n,) 0 background, k the k-th class; what is said not to be a class has no say.
    """
    import torch

    known = labels >= 0
    y, rows = labels[known], features[known]
    sizes = [torch.full((each.channels,), each.channels**0.5) for each in config.output_maps]
    root = torch.cat(sizes).to(rows.device).double()
    counts = torch.bincount(y, minlength=classes + 1).clamp(min=1).double()
    square = root.new_zeros(len(root) + 1, len(root) + 1)
    right = root.new_zeros(len(root) + 1, classes + 1)
    # Sums of chunks in double precision; within one, single precision is enough beside the ridge, in half the time.
    for part, said in zip(rows.split(CHUNK), y.split(CHUNK)):
        x = torch.cat([part.float() * root.float(), part.new_ones(len(part), 1, dtype=torch.float32)], 1)
        weighted = (x * (len(y) / counts[said][:, None]).float()).t()
        square += (weighted @ x).double()
        right += (weighted @ torch.nn.functional.one_hot(said, classes + 1).float()).double()
    square += RIDGE * square.diagonal().mean() * torch.eye(len(square), dtype=square.dtype, device=square.device)
    answers = torch.linalg.solve(square, right)
    # Against the background, whose logit is zero; the answers lie between 0 and 1.
    heads = (MARGIN * (answers[:, 1:] - answers[:, :1])).t().float()
    *parts, bias = heads.split([*(each.channels for each in config.output_maps), 1], 1)
    found = {f"{each.name}.head": part for each, part in zip(config.output_maps, parts)}
    return {**found, "output.head_bias": bias}


METHOD = LinearHead()

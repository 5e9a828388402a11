"""Scale and shift: the norms, LayerScales and biases of the frozen body, moved.

Lian et al., "Scaling & shifting your features", NeurIPS 2022, and bias tuning (Ben Zaken et al., "BitFit", ACL 2022): a
norm's or LayerScale's weight times 1 + a number of the class, a bias plus one. Of several classes in one pass the
numbers add up. They merge into the body's weights, so that a pass costs what it costs without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping, Optional

from ..body import steerable
from .method import Method, Shapes

if TYPE_CHECKING:
    from torch import Tensor

    from ..config import NetworkConfig
    from ..punet import PUNet

SIZE = 0.2  # a fifth more or less of a norm's scale


class Scales(Method):
    name = "scale"
    title = "Scale and shift"
    tip = "Norms, layer scales and biases of the network move; few numbers that reach every layer."
    kinds = ("scale", "shift")
    order = 30
    stored = (2, "scale")

    def shapes(self, config: NetworkConfig, mode: str) -> Shapes:
        found = steerable(config, mode).items()
        return {f"{name}.{_kind(name)}": shape for name, shape in found if len(shape) == 1}

    def size(self, name: str) -> Optional[float]:
        return SIZE

    def off(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.new_zeros(tensor.shape)

    def body_weights(self, net: PUNet, prompts: Mapping[str, Tensor], names: list[str]) -> dict[str, Tensor]:
        changed = {}
        for name in names:
            scale, shift = prompts.get(f"{name}.scale"), prompts.get(f"{name}.shift")
            if scale is not None:
                changed[name] = net.get_parameter(name) * (1 + scale.sum(0))
            elif shift is not None:
                changed[name] = net.get_parameter(name) + shift.sum(0)
        return changed


def _kind(name: str) -> str:
    return "shift" if name.endswith(".bias") else "scale"


METHOD = Scales()

"""A frozen backbone: its network, how images must look for it, and the prompts it ships."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..annotation.classes import is_name
from ..errors import PromptSegError, is_out_of_memory
from ..files import atomic_write
from ..imaging.preprocessing import Preprocessing
from ..network.config import NetworkConfig
from ..network.punet import PUNet
from ..prompts.store import Prompts
from .catalogue import find, find_sha256, sha256_of

FORMAT = 1
_MAX_TILE = 1024


@dataclass(frozen=True)
class Backbone:
    """A network in evaluation mode whose parameters and buffers never change.

    :param tile: extents (z, y, x), voxels, of the tiles it is applied to.
    :param slab_bytes: how much evidence of all classes is blended at once, float32.
    :param shipped: prompts of the classes it was pretrained on, or None.
    """

    name: str
    sha256: str
    net: PUNet = field(repr=False)
    preprocessing: Preprocessing
    tile: tuple[int, int, int]
    device: torch.device
    card: dict[str, Any] = field(repr=False)
    shipped: Optional[Prompts] = field(default=None, repr=False)
    slab_bytes: int = field(default=512 * 2**20, repr=False)

    @property
    def config(self) -> NetworkConfig:
        return self.net.config

    def working_at(self, preprocessing: Preprocessing) -> Backbone:
        """This backbone for a task that has its own grid or intensities.

        Its tiles are then as large as the crops that such prompts are trained on, which may be whole small volumes:
        what the network makes of a voxel depends on how much air is around. No shipped class knows that grid.
        """
        if preprocessing == self.preprocessing:
            return self
        return replace(self, preprocessing=preprocessing, tile=preprocessing.crop or self.crop, shipped=None)

    @property
    def crop(self) -> tuple[int, int, int]:
        """Extents (z, y, x) of crops to train on: two thirds of a tile, in whole steps of the coarsest level."""
        z, y, x = (-(-tile * 2 // (3 * step)) * step for tile, step in zip(self.tile, self.config.stride))
        return z, y, x


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes CUDA, else the CPU (MPS on request: it lacks some 3D operators in older torch).

    Raises :class:`PromptSegError` when the named device is not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    kind, colon, number = name.partition(":")
    if kind not in there or (colon and not number.isdecimal()):
        raise PromptSegError("There is no device {name}; choose auto, cpu, cuda or mps.", name=repr(name))
    if not there[kind] or (kind == "cuda" and colon and int(number) >= torch.cuda.device_count()):
        raise PromptSegError("The device {name} is not available on this machine; choose cpu or auto.", name=repr(name))
    return torch.device(name)


def name_of(prompts: Optional[Prompts]) -> Optional[str]:
    """The name of the backbone that prompts belong to; None, the default, without any or where it is not known here."""
    entry = find_sha256(prompts.sha256) if prompts is not None else None
    return entry.name if entry is not None else None


def load_model(model: Optional[str] = None, device: str = "auto") -> Backbone:
    """Load a backbone by its name in the catalogue or by its file's path; the default one without a name.

    Raises :class:`PromptSegError` for an unknown name, a file that is not a backbone, or a
    catalogue entry whose file has another hash than the catalogue says.
    """
    place = choose_device(device)
    entry = find(model)
    try:
        with safe_open(str(entry.path), "pt") as file:
            header = json.loads((file.metadata() or {})["promptseg-backbone"])
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise PromptSegError(
                "The model {path} has format {header}; update PromptSeg.",
                path=entry.path,
                header=repr(header["format"]),
            )
        with torch.device("meta"):
            net = PUNet(NetworkConfig.from_dict(header["network"]))
        net.load_state_dict(tensors, assign=True)
        preprocessing = Preprocessing.from_dict(header["preprocessing"])
        name, card, tile = header["name"], dict(header["card"]), tuple(header["tile"])
        if not is_name(name) or len(tile) != 3 or not all(extent in range(1, _MAX_TILE + 1) for extent in tile):
            raise ValueError("no name or no tile")
    except PromptSegError:
        raise
    except (
        SafetensorError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
    ) as error:
        if is_out_of_memory(error):
            raise
        raise PromptSegError(
            "{path} is not a PromptSeg backbone, or it is damaged; choose another.", path=entry.path
        ) from error
    net.eval().requires_grad_(False).to(place)
    sha256 = sha256_of(entry.path)
    if entry.sha256 and sha256 != entry.sha256:
        raise PromptSegError(
            "The model file {path} is damaged (its SHA-256 is wrong); install it again.", path=entry.path
        )
    shipped = None
    if entry.prompts is not None and entry.prompts.exists():
        shipped = Prompts.load(entry.prompts)
        shipped.check_backbone(name, sha256, net.config)
    return Backbone(name, sha256, net, preprocessing, tile, place, card, shipped)


def save_backbone(
    path: Path, net: PUNet, name: str, preprocessing: Preprocessing, tile: tuple[int, int, int], card: dict[str, Any]
) -> str:
    """Write a body in fp16 with what is needed to use it; returns the file's SHA-256."""
    header = {
        "format": FORMAT,
        "name": name,
        "network": net.config.to_dict(),
        "preprocessing": preprocessing.to_dict(),
        "tile": list(tile),
        "card": card,
    }
    tensors = {key: tensor.detach().cpu().half().contiguous() for key, tensor in net.state_dict().items()}
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, {"promptseg-backbone": json.dumps(header)}))
    return sha256_of(path)

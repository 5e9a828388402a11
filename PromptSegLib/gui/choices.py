"""The user's choices: what there is to choose from, wherever they are kept, and which of them have changed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..annotation.partial_labels import Unpainted
from ..network.methods import registry
from ..session.inputs import AUTO, Parameters

LOOK = {"opacity", "show3D"}
CLEAN_UP = {"largestComponent", "fillHoles", "smoothing"}
_NAMES = tuple(each.name for each in fields(Parameters))

UNPAINTED = {
    Unpainted.UNKNOWN: "Unpainted voxels are unknown",
    Unpainted.SLICES: "Painted slices are complete",
    Unpainted.VOLUME: "The whole volume is complete",
}
OVERLAP = {
    "keep": "Other segments keep their voxels",
    "overwrite": "Take voxels from unlocked segments",
    "overlap": "Allow overlap",
}
DEVICES = {
    "auto": "Automatic",
    "cpu": "CPU",
    "cuda": "NVIDIA GPU (CUDA)",
    "mps": "Apple GPU (MPS)",
    "ssh": "Another machine (ssh)",
}
METHODS = {
    AUTO: (
        "By what is annotated",
        "Tokens for strokes and known organs, a thin network for complete new structures.",
    ),
    **{name: (each.title, each.tip) for name, each in registry.known().items() if each.offered},
}
MODES = {
    "decoder": ("Decoder only (quick)", "The encoder runs once; tuning takes seconds on it."),
    "full": ("Encoder and decoder (slow)", "Prompts in all blocks: more can be learned, and every step costs more."),
}


class ParameterProxy:
    """Stands for the parameter node of the scene, which another scene replaces, or for defaults while there is none.

    Reading and setting a choice goes to :meth:`use`'s last argument.
    """

    def __init__(self) -> None:
        object.__setattr__(self, "_kept", Parameters())

    def use(self, parameters: Any) -> None:
        """Keep the choices elsewhere from now on; None for defaults."""
        object.__setattr__(self, "_kept", Parameters() if parameters is None else parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kept, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._kept, name, value)


class ParameterChanges:
    """Remembers the choices as they were when it was last asked."""

    def __init__(self, parameters: Any):
        self._known = _values(parameters)

    def changed(self, parameters: Any) -> set[str]:
        """The names of the choices that changed since the last call."""
        before, self._known = self._known, _values(parameters)
        return {name for name in _NAMES if before[name] != self._known[name]}


def _values(parameters: Any) -> dict[str, Any]:
    values = {name: getattr(parameters, name) for name in _NAMES}
    return {**values, "examples": list(values["examples"])}

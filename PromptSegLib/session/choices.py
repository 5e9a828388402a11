"""Noticing which of the user's choices have changed."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..network.methods import registry
from .parameters import Parameters

LOOK = {"opacity", "show3D"}
CLEAN_UP = {"largestComponent", "fillHoles", "smoothing"}
_NAMES = tuple(each.name for each in fields(Parameters))

AUTO = "auto"
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


class Choices:
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

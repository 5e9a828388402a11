"""Slicer's translation of what the panel says, where there is a Slicer."""

from __future__ import annotations

try:
    from slicer.i18n import tr as _  # finds the text's context by the file that calls it
except ImportError:

    def _(text: str) -> str:
        return text


__all__ = ["_"]

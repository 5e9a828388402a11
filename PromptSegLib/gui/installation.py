"""What the Setup section says of an installation, and what cannot be done before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..installation.installing import Installer, Outcome
from ..session.actions import Level, Notice, View

_LEVELS = {Outcome.FAILED: Level.ERROR, Outcome.RESTART: Level.WARNING, Outcome.CANCELLED: Level.WARNING}


def visible(setup: Installer) -> bool:
    """Whether there is anything to show at all."""
    return bool(setup.missing) or setup.running or setup.outcome in _LEVELS


def notice(setup: Installer) -> Notice:
    """What the section says."""
    text = "PromptSeg needs some Python packages that are not installed yet; click Install."
    return Notice(setup.message or text, _LEVELS.get(setup.outcome, Level.INFO))


def blocks(setup: Installer, parameters: Any) -> bool:
    """Whether nothing can be computed yet where the user wants it."""
    return bool(setup.missing) and parameters.device != "ssh"


def gate(view: View, setup: Installer, parameters: Any) -> View:
    """The session's view with the reasons why nothing can be computed on this machine yet."""
    if view.busy or not blocks(setup, parameters):
        return view
    reason = "Some packages are missing; click Install in Setup first."
    if setup.running:
        reason = "The packages are being installed; wait until that is done."
    return replace(view, reasons={**view.reasons, **dict.fromkeys(("tune", "segment"), reason)})

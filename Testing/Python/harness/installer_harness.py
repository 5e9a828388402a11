"""Installations that are waited for."""

from __future__ import annotations

from harness.process_harness import until
from PromptSegLib.installation.installing import Installer


def finish(installer: Installer) -> list[str]:
    """All that ``poll`` gives until the end."""
    lines: list[str] = []

    def ended() -> bool:
        lines.extend(installer.poll())
        return not installer.running

    until(ended, "the end of the installation")
    return lines


def sentence(installer: Installer, outcome: str) -> str:
    assert (installer.outcome, installer.running) == (outcome, False)
    assert installer.message.endswith(".")
    assert ". " not in installer.message
    assert "\n" not in installer.message
    assert len(installer.message) < 400
    assert installer.log[-1] == installer.message
    return installer.message

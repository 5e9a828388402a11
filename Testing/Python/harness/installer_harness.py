"""Installations that are waited for, into a plain Python."""

from __future__ import annotations

from harness.process_harness import until
from PromptSegLib.installation.installing import Installer


def finish(installer: Installer) -> list[str]:
    """The log at the end."""

    def ended() -> bool:
        installer.poll()
        return not installer.running

    until(ended, "the end of the installation")
    return installer.log


def sentence(installer: Installer, outcome: str) -> str:
    assert (installer.outcome, installer.running) == (outcome, False)
    assert installer.message.endswith(".")
    assert ". " not in installer.message
    assert "\n" not in installer.message
    assert len(installer.message) < 400
    assert installer.log[-1] == installer.message
    return installer.message


class PlainPython:
    """The ``Application`` of an installer.

    :param python: the interpreter to install into.
    """

    def __init__(self, python: str) -> None:
        self._python = python

    def python(self) -> str:
        return self._python

    def torch_arguments(self, requirement: str) -> list[str]:
        return ["install", requirement, "torchvision"]

"""Installations that are waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from harness.process_harness import until
from PromptSegLib.installation.child import ChildProcess, CommandRun
from PromptSegLib.installation.installer_tools import TorchExtension
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


class PythonTools:
    """A ``PackageInstaller`` for a plain Python: pip does it all, and nothing is kept beyond a restart.

    :param python: the interpreter to install into.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self._kept = ""

    def torch_extension(self) -> TorchExtension:
        return TorchExtension.READY

    def install_torch_extension(self) -> str:
        return ""

    def install_torch(self, requirement: str, arguments: Sequence[str], constraints: Path) -> CommandRun:
        return self.pip_install([requirement, *arguments], constraints)

    def pip_install(self, arguments: Sequence[str], constraints: Path) -> CommandRun:
        return ChildProcess(self.pip_command([*arguments, "--constraint", str(constraints)]))

    def remember(self, what: str) -> None:
        self._kept = what

    def remembered(self) -> str:
        return self._kept

    def pip_command(self, arguments: Sequence[str]) -> list[str]:
        """``python -m pip install`` with these arguments."""
        return [self._python, "-m", "pip", "install", *arguments]

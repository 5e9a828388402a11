"""What an installation asks of the Python that it installs into."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Sequence

from .child import ChildProcess, CommandRun

READY, RESTART, ABSENT = "ready", "restart", "absent"


class PackageInstaller(Protocol):
    """How an application installs packages, for :class:`~PromptSegLib.installation.installing.Installer`."""

    def torch_extension(self) -> str:
        """Of the extension that installs torch: ``ready``, ``restart`` (there after a restart) or ``absent``."""

    def install_torch_extension(self) -> str:
        """Install that extension; returns a sentence that says why not, or an empty text. May take some seconds."""

    def install_torch(self, requirement: str, arguments: Sequence[str], constraints: Path) -> CommandRun:
        """Start installing torch in the build for this machine's GPU; ``arguments`` are pip's."""

    def pip_install(self, arguments: Sequence[str], constraints: Path) -> CommandRun:
        """Start ``pip install`` with these arguments and this constraints file."""

    def remember(self, what: str) -> None:
        """Keep a short text beyond a restart of the application."""

    def remembered(self) -> str:
        """The text kept last; empty when there is none."""


class PythonTools:
    """:class:`PackageInstaller` for a plain Python: pip does it all, and nothing is kept beyond a restart.

    :param python: the interpreter to install into.
    """

    def __init__(self, python: str) -> None:
        self._python = python
        self._kept = ""

    def torch_extension(self) -> str:
        return READY

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

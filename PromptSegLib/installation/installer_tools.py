"""What an installation asks of the Python that it installs into."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Sequence

from ..choice import Choice
from .child import CommandRun


class TorchExtension(Choice):
    """Whether the extension that installs torch is there, will be after a restart, or is missing."""

    READY = "ready"
    RESTART = "restart"
    ABSENT = "absent"


class PackageInstaller(Protocol):
    """How an application installs packages, for :class:`~PromptSegLib.installation.installing.Installer`."""

    def torch_extension(self) -> TorchExtension:
        """Of the extension that installs torch."""

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

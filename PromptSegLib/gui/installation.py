"""What the Setup section shows: what is missing, and an installation on its way."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Sequence

from ..errors import PromptSegError
from ..installation.installer_tools import PackageInstaller
from ..installation.installing import Installer, Outcome
from ..installation.requirements import Requirement, requirements
from ..session.view import Level, Notice, View

_NEEDING_IT = ("tune", "segment")


@dataclass(frozen=True)
class SetupView:
    """A snapshot.

    :param visible: whether there is anything to show at all.
    :param share: of the present download, 0..1; None where that is not known.
    """

    visible: bool
    rows: tuple[Requirement, ...]
    running: bool
    install_text: str
    share: Optional[float]
    notice: Notice
    log: Sequence[str]


class Installation:
    """An :class:`Installer` and what it is about to install. Nothing is installed before :meth:`start`."""

    def __init__(
        self, tools: PackageInstaller, requirements_file: Optional[Path] = None, paths: Optional[Sequence[str]] = None
    ):
        self._file, self._paths = requirements_file, paths
        self.installer = Installer(tools, requirements_file, paths)
        self._rows: tuple[Requirement, ...] = ()
        self._error = ""
        self.refresh()

    def refresh(self) -> None:
        """Look again at what is installed; reads metadata only."""
        try:
            self._rows, self._error = tuple(requirements(self._file, self._paths)), ""
        except PromptSegError as error:
            self._rows, self._error = (), str(error)

    @property
    def missing(self) -> bool:
        return bool(self._error) or any(not each.satisfied for each in self._rows)

    @property
    def running(self) -> bool:
        return self.installer.running

    def start(self, wheels: Optional[Path] = None) -> None:
        """Install what is missing, or from a folder of wheels."""
        self.installer.start(wheels)
        self.refresh()

    def cancel(self) -> None:
        self.installer.cancel()

    def poll(self) -> bool:
        """Take what the installation has for us; whether it is still on its way."""
        if self.installer.running:
            self.installer.poll()
            if not self.installer.running:
                self.refresh()
        return self.installer.running

    def view(self) -> SetupView:
        running, outcome = self.installer.running, self.installer.outcome
        pending = not running and not outcome and self.missing and self.installer.pending
        text = "Cancel" if running else "Go on installing" if pending else "Install"
        message, level = self.installer.message, Level.ERROR if outcome is Outcome.FAILED else Level.INFO
        if outcome in (Outcome.RESTART, Outcome.CANCELLED):
            level = Level.WARNING
        if self._error:
            message, level = self._error, Level.ERROR
        elif pending:
            message = "Slicer was restarted in between; click Go on installing."
        elif not message and self.missing:
            message = "PromptSeg needs some Python packages that are not installed yet; click Install."
        visible = self.missing or running or outcome not in (Outcome.NONE, Outcome.INSTALLED)
        return SetupView(
            visible, self._rows, running, text, self.installer.share, Notice(message, level), self.installer.log
        )

    def blocks(self, parameters: Any) -> bool:
        """Whether nothing can be computed yet where the user wants it."""
        return self.missing and parameters.device != "ssh"

    def gate(self, view: View, parameters: Any) -> View:
        """The session's view with the reasons why nothing can be computed on this machine yet."""
        if not self.blocks(parameters):
            return view
        reason = self._error or "Some packages are missing; click Install in Setup first."
        if self.running:
            reason = "The packages are being installed; wait until that is done."
        blocked = {action: reason for action in _NEEDING_IT if not view.busy}
        return replace(view, reasons={**view.reasons, **blocked})

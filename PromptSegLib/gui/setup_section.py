"""Setup: what is missing, and one button that installs it. Hidden while nothing is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt

from ..session.actions import View
from .i18n import _
from .installation import notice, visible
from .widgets import allow, show_notice, show_progress

if TYPE_CHECKING:
    from .panel import Panel


class SetupSection:
    """Shows an :class:`~PromptSegLib.installation.installing.Installer`."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.setup = panel, panel.ui, panel.setup
        self._rows: list[Any] = []
        self._logged = 0
        self.ui.installButton.clicked.connect(self.install_or_cancel)
        self.ui.wheelsButton.clicked.connect(self.install_from_folder)

    def render(self, view: View) -> None:
        ui, setup = self.ui, self.setup
        ui.setupCollapsibleButton.visible = visible(setup)
        if not visible(setup):
            return
        show_notice(ui.setupNotice, notice(setup))
        self._show_rows()
        ui.installButton.text = _("Cancel") if setup.running else _("Install")
        busy = _("An installation is running.") if setup.running else ""
        allow(ui.wheelsButton, busy, _("For a machine without network: install from a folder of wheels (.whl)."))
        ui.setupProgressBar.visible = setup.running
        ui.setupProgressBar.setRange(0, 0 if setup.share is None else 100)
        if setup.share is not None:
            show_progress(ui.setupProgressBar, setup.share)
        self._show_log()

    def install_or_cancel(self, *_args: Any) -> None:
        if self.setup.running:
            self.setup.cancel()
        else:
            self.setup.start()
        self.panel.render()

    def install_from_folder(self, *_args: Any) -> None:
        folder = qt.QFileDialog.getExistingDirectory(self.panel.widget, _("Folder with wheels (.whl)"))
        if folder:
            self.setup.start(Path(folder))
            self.panel.render()

    def _show_rows(self) -> None:
        if self.setup.rows == self._rows:
            return
        self._rows = self.setup.rows
        tree = self.ui.requirementsTree
        tree.clear()
        bold = tree.font
        bold.setBold(True)
        for each in self._rows:
            installed = each.installed or ("" if each.satisfied else _("missing"))
            item = qt.QTreeWidgetItem([each.name, each.bound, installed, each.why])
            item.setToolTip(3, each.why)
            for column in () if each.satisfied else range(3):
                item.setFont(column, bold)
            tree.addTopLevelItem(item)
        for column in range(3):
            tree.resizeColumnToContents(column)

    def _show_log(self) -> None:
        """Append what is new; another installation begins with an empty log."""
        log, shown = self.setup.log, self.ui.setupLog
        shown.visible = bool(log)
        if len(log) < self._logged:
            shown.clear()
            self._logged = 0
        for line in log[self._logged :]:
            shown.appendPlainText(line)
        self._logged = len(log)

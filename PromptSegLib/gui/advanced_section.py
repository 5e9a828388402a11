"""Advanced: the method and its budget, and how the last tuning went."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..session.actions import View
from . import curve
from .choices import METHODS, MODES
from .i18n import _, said
from .widgets import choices, fill, on_choice, show_text

if TYPE_CHECKING:
    from .panel import Panel


class AdvancedSection:
    """How prompts are tuned, for those who want to know."""

    def __init__(self, panel: Panel):
        self.panel, self.ui = panel, panel.ui
        self._drawn: Any = None
        self._slots = [
            on_choice(self.ui.methodComboBox, self._method_chosen),
            on_choice(self.ui.modeComboBox, self._mode_chosen),
        ]

    def render(self, view: View) -> None:
        ui, parameters = self.ui, self.panel.parameters
        ui.curveLabel.visible = len(view.curve) > 1
        if len(view.curve) > 1:
            key = (view.curve[-1], len(view.curve), int(ui.curveLabel.width))
            if key != self._drawn:
                self._drawn = key
                curve.draw(ui.curveLabel, view.curve)
        stage = said(view.stage or "preparing") if view.busy else ""
        show_text(ui.stageLabel, stage[:1].upper() + stage[1:])
        show_text(ui.deviceLabel, self._device_text(view))
        fill(ui.methodComboBox, choices(METHODS), parameters.method)
        fill(ui.modeComboBox, choices(MODES), parameters.mode)

    def _device_text(self, view: View) -> str:
        """Where it is computed, and what that means."""
        device = self.panel.parameters.device
        if device == "cpu" or view.device.startswith(("cpu", "CPU")):
            return _("On the CPU, which is slow: a large volume takes up to a minute more than the budget.")
        if view.device:
            return _("Computed on {device}.").format(device=view.device)
        return ""

    def _method_chosen(self, key: str) -> None:
        self.panel.parameters.method = key
        self.panel.render()

    def _mode_chosen(self, key: str) -> None:
        self.panel.parameters.mode = key
        self.panel.render()

"""Input: volume, segmentation, model and device."""

from __future__ import annotations

from textwrap import shorten
from typing import TYPE_CHECKING, Any

import qt

from ..scene import scene_nodes
from ..session.actions import View
from . import model_list, volume_list
from .choices import DEVICES
from .i18n import _, said
from .widgets import allow, choices, fill, on_choice, quietly, show_progress, show_text

if TYPE_CHECKING:
    from .panel import Panel

_LONGEST = 56  # letters of what was chosen, in the one line


class InputSection:
    """What is segmented, where to, with which network, and on which machine."""

    def __init__(self, panel: Panel):
        self.panel, self.ui, self.session = panel, panel.ui, panel.session
        ui = self.ui
        self._shown: Any = None
        self._told: Any = None
        self._seen: list[Any] = []
        self._folded: Any = None
        for selector in (ui.volumeSelector, ui.segmentationSelector):
            selector.setMRMLScene(panel.scene)
        ui.volumeSelector.currentNodeChanged.connect(self._volume_chosen)
        ui.segmentationSelector.currentNodeChanged.connect(self._segmentation_chosen)
        ui.newSegmentationButton.clicked.connect(self.new_segmentation)
        ui.downloadButton.clicked.connect(self.download_or_cancel)
        ui.deleteModelButton.clicked.connect(self.delete_model)
        ui.recoverButton.clicked.connect(self.recover)
        ui.dismissRecoveryButton.clicked.connect(self.dismiss_recovery)
        self._slots = [
            on_choice(ui.modelComboBox, self._model_chosen),
            on_choice(ui.deviceComboBox, self._device_chosen),
        ]

    def render(self, view: View) -> None:
        ui, parameters = self.ui, self.panel.parameters
        _show_node(ui.volumeSelector, parameters.volume)
        _show_node(ui.segmentationSelector, parameters.segmentation)
        show_text(ui.frameLabel, _("Frame {frame}").format(frame=view.frame) if view.frame else "")
        no_volume = "" if parameters.volume is not None else _("Choose a volume first.")
        allow(ui.newSegmentationButton, no_volume, _("Make another, empty segmentation of the volume."))
        self._render_model(parameters.model)
        fill(ui.deviceComboBox, choices(DEVICES), parameters.device)
        ui.hostLineEdit.visible = parameters.device == "ssh"
        show_text(ui.recoveryLabel, said(view.recovery) if view.recovery else "")
        ui.recoverButton.visible = ui.dismissRecoveryButton.visible = bool(view.recovery)
        self._fold(view)

    def _fold(self, view: View) -> None:
        """One line once volume and segmentation are chosen, unless something here wants to be seen."""
        ui, parameters = self.ui, self.panel.parameters
        chosen = parameters.volume is not None and parameters.segmentation is not None
        model = str(ui.modelComboBox.currentText)
        summary = volume_list.input_summary(parameters.volume, parameters.segmentation, model) if chosen else ""
        text = (
            _("Input: {chosen}").format(chosen=shorten(summary, _LONGEST, placeholder="...")) if chosen else _("Input")
        )
        if ui.inputCollapsibleButton.text != text:
            ui.inputCollapsibleButton.text = text
        wanted = (chosen, bool(view.recovery) or self._lacks_model())
        if wanted != self._folded:  # only then: what the user unfolds stays so
            self._folded = wanted
            ui.inputCollapsibleButton.collapsed = chosen and not wanted[1]

    def _lacks_model(self) -> bool:
        return bool(self.panel.models.running or not self._row().installed)

    def look_again(self) -> None:
        """Look for models that came or went otherwise."""
        self._shown = None

    def choose_new_volume(self) -> None:
        """A volume that came while none was chosen."""
        volumes = volume_list.volumes(self.panel.scene)
        new = [each for each in volumes if each not in self._seen]
        self._seen = volumes
        if new and self.panel.parameters.volume is None:
            self.choose_volume(new[0])

    def choose_volume(self, volume: Any) -> None:
        """Another volume, with a segmentation to paint in."""
        self.panel.act(volume_list.choose, self.session, volume)

    def new_segmentation(self, *_args: Any) -> None:
        self.panel.act(self.session.inputs.choose_segmentation, None)
        self.panel.act(self.session.inputs.ensure_segmentation)

    def recover(self, *_args: Any) -> None:
        """Put back what a killed application has left."""
        self.panel.act(self.session.rescue.recover)

    def dismiss_recovery(self, *_args: Any) -> None:
        self.panel.act(self.session.rescue.dismiss)

    def download_or_cancel(self, *_args: Any) -> None:
        models = self.panel.models
        if models.running:
            models.cancel()
        else:
            models.download(self._row().key)
        self.panel.render()

    def delete_model(self, *_args: Any) -> None:
        self.panel.models.delete(self._row().key)
        self.panel.say(self.panel.models.notice)
        self.panel.render()

    def _row(self) -> model_list.ModelRow:
        model = self.panel.parameters.model
        return model_list.chosen(model_list.rows(model), model)

    def _volume_chosen(self, *_args: Any) -> None:
        volume, before = self.ui.volumeSelector.currentNode(), self.panel.parameters.volume
        if volume is before or self.panel.scene.IsBatchProcessing():
            return
        if volume is None:  # the node may be on its way out of the scene, which the session minds by itself
            qt.QTimer.singleShot(0, self._no_volume)
        else:
            self.choose_volume(volume)

    def _no_volume(self) -> None:
        if self.ui.volumeSelector.currentNode() is None and scene_nodes.alive(
            self.panel.scene, self.panel.parameters.volume
        ):
            self.choose_volume(None)

    def _segmentation_chosen(self, *_args: Any) -> None:
        segmentation = self.ui.segmentationSelector.currentNode()
        if segmentation is self.panel.parameters.segmentation or self.panel.scene.IsBatchProcessing():
            return
        if segmentation is None:
            qt.QTimer.singleShot(0, self._no_segmentation)
        else:
            self.panel.act(self.session.inputs.choose_segmentation, segmentation)

    def _no_segmentation(self) -> None:
        gone = self.ui.segmentationSelector.currentNode() is None
        if gone and scene_nodes.alive(self.panel.scene, self.panel.parameters.segmentation):
            self.panel.act(self.session.inputs.choose_segmentation, None)

    def _model_chosen(self, key: str) -> None:
        self.panel.parameters.model = key
        self.panel.render()

    def _device_chosen(self, key: str) -> None:
        self.panel.parameters.device = key
        self.panel.render()

    def _render_model(self, model: str) -> None:
        ui, files = self.ui, self.panel.models
        state = (model, files.running, files.share, files.notice)
        if state == self._shown:
            return
        self._shown = state
        found = model_list.rows(model)
        row = model_list.chosen(found, model)
        fill(ui.modelComboBox, [(each.key, each.title, _details(each)) for each in found], row.key)
        show_text(ui.modelLabel, _details(row))
        ui.modelLabel.toolTip = "\n".join(part for part in (", ".join(row.classes), row.licence) if part)
        ui.downloadButton.visible = files.running or not row.installed
        ui.downloadButton.text = _("Cancel") if files.running else _("Download")
        ui.downloadButton.toolTip = _("Download {size:.0f} MB; it can be deleted again.").format(size=row.megabytes)
        ui.deleteModelButton.visible = row.installed and not row.bundled and not files.running
        ui.deleteModelButton.toolTip = _("Delete the files of this model.")
        ui.downloadProgressBar.visible = files.running
        show_progress(ui.downloadProgressBar, files.share)
        ui.downloadProgressBar.format = files.stage
        if not files.running and files.notice.text and self._told is not files.notice:
            self._told = files.notice
            self.panel.say(files.notice)


def _details(row: model_list.ModelRow) -> str:
    """What one wants to know before choosing a model."""
    parts = [row.modality] if row.modality else []
    if row.classes:
        parts.append(_("{count} classes").format(count=len(row.classes)))
    for kind, name in (("gpu", _("GPU")), ("cpu", _("CPU"))):
        if kind in row.expected:
            parts.append(_("{seconds:.0f} s for a large CT ({kind})").format(seconds=row.expected[kind], kind=name))
    if row.licence:  # that of many sources is long: all of it is in the tooltip
        parts.append(_("license: {license}").format(license=shorten(row.licence, 24, placeholder="...")))
    if not row.installed:
        parts.append(_("not downloaded, {size:.0f} MB").format(size=row.megabytes))
    return " \u00b7 ".join(parts)


def _show_node(selector: Any, node: Any) -> None:
    if selector.currentNode() is not node:
        with quietly(selector):
            selector.setCurrentNode(node)

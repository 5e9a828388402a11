"""The panel: sections around one session, and the timer that keeps it going."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Callable

import qt
import slicer

from ..installation.installing import Installer
from ..session.actions import Level, Notice
from ..session.recovery import Recovery
from ..session.session import Session
from . import watching
from .action_section import ActionSection
from .advanced_section import AdvancedSection
from .binding import Binding
from .choices import CLEAN_UP, LOOK, ParameterProxy
from .editor_section import EditorSection
from .history import EditorHistory
from .input_section import InputSection
from .installation import blocks, gate
from .keeping import Keeping
from .look_section import LookSection
from .model_list import ModelFiles
from .options_section import OptionsSection
from .prompts_section import PromptsSection
from .segments_section import SegmentsSection
from .segments_table import anything_painted, listed
from .setup_section import SetupSection
from .shortcuts import Shortcuts
from .slicer_tools import SlicerTools
from .specializing_section import SpecializingSection

_POLL_MS = 50
_STROKE_MS = 300  # after a stroke, before anything is made of it


class Panel:
    """Binds a session to the widgets of ``PromptSeg.ui``.

    :param ui_widget: what ``slicer.util.loadUI`` gave.
    :param scene: vtkMRMLScene.
    :param requirements: the file that lists what has to be installed.
    """

    def __init__(self, ui_widget: Any, scene: Any, requirements: str):
        self.widget, self.scene = ui_widget, scene
        self.ui = slicer.util.childWidgetVariables(ui_widget)
        self.setup, self.models = Installer(SlicerTools(), Path(requirements)), ModelFiles()
        self.parameters = ParameterProxy()
        self.session = Session(
            scene,
            self.parameters,
            history=partial(EditorHistory, self.ui.segmentEditorWidget),
            recovery=Recovery(),
        )
        self.session.actions.on_change(self.render_soon)
        self._closed = False
        self._said = self._own = Notice()  # what the session said last; a sentence that is not the session's
        self._binding = Binding(self.ui, self.parameters, self._parameters_changed)
        self._scene_watch, self._segments_watch, self._volume_watch = (watching.Watch() for _ in range(3))
        self._entered = False
        self._poll_timer = _timer(_POLL_MS, self._poll, repeat=True)
        self._render_timer = _timer(0, self.render)
        self._stroke_timer = _timer(_STROKE_MS, self._stroke_ended)
        self.keeping = Keeping(self.session.rescue, _timer)
        self.input, self.editor, self.segments = InputSection(self), EditorSection(self), SegmentsSection(self)
        self.actions = ActionSection(self)
        self.sections: list[Any] = [
            SetupSection(self),
            self.input,
            self.editor,
            self.segments,
            LookSection(self),
            PromptsSection(self),
            SpecializingSection(self),
            OptionsSection(self),
            AdvancedSection(self),
        ]
        self.shortcuts = Shortcuts(
            {
                "tune": self.actions.clicked,
                "apply": self.actions.apply,
                "discard": self.actions.discard,
                "look": partial(self.act, self.session.uncertainty.look_next),
                "map": partial(self.act, self.toggle_map),
                "next": self.segments.paint_next,
                "background": self.segments.paint_background,
                "undo": self.actions.undo,
                "redo": self.actions.redo,
            }
        )
        self._scene_watch.on(scene, *watching.scene_events(self.render_soon))
        self.render()

    # The module's life

    def set_parameters(self, node: Any) -> None:
        """Bind another parameter node (a ``parameterNodeWrapper``); None for none, as while a scene is closed."""
        self._binding.bind(node)
        self.render_soon()

    def enter(self) -> None:
        """The module was opened."""
        self.setup.refresh()
        self.input.look_again()
        self.editor.enter()
        self.shortcuts.install(slicer.util.mainWindow())
        self._entered = True
        self.render()

    def exit(self) -> None:
        """Another module was opened; a job goes on."""
        self._entered = False
        self.shortcuts.remove()
        self.editor.exit()

    def scene_closing(self) -> None:
        """The scene is about to be closed; :meth:`set_parameters` and :meth:`enter` follow when it is."""
        self.editor.scene_closing()
        self.set_parameters(None)

    def close(self) -> None:
        """The application ends, or the module is reloaded."""
        if self._closed:
            return
        self._closed = True
        self.exit()
        for timer in (self._poll_timer, self._render_timer, self._stroke_timer, self.keeping.timer):
            timer.stop()
        self.set_parameters(None)
        for watch in (self._segments_watch, self._volume_watch, self._scene_watch):
            watch.off()
        self.models.cancel()
        self.setup.cancel()
        self.session.close()

    # What users do

    def act(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something; what is to be said about it appears in the status line."""
        self._own = Notice()
        action(*arguments)
        self.render()

    def tune_or_cancel(self) -> None:
        """The one big button."""
        reason = self._view().reasons["tune"]
        if self.session.view().busy:
            self.session.cancel()
        elif reason and not self.session.view().reasons["tune"]:  # what the session does not know of
            self.say(Notice(reason, Level.ERROR))
        else:
            self.session.tune()

    def toggle_map(self) -> None:
        self.session.uncertainty.show_map(not self.session.view().map_shown)

    # Showing

    def say(self, notice: Notice) -> None:
        """Show a sentence that is not the session's; it stays until something is done, or the session has news."""
        self._own = notice
        self.render_soon()

    def render_soon(self, *_args: Any) -> None:
        """Bring the widgets up to date when the event loop comes to it, once for many changes."""
        if not self._closed:
            self._render_timer.start()

    def render(self) -> None:
        """Bring the widgets up to date."""
        if self._closed or self.scene.IsBatchProcessing():
            return
        self._render_timer.stop()
        if self._entered:
            self.input.choose_new_volume()  # one that was loaded while the module is open
        view = self._view()
        self._watch_nodes()
        for section in self.sections:
            section.render(view)
        if view.notice is not self._said:
            self._said, self._own = view.notice, Notice()  # the session has something new to say
        self.actions.render(view, self._own)
        if self._working and not self._poll_timer.active:
            self._poll_timer.start()

    def _view(self) -> Any:
        return gate(self.session.view(), self.setup, self.parameters)

    # What happens by itself

    @property
    def _working(self) -> bool:
        return self.session.busy or self.setup.running or self.models.running

    def _poll(self) -> None:
        was_elsewhere = self.setup.running or self.models.running
        self.session.poll()
        self.setup.poll()
        self.models.poll()
        if was_elsewhere:
            self.render()
        if not self._working:
            self._poll_timer.stop()
            self.render()

    def _parameters_changed(self, changed: set[str]) -> None:
        if changed & LOOK:
            self.session.results.show_opacity()
        if changed & CLEAN_UP:
            self.session.results.clean_up()
        if "live" in changed and not blocks(self.setup, self.parameters):
            self.session.live_changed()
        if "unpainted" in changed:
            self.painted()
        if changed:
            self.render_soon()

    def _watch_nodes(self) -> None:
        events = watching.segmentation_events(self.render_soon, self.painted)
        self._segments_watch.on(self.parameters.segmentation, *events)
        self._volume_watch.on(self.parameters.volume, *watching.volume_events(self.render_soon))

    def painted(self, *_args: Any) -> None:
        """What is painted, or what it means, has changed; something is made of it a moment later."""
        if not self._closed:
            self._stroke_timer.start()

    def _stroke_ended(self) -> None:
        """Something was painted: grow it, and let the worker get ready while the user goes on."""
        self.session.history.segmentation_changed()
        self.keeping.keep()
        if not blocks(self.setup, self.parameters):
            self.session.painted()
        found = listed(self.scene, self.parameters.segmentation)
        if anything_painted(found) and not self._view().reasons["segment"]:
            self.session.growing.prepare()
        self.render()


def _timer(milliseconds: int, slot: Callable[[], None], repeat: bool = False) -> Any:
    timer = qt.QTimer()
    timer.setProperty("singleShot", not repeat)  # in PythonQt, a static method hides the attribute
    timer.interval = milliseconds
    timer.timeout.connect(slot)
    return timer

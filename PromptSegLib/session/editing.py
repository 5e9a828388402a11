"""Segments as a user changes them by hand, named, colored and removed, each a step; and undo and redo of all steps.

Prompts, and what is remembered of results, follow undo and redo.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping, Optional, Sequence

from ..annotation.classes import ClassInfo, canonical_name, describe, is_name, known_names, same_name
from ..errors import PromptSegError
from ..models import catalogue
from ..scene.history import OneOrder
from ..scene.roles import role_of, set_role
from ..scene.segment_list import BACKGROUND, GRAY, add_structure, is_background
from ..scene.segment_tags import segment_of
from ..scene.segmentations import segments
from . import prompts
from .actions import Actions, Notice
from .applied import AppliedResults, current_tag
from .inputs import Inputs


class Names:
    """Structures by the names that users type.

    :param more: further entries, name -> (terminology, color or None), as the application's terminologies have them;
        asked for once, when the first name is.
    """

    def __init__(self, more=lambda: {}):
        self._ask, self._more = more, None

    def suggestions(self) -> tuple[str, ...]:
        """Names to complete what is typed: what the models know first, then the terminologies', each once."""
        entries = catalogue.entries()
        shipped = [name for entry in entries for name in entry.classes]
        shipped += [name for entry in entries for each in entry.further for name in each.classes]
        listed: dict[str, str] = {}
        for name in (*shipped, *known_names(), *self._further()):
            listed.setdefault(canonical_name(name).lower(), name)
        return tuple(listed.values())

    def described(self, name: str, taken: Sequence[ClassInfo] = ()) -> ClassInfo:
        """Name, color and terminology for what was typed; a color that no other has where the name is not known.

        Raises :class:`PromptSegError` for what is no name.
        """
        name = " ".join(name.split())
        if not is_name(name):
            raise PromptSegError("Type the name of a structure, as liver: one line of text that can be read.")
        if canonical_name(name).lower() == BACKGROUND:
            return ClassInfo(name, 1, GRAY)
        info = describe(name, 1, taken)
        found = self._found(name)
        if info.terminology or found is None:
            return info
        terminology, color = found
        return ClassInfo(name, 1, color or info.color, terminology)

    def _found(self, name: str) -> Optional[tuple[str, Optional[tuple[float, float, float]]]]:
        key = canonical_name(name).lower()
        return next((each for other, each in self._further().items() if canonical_name(other).lower() == key), None)

    def _further(self) -> Mapping[str, tuple[str, Optional[tuple[float, float, float]]]]:
        if self._more is None:
            self._more = dict(self._ask())
        return self._more


class SegmentEdits:
    """Changes of the segments themselves, not of their voxels; a refusal leaves the segmentation as it was.

    :ivar names: what users may call structures.
    """

    def __init__(self, inputs: Inputs, history: UndoHistory, actions: Actions):
        self._inputs, self._history, self._actions = inputs, history, actions
        self.names = Names()

    def name(self, typed: str) -> str:
        """The ID of the segment of that name, to paint in: the one there is, or a new one with color and terminology;
        "" where that failed.

        What is called background gets that role.
        """
        with self._actions.doing():
            self._actions.require("name")
            segmentation = self._inputs.ensure_segmentation()
            taken = [ClassInfo(each.name, 1, each.color) for each in segments(segmentation)]
            info = self.names.described(typed, taken)
            for each in segments(segmentation):
                if same_name(each.name, info.name) or (is_background(info.name) and each.role == BACKGROUND):
                    return each.id
            self._history.of(segmentation).save()
            return add_structure(segmentation, info)
        return ""

    def rename(self, segment_id: str, name: str) -> None:
        """Give a segment another name; its role stays."""
        with self._actions.doing():
            segmentation, name = self._inputs.segmentation, " ".join(name.split())
            if not is_name(name):
                raise PromptSegError("A segment needs a name: one line of text that can be read.")
            others = [each.name for each in segments(segmentation) if each.id != segment_id]
            if any(same_name(name, each) for each in others):
                raise PromptSegError("There is a segment called {name} already; choose another name.", name=name)
            segment, role = segment_of(segmentation, segment_id), role_of(segmentation, segment_id)
            if segment.GetName() == name:
                return
            self._history.of(segmentation).save()
            segment.SetName(name)
            segment.NameAutoGeneratedOff()
            if role_of(segmentation, segment_id) != role:
                set_role(segmentation, segment_id, role)

    def color(self, segment_id: str, color: Sequence[float]) -> None:
        """Give a segment another color, RGB in 0..1."""
        with self._actions.doing():
            segment = segment_of(self._inputs.segmentation, segment_id)
            self._history.of(self._inputs.segmentation).save()
            segment.SetColor(*(float(part) for part in color))
            segment.ColorAutoGeneratedOff()

    def remove(self, segment_id: str) -> None:
        """Take a segment away, whatever is painted in it."""
        with self._actions.doing():
            segment_of(self._inputs.segmentation, segment_id)
            self._history.of(self._inputs.segmentation).save()
            self._inputs.segmentation.GetSegmentation().RemoveSegment(segment_id)


class UndoHistory:
    """One order over the Segment Editor's states and those of changes made while it showed another segmentation.

    :param make: the editor's history of a segmentation node, see :class:`~PromptSegLib.scene.history.OneOrder`.
    :param on_turned: hears of a segmentation when another result is in force there.
    :param on_changed: hears of a segmentation whenever it has changed.
    """

    def __init__(
        self,
        scene: Any,
        inputs: Inputs,
        actions: Actions,
        applied: AppliedResults,
        make: Callable[[Any], Any],
        on_turned: Callable[[Any], None],
        on_changed: Callable[[Any], None],
    ):
        self._scene, self._inputs, self._actions, self._applied = scene, inputs, actions, applied
        self._make, self._on_turned, self._on_changed = make, on_turned, on_changed
        self._orders: dict[str, OneOrder] = {}  # by the ID of the segmentation
        self._followed = ""  # tag of the result that is known to be in force

    def of(self, segmentation: Any) -> OneOrder:
        """The order of a segmentation node's states."""
        key = segmentation.GetID()
        if key not in self._orders:
            self._orders[key] = OneOrder(segmentation, self._make(segmentation))
        return self._orders[key]

    def undo(self) -> None:
        """Take back the last change of the segmentation: a result, or a stroke."""
        self._go("undo")

    def redo(self) -> None:
        """Bring back what was undone."""
        self._go("redo")

    def segmentation_changed(self) -> None:
        """Somebody else changed the segmentation, perhaps undid a result with the editor's own button: follow."""
        segmentation = self._inputs.segmentation
        if segmentation is not None:
            self._on_changed(segmentation)
        if segmentation is not None and current_tag(segmentation) != self._followed:
            with self._actions.doing(quiet=True):
                self._actions.notice = Notice()  # what it says of the result is no longer true
                self._bring_along()

    def follow(self) -> None:
        """What is applied to the segmentation now is known."""
        segmentation = self._inputs.segmentation
        self._followed = current_tag(segmentation) if segmentation is not None else ""

    def leave(self) -> None:
        """The editor is about to show another segmentation."""
        if self._inputs.segmentation is not None:
            self.of(self._inputs.segmentation).leave()

    def removed(self, node: Any) -> None:
        self._orders.pop(node.GetID() or "", None)

    def closing(self) -> None:
        self._orders.clear()

    def _go(self, action: str) -> None:
        with self._actions.doing():
            self._actions.require(action)
            getattr(self.of(self._inputs.segmentation), action)()
            self._actions.notice = Notice()
            self._bring_along()

    def _bring_along(self) -> None:
        """What was undone or redone is a change of segments: bring prompts and memory to the same state."""
        segmentation = self._inputs.segmentation
        result = self._applied.of(segmentation)
        if result is not None and result.prompts is not None:
            now = prompts.current(segmentation)
            if now is None or now.to_bytes(whole=True) != result.prompts.to_bytes(whole=True):
                prompts.keep(self._scene, segmentation, result.prompts)
        elif result is not None and result.unlinked:
            prompts.unlink(segmentation)
        self._applied.write(segmentation)
        self.follow()
        self._on_turned(segmentation)

"""Keeping segmentations for recovery at sensible moments, and putting back what a killed application has left."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any, Optional

from ..errors import PromptSegError, Sentence
from ..scene import prompt_nodes, salvage, scene_nodes
from . import prompts as prompts_list
from .actions import Actions, Notice
from .recovery import Recovery

_PAUSE = 20.0  # seconds between two notes because of strokes


class Rescue:
    """Between a session's scene and its recovery folder.

    :param recovery: None keeps and offers nothing.
    """

    def __init__(self, scene: Any, recovery: Optional[Recovery], actions: Actions):
        self._scene, self._recovery, self._actions = scene, recovery, actions
        self._noted, self._stored = float("-inf"), scene.GetStoredTime()
        self._due: dict[str, tuple[Any, Any]] = {}  # ID of a segmentation -> it and its volume
        self._found: list[salvage.Salvage] = []
        for content in recovery.find() if recovery is not None else []:
            with contextlib.suppress(PromptSegError):  # half of it is nothing
                self._found.append(salvage.Salvage.from_bytes(content))

    @property
    def text(self) -> str:
        """What is offered, one sentence; "" for nothing."""
        if not self._found:
            return ""
        names = ", ".join(f"'{each.name}'" for each in self._found)
        return Sentence("Slicer ended unexpectedly; what was not saved of {names} can be recovered.", names=names)

    def note(self, segmentation: Any, volume: Any) -> None:
        """Keep a segmentation as it is now, with its prompts; quick, the rest is done in a thread."""
        if self._recovery is None or not scene_nodes.alive(self._scene, segmentation):
            return
        self._due.pop(segmentation.GetID(), None)
        node = prompt_nodes.linked(segmentation)
        with contextlib.suppress(PromptSegError):  # what cannot be taken cannot be tuned on either
            prompts = prompt_nodes.bytes_of(node) if node is not None else b""
            taken = salvage.take(segmentation, volume if scene_nodes.alive(self._scene, volume) else None, prompts)
            if taken.layers:
                self._recovery.note(segmentation.GetID(), taken.to_bytes)
        self._noted = time.monotonic()

    def note_strokes(self, segmentation: Any, volume: Any) -> None:
        """As :meth:`note`, once in a while; in between it is due, see :meth:`step`."""
        if self._recovery is not None and scene_nodes.alive(self._scene, segmentation):
            self._due[segmentation.GetID()] = segmentation, volume
            self.step()

    @property
    def wait(self) -> float:
        """Seconds until :meth:`step` is to be called, infinite while nothing is due."""
        return max(0.0, self._noted + _PAUSE - time.monotonic()) if self._due else math.inf

    def step(self) -> None:
        """Keep the strokes that are due: the last ones before the user rests are kept, too."""
        if self.wait > 0:
            return
        for key, (segmentation, volume) in list(self._due.items()):
            del self._due[key]
            self.note(segmentation, volume)

    def look_whether_saved(self) -> None:
        """Let go what is kept when the scene was saved meanwhile, which no event of it says.

        A scene may be saved without the files of some of its nodes: segmentations that were left out stay kept.
        """
        if self._scene.GetStoredTime() == self._stored:
            return
        self._stored = self._scene.GetStoredTime()
        for key in self._recovery.keys() if self._recovery is not None else []:
            node = self._scene.GetNodeByID(key)
            if self._recovery is not None and (node is None or not node.GetModifiedSinceRead()):
                self._recovery.forget(key)

    def removed(self, node: Any) -> None:
        self._due.pop(node.GetID() or "", None)
        if self._recovery is not None and node.IsA("vtkMRMLSegmentationNode"):
            self._recovery.forget(node.GetID())

    def closing(self) -> None:
        """The user closes the scene, and with it what was not saved."""
        self._due.clear()
        if self._recovery is not None:
            self._recovery.forget()

    def recover(self) -> None:
        """Put what a killed application has left into the scene, beside what is there."""
        with self._actions.doing():
            self._actions.notice = self._put_back()

    def dismiss(self) -> None:
        """What a killed application has left is not wanted."""
        with self._actions.doing():
            self._end()

    def close(self) -> None:
        """The application ends as it should."""
        if self._recovery is not None:
            self._recovery.close()

    def _put_back(self) -> Notice:
        if not self._found:
            raise PromptSegError("There is nothing to recover.")
        made = []
        for each in self._found:
            volume = salvage.volume_for(self._scene, each)
            node = salvage.put_back(self._scene, each, volume)
            prompts = salvage.prompts_of(each)
            if prompts is not None:
                prompts_list.keep(self._scene, node, prompts)
            self.note(node, volume)
            missing = "" if volume is not None or not each.described["volume"] else each.described["volume"]
            made.append(f"'{node.GetName()}'{f' (of the volume {missing}, which is not here)' if missing else ''}")
        self._end()
        return Notice(Sentence("Recovered {made}; save the scene to keep it.", made=", ".join(made)))

    def _end(self) -> None:
        self._found = []
        if self._recovery is not None:
            self._recovery.flush()  # what was put back is kept anew before the old goes
            self._recovery.done()

"""What is worked on: a volume, its segmentation, and further volumes that teach; and hearing of nodes that go."""

from __future__ import annotations

from typing import Any, Callable, Sequence

from ..errors import PromptSegError
from ..scene import node_references, prompt_nodes, scene_nodes, stored_results
from ..scene.segment_list import add_background
from .actions import Actions, Notice


class Inputs:
    """Chosen by the user, kept in the parameters; None stands for a node that is not chosen or has left the scene.

    :param leave: called before another volume or segmentation is turned to; ``arrive`` afterwards.
    """

    def __init__(
        self, scene: Any, parameters: Any, actions: Actions, leave: Callable[[], None], arrive: Callable[[], None]
    ):
        self._scene, self._parameters, self._actions = scene, parameters, actions
        self._leave, self._arrive = leave, arrive

    @property
    def volume(self) -> Any:
        volume = self._parameters.volume
        return volume if scene_nodes.alive(self._scene, volume) else None

    @property
    def segmentation(self) -> Any:
        segmentation = self._parameters.segmentation
        return segmentation if scene_nodes.alive(self._scene, segmentation) else None

    @property
    def examples(self) -> list[tuple[Any, Any]]:
        """Further volumes that teach, with their segmentations."""
        pairs = [
            (volume, node_references.remembered(volume)) for volume in self._parameters.examples if volume is not None
        ]
        return [(one, other) for one, other in pairs if other is not None and one is not self.volume]

    def choose_volume(self, volume: Any) -> None:
        """Another volume: its own segmentation comes with it."""
        with self._actions.doing():
            self._leave()
            before = self.volume
            self._parameters.volume = volume
            if volume is not None:
                own = node_references.remembered(volume)
                # What belongs to the volume before is not for this one.
                foreign = before is not None and node_references.remembered(before) is self.segmentation
                if own is not None or (foreign and before is not volume):
                    self._parameters.segmentation = own
            self._arrive()

    def choose_segmentation(self, segmentation: Any) -> None:
        """Another segmentation, remembered for the volume."""
        with self._actions.doing():
            self._leave()
            self._parameters.segmentation = segmentation
            if self.volume is not None and segmentation is not None:
                node_references.remember(self.volume, segmentation)
            self._arrive()

    def ensure_segmentation(self) -> Any:
        """The segmentation to paint in; a new one on the volume where there is none."""
        with self._actions.doing():
            if self.segmentation is None and self.volume is not None:
                made = node_references.new_segmentation(
                    self._scene, self.volume, f"{self.volume.GetName()} segmentation"
                )
                add_background(made)
                self.choose_segmentation(made)
        return self.segmentation

    def add_example(self, volume: Any) -> None:
        """Let another volume with a segmentation of its own (same segment names) teach, too."""
        with self._actions.doing():
            if volume is None or node_references.remembered(volume) is None:
                raise PromptSegError("That volume has no segmentation of its own yet; choose it above and paint first.")
            if volume is self.volume:
                raise PromptSegError("The current volume is an example already; choose another one.")
            others = [each for each in self._parameters.examples if each is not volume]
            self._parameters.examples = [*others, volume]

    def remove_example(self, volume: Any) -> None:
        """Let a volume no longer teach; nothing in the scene changes."""
        with self._actions.doing():
            self._parameters.examples = [each for each in self._parameters.examples if each is not volume]


class SceneWatch:
    """Tells what a session owns of nodes that go, and of a scene that is closed.

    :param owned: objects with ``removed(node)`` and ``closing()``, told in this order.
    """

    def __init__(self, scene: Any, owned: Sequence[Any], actions: Actions):
        self._scene, self._owned, self._actions = scene, owned, actions
        self.end = scene_nodes.watch(scene, self._removed, self._closing, actions.changed, self._renew)
        self._renew()

    def _removed(self, node: Any) -> None:
        for each in self._owned:
            each.removed(node)
        self._actions.changed()

    def _closing(self) -> None:
        for each in self._owned:
            each.closing()
        self._actions.notice = Notice()

    def _renew(self) -> None:
        """What an earlier version kept in the scene, as this one does: hidden nodes can spoil a saved scene."""
        with self._actions.doing(quiet=True):
            stored_results.renew(self._scene)
            prompt_nodes.renew(self._scene)

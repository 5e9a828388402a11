"""A job's result from its arrival to Apply or Discard: the preview, and where the network was unsure.

The preview is cleaned up as the user wants it; places to look at and the map of uncertainty are saved with the scene.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Optional

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError, Sentence
from ..inference.cleaning import clean
from ..inference.result import Segmentation
from ..prompts.store import Prompts
from ..scene import scene_nodes, slice_views
from ..scene.preview import Preview
from ..scene.segmentations import segments, show_surfaces
from ..scene.slice_views import center_3d
from ..worker.contract import Reply
from . import prompts as prompts_list
from .actions import Actions, Notice, Shows
from .applied import AppliedResult, AppliedResults, current_tag
from .applying import Result, Writer, stroke_constraints, with_differences
from .editing import UndoHistory
from .job import ActiveJob, Background, JobKind


class Results:
    """At most one result, shown as a preview; what was applied is remembered.

    :ivar result: what waits for Apply or Discard, grown from strokes, early or final; None for nothing.
    :ivar applied: what was applied to segmentations.
    :ivar background: makes what is remembered of results that were applied, which does not take long.
    :param on_applied: hears of a segmentation and its volume when what was applied is remembered.
    """

    def __init__(
        self,
        scene: Any,
        parameters: Any,
        actions: Actions,
        history: UndoHistory,
        applied: AppliedResults,
        on_applied: Callable[[Any, Any], None],
    ):
        self._scene, self._parameters, self._actions = scene, parameters, actions
        self._on_applied, self.applied = on_applied, applied
        self.background, self._cleaning = Background(), Background()
        self._writer = Writer(scene, parameters, history, applied, self._remember)
        self._preview = Preview()
        self._wanted: Optional[Result] = None  # what a thread cleans up
        self._parked: dict[tuple[str, str], Result] = {}  # by the IDs of their segmentation and volume
        self.result: Optional[Result] = None

    @property
    def working(self) -> bool:
        """Whether :meth:`poll` has something to wait for."""
        return self.background.working or self._cleaning.working

    @property
    def unfinished(self) -> bool:
        """Whether what is shown is about to be replaced by a result that a thread cleans up."""
        return self._wanted is not None

    def poll(self) -> Optional[Notice]:
        """Take up what threads have done; gives a notice when there is something to say."""
        told = self.background.poll()
        return self._cleaning.poll() or told

    def finish(self) -> None:
        """Wait for what is applied without a preview, and for what is remembered in the scene."""
        self._wanted = None
        self._cleaning.finish()
        self.background.finish()

    @property
    def shown(self) -> Optional[Segmentation]:
        """What the preview shows; None without one."""
        return self.result.shown if self.result is not None else None

    @property
    def shows(self) -> Shows:
        """What the preview is."""
        if self.result is None:
            return Shows.NOTHING
        if self.result.job.kind is JobKind.GROW:
            return Shows.GROWN
        return Shows.FINAL if self.result.final else Shows.EARLY

    @property
    def remarks(self) -> tuple[str, ...]:
        """On what the preview shows: how good it is as far as that can be told, what is unusual; classes are called as
        their segments are now."""
        if self.result is None or self.shows is Shows.FINAL:  # these were said when it came
            return ()
        return self._remarks_of(self.result)

    @staticmethod
    def _remarks_of(result: Result) -> tuple[str, ...]:
        request = result.request
        new = prompts_list.renamed_since(result.job.segmentation, request.segment_ids, request.numbers)
        return tuple(each.renamed(new) if isinstance(each, Sentence) else each for each in result.raw.notes)

    def before(self, segmentation: Any) -> Optional[AppliedResult]:
        """What was applied to a segmentation last, with the prompts that it goes on with; None for nothing."""
        self.background.finish()
        result = self.applied.of(segmentation)
        if result is not None and result.prompts is None:
            result = replace(result, prompts=prompts_list.current(segmentation))
        return result

    def arrive(
        self,
        active: ActiveJob,
        reply: Reply,
        prompts: Optional[Prompts],
        final: bool,
    ) -> Optional[Notice]:
        """Show a preview or a result; one that nobody looks at is applied."""
        assert active.request is not None
        classes = tuple(info for info in reply.result.classes if info.name in active.request.classes)
        mine = replace(reply.result, classes=classes)
        result = Result(active, active.request, mine, mine, prompts, final, reply.other, reply.keeps)
        if final and _cleans(self._parameters):
            self._clean(result)
            return None
        return self._show(result)

    def clean_up(self) -> None:
        """The clean-up choices changed: show the result with them."""
        with self._actions.doing():
            if self.result is not None and self.result.final:
                self._clean(self.result)

    def keep_previous(self, keeps: bool) -> None:
        """Whether a retuning leaves what nobody corrected; else the preview shows what it adds and removes."""
        with self._actions.doing():
            self._actions.require("keep")
            result = self.result
            if result is None or result.other is None or result.keeps == keeps:
                return
            raw = replace(result.raw, labels=result.other)
            turned = replace(result, raw=raw, shown=raw, other=result.raw.labels, keeps=keeps)
            if _cleans(self._parameters):
                self._clean(turned)
            else:
                self._show(turned)

    def show_opacity(self) -> None:
        """The preview's opacity or its surfaces were chosen."""
        with self._actions.doing():
            self._preview.opacity = self._parameters.opacity
            wanted = bool(self._parameters.show3D)
            if self._preview.visible_3d != wanted:
                self._preview.visible_3d = wanted
                if wanted:
                    self._turn_views()

    def _turn_views(self) -> None:
        """Turn the 3D views to what they are to show; once: later, the user has turned them as he wants."""
        segmentation, there = self._parameters.segmentation, self._preview.node
        if there is None and scene_nodes.alive(self._scene, segmentation) and segments(segmentation):
            show_surfaces(segmentation)
            there = segmentation
        if there is not None:
            center_3d(self._scene, there)

    def drop_of(self, active: ActiveJob) -> None:
        """As :meth:`drop`, of what came of a job; what else is shown stays."""
        if self._wanted is not None and self._wanted.active is active:
            self._wanted = None
        if self.result is not None and self.result.active is active:
            self.drop()

    def show_again(self, result: Result) -> None:
        """Show what was shown before a job, where nothing else is."""
        there = scene_nodes.alive(self._scene, result.job.segmentation)
        if self.result is None and there and result.job.tag == current_tag(result.job.segmentation):
            self._show(result)

    def drop(self) -> None:
        """Forget the result and take its preview away."""
        made = self.result.job.made if self.result is not None else None
        self.result = self._wanted = None
        self._preview.remove()
        if scene_nodes.alive(self._scene, made) and not segments(made):
            scene_nodes.remove(made)

    def park(self) -> bool:
        """Let the result wait while its segmentation is not looked at; whether there is one."""
        result = self._wanted or self.result
        if result is not None and scene_nodes.alive(self._scene, result.job.segmentation):
            self._parked[result.job.segmentation.GetID(), result.job.volume.GetID()] = result
        self.result = self._wanted = None
        self._preview.remove()
        return result is not None

    def unpark(self, volume: Any, segmentation: Any) -> Optional[Notice]:
        """Show the result that waits for a segmentation, if any; gives what is to be said."""
        if segmentation is None or volume is None:
            return None
        result = self._parked.pop((segmentation.GetID(), volume.GetID()), None)
        if result is None:
            return None
        if result.job.tag != current_tag(segmentation):
            return Notice("Another result was applied meanwhile; the one that waited here was dropped, tune again.")
        if result.final and _cleans(self._parameters):
            self._clean(result)
        else:
            self._show(replace(result, shown=result.raw))
        waited = "This preview waited here. Apply takes it into the segmentation, Discard forgets it."
        return Notice(" ".join([waited, *(self._remarks_of(result) if result.final else ())]))

    def removed(self, node: Any) -> None:
        """A node is no longer in the scene: nothing waits for it."""
        for key in [key for key, each in self._parked.items() if each.job.is_about(node)]:
            del self._parked[key]
        if self.result is not None and self.result.job.is_about(node):
            self.drop()

    def closing(self) -> None:
        """Drop the result, and whatever a thread is at: the scene is going."""
        self.background.drop()
        self._cleaning.drop()
        self._parked.clear()
        self.drop()

    def apply(self) -> Notice:
        """Write the result into its segmentation, as one step that can be undone, and remember what was applied.

        Raises :class:`PromptSegError`, with the segmentation as it was, when there is nothing left to apply it to.
        """
        assert self.result is not None
        notice = self._writer.write(self.result)
        self.drop()
        return notice

    def _show(self, result: Result) -> Optional[Notice]:
        if result.job.direct:
            return self._writer.write(result)
        self._preview.opacity = self._parameters.opacity
        self._preview.visible_3d = bool(self._parameters.show3D)
        seen = result.shown
        if result.other is not None and not result.keeps:
            seen = with_differences(seen, result.other)
        self._preview.show(result.job.segmentation, result.job.volume, seen)
        self.result = result
        return None

    def _clean(self, result: Result) -> None:
        """Clean up in a thread, then show."""
        chosen, raw, job = self._parameters, result.raw, result.job
        largest, fill, smooth = chosen.largestComponent, chosen.fillHoles, chosen.smoothing

        def work() -> sitk.Image:
            painted, never = stroke_constraints(result.request.known, result.request.numbers, raw)
            return clean(raw.labels, [info.value for info in raw.classes], largest, fill, smooth, painted, never)

        def wanted() -> bool:
            there = scene_nodes.alive(self._scene, job.volume) and scene_nodes.alive(self._scene, job.segmentation)
            # What nobody looks at is applied at once, so nobody has turned away from it.
            return job.direct or (self._wanted is result and there)

        def then(labels: sitk.Image) -> Optional[Notice]:
            if not wanted():
                return None
            if not job.direct:
                self._wanted = None
            return self._show(replace(result, shown=replace(raw, labels=labels)))

        if not job.direct:
            self._wanted = result
        self._cleaning.start(work, then, wanted)

    def _remember(self, tag: str, segmentation: Any, volume: Any, work: Callable[[], AppliedResult]) -> None:
        """Let a thread make what is remembered of a result that was applied."""

        def then(result: AppliedResult) -> None:
            self.applied.add(segmentation, tag, result)
            if scene_nodes.alive(self._scene, segmentation):
                self.applied.write(segmentation)
                self._on_applied(segmentation, volume)

        self.background.start(work, then)


def _cleans(parameters: Any) -> bool:
    """Whether any clean-up is chosen."""
    return bool(parameters.largestComponent or parameters.fillHoles or parameters.smoothing > 0)


class UncertaintyNavigator:
    """Of the last result of a volume: the places where the network is unsure, and the map of it."""

    def __init__(self, scene: Any, actions: Actions):
        self._scene, self._actions = scene, actions
        self._volume: Any = None
        self._points = np.zeros((0, 3))  # voxel indices: they stay true when the volume is moved
        self._classes: tuple[str, ...] = ()  # that they are about
        self._at = -1
        self._replaced: dict[str, dict[str, Optional[str]]] = {}  # by the ID of the volume, until there is an Apply
        self.shown = False

    def remember(
        self,
        volume: Any,
        points: tuple[tuple[float, float, float], ...],
        uncertainty: sitk.Image,
        classes: tuple[str, ...] = (),
    ) -> None:
        """Take what came with a result; a map that is shown follows it."""
        self._volume, self._points = volume, slice_views.in_volume(volume, points)
        self._at, self._classes = -1, classes
        self._replaced.setdefault(volume.GetID(), slice_views.kept(volume))
        slice_views.keep_places(volume, self._points, uncertainty, classes)
        if self.shown:
            slice_views.show_map(self._scene, volume, uncertainty)

    def settle(self, volume: Any) -> None:
        """The result of a volume was applied."""
        self._replaced.pop(volume.GetID() or "", None)

    def take_back(self, volume: Any) -> None:
        """The result of a volume was discarded: what came with the one before is kept again, and shown."""
        before = self._replaced.pop(volume.GetID(), None) if volume is not None else None
        if before is None:
            return
        slice_views.put_back(volume, before)
        shown = self.shown
        self.forget(volume)
        if shown and self.has_map(volume):
            self.show(True)

    def removed(self, node: Any) -> None:
        self._replaced.pop(node.GetID() or "", None)
        self.forget(node)

    def forget(self, volume: Any = None) -> None:
        """Forget what is known of a volume, or of any."""
        if volume is None or volume is self._volume:
            if self.shown and volume is not None:
                self.show(False)
            self._volume, self._points, self._at = None, np.zeros((0, 3)), -1
            self._classes = ()

    def any(self, volume: Any) -> bool:
        """Whether there is a place to look at."""
        return self._turn_to(volume) and len(self._points) > 0

    def has_map(self, volume: Any) -> bool:
        return self._turn_to(volume) and slice_views.keeps_map(volume)

    def _turn_to(self, volume: Any) -> bool:
        """Whether a volume is there; take what is kept with it, where it is another one."""
        if volume is None:
            return False
        if volume is not self._volume and not self.shown:
            self._volume, self._points = volume, slice_views.kept_places(volume)
            self._at, self._classes = -1, slice_views.kept_classes(volume)
        return volume is self._volume

    def text(self, volume: Any) -> str:
        """Which place is shown, for the panel; how many there are, before the first is."""
        if not self.any(volume):
            return ""
        count = len(self._points)
        if self._at < 0:
            return f"{count} place{'s' if count > 1 else ''}"
        if len(self._classes) != count:  # of an earlier version
            return f"Place {self._at + 1} of {count}"
        return f"Place {self._at + 1} of {count}: {self._classes[self._at]}"

    def look_next(self) -> None:
        """Move the slice views to the next place where the network is unsure."""
        with self._actions.doing():
            self._actions.require("look")
            self._go(1)

    def look_back(self) -> None:
        """Move the slice views to the place before."""
        with self._actions.doing():
            self._actions.require("look")
            self._go(-1)

    def show_map(self, shown: bool) -> None:
        """Show or hide the uncertainty over the volume."""
        with self._actions.doing():
            if shown:
                self._actions.require("map")
            self.show(shown)

    def closing(self) -> None:
        self.forget()
        self._replaced.clear()
        self.shown = False

    def _go(self, step: int) -> None:
        self._at = (max(self._at, 0 if step < 0 else -1) + step) % len(self._points)
        slice_views.point_out(self._scene, slice_views.in_world(self._volume, self._points[self._at])[0].tolist())

    def show(self, shown: bool) -> None:
        """As :meth:`show_map`; raises :class:`PromptSegError` for a map that is damaged."""
        if shown and self._volume is not None:
            kept = slice_views.kept_map(self._volume)  # not as it came: the volume may have moved since
            if kept is None:
                raise PromptSegError("The map that was saved is damaged; tune or segment again for another.")
            slice_views.show_map(self._scene, self._volume, kept)
        elif self.shown:
            slice_views.hide_map(self._scene)
        self.shown = shown

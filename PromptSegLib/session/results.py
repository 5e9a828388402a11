"""A job's result from its arrival to Apply or Discard: the preview, cleaned up as the user wants it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Optional, Union

import SimpleITK as sitk

from ..errors import Sentence
from ..inference.cleaning import clean
from ..inference.result import Segmentation
from ..prompts.store import Prompts
from ..scene import scene_nodes
from ..scene.preview import Preview
from ..scene.segmentations import segments, show_surfaces
from ..scene.slice_views import center_3d
from ..worker.contract import Reply
from . import prompts as prompts_list
from .actions import Actions, Level, Notice, Shows
from .applied import AppliedResult, AppliedResults, current_tag
from .applying import Result, Writer, stroke_constraints, with_differences
from .editing import UndoHistory
from .job import ActiveJob, Background, JobKind


class Results:
    """At most one result, shown as a preview; what was applied is remembered.

    :ivar result: what waits for Apply or Discard, grown from strokes, early or final; None for nothing.
    :ivar applied: what was applied to segmentations.
    :ivar background: makes what is remembered of results that were applied, which does not take long.
    :ivar cleaning: cleans results up, which may.
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
        self.background = Background()
        self.cleaning = CleanUp(scene, parameters, self._show)
        self._writer = Writer(scene, parameters, history, applied, self._remember)
        self._preview = Preview()
        self._parked: dict[tuple[str, str], Result] = {}  # by the IDs of their segmentation and volume
        self.result: Optional[Result] = None

    @property
    def waiting(self) -> Optional[Result]:
        """:attr:`result`, or what a thread cleans up to take its place."""
        return self.cleaning.wanted or self.result

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
        return _remarks_of(self.result)

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
        if final and self.cleaning.chosen:
            self.cleaning.start(result)
            return None
        return self._show(result)

    def clean_up(self) -> None:
        """The clean-up choices changed: show the result with them."""
        with self._actions.doing():
            if self.waiting is not None and self.waiting.final:
                self.cleaning.start(self.waiting)

    def keep_previous(self, keeps: bool) -> None:
        """Whether a retuning leaves what nobody corrected; else the preview shows what it adds and removes."""
        with self._actions.doing():
            self._actions.require("keep")
            result = self.waiting
            if result is None or result.other is None or result.keeps == keeps:
                return
            raw = replace(result.raw, labels=result.other)
            turned = replace(result, raw=raw, shown=raw, other=result.raw.labels, keeps=keeps)
            if self.cleaning.chosen:
                self.cleaning.start(turned)
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
                    _turn_views(self._scene, self._parameters.segmentation, self._preview.node)

    def drop_of(self, active: ActiveJob) -> None:
        """As :meth:`drop`, of what came of a job; what else is shown stays."""
        if self.cleaning.wanted is not None and self.cleaning.wanted.active is active:
            self.cleaning.wanted = None
        if self.result is not None and self.result.active is active:
            self.drop()

    def show_again(self, result: Result) -> None:
        """Show what was shown before a job, where nothing else is."""
        there = scene_nodes.alive(self._scene, result.job.segmentation)
        if self.result is None and there and result.job.tag == current_tag(result.job.segmentation):
            self._show(result)

    def drop(self) -> None:
        """Forget the result and take its preview away."""
        made = self.waiting.job.made if self.waiting is not None else None
        self.result = self.cleaning.wanted = None
        self._preview.remove()
        if scene_nodes.alive(self._scene, made) and not segments(made):
            scene_nodes.remove(made)

    def park(self) -> bool:
        """Let the result wait while its segmentation is not looked at; whether there is one."""
        result = self.waiting
        if result is not None and scene_nodes.alive(self._scene, result.job.segmentation):
            self._parked[result.job.segmentation.GetID(), result.job.volume.GetID()] = result
        self.result = self.cleaning.wanted = None
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
        if result.final and self.cleaning.chosen:
            self.cleaning.start(result)
        else:
            self._show(replace(result, shown=result.raw))
        waited = "This preview waited here. Apply takes it into the segmentation, Discard forgets it."
        return Notice(" ".join([waited, *(_remarks_of(result) if result.final else ())]))

    def removed(self, node: Any) -> None:
        """A node is no longer in the scene: nothing waits for it."""
        for key in [key for key, each in self._parked.items() if each.job.is_about(node)]:
            del self._parked[key]
        if self.waiting is not None and self.waiting.job.is_about(node):
            self.drop()

    def closing(self) -> None:
        """Drop the result, and whatever a thread is at: the scene is going."""
        self.background.drop()
        self.cleaning.drop()
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
            told = self._writer.write(result)
            result.active.written = True
            return told
        self._preview.opacity = self._parameters.opacity
        self._preview.visible_3d = bool(self._parameters.show3D)
        seen = result.shown
        if result.other is not None and not result.keeps:
            seen = with_differences(seen, result.other)
        self._preview.show(result.job.segmentation, result.job.volume, seen)
        self.result = result
        return None

    def _remember(self, tag: str, segmentation: Any, volume: Any, work: Callable[[], AppliedResult]) -> None:
        """Let a thread make what is remembered of a result that was applied."""

        def then(result: AppliedResult) -> None:
            self.applied.add(segmentation, tag, result)
            if scene_nodes.alive(self._scene, segmentation):
                self.applied.write(segmentation)
                self._on_applied(segmentation, volume)

        self.background.start(work, then)


def _turn_views(scene: Any, segmentation: Any, preview: Any) -> None:
    """Turn the 3D views to what they are to show; once: later, the user has turned them as he wants."""
    there = preview
    if there is None and scene_nodes.alive(scene, segmentation) and segments(segmentation):
        show_surfaces(segmentation)
        there = segmentation
    if there is not None:
        center_3d(scene, there)


def _remarks_of(result: Result) -> tuple[str, ...]:
    """What there is to say of a result; classes are called as their segments are now."""
    request = result.request
    new = prompts_list.renamed_since(result.job.segmentation, request.segment_ids, request.numbers)
    return tuple(each.renamed(new) if isinstance(each, Sentence) else each for each in result.raw.notes)


class CleanUp:
    """Cleans results up as the user wants it, in a thread: of what is looked at, the last; of what is not, all.

    :param show: gets each result when it is clean.
    :ivar wanted: what is looked at and not clean yet; None for nothing.
    :ivar direct: how many results wait for it that nobody looks at.
    """

    def __init__(self, scene: Any, parameters: Any, show: Callable[[Result], Optional[Notice]]):
        self._scene, self._parameters, self._show_clean = scene, parameters, show
        self._background, self.direct = Background(), 0
        self.wanted: Optional[Result] = None

    @property
    def chosen(self) -> bool:
        """Whether the user wants any."""
        chosen = self._parameters
        return bool(chosen.largestComponent or chosen.fillHoles or chosen.smoothing > 0)

    @property
    def working(self) -> bool:
        """Whether :meth:`poll` has something to wait for."""
        return self._background.working

    def start(self, result: Result) -> None:
        """Clean up, then show; nobody waits for it."""
        chosen, raw = self._parameters, result.raw
        largest, fill, smooth = chosen.largestComponent, chosen.fillHoles, chosen.smoothing

        def work() -> Union[sitk.Image, Exception]:
            try:
                painted, never = stroke_constraints(result.request.known, result.request.numbers, raw)
                return clean(raw.labels, [info.value for info in raw.classes], largest, fill, smooth, painted, never)
            except Exception as error:  # a lack of memory, most likely
                return error

        def then(labels: Union[sitk.Image, Exception]) -> Optional[Notice]:
            self.direct -= result.job.direct
            if not self._still_wanted(result):
                return None
            if self.wanted is result:
                self.wanted = None
            if isinstance(labels, Exception):
                told = self._show_clean(replace(result, shown=raw))
                text = Sentence("The result could not be cleaned up ({error}); it is as it came.", error=repr(labels))
                return Notice(f"{told.text} {text}" if told is not None else text, Level.WARNING)
            return self._show_clean(replace(result, shown=replace(raw, labels=labels)))

        self.direct += result.job.direct
        if not result.job.direct:
            self.wanted = result
        self._background.start(work, then, lambda: self._still_wanted(result))

    def poll(self) -> Optional[Notice]:
        """Take up what the thread has done; gives a notice when there is something to say."""
        return self._background.poll()

    def finish(self) -> None:
        """Wait for what is to be applied without a preview; nobody looks at the rest any more."""
        self.wanted = None
        self._background.finish()

    def drop(self) -> None:
        """Forget all of it."""
        self.wanted, self.direct = None, 0
        self._background.drop()

    def _still_wanted(self, result: Result) -> bool:
        job = result.job
        if job.direct:  # nobody looks at it, so nobody has turned away from it
            return True
        there = scene_nodes.alive(self._scene, job.volume) and scene_nodes.alive(self._scene, job.segmentation)
        return self.wanted is result and there

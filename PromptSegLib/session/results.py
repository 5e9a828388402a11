"""A job's result from its arrival to the segmentation: preview, clean-up, Apply or Discard."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Optional, Sequence

import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..errors import PromptSegError, Sentence
from ..inference.cleaning import clean
from ..inference.result import Segmentation
from ..prompts.store import Prompts
from ..scene import links, painting, prompt_nodes
from ..scene.lattices import cropped
from ..scene.looking import center_3d
from ..scene.preview import Preview
from ..scene.segmentations import apply_result, check_writable, segments, show_surfaces
from . import prompts_list
from .differences import with_differences
from .memory import CLASS, NUMBER, TAG, Memory, Version, current_tag, note_numbers, numbers
from .names import renamed_since, up_to_date, with_names
from .repainting import repaint
from .running import Run, Task
from .said import said
from .view import Notice


@dataclass
class Result:
    """What waits for Apply or Discard. ``raw`` is the segmentation before clean-up.

    :param other: the labels that it would have instead: with what nobody corrected as the retuned prompts have it, or
        as it was; None where there is no such choice.
    :param keeps: whether ``raw`` keeps what nobody corrected.
    """

    run: Run
    raw: Segmentation
    shown: Segmentation
    prompts: Optional[Prompts]
    final: bool
    other: Optional[sitk.Image] = None
    keeps: bool = True


class Results:
    """At most one result, shown as a preview; what was applied is remembered.

    :param history_of: the undo history of a segmentation node.
    :param on_applied: hears of a segmentation and its volume when what was applied is remembered.
    """

    def __init__(
        self,
        scene: Any,
        parameters: Any,
        history_of: Callable[[Any], Any],
        on_applied: Callable[[Any, Any], None] = lambda segmentation, volume: None,
    ):
        self._scene, self.parameters, self._history_of = scene, parameters, history_of
        self._on_applied = on_applied
        self._preview = Preview()
        self._task: Optional[tuple[Task, Callable[[Any], Optional[Notice]]]] = None
        self.memory = Memory()
        self._wanted: Optional[Result] = None  # what a thread cleans up
        self._parked: dict[str, Result] = {}  # by the ID of their segmentation
        self.result: Optional[Result] = None

    @property
    def working(self) -> bool:
        """Whether a thread is at something that :meth:`poll` will take up."""
        return self._task is not None

    def poll(self) -> Optional[Notice]:
        """Take up what a thread has finished; gives a notice when there is something to say."""
        if self._task is None or not self._task[0].done:
            return None
        task, then = self._task
        self._task = None
        return then(task.result())

    def arrive(
        self,
        run: Run,
        raw: Segmentation,
        prompts: Optional[Prompts],
        final: bool,
        other: Optional[sitk.Image] = None,
    ) -> Optional[Notice]:
        """Show a preview or a result; one that nobody looks at is applied."""
        classes = tuple(info for info in raw.classes if info.name in run.classes)
        mine = replace(raw, classes=classes)
        result = Result(run, mine, mine, prompts, final, other)
        if final and self._cleaning:
            self._clean(result)
            return None
        return self._show(result)

    def clean_up(self) -> None:
        """The clean-up choices changed: show the result with them."""
        if self.result is not None and self.result.final:
            self._clean(self.result)

    def keep_previous(self, keeps: bool) -> None:
        """Leave what nobody corrected as it was, or take it as the retuned prompts have it."""
        result = self.result
        if result is None or result.other is None or result.keeps == keeps:
            return
        raw = replace(result.raw, labels=result.other)
        turned = replace(result, raw=raw, shown=raw, other=result.raw.labels, keeps=keeps)
        if self._cleaning:
            self._clean(turned)
        else:
            self._show(turned)

    def dress(self) -> None:
        """The preview's opacity or its surfaces were chosen."""
        self._preview.opacity = self.parameters.opacity
        wanted = bool(self.parameters.show3D)
        if self._preview.visible_3d == wanted:
            return
        self._preview.visible_3d = wanted
        segmentation = self.parameters.segmentation
        there = self._preview.node
        if wanted and there is None and links.alive(self._scene, segmentation) and segments(segmentation):
            show_surfaces(segmentation)
            there = segmentation
        if wanted and there is not None:  # once: later, the user has turned the view as he wants it
            center_3d(self._scene, there)

    def drop(self) -> None:
        """Forget the result and take its preview away."""
        made = self.result.run.made if self.result is not None else None
        self.result = self._wanted = None
        self._preview.remove()
        if links.alive(self._scene, made) and not segments(made):
            links.remove(made)

    def park(self) -> bool:
        """Let the result wait while its segmentation is not looked at; whether there is one."""
        result = self.result or self._wanted
        if result is not None and links.alive(self._scene, result.run.segmentation):
            self._parked[result.run.segmentation.GetID()] = result
        self.result = self._wanted = None
        self._preview.remove()
        return result is not None

    def unpark(self, volume: Any, segmentation: Any) -> Optional[Notice]:
        """Show the result that waits for a segmentation, if any; gives what is to be said."""
        result = self._parked.pop(segmentation.GetID(), None) if segmentation is not None else None
        if result is None or not links.alive(self._scene, result.run.volume):
            return None
        if result.run.volume is not volume:  # the segmentation of another volume
            self._parked[segmentation.GetID()] = result
            return None
        if result.run.tag != current_tag(segmentation):
            return Notice("Another result was applied meanwhile; the one that waited here was dropped, tune again.")
        if result.final and self._cleaning:
            self._clean(result)
        else:
            self._show(replace(result, shown=result.raw))
        return Notice("This preview waited here. Apply takes it into the segmentation, Discard forgets it.")

    def removed(self, node: Any) -> None:
        """A node is no longer in the scene: nothing waits for it."""
        gone = [key for key, each in self._parked.items() if node in (each.run.volume, each.run.segmentation)]
        for key in gone:
            del self._parked[key]
        if self.result is not None and node in (self.result.run.volume, self.result.run.segmentation):
            self.drop()

    def finish(self) -> None:
        """Wait for what a thread is still at; it is never long."""
        if self._task is not None:
            task, then = self._task
            self._task = None
            then(task.result())

    def forget(self) -> None:
        """Drop the result, and whatever a thread is at: the scene is going."""
        self._task = None
        self._parked.clear()
        self.drop()

    def apply(self) -> Notice:
        """Write the result into its segmentation, as one step that can be undone, and remember what was applied.

        Raises :class:`PromptSegError`, with the segmentation as it was, when there is nothing left to apply it to.
        """
        assert self.result is not None
        notice = self._apply(self.result)
        self.drop()
        return notice

    @property
    def _cleaning(self) -> bool:
        chosen = self.parameters
        return bool(chosen.largestComponent or chosen.fillHoles or chosen.smoothing > 0)

    def _show(self, result: Result) -> Optional[Notice]:
        if result.run.direct:
            return self._apply(result)
        self._preview.opacity = self.parameters.opacity
        self._preview.visible_3d = bool(self.parameters.show3D)
        seen = result.shown
        if result.other is not None and not result.keeps:
            seen = with_differences(seen, result.other)
        self._preview.show(result.run.segmentation, result.run.volume, seen)
        self.result = result
        return None

    def _clean(self, result: Result) -> None:
        """Clean up in a thread, then show."""
        chosen, raw, run = self.parameters, result.raw, result.run
        largest, fill, smooth = chosen.largestComponent, chosen.fillHoles, chosen.smoothing

        def work() -> sitk.Image:
            painted, never = said(run, raw)
            return clean(raw.labels, [info.value for info in raw.classes], largest, fill, smooth, painted, never)

        def then(labels: sitk.Image) -> Optional[Notice]:
            if run.direct:  # nobody looks at it, so nobody has turned away from it
                return self._show(replace(result, shown=replace(raw, labels=labels)))
            there = links.alive(self._scene, run.volume) and links.alive(self._scene, run.segmentation)
            if self._wanted is not result or not there:
                return None
            return self._show(replace(result, shown=replace(raw, labels=labels)))

        self.finish()
        self._wanted = result
        self._task = (Task(work), then)

    def _apply(self, result: Result) -> Notice:
        run = result.run
        if not links.alive(self._scene, run.volume):
            raise PromptSegError("The volume was removed; the result cannot be applied.")
        if run.segmentation is None:  # nobody needed one so far
            run.segmentation = links.new_segmentation(self._scene, run.volume, f"{run.volume.GetName()} segmentation")
            links.remember(run.volume, run.segmentation)
        segmentation = run.segmentation
        if not links.alive(self._scene, segmentation):
            raise PromptSegError("The segmentation was removed; the result cannot be applied.")
        check_writable(segmentation, run.volume)
        if run.kind != "segment":
            result = _called_as_now(result)
        here = {each.id: each for each in segments(segmentation)}
        ids = {name: each for name, each in run.segment_ids.items() if each in here}
        lost = [name for name, each in run.segment_ids.items() if each not in here]
        # A segment that is no structure any more is not the place for one.
        kept = {each.name for each in here.values() if each.role in ("background", "ignore")}
        lost += [info.name for info in result.shown.classes if info.name in kept and info.name not in run.segment_ids]
        classes = tuple(info for info in result.shown.classes if info.name not in lost)
        if not classes:
            raise PromptSegError(
                "All segments of this result were removed or have another role; there is nothing to apply it to."
            )
        locked = [each.id for each in here.values() if each.role == "locked"]
        others = [each.id for each in here.values() if each.id not in ids.values() and each.role in ("tune", "ignore")]
        policy = self.parameters.overlap
        now = painting.snapshot(segmentation, run.volume, ids.values())
        self._history_of(segmentation).save()
        made = apply_result(
            segmentation,
            run.volume,
            replace(result.shown, classes=classes),
            segment_ids=ids,
            protect=[*locked, *(others if policy == "keep" else [])],
            overwrite=others if policy == "overwrite" else [],
        )
        self._remember(result, made)
        if self.parameters.show3D and not run.direct:
            show_surfaces(segmentation)
        if run.painting is not None:
            repaint(segmentation, run.volume, run.painting, now, [info for info in classes if info.name in made], made)
        written = ", ".join(segmentation.GetSegmentation().GetSegment(each).GetName() for each in made.values())
        left_out = [*lost, *(info.name for info in classes if info.name not in made)]
        if run.direct:
            without = f" without {', '.join(left_out)}" if left_out else ""
            done = Sentence(
                "Segmented {volume} into '{segmentation}'{without}.",
                volume=run.volume.GetName(),
                segmentation=segmentation.GetName(),
                without=without,
            )
            return run.told(" ".join([done, *result.raw.notes]))
        if left_out:
            without = ", ".join(left_out)
            text = Sentence(
                "Applied {written}; left out, because removed, locked or of another role: {without}.",
                written=written or "nothing",
                without=without,
            )
            return Notice(text, "warning")
        again = "Retune" if prompt_nodes.linked(segmentation) is not None else "Tune prompts"
        return Notice(
            Sentence("Applied {written}. Paint or erase where it is wrong, then {again}.", written=written, again=again)
        )

    def _remember(self, result: Result, made: dict[str, str]) -> None:
        """Tag the segments, keep the prompts, and, in a thread, what was applied."""
        run, segmentation, tag = result.run, result.run.segmentation, Memory.new_tag()
        run.tag = tag
        self._rename_prompts(segmentation)  # tags that tell of renames are set anew below
        before, taken = self.memory.of(segmentation), _numbered(segmentation, run, made)
        note_numbers(segmentation, taken.values())
        for name, segment_id in made.items():
            links.set_tag(segmentation, segment_id, NUMBER, str(taken[segment_id]))
            links.set_tag(segmentation, segment_id, CLASS, name)
        names = {number: name for name, number in run.numbers.items()}
        for segment_id, number in taken.items():
            links.set_tag(segmentation, segment_id, TAG, tag)
            if run.kind == "tune" and number in names:  # what the prompts call it, also where it was not tuned now
                links.set_tag(segmentation, segment_id, CLASS, names[number])
        # Prompts that were tuned here stay those to go on with, whatever others segment.
        prompts = prompts_list.current(segmentation) if before and before.prompts is not None else None
        if result.prompts is not None and run.kind == "tune":
            prompts = result.prompts
            prompts_list.keep(self._scene, segmentation, prompts)
        elif result.prompts is not None and prompts_list.current(segmentation) is None:
            shared = prompts_list.link(self._scene, segmentation, run.prompts_key)
            prompts = result.prompts if shared else prompts
        painted = painting.snapshot(segmentation, run.volume, list(taken))
        strokes = run.known.strokes if run.known is not None else None

        def work() -> Version:
            held = {each: number + 1 for each, number in taken.items() if not painted.empty(each)}
            applied = painted.labels(held) if held else sitk.Image([1, 1, 1], sitk.sitkUInt8)
            kept = strokes if strokes is not None else before.strokes if before else applied * 0
            return Version(cropped(applied), cropped(kept), prompts).packed()

        def then(version: Version) -> None:
            self.memory.add(tag, version)
            if links.alive(self._scene, segmentation):
                self.memory.write(segmentation)
                self._on_applied(segmentation, run.volume)

        self.finish()
        self._task = (Task(work), then)

    def _rename_prompts(self, segmentation: Any) -> None:
        """Let the prompts that a segmentation goes on with call their classes as its segments."""
        current = prompts_list.current(segmentation)
        now = up_to_date(current, segmentation) if current is not None else None
        if current is not None and now is not None and now.names != current.names:
            prompts_list.keep(self._scene, segmentation, now)


def _called_as_now(result: Result) -> Result:
    """A tuning's result with its classes called as the segments are now, in the prompts and the job as well."""
    run = result.run
    new = renamed_since(run.segmentation, run.segment_ids, run.numbers)
    if not new:
        return result

    def called(classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
        return tuple(replace(info, name=new.get(info.name, info.name)) for info in classes)

    run.segment_ids = {new.get(name, name): each for name, each in run.segment_ids.items()}
    run.numbers = {new.get(name, name): each for name, each in run.numbers.items()}
    run.classes = tuple(new.get(name, name) for name in run.classes)
    raw, shown = (replace(each, classes=called(each.classes)) for each in (result.raw, result.shown))
    prompts = result.prompts
    if prompts is not None:
        prompts = with_names(prompts, {old: each for old, each in new.items() if old in prompts.names})
    return replace(result, raw=raw, shown=shown, prompts=prompts)


def _numbered(segmentation: Any, run: Run, made: dict[str, str]) -> dict[str, int]:
    """Segment ID -> number of its class, for all that have one and those that were made now."""
    taken = numbers(segmentation)
    for name, segment_id in made.items():
        wanted: Sequence[Optional[int]] = (taken.get(segment_id), run.numbers.get(name))
        used = {number for other, number in taken.items() if other != segment_id}
        free = (number for number in wanted if number is not None and number not in used)
        taken[segment_id] = next(free, 1 + max(used, default=-1))
    return taken

"""Writing a result into its segmentation, with what was painted kept, and what to remember of it.

Also what a preview shows of it: cleaned up but for what was painted, and how it differs from the result before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..annotation.partial_labels import BLANK, PartialLabels, is_class, is_not_class, on_grid, stacked
from ..errors import PromptSegError, Sentence
from ..imaging.geometry import Grid, resample
from ..inference.result import Segmentation
from ..prompts.store import Prompts
from ..scene import node_references, prompt_nodes, scene_nodes, segment_snapshot, segment_tags
from ..scene.lattices import cropped
from ..scene.placement import label_of
from ..scene.roles import Role
from ..scene.segment_snapshot import SegmentSnapshot
from ..scene.segmentations import apply_result, check_writable, segments, show_surfaces
from ..scene.storage import spoils_scene
from ..scene.volumes import voxels_of_volume
from . import prompts
from .actions import Level, Notice
from .applied import (
    CLASS,
    NUMBER,
    TAG,
    AppliedResult,
    AppliedResults,
    applied_before,
    labels_of,
    note_numbers,
    numbers,
)
from .editing import UndoHistory
from .job import ActiveJob, Job, JobKind
from .job_requests import Request

ADDED, REMOVED = "added, not corrected by you", "removed, not corrected by you"
_COLORS = {ADDED: (0.0, 0.62, 0.45), REMOVED: (0.84, 0.37, 0.0)}  # told apart by color-blind readers


@dataclass
class Result:
    """What waits for Apply or Discard. ``raw`` is the segmentation before clean-up.

    :param active: the job that it came of.
    :param request: what the worker was asked for.
    :param other: the labels that it would have instead: with what nobody corrected as the retuned prompts have it, or
        as it was; None where there is no such choice.
    :param keeps: whether ``raw`` keeps what nobody corrected.
    """

    active: ActiveJob
    request: Request
    raw: Segmentation
    shown: Segmentation
    prompts: Optional[Prompts]
    final: bool
    other: Optional[sitk.Image] = None
    keeps: bool = True

    @property
    def job(self) -> Job:
        return self.active.job


class Writer:
    """Writes results, each as one step that can be undone.

    :param remember: gets a tag, the segmentation, its volume, and a function for a thread that makes what is
        remembered under the tag.
    """

    def __init__(
        self,
        scene: Any,
        parameters: Any,
        history: UndoHistory,
        applied: AppliedResults,
        remember: Callable[[str, Any, Any, Callable[[], AppliedResult]], None],
    ):
        self._scene, self._parameters, self._history = scene, parameters, history
        self._applied, self._remember = applied, remember

    def write(self, result: Result) -> Notice:
        """Write a result; gives what is to be said.

        Raises :class:`PromptSegError`, with the segmentation as it was, when there is nothing left to apply it to.
        """
        job, segmentation = result.job, self._segmentation_for(result.job)
        check_writable(segmentation, job.volume)
        if job.kind is not JobKind.SEGMENT:
            result = _called_as_now(result, segmentation)
        ids, classes, lost = _places(segmentation, result)
        locked, spare, overwrite = self._neighbors(segmentation, ids)
        now = segment_snapshot.snapshot(segmentation, job.volume, ids.values())
        giving = segment_snapshot.snapshot(segmentation, job.volume, overwrite)
        self._history.of(segmentation).save()
        labels = replace(result.shown, classes=classes)
        painted = _painted(result) if spare else None
        made = apply_result(segmentation, job.volume, labels, ids, locked, overwrite, spare, painted)
        self._note(result, segmentation, made, giving)
        if self._parameters.show3D and not job.direct:
            show_surfaces(segmentation)
        written = [info for info in classes if info.name in made]
        repaint(segmentation, job.volume, job.painting, now, written, made)
        return _told(result, segmentation, made, [*lost, *(info.name for info in classes if info.name not in made)])

    def _segmentation_for(self, job: Job) -> Any:
        if not scene_nodes.alive(self._scene, job.volume):
            raise PromptSegError("The volume was removed; the result cannot be applied.")
        if job.segmentation is None:  # nobody needed one so far
            made = node_references.new_segmentation(self._scene, job.volume, f"{job.volume.GetName()} segmentation")
            node_references.remember(job.volume, made)
            return made
        if not scene_nodes.alive(self._scene, job.segmentation):
            raise PromptSegError("The segmentation was removed; the result cannot be applied.")
        return job.segmentation

    def _neighbors(self, segmentation: Any, ids: Mapping[str, str]) -> tuple[list[str], list[str], list[str]]:
        """IDs of the segments that keep all their voxels, of those that share what was painted over them, and of those
        from which voxels are taken."""
        here = segments(segmentation)
        locked = [each.id for each in here if each.role == Role.LOCKED]
        others = [each.id for each in here if each.id not in ids.values() and each.role in (Role.TUNE, Role.IGNORE)]
        policy = self._parameters.overlap
        return locked, others if policy == "keep" else [], others if policy == "overwrite" else []

    def _note(self, result: Result, segmentation: Any, made: Mapping[str, str], giving: SegmentSnapshot) -> None:
        """Tag the segments, keep the prompts, and, in a thread, what was applied.

        :param giving: the segments that gave way, as they were before.
        """
        job, request, tag = result.job, result.request, AppliedResults.new_tag()
        prompts.follow_names(self._scene, segmentation)  # tags that tell of renames are set anew below
        before, taken = self._applied.of(segmentation), _numbered(segmentation, request.numbers, made)
        note_numbers(segmentation, taken.values())
        for name, segment_id in made.items():
            segment_tags.set_tag(segmentation, segment_id, NUMBER, str(taken[segment_id]))
            segment_tags.set_tag(segmentation, segment_id, CLASS, name)
        names = {number: name for name, number in request.numbers.items()}
        for segment_id, number in taken.items():
            segment_tags.set_tag(segmentation, segment_id, TAG, tag)
            # What the prompts call it, also where it was not tuned now.
            if job.kind is JobKind.TUNE and number in names:
                segment_tags.set_tag(segmentation, segment_id, CLASS, names[number])
        # Prompts that were tuned here stay those to go on with, whatever others segment.
        kept = prompts.current(segmentation) if before is not None else None
        if result.prompts is not None and job.kind is JobKind.TUNE:
            kept = result.prompts
            prompts.keep(self._scene, segmentation, kept)
        elif result.prompts is not None and prompts.current(segmentation) is None:
            shared = prompts.link(self._scene, segmentation, job.prompts_key)
            kept = result.prompts if shared else kept
        unlinked = kept is None and prompts.current(segmentation) is None
        painted = segment_snapshot.snapshot(segmentation, job.volume, list(taken))
        strokes = request.known.strokes if request.known is not None else None
        blank = sitk.Image([1, 1, 1], sitk.sitkUInt8)

        def work() -> AppliedResult:
            new = {each: number for each, number in taken.items() if each in made.values()}
            old = {each: number for each, number in taken.items() if each not in new}
            images = [*labels_of(painted, new), *applied_before(before, old, giving, painted)]
            applied, *beneath = stacked(images) or [blank]
            known = strokes if strokes is not None else before.strokes if before else blank
            layers = tuple(cropped(each) for each in beneath)
            return AppliedResult(cropped(applied), cropped(known), kept, unlinked, layers).packed()

        self._remember(tag, segmentation, job.volume, work)


def _painted(result: Result) -> Optional[sitk.Image]:
    """What was painted of the classes of a result, as its values; None where nothing was."""
    known = result.request.known
    if known is None:
        return None
    codes, numbered = sitk.GetArrayViewFromImage(known.strokes), result.request.numbers
    values = {is_class(numbered[info.name]): info.value for info in result.shown.classes if info.name in numbered}
    table = np.zeros(1 + max([int(codes.max()), *values]), np.uint16)
    table[list(values)] = list(values.values())
    return Grid.of(known.strokes).image(table[codes])


def _places(segmentation: Any, result: Result) -> tuple[dict[str, str], tuple[ClassInfo, ...], list[str]]:
    """Class name -> ID of its segment, where there is one; the classes to write; and names of those that are not.

    Raises :class:`PromptSegError` when there are no classes to write.
    """
    wanted, here = result.request.segment_ids, {each.id: each for each in segments(segmentation)}
    # A segment that is no structure any more is not the place for one.
    kept = [each for each in here.values() if each.role in (Role.BACKGROUND, Role.IGNORE)]
    ids = {name: each for name, each in wanted.items() if each in here and here[each] not in kept}
    lost = [name for name in wanted if name not in ids]
    names = {each.name for each in kept}
    lost += [info.name for info in result.shown.classes if info.name in names and info.name not in wanted]
    classes = tuple(info for info in result.shown.classes if info.name not in lost)
    if not classes:
        raise PromptSegError(
            "All segments of this result were removed or have another role; there is nothing to apply it to."
        )
    return ids, classes, lost


def _told(result: Result, segmentation: Any, made: Mapping[str, str], left_out: Sequence[str]) -> Notice:
    """What is to be said of a result that was written."""
    if result.job.direct:
        done = Sentence(
            "Segmented {volume} into '{segmentation}'{without}.",
            volume=result.job.volume.GetName(),
            segmentation=segmentation.GetName(),
            without=f" without {', '.join(left_out)}" if left_out else "",
        )
        return result.active.told(" ".join([done, *result.raw.notes]))
    written = ", ".join(segmentation.GetSegmentation().GetSegment(each).GetName() for each in made.values())
    if left_out:
        text = Sentence(
            "Applied {written}; left out, because removed, locked or of another role: {without}.",
            written=written or "nothing",
            without=", ".join(left_out),
        )
        return Notice(text, Level.WARNING)
    again = "Retune" if prompt_nodes.linked(segmentation) is not None else "Tune prompts"
    return Notice(
        Sentence("Applied {written}. Paint or erase where it is wrong, then {again}.", written=written, again=again)
    )


def with_spoilers(notice: Notice, nodes: Sequence[Any]) -> Notice:
    """And what to do about names of nodes with which Slicer could not open the scene again."""
    spoiling = [node for node in nodes if node is not None and spoils_scene(node)]
    if not spoiling:
        return notice
    text = Sentence(
        "{said} Rename {names} before you save: with such a name, Slicer cannot open the scene again.",
        said=notice.text,
        names=", ".join(label_of(node) for node in spoiling),
    )
    return replace(notice, text=text)


def _called_as_now(result: Result, segmentation: Any) -> Result:
    """A result with its classes called as the segments are now, in the prompts and the request as well."""
    request = result.request
    new = prompts.renamed_since(segmentation, request.segment_ids, request.numbers)
    if not new:
        return result

    def called(classes: Sequence[ClassInfo]) -> tuple[ClassInfo, ...]:
        return tuple(replace(info, name=new.get(info.name, info.name)) for info in classes)

    request = replace(
        request,
        segment_ids={new.get(name, name): each for name, each in request.segment_ids.items()},
        numbers={new.get(name, name): each for name, each in request.numbers.items()},
        classes=tuple(new.get(name, name) for name in request.classes),
    )
    raw, shown = (replace(each, classes=called(each.classes)) for each in (result.raw, result.shown))
    own = result.prompts
    if own is not None:
        own = prompts.with_names(own, {old: each for old, each in new.items() if old in own.names})
    return replace(result, request=request, raw=raw, shown=shown, prompts=own)


def _numbered(segmentation: Any, given: Mapping[str, int], made: Mapping[str, str]) -> dict[str, int]:
    """Segment ID -> number of its class, for all that have one and those that were made now.

    :param given: class name -> the number that it had in the job.
    """
    taken = numbers(segmentation)
    for name, segment_id in made.items():
        wanted: Sequence[Optional[int]] = (taken.get(segment_id), given.get(name))
        used = {number for other, number in taken.items() if other != segment_id}
        free = (number for number in wanted if number is not None and number not in used)
        taken[segment_id] = next(free, 1 + max(used, default=-1))
    return taken


def repainted(then: SegmentSnapshot, now: SegmentSnapshot) -> list[str]:
    """IDs of the segments of ``now`` that are not what they were."""
    same: dict[tuple[int, int], bool] = {}
    found = []
    for segment_id, (layer, label) in now.segments.items():
        before, old = then.segments.get(segment_id, (None, label))
        if layer is None or before is None:
            if not (now.empty(segment_id) and (before is None or then.empty(segment_id))):
                found.append(segment_id)
            continue
        key = (id(layer), id(before))
        if key not in same:
            placed = layer.voxels.shape == before.voxels.shape and np.array_equal(layer.start, before.start)
            same[key] = placed and np.array_equal(layer.voxels, before.voxels)
        if not same[key] or label != old:
            found.append(segment_id)
    return found


def repaint(
    segmentation: Any,
    volume: Any,
    then: SegmentSnapshot,
    now: SegmentSnapshot,
    classes: Sequence[ClassInfo],
    ids: Mapping[str, str],
) -> None:
    """Bring what was painted and erased between two moments into segments that a result has replaced since.

    :param ids: class name -> ID of its segment.
    """
    changed = repainted(then, now)
    if not any(ids.get(info.name) in changed for info in classes):
        return
    grid: Grid = voxels_of_volume(volume).grid
    applied = segment_snapshot.snapshot(segmentation, volume, ids.values())
    labels = np.zeros(grid.shape, np.uint16)
    for info in classes:
        labels[applied.masks([ids[info.name]], grid)[ids[info.name]]] = info.value
    for info in classes:
        segment_id = ids[info.name]
        if segment_id not in changed or segment_id not in then.segments:
            continue
        before, after = (each.masks([segment_id], grid)[segment_id] for each in (then, now))
        labels[before & ~after & (labels == info.value)] = 0
        labels[after & ~before] = info.value
    apply_result(segmentation, volume, Segmentation(grid.image(labels), tuple(classes)), segment_ids=ids)


def with_differences(result: Segmentation, before: sitk.Image) -> Segmentation:
    """A result in which the voxels that are no longer as before are classes of their own, for the eye only.

    :param before: labels of the same values; 0 outside of it.
    """
    grid = Grid.of(result.labels)
    values = [info.value for info in result.classes]
    now = sitk.GetArrayFromImage(result.labels).astype(np.uint16)
    then = sitk.GetArrayFromImage(resample(before, grid, sitk.sitkNearestNeighbor, 0))
    now[~np.isin(now, values)] = 0
    then = np.where(np.isin(then, values), then, 0)
    free = (value for value in range(1, 65536) if value not in values)
    added, removed = next(free), next(free)
    differs = now != then
    now[differs & (now > 0)] = added
    now[differs & (now == 0)] = removed
    shown = (ClassInfo(ADDED, added, _COLORS[ADDED]), ClassInfo(REMOVED, removed, _COLORS[REMOVED]))
    return replace(result, labels=grid.image(now), classes=(*result.classes, *shown))


def stroke_constraints(
    known: Optional[PartialLabels], numbers: Mapping[str, int], result: Segmentation
) -> tuple[Optional[np.ndarray], Optional[dict[int, np.ndarray]]]:
    """What was painted, as label values (z, y, x) on the result's grid; and for each value where it must not be.

    :param known: what the user said; None where nothing was painted.
    :param numbers: class name -> the number of the class in the segmentation.
    """
    if known is None:
        return None, None
    grid = Grid.of(result.labels)
    codes = on_grid(known.codes, grid)
    painted, never = np.zeros(codes.shape, np.uint16), {}
    for info in result.classes:
        number = numbers.get(info.name)
        if number is None:
            continue
        painted[codes == is_class(number)] = info.value
        # Background, another class, or erased; what was erased from another class says nothing about this one.
        other = (codes != BLANK) & (codes != is_class(number)) & ((codes < 3) | (codes % 2 == 0))
        never[info.value] = other | (codes == is_not_class(number))
    return painted, never

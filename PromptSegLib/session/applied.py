"""What was applied to a segmentation, by the tag that undo and redo bring back, and what has learned from it.

Prompts for other volumes learn from it, and models of their own, where these are worth their time.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Any, Iterable, Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError, Sentence
from ..imaging.geometry import Grid
from ..models import catalogue, own
from ..prompts.store import Prompts
from ..prompts.teachers import agreement_elsewhere, examples_of, taught_by
from ..scene import prompt_nodes, segment_tags, stored_results
from ..scene.segment_snapshot import SegmentSnapshot
from ..worker.client import Event
from ..worker.contract import Specialized, Taught
from ..worker.packing import notes_of

TAG = "Applied"
NUMBER = "Number"  # the class's number, see annotation.partial_labels
CLASS = "Class"  # the class's name in the prompts
_BENEATH = "beneath"  # then its place, from 0
_KEPT = 22  # results of a segmentation: more than can be undone, here and in the editor
_KEPT_IN_ALL = 3 * _KEPT

LEARNED_ROLE = "PromptSegLearned"  # of the reference from a segmentation
_LEARNER_ROLE = "PromptSegLearner"  # of the reference back; a clone refers to what its original has learned
FEWEST_VOLUMES = 3  # annotated volumes of which a model of its own is made, as specializing.specialize has it
ENOUGH_AGREEMENT = 0.85  # agreement with what was held out, from which prompts are enough
LEARNED_TAG = "PromptSeg.LearnedTag"
LEARNED_AGREED = "PromptSeg.HeldOut"  # agreement with what was held out of the examples, 0..1; "" where nothing was
LEARNED_COUNT = "PromptSeg.Examples"  # how many volumes they learned from
SPECIALIZING_STOPPED = "Stopped; nothing was changed. With the same name, it goes on from there."


@dataclass(frozen=True)
class AppliedResult:
    """One applied result: number + 1 of the class where it was applied, the codes known, and the prompts.

    :param unlinked: whether the segmentation went on with no prompts then. Without them, and where it is not so, that
        is not known: the scene does not keep it.
    :param beneath: as ``applied``, what classes have where it says another one: segments may overlap.
    :param texts: the voxels of the images as the scene keeps them, where a thread has made that of them.
    """

    applied: sitk.Image
    strokes: sitk.Image
    prompts: Optional[Prompts] = None
    unlinked: bool = False
    beneath: tuple[sitk.Image, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> dict[str, sitk.Image]:
        """As the scene keeps them; an earlier version reads the first two."""
        beneath = {f"{_BENEATH}{index}": each for index, each in enumerate(self.beneath)}
        return {"applied": self.applied, "strokes": self.strokes, **beneath}

    @classmethod
    def read(cls, images: Mapping[str, sitk.Image]) -> AppliedResult:
        """Of :attr:`images`, of any version; which prompts there were is not known."""
        applied, strokes = images["applied"], images.get("strokes")
        beneath = tuple(each for key, each in sorted(images.items()) if key.startswith(_BENEATH))
        return cls(applied, applied * 0 if strokes is None else strokes, beneath=beneath)

    @property
    def layers(self) -> list[sitk.Image]:
        """What was applied, each of them with voxels."""
        return [each for each in (self.applied, *self.beneath) if sitk.GetArrayViewFromImage(each).any()]

    def packed(self) -> AppliedResult:
        """With its texts; for any thread."""
        return replace(self, texts={key: stored_results.packed(image) for key, image in self.images.items()})


def labels_of(painted: SegmentSnapshot, numbered: Mapping[str, int]) -> list[sitk.Image]:
    """What segments hold, number + 1 of the class; none where that is nothing."""
    held = {each: number + 1 for each, number in numbered.items() if not painted.empty(each)}
    return [painted.labels(held)] if held else []


def applied_before(
    before: Optional[AppliedResult], numbered: Mapping[str, int], giving: SegmentSnapshot, now: SegmentSnapshot
) -> list[sitk.Image]:
    """What was applied of classes that are not written now: what was painted and erased of them since stays a
    correction, and only what they gave way to what is written does not become one.

    :param numbered: segment ID -> number of the class.
    :param giving: the segments that gave way, as they were before; ``now``: as they are.
    """
    if before is None:  # what they were is not known
        return [image for each in numbered.items() for image in labels_of(now, dict([each]))]
    found = []
    for layer in before.layers:
        grid, applied = Grid.of(layer), sitk.GetArrayViewFromImage(layer)
        kept = [number + 1 for number in numbered.values() if number < applied.max()]
        table = np.zeros(int(applied.max()) + 1, applied.dtype)
        table[kept] = kept
        labels = table[applied]
        for each in giving.segments:
            if each in numbered:
                then, left = (one.masks([each], grid)[each] for one in (giving, now))
                labels[then & ~left & (labels == numbered[each] + 1)] = 0
        found.append(grid.image(labels))
    return found


class AppliedResults:
    """Results by their tag. The newest also lives in the scene, so that an .mrb continues where it stopped."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, AppliedResult] = OrderedDict()
        self._places: dict[str, stored_results.Place] = {}
        self._owners: dict[str, str] = {}  # tag -> ID of the segmentation that it was applied to
        self._stored: dict[str, str] = {}  # ID of a segmentation -> the tag of what the scene keeps with it

    @staticmethod
    def new_tag() -> str:
        return uuid.uuid4().hex

    def add(self, segmentation_node, tag: str, result: AppliedResult) -> None:
        """Remember a result; the oldest of the segmentation go, and of all where these are too many."""
        owner = segmentation_node.GetID() or ""
        self._results[tag], self._owners[tag] = result, owner
        own = [each for each, other in self._owners.items() if other == owner]
        for each in own[:-_KEPT]:
            self._forget(each)
        while len(self._results) > _KEPT_IN_ALL:
            earlier = list(self._results)[:-1]
            self._forget(next(filter(self._is_all_in_scene, earlier), earlier[0]))

    def _is_all_in_scene(self, tag: str) -> bool:
        """Whether the scene keeps all that there is of a segmentation, as after a batch: a single result."""
        owner = self._owners[tag]
        return self._stored.get(owner) == tag and list(self._owners.values()).count(owner) == 1

    def _forget(self, tag: str) -> None:
        for each in (self._results, self._owners, self._places):
            each.pop(tag, None)

    def of(self, segmentation_node) -> Optional[AppliedResult]:
        """The result that a segmentation descends from, whatever was undone, moved or reopened; None for none."""
        tag = current_tag(segmentation_node)
        if not tag:
            return None
        if tag not in self._results:
            kept = stored_results.read_memory(segmentation_node)
            if segmentation_node.GetAttribute(_ATTRIBUTE) != tag or "applied" not in kept.images:
                return None
            self._stored[segmentation_node.GetID()] = tag
            self.add(segmentation_node, tag, AppliedResult.read(kept.images))
            if kept.place is not None:
                self._places[tag] = kept.place
        self._follow(tag, segmentation_node)
        return self._results[tag]

    def write(self, segmentation_node) -> None:
        """Bring what the scene keeps up to date with the segmentation's tag."""
        tag = current_tag(segmentation_node)
        if tag not in self._results:
            return
        self._follow(tag, segmentation_node)
        if segmentation_node.GetAttribute(_ATTRIBUTE) == tag:
            return
        result = self._results[tag]
        stored_results.write_memory(segmentation_node, result.images, result.texts, self._places[tag])
        segmentation_node.SetAttribute(_ATTRIBUTE, tag)
        self._stored[segmentation_node.GetID()] = tag

    def _follow(self, tag: str, segmentation_node) -> None:
        """Move a result's images, which lie in the world, with the segmentation."""
        known = segmentation_node.GetSegmentation().GetSegmentIDs()
        ids = [each for each in known if segment_tags.tag(segmentation_node, each, TAG) == tag]
        place = stored_results.Place.of(segmentation_node, ids)
        before = self._places.setdefault(tag, place)
        if before.moved_to(place):
            result = self._results[tag]
            values = {each: number + 1 for each, number in numbers(segmentation_node).items() if each in ids}
            images = stored_results.followed(segmentation_node, result.images, before, place, values)
            now = AppliedResult.read(images)
            self._results[tag] = replace(result, applied=now.applied, strokes=now.strokes, beneath=now.beneath)
        self._places[tag] = place


_ATTRIBUTE = "PromptSeg.Memory"
_COUNT = "PromptSeg.Numbers"


def _tagged(segmentation_node) -> Sequence[str]:
    """IDs of the segments whose tags count: none where no result came, as copied segments bring another node's tags.

    Not ``segments()``: that looks up whether each is empty, which takes its time, and this is asked all the time.
    """
    if segmentation_node.GetAttribute(_COUNT) is None:
        return ()
    return segmentation_node.GetSegmentation().GetSegmentIDs()


def current_tag(segmentation_node) -> str:
    """The tag of the last result that was applied and not undone; "" where there is none."""
    for segment_id in _tagged(segmentation_node):
        tag = segment_tags.tag(segmentation_node, segment_id, TAG)
        if tag:
            return tag
    return ""


def next_number(segmentation_node) -> int:
    """The number of the next new class; that of a deleted segment is not given again: its strokes are remembered."""
    text = segmentation_node.GetAttribute(_COUNT) or ""
    return max(_number(text) or 0, 1 + max(numbers(segmentation_node).values(), default=-1))


def note_numbers(segmentation_node, taken: Iterable[int]) -> None:
    """Note that numbers were given."""
    top = max([next_number(segmentation_node), *(1 + number for number in taken)])
    segmentation_node.SetAttribute(_COUNT, str(top))


def numbers(segmentation_node) -> dict[str, int]:
    """Segment ID -> the number of its class, for segments that have one; of copies, the first has it."""
    found: dict[str, int] = {}
    for segment_id in _tagged(segmentation_node):
        number = _number(segment_tags.tag(segmentation_node, segment_id, NUMBER))
        if number is not None and number not in found.values():
            found[segment_id] = number
    return found


def _number(text: str) -> Optional[int]:
    """The number of a class as it was noted; None for anything else that a scene may hold there."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else None


def learned_node(segmentation: Any) -> Any:
    """The node of prompts for other volumes; None without one."""
    return segmentation.GetNodeReference(LEARNED_ROLE)


def is_learned(segmentation: Any) -> bool:
    """Whether there are prompts for other volumes that were tuned on what is applied now."""
    node = learned_node(segmentation)
    return node is not None and node.GetAttribute(LEARNED_TAG) == current_tag(segmentation)


def take_learned(scene: Any, segmentation: Any, tag: str, event: Event) -> list[str]:
    """Put prompts for other volumes that came into the scene, in place of those that the segmentation had of an earlier
    result; gives what to say of them, with their notes.

    :param tag: of the result that they were tuned on.
    """
    prompts, node = Taught.unpack(event.values, event.arrays).prompts, learned_node(segmentation)
    if node is None or node.GetNodeReference(_LEARNER_ROLE) not in (None, segmentation):
        node = prompt_nodes.add_prompts(scene, prompts, f"{segmentation.GetName()} for other volumes")
        segmentation.SetNodeReferenceID(LEARNED_ROLE, node.GetID())
    else:
        prompt_nodes.update_prompts(node, prompts)
    node.SetNodeReferenceID(_LEARNER_ROLE, segmentation.GetID())
    _note_learned(node, prompts, tag)
    text = Sentence(
        "'{node}' have learned from {examples}; segment other volumes with them.",
        node=node.GetName(),
        examples=taught_by(prompts),
    )
    return [text, *notes_of(event.values.get("notes", []))]


def _note_learned(node: Any, prompts: Prompts, tag: str) -> None:
    """Remember of which result prompts for other volumes are, and how well they carry."""
    agreed = agreement_elsewhere(prompts)
    node.SetAttribute(LEARNED_TAG, tag)
    node.SetAttribute(LEARNED_AGREED, "" if agreed is None else f"{agreed:.3f}")
    node.SetAttribute(LEARNED_COUNT, str(len(examples_of(prompts))))


def why_no_model(segmentation: Any) -> str:
    """Why no model of its own is offered that is made of what was applied; "" where one is."""
    node = learned_node(segmentation)
    if node is None or not is_learned(segmentation):
        return "Let prompts learn from what was applied first; opening Other volumes does that."
    count, agreed = _figure(node.GetAttribute(LEARNED_COUNT)), _figure(node.GetAttribute(LEARNED_AGREED))
    if count is None or count < FEWEST_VOLUMES:
        return Sentence(
            "A model of its own needs {fewest} volumes to which a result was applied, and here are {count}; add "
            "further examples.",
            fewest=FEWEST_VOLUMES,
            count=int(count or 0),
        )
    if agreed is None or agreed >= ENOUGH_AGREEMENT:
        return "Prompts agree well with what was held out of the examples; no model of its own is needed."
    return ""


def model_offer(segmentation: Any) -> str:
    """Why a model of its own is worth its time, one sentence."""
    node = learned_node(segmentation)
    agreed = _figure(node.GetAttribute(LEARNED_AGREED)) if node is not None else None
    if agreed is None:
        return ""
    return Sentence(
        "Prompts agree to {agreed:.0%} with what was held out of the examples; a model of its own, trained further on "
        "them, may do better.",
        agreed=agreed,
    )


def _figure(text: Optional[str]) -> Optional[float]:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def check_model_name(called: str) -> str:
    """The name as it is used; raises :class:`PromptSegError` for one that is none or taken, or a folder that cannot
    be written."""
    called = called.strip()
    if not called:
        raise PromptSegError("Type a name for the new model first.")
    own.place_for(called)
    return called


def take_model(event: Event) -> list[str]:
    """What to say of the model that a worker made, with its notes; made on another machine, it is put into the folder
    of models. Raises :class:`PromptSegError` where that fails."""
    made = Specialized.unpack(event.values, event.arrays)
    entry = catalogue.find_sha256(made.sha256) or own.take(made.called, made.files)
    text = Sentence("The model '{title}' is in the list of models; choose it to segment with it.", title=entry.title)
    return [text, *made.notes]

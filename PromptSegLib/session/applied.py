"""What was applied to a segmentation and what was known then, by the tag that undo and redo bring back."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import Iterable, Mapping, Optional, Sequence

import SimpleITK as sitk

from ..prompts.store import Prompts
from ..scene import segment_tags, stored_results
from ..scene.placement import label_of

TAG = "Applied"
NUMBER = "Number"  # the class's number, see annotation.partial_labels
CLASS = "Class"  # the class's name in the prompts
_KEPT = 22  # more than can be undone, here and in the editor


@dataclass(frozen=True)
class AppliedResult:
    """One applied result: number + 1 of the class where it was applied, the codes known, and the prompts.

    :param texts: the voxels of both images as the scene keeps them, where a thread has made that of them.
    """

    applied: sitk.Image
    strokes: sitk.Image
    prompts: Optional[Prompts] = None
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def images(self) -> dict[str, sitk.Image]:
        return {"applied": self.applied, "strokes": self.strokes}

    def packed(self) -> AppliedResult:
        """With its texts; for any thread."""
        return replace(self, texts={key: stored_results.packed(image) for key, image in self.images.items()})


class AppliedResults:
    """Results by their tag. The newest also lives in the scene, so that an .mrb continues where it stopped."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, AppliedResult] = OrderedDict()
        self._places: dict[str, stored_results.Place] = {}

    @staticmethod
    def new_tag() -> str:
        return uuid.uuid4().hex

    def add(self, tag: str, result: AppliedResult) -> None:
        self._results[tag] = result
        while len(self._results) > _KEPT:
            oldest, _ = self._results.popitem(last=False)
            self._places.pop(oldest, None)

    def of(self, segmentation_node) -> Optional[AppliedResult]:
        """The result that a segmentation descends from, whatever was undone, moved or reopened; None for none."""
        tag = current_tag(segmentation_node)
        if not tag:
            return None
        if tag not in self._results:
            kept = stored_results.read_memory(segmentation_node)
            if segmentation_node.GetAttribute(_ATTRIBUTE) != tag or "applied" not in kept.images:
                return None
            strokes = kept.images.get("strokes")
            if strokes is None:
                strokes = kept.images["applied"] * 0
            self.add(tag, AppliedResult(kept.images["applied"], strokes))
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

    def _follow(self, tag: str, segmentation_node) -> None:
        """Move a result's images, which lie in the world, with the segmentation when its transform changed."""
        known = segmentation_node.GetSegmentation().GetSegmentIDs()
        ids = [each for each in known if segment_tags.tag(segmentation_node, each, TAG) == tag]
        place = stored_results.Place.of(segmentation_node, ids)
        before = self._places.setdefault(tag, place)
        if before.moved_to(place):
            result, what = self._results[tag], label_of(segmentation_node)
            applied, strokes = (
                stored_results.moved(each, before, place, what) for each in (result.applied, result.strokes)
            )
            self._results[tag] = replace(result, applied=applied, strokes=strokes)
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

"""Classes are called as their segments, also when those were renamed meanwhile."""

from __future__ import annotations

from typing import Any, Iterable, Mapping, Sequence

from ..annotation.classes import check_names, is_name, matching_name
from ..errors import PromptSegError
from ..prompts.store import Prompts
from ..scene import links
from ..scene.segmentations import Segment, segments
from .memory import CLASS, numbers


def called_as_now(prompts: Prompts, segmentation: Any, tuned: Iterable[Segment]) -> Prompts:
    """The prompts with the classes of renamed segments renamed."""
    return with_names(prompts, _renamed(prompts.names, segmentation, list(tuned)))


def names_now(names: Sequence[str], segmentation: Any) -> tuple[str, ...]:
    """What the classes of prompts, which a segmentation goes on with, are called now."""
    tuned = _to_be_named(segmentation)
    new = _renamed(names, segmentation, tuned) if tuned else {}
    return tuple(new.get(name, name) for name in names)


def _renamed(names: Sequence[str], segmentation: Any, tuned: Sequence[Segment]) -> dict[str, str]:
    """Old name -> new of the classes whose segments were renamed."""
    new: dict[str, str] = {}
    own = numbers(segmentation)
    for each in tuned:
        before = links.tag(segmentation, each.id, CLASS) if each.id in own else ""
        if before and before != each.name and before in names:
            new[before] = each.name
    # A new segment that is called as a class goes on with it.
    for each in tuned:
        found = matching_name(each.name, names)
        if found and found != each.name and found not in new and each.name not in new.values():
            new[found] = each.name
    return new


def with_names(prompts: Prompts, names: Mapping[str, str]) -> Prompts:
    """The prompts with classes called otherwise (old name -> new); one that has a new name already makes room."""
    names = dict(names)
    for name in prompts.names:
        if name not in names and matching_name(name, names.values()):
            free = (f"{name} (earlier{f' {count}' if count else ''})" for count in range(len(prompts.names) + 1))
            names[name] = next(each for each in free if each not in prompts.names and each not in names.values())
    return prompts.renamed(names) if names else prompts


def renamed_since(segmentation: Any, segment_ids: Mapping[str, str], given: Mapping[str, int]) -> dict[str, str]:
    """Old name -> new of the classes whose segments were renamed since a job began.

    :param segment_ids: class name -> ID of its segment; ``given``: class name -> the number of the class.

    Nothing where a class cannot have the new name, or two would look the same.
    """
    by_number = {number: segment_id for segment_id, number in numbers(segmentation).items()}
    ids = {**{name: by_number[number] for name, number in given.items() if number in by_number}, **segment_ids}
    now = {each.id: each.name for each in segments(segmentation)}
    names = {name: now[each] for name, each in ids.items() if each in now}
    try:
        check_names([*names.values(), *(set(given) - set(names))])
    except PromptSegError:
        return {}
    return {old: new for old, new in names.items() if old != new and is_name(new)}


def up_to_date(prompts: Prompts, segmentation: Any) -> Prompts:
    """The prompts that a segmentation goes on with, their classes called as the segments are now."""
    if segmentation is None:
        return prompts
    tuned = _to_be_named(segmentation)
    return called_as_now(prompts, segmentation, tuned) if tuned else prompts


def _to_be_named(segmentation: Any) -> list[Segment]:
    """The segments that classes are called as; none where their names are no names."""
    tuned = [each for each in segments(segmentation) if each.role == "tune"]
    try:
        check_names([each.name for each in tuned])
    except PromptSegError:
        return []
    return [each for each in tuned if is_name(each.name)]

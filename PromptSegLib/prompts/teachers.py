"""What prompts have learned from, in words."""

from __future__ import annotations

from typing import Any, Optional

from .store import Prompts

_MOST = 4  # names that are said


def taught_by(prompts: Prompts) -> str:
    """``what was painted on A`` or ``the complete segmentations of A and B``; "" for records that do not say.

    Prompts come from anywhere, so nothing of their records is taken for granted.
    """
    strokes: list[str] = []
    complete: list[str] = []
    for record in prompts.tuning.values():
        examples: Any = record.get("examples") if isinstance(record, dict) else None
        for each in examples if isinstance(examples, list) else []:
            if isinstance(each, dict) and isinstance(each.get("name"), str) and isinstance(each.get("complete"), bool):
                (complete if each["complete"] else strokes).append(each["name"][:60])
    parts = []
    if complete:
        parts.append(f"the complete segmentation{'s' if len(set(complete)) > 1 else ''} of {_listed(complete)}")
    if strokes:
        parts.append(f"what was painted on {_listed(strokes)}")
    return " and ".join(parts)


def examples_of(prompts: Prompts) -> list[dict[str, Any]]:
    """What the records say of the examples, the names of each once; entries that make no sense are left out."""
    found: dict[str, dict[str, Any]] = {}
    for record in prompts.tuning.values():
        examples: Any = record.get("examples") if isinstance(record, dict) else None
        for each in examples if isinstance(examples, list) else []:
            if isinstance(each, dict) and isinstance(each.get("name"), str):
                found[each["name"]] = each
    return list(found.values())


def agreement_elsewhere(prompts: Prompts) -> Optional[float]:
    """The least agreement with what prompts did not learn from, 0..1: a whole example that was left out where that
    was tried, else boxes of all; None where nothing was held out."""
    found: list[float] = []
    for record in prompts.tuning.values():
        if not isinstance(record, dict):
            continue
        left_out, boxes = record.get("left_out"), record.get("held_out")
        if isinstance(left_out, dict):
            values: Any = left_out.values()
            best = [float(each) for each in values if _is_share(each)]
            found += [max(best)] if best else []
        elif isinstance(boxes, list) and boxes and _is_share(boxes[-1]):
            found.append(float(boxes[-1]))
    return min(found, default=None)


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _listed(names: list[str]) -> str:
    once = list(dict.fromkeys(names))
    more = [f"{len(once) - _MOST} more"] if len(once) > _MOST else []
    *others, last = [*once[:_MOST], *more]
    return f"{', '.join(others)} and {last}" if others else last

"""What prompts have learned from, in words."""

from __future__ import annotations

from typing import Any

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


def _listed(names: list[str]) -> str:
    once = list(dict.fromkeys(names))
    more = [f"{len(once) - _MOST} more"] if len(once) > _MOST else []
    *others, last = [*once[:_MOST], *more]
    return f"{', '.join(others)} and {last}" if others else last

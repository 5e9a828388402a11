"""Numbers of the self-supervision, and how settings are taken from JSON; needs no torch."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

_LARGEST = 2**53  # beyond it floats skip whole numbers; keeps infinity and NaN out as well
_WORDS = {
    bool: ("true or false", ""),
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "finite numbers"),
    str: ("a text", "texts"),
}


def settings_of(cls: type, values: Any, whose: str = "") -> dict[str, Any]:
    """Arguments for the dataclass ``cls`` from a JSON object, as its annotations want them; lists become tuples.

    :param whose: how a sentence goes on after the name of a setting, such as `` of the network``.
    :raises ValueError: no object, an unknown or missing setting, one of another type, a number that is not finite.
    """
    if not isinstance(values, dict):
        raise ValueError(f"the settings{whose} must be an object")
    hints = get_type_hints(cls)
    unknown = [str(key) for key in values if key not in hints]
    if unknown:
        raise ValueError(f"there are unknown settings{whose}: {', '.join(sorted(unknown))}")
    for each in fields(cls):
        if each.name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ValueError(f'"{each.name}"{whose} is missing')
    settings: dict[str, Any] = {}
    for key, value in values.items():
        if not _fits(value, hints[key]):
            raise ValueError(f'"{key}"{whose} must be {_words(hints[key])}')
        settings[key] = tuple(value) if isinstance(value, list) else float(value) if hints[key] is float else value
    return settings


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value, as JSON has it, is of an annotated type."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Union:
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        wanted = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(wanted) == len(value) and all(map(_fits, value, wanted))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    if kind in (int, float):  # true and false are no numbers
        return type(value) in (int, kind) and abs(value) <= _LARGEST
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    """An annotated type in plain words."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Union:
        return " or ".join(_words(part) for part in parts if part is not type(None))
    if origin is tuple:
        count = "" if parts[-1] is ... else f"{len(parts)} "
        return f"a list of {count}{_WORDS.get(parts[0], ('', 'objects'))[1]}"
    if origin is dict:
        kinds = [part for part in (get_args(parts[1]) or parts[1:]) if part in _WORDS]
        return f"an object of names and {_WORDS[kinds[0]][1]}"
    return _WORDS.get(kind, ("an object", ""))[0]


@dataclass(frozen=True)
class Assignment:
    """How student features are assigned to a teacher's prototypes (docs/methods.md#pretraining), lengths in mm.

    :param weight: of this loss against the segmentation loss.
    :param reduction: features are averaged to ``1 / reduction`` of their grid before they are compared.
    :param seed_stride: prototypes start from every ``seed_stride``-th voxel of the feature grid.
    :param fwhm: full width at half maximum of the weight with which far features enter a prototype.
    :param max_distance: a position that is farther than this from every position of the teacher is left out.
    """

    weight: float = 0.1
    reduction: int = 2
    seed_stride: int = 4
    iterations: int = 3
    teacher_temperature: float = 0.033
    student_temperature: float = 0.066
    fwhm: float = 64.0
    max_distance: float = 6.5

    @classmethod
    def from_dict(cls, values: dict) -> Assignment:
        """From a JSON object; unknown keys and values that make no sense raise ``ValueError``."""
        settings = settings_of(cls, values, " of the prototype assignment")
        for key, value in settings.items():
            if not (value > 0 or (key == "weight" and value == 0)):
                raise ValueError(f'"{key}" of the prototype assignment must be above 0')
        return cls(**settings)

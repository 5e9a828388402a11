"""The prompts of one class, and reading those of all classes of a file, which anybody may have written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

import numpy as np

from ..annotation.classes import MAX_CLASSES, ClassInfo
from ..network.config import NetworkConfig, outputs_of

_MAX_TOKEN = 65504.0  # the largest number of half precision, in which accelerators compute


@dataclass(frozen=True)
class ClassPrompts:
    """One class: how it is shown, its tensors (names and shapes as in ``NetworkConfig.prompt_shapes``), its group.

    Classes of one group were tuned together and share a pass through the network, in which
    they compete; classes of different groups never see each other. So tuning one group
    leaves the output of every other group bit-identical.

    A class that was tuned again in a new group stays behind in its old one, retired: it gives
    no output, but its tokens keep the others' pass exactly as it was.
    """

    info: ClassInfo
    tensors: Mapping[str, np.ndarray]
    group: int = 0
    retired: bool = False


def classes_of(
    entries: Sequence[dict], tensors: dict[str, np.ndarray], network: NetworkConfig, mode: str, method: str
) -> tuple[ClassPrompts, ...]:
    """The classes of a file, whose tensors are taken out of ``tensors``; raises ``ValueError`` for what cannot be."""
    if not 1 <= len(entries) <= MAX_CLASSES:
        raise ValueError(f"{len(entries)} classes")
    classes, names, values = [], set(), set()
    outputs: dict[int, str] = {}
    for index, entry in enumerate(entries):
        info = ClassInfo.from_dict(entry)
        group, retired = entry["group"], entry.get("retired", False)
        if type(group) is not int or not 0 <= group < 2**31 or type(retired) is not bool:
            raise ValueError("a class has no group")
        if not retired:
            if info.name in names or info.value in values:
                raise ValueError("a class name or label value is used twice")
            names.add(info.name)
            values.add(info.value)
        prefix = f"{index}/"
        found = outputs_of(name[len(prefix) :] for name in tensors if name.startswith(prefix))
        if outputs.setdefault(group, found) != found:
            raise ValueError("classes of one group have output tokens for other maps")
        own = _taken(tensors, index, network.prompt_shapes(mode, method, found))
        classes.append(ClassPrompts(info, own, group, retired))
    if not names:
        raise ValueError("every class is retired")
    return tuple(classes)


def record_of_renamed(record: Any, names: Mapping[str, str]) -> Any:
    """What a file says of a group's tuning, which may be anything, with classes called otherwise (old name -> new)."""
    known = record.get("classes") if isinstance(record, dict) else None
    if not names or not isinstance(known, dict):
        return record
    # What a retired class of the new name has left is not what the renamed one is made of.
    new = set(names.values())
    return {**record, "classes": {names.get(key, key): known[key] for key in known if key in names or key not in new}}


def _taken(tensors: dict[str, np.ndarray], index: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Take what a class has out of a file's tensors, float32; raises ``ValueError`` for what it cannot have."""
    own = {}
    for name, shape in shapes.items():
        tensor = tensors.pop(f"{index}/{name}")
        if tensor.shape != shape or tensor.dtype not in (np.float32, np.float16):
            raise ValueError(f"tensor {name} has the wrong shape or type")
        if not (np.abs(tensor) <= _MAX_TOKEN).all():  # false for NaN
            raise ValueError(f"tensor {name} holds values that are not finite or out of range")
        own[name] = tensor.astype(np.float32)
    return own

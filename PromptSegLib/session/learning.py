"""Prompts for other volumes, tuned on what was applied: a whole segmentation, corrected and accepted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Mapping, Optional, Sequence

import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..prompts.store import Prompts
from ..prompts.teachers import agreement_elsewhere, examples_of
from ..scene import prompt_nodes
from ..worker import contract
from . import requests
from .asking import Request
from .memory import Version, current_tag
from .planning import Part, plan_tuning

KIND = contract.Learn.name
LONGER = 2.0  # than a tuning on strokes, which somebody waits for
_LEARNED_ROLE = "PromptSegLearned"
_TAG = "PromptSeg.LearnedTag"
AGREED = "PromptSeg.HeldOut"  # agreement with what was held out of the examples, 0..1; "" where nothing was
COUNT = "PromptSeg.Examples"  # how many volumes they learned from


@dataclass(frozen=True)
class Lessons:
    """What prompts for other volumes are tuned on, off the nodes.

    :param parts: the current volume first.
    :param segment_ids: class name -> ID of its segment.
    """

    parts: list[Part]
    settings: dict[str, Any]
    infos: Mapping[str, ClassInfo]
    segment_ids: dict[str, str]
    notes: tuple[str, ...] = field(default=())


def lessons_of(
    parameters: Any, volume: Any, segmentation: Any, version: Optional[Version], examples: Sequence[tuple[Any, Any]]
) -> Lessons:
    """Take what was applied off the nodes; further examples teach where a result was applied to them, too.

    Raises :class:`PromptSegError` as :func:`~.planning.plan_tuning` does.
    """
    applied = [(one, other) for one, other in examples if current_tag(other)]
    plan = plan_tuning(parameters, volume, segmentation, version, applied)
    settings = {**plan.settings, "seconds": LONGER * plan.settings["seconds"]}
    return Lessons(plan.parts, settings, plan.infos, plan.segment_ids, plan.notes)


def request_of(lessons: Lessons, common: Mapping[str, Any]) -> Request:
    """What to ask of the worker; for any thread. Raises :class:`PromptSegError` where all segments are empty.

    :param common: the model and the device.
    """
    known = [part.compose("volume") for part in lessons.parts]
    taught = {name for part, each in zip(lessons.parts, known) for name in part.taught(each)}
    names = [name for name in lessons.parts[0].names.values() if name in taught]
    values = {name: value for value, name in enumerate(names, 1)}
    taken, examples = list(values.values()), []
    for part, each in zip(lessons.parts, known):
        own = {number: values[name] for number, name in part.names.items() if name in values}
        example = requests.annotated(part.image, part.name, each.codes, own, taken, True)
        examples.append(replace(example, painted=sitk.Cast(each.strokes != 0, sitk.sitkUInt8)))
    request = contract.Learn(
        **common,
        classes=values,
        examples=examples,
        settings=lessons.settings,
        appearance=[replace(lessons.infos[name], value=values[name]) for name in names],
    )
    images = [part.image for part in lessons.parts]
    ids = {name: lessons.segment_ids[name] for name in names}
    return Request(request, images, tuple(names), ids, {}, known[0], lessons.notes)


def node_of(segmentation: Any) -> Any:
    """The node of prompts for other volumes; None without one."""
    return segmentation.GetNodeReference(_LEARNED_ROLE)


def is_learned(segmentation: Any) -> bool:
    """Whether there are prompts for other volumes that were tuned on what is applied now."""
    node = node_of(segmentation)
    return node is not None and node.GetAttribute(_TAG) == current_tag(segmentation)


def keep(scene: Any, segmentation: Any, prompts: Prompts, tag: str) -> Any:
    """Put prompts for other volumes into the scene, in place of those tuned on an earlier result; gives their node.

    :param tag: of the result that they were tuned on.
    """
    node = segmentation.GetNodeReference(_LEARNED_ROLE)
    if node is None:
        node = prompt_nodes.add_prompts(scene, prompts, f"{segmentation.GetName()} for other volumes")
        segmentation.SetNodeReferenceID(_LEARNED_ROLE, node.GetID())
    else:
        prompt_nodes.update_prompts(node, prompts)
    node.SetAttribute(_TAG, tag)
    agreed = agreement_elsewhere(prompts)
    node.SetAttribute(AGREED, "" if agreed is None else f"{agreed:.3f}")
    node.SetAttribute(COUNT, str(len(examples_of(prompts))))
    return node

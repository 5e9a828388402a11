"""From a click to the worker's job: what is on the main thread's nodes, what a thread makes of it, what is sent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from ..errors import PromptSegError
from ..prompts.classes import ClassInfo, is_name
from ..prompts.store import Prompts
from ..scene import links, painting
from ..scene.segmentations import Segment, segments
from ..worker.client import Sent, Worker
from ..worker.packing import packed_infos, packed_prompts
from . import prompts_list, requests
from .codes import Known, compose
from .memory import CLASS, Version, next_number, numbers
from .running import Run

RETUNE_SHARE = 1 / 3


@dataclass(frozen=True)
class Part:
    """One volume with what is painted on it, taken at the click.

    :param classes: segment ID -> number of the class in this segmentation.
    :param names: number -> name of the class.
    """

    name: str
    image: Sent
    painted: painting.Painting
    classes: dict[str, int]
    names: dict[int, str]
    background: list[str]
    version: Optional[Version]

    def taught(self, known: Known) -> list[str]:
        """Names of the classes that are known somewhere."""
        return [self.names[number] for number in known.painted]

    def any(self, segment_ids) -> bool:
        """Whether anything is painted in some segments."""
        return any(not self.painted.empty(each) for each in segment_ids)

    def compose(self, unpainted: str) -> Known:
        applied, strokes = (self.version.applied, self.version.strokes) if self.version else (None, None)
        grid = requests.grid_of(self.image.values["grid"])
        return compose(self.painted, self.classes, self.background, grid, unpainted, applied, strokes)


@dataclass(frozen=True)
class Composed:
    """A plan with what is known of each of its volumes."""

    plan: Plan
    known: list[Optional[Known]]


@dataclass(frozen=True)
class Plan:
    """Everything a job needs, off the nodes.

    :param start: prompts to go on from, their classes called as the segments are now; None to begin anew.
    :param prompts: to segment with, instead of tuning.
    """

    parts: list[Part]
    settings: dict[str, Any]
    unpainted: str = "unknown"
    start: Optional[Prompts] = None
    prompts: Optional[Prompts] = None
    infos: dict[str, ClassInfo] = field(default_factory=dict)
    segment_ids: dict[str, str] = field(default_factory=dict)

    def compose(self) -> Composed:
        """What is known of each volume; slow, for a thread. Raises :class:`PromptSegError` when nothing is painted."""
        if self.prompts is not None:
            part = self.parts[0]
            return Composed(self, [part.compose("unknown") if part.any(part.classes) else None])
        # A further volume on which nothing is painted yet teaches nothing.
        first, *others = self.parts
        known = [
            part.compose(self.unpainted) if part.any([*part.classes, *part.background]) else None for part in others
        ]
        return Composed(self, [first.compose(self.unpainted), *known])

    @classmethod
    def for_prompts(
        cls, parameters, volume, segmentation, version: Optional[Version], prompts: Prompts, ids: Mapping[str, str]
    ) -> Plan:
        """To segment one volume with prompts; what is painted in segments of the same names is grown and kept."""
        tuned = _tuned(segmentation, ids.values()) if segmentation is not None else []
        part = _part(volume, segmentation, version, {each.id: each for each in tuned})
        return cls([part], {}, prompts=prompts, segment_ids=dict(ids))


def plan_tuning(
    parameters, volume, segmentation, version: Optional[Version], examples: Sequence[tuple[Any, Any]]
) -> Plan:
    """Take all that a tuning needs off the nodes: quick, on the main thread.

    Raises :class:`PromptSegError` for segments that cannot be told apart, or volumes that cannot be used.
    """
    tuned = {each.id: each for each in _tuned(segmentation)}
    names = [each.name for each in tuned.values()]
    for name in names:
        if names.count(name) > 1:
            raise PromptSegError(f"Two segments are called {name}; give each its own name.")
        if not is_name(name):
            raise PromptSegError("The name of a segment is empty, very long or has several lines; give it another.")
    start = version.prompts if version else None
    settings = {"mode": parameters.mode, "method": parameters.method, "seconds": float(parameters.seconds)}
    if start is not None:
        sha256 = prompts_list.sha256_of_model(parameters.model)
        fits = (start.sha256, start.mode, start.method) == (sha256, parameters.mode, parameters.method)
        start = _called_as_now(start, segmentation, tuned.values()) if fits else None
    parts = [_part(volume, segmentation, version, tuned)]
    for other_volume, other in examples:
        alike = {each.id: each for each in _tuned(other) if each.name in names}
        if alike:
            parts.append(_part(other_volume, other, None, alike))
    infos = {each.name: ClassInfo(each.name, 1, each.color, each.terminology) for each in tuned.values()}
    ids = {each.name: each.id for each in tuned.values()}
    return Plan(parts, settings, parameters.unpainted, start, None, infos, ids)


def submit(run: Run, composed: Composed, worker: Worker, common: Mapping[str, Any]) -> None:
    """Send the job and note in ``run`` what its result is for. Raises :class:`PromptSegError` when there is no job."""
    plan, first = composed.plan, composed.known[0]
    main = plan.parts[0]
    run.worker, run.key, run.painting = worker, main.image.key, main.painted
    if plan.prompts is not None:
        _submit_segmenting(run, composed, worker, common)
        return
    assert first is not None
    taught = {name for part, known in zip(plan.parts, composed.known) if known for name in part.taught(known)}
    held = {name: number for number, name in main.names.items() if name in taught}
    if not held:
        raise PromptSegError("Nothing is painted in the segments to tune; paint some voxels of a structure.")
    changed = {name for name, number in held.items() if number in first.changed}
    new = {name for name in held if plan.start is None or name not in plan.start.names}
    names = [name for name in held if name in changed | new] or list(held)
    start = plan.start
    values = _values(held, start)
    taken = [*values.values(), *(start.values.values() if start else ())]
    described: list[dict[str, Any]] = []
    arrays = {}
    for part, known in zip(plan.parts, composed.known):
        if known is None:
            continue
        own = {number: values[name] for number, name in part.names.items() if name in values}
        each, array = requests.example_values(
            part.image, part.name, known.codes, own, taken, plan.unpainted == "volume"
        )
        described.append(each)
        arrays[f"annotation{len(described) - 1}"] = array
    if start is not None:
        arrays["start"] = packed_prompts(start)
    again = start is not None and all(name in start.names for name in names)
    settings = {**plan.settings, "seconds": plan.settings["seconds"] * (RETUNE_SHARE if again else 1.0)}
    infos = [
        ClassInfo(name, values[name], info.color, info.terminology)
        for name, info in plan.infos.items()
        if name in names
    ]
    request = {
        **common,
        "settings": settings,
        "classes": {name: values[name] for name in names},
        "others": [value for name, value in values.items() if name not in names],
        "appearance": packed_infos(infos),
        "examples": described,
    }
    run.classes, run.known = tuple(names), first
    run.segment_ids = {name: plan.segment_ids[name] for name in names}
    run.numbers = {name: number for number, name in main.names.items()}
    run.job = worker.submit("tune", request, arrays, [part.image for part in plan.parts])


def _submit_segmenting(run: Run, composed: Composed, worker: Worker, common: Mapping[str, Any]) -> None:
    plan, known = composed.plan, composed.known[0]
    part, prompts = plan.parts[0], plan.prompts
    assert prompts is not None
    request: dict[str, Any] = {**common, "image": part.image.key}
    arrays = {"prompts": packed_prompts(prompts)}
    if known is not None:
        own = {number: prompts.values[name] for number, name in part.names.items() if name in prompts.values}
        taken = list(prompts.values.values())
        request["strokes"], arrays["annotation0"] = requests.example_values(
            part.image, part.name, known.codes, own, taken, False
        )
        run.known = known
    run.numbers = {name: number for number, name in part.names.items()}
    run.job = worker.submit("segment", request, arrays, [part.image])


def _tuned(segmentation, ids=None) -> list[Segment]:
    """The segments with the role ``tune``, or those of them with some IDs."""
    found = [each for each in segments(segmentation) if each.role == "tune"]
    return found if ids is None else [each for each in found if each.id in set(ids)]


def _part(volume, segmentation, version: Optional[Version], tuned: Mapping[str, Segment]) -> Part:
    image = requests.image_of(volume)
    if segmentation is None:
        nothing = painting.Painting("", np.eye(4), {})
        return Part(volume.GetName() or "volume", image, nothing, {}, {}, [], None)
    known = numbers(segmentation)
    free = next_number(segmentation)
    classes: dict[str, int] = {}
    for segment_id in tuned:
        if segment_id in known:
            classes[segment_id] = known[segment_id]
        else:
            classes[segment_id], free = free, free + 1
    background = [each.id for each in segments(segmentation) if each.role == "background"]
    painted = painting.snapshot(segmentation, volume, [*tuned, *background])
    names = {number: tuned[each].name for each, number in classes.items()}
    return Part(volume.GetName() or "volume", image, painted, classes, names, background, version)


def _called_as_now(prompts: Prompts, segmentation, tuned) -> Prompts:
    """The prompts with the classes of renamed segments renamed."""
    names, own = {}, numbers(segmentation)
    for each in tuned:
        before = links.tag(segmentation, each.id, CLASS) if each.id in own else ""
        if before and before != each.name and before in prompts.names:
            names[before] = each.name
    # A class whose segment was deleted makes room for one that now has its name.
    for name in prompts.names:
        if name not in names and name in names.values():
            free = (f"{name} (earlier{f' {count}' if count else ''})" for count in range(len(prompts.names) + 1))
            names[name] = next(each for each in free if each not in prompts.names and each not in names.values())
    return prompts.renamed(names) if names else prompts


def _values(names, start: Optional[Prompts]) -> dict[str, int]:
    """A label value for each class: its own in the prompts to go on from, else a free one."""
    known = start.values if start else {}
    free = iter(value for value in range(1, 65536) if value not in known.values())
    return {name: known[name] if name in known else next(free) for name in names}

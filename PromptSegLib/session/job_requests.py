"""From a plan to what is asked of the worker: slow, for a thread; it knows no node."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.partial_labels import PartialLabels, Unpainted, annotation_of, class_of, contradicted, flat
from ..errors import PromptSegError, Sentence
from ..imaging.geometry import Grid
from ..prompts.store import Prompts
from ..worker import contract
from ..worker.client import Sent
from .inputs import LEARNING_TAKES, Part, Plan

RETUNE_SHARE = 1 / 3
SPECIALIZING_TAKES = 8.0  # times the seconds of a tuning on strokes


@dataclass(frozen=True)
class Request:
    """A job for the worker, and what its result is for.

    :param classes: names of the classes whose result is wanted.
    :param segment_ids: class name -> ID of the segment that gets it.
    :param numbers: class name -> the number of the class in the segmentation.
    :param known: what the user said of the volume; None where nothing is painted.
    :param notes: sentences for the user: what of it does not count.
    """

    asked: contract.Request
    images: list[Sent]
    classes: tuple[str, ...]
    segment_ids: dict[str, str]
    numbers: dict[str, int]
    known: Optional[PartialLabels]
    notes: tuple[str, ...] = ()


def request_of(plan: Plan, common: Mapping[str, Any]) -> Request:
    """What to ask of the worker. Raises :class:`PromptSegError` when there is nothing to ask for.

    :param common: the model and the device.
    """
    return _segmenting(plan, common) if plan.prompts is not None else _tuning(plan, common)


def _tuning(plan: Plan, common: Mapping[str, Any]) -> Request:
    main, *others = plan.parts
    first = main.compose(plan.unpainted)
    # A further volume on which nothing is painted yet teaches nothing.
    painted = [part for part in others if part.any([*part.classes, *part.background])]
    known = [first, *(part.compose(plan.unpainted) for part in painted)]
    parts = [main, *painted]
    notes = [*plan.notes, *_overlaps(main, first, refuse=True)]
    notes += [note for part, each in zip(painted, known[1:]) for note in _overlaps(part, each, f"On {part.name}: ")]
    taught = {name for part, each in zip(parts, known) for name in part.taught(each)}
    held = {name: number for number, name in main.names.items() if name in taught}
    if not held:
        raise PromptSegError("Nothing is painted in the segments to tune; paint some voxels of a structure.")
    start = plan.start
    # What was tuned and is right stays as it is, bit for bit.
    new = {name for name, number in held.items() if number in first.changed or not start or name not in start.names}
    wanted = [name for name in held if name in new] or list(held)
    names = _with_companions(wanted, held, start)
    values = _values(held, start)
    taken = [*values.values(), *(start.values.values() if start else ())]
    examples = []
    for part, each in zip(parts, known):
        own = {number: values[name] for number, name in part.names.items() if name in values}
        complete = plan.unpainted == Unpainted.VOLUME
        examples.append(_annotated(part.image, part.name, each.codes, own, taken, complete))
    again = start is not None and all(name in start.names for name in names)
    applied = _applied(main)
    accepted = _accepted(main, applied, values) if applied is not None else None  # what nobody corrected is to stay
    request = contract.Tune(
        **common,
        classes={name: values[name] for name in names},
        examples=examples,
        settings={**plan.settings, "seconds": plan.settings["seconds"] * (RETUNE_SHARE if again else 1.0)},
        wanted=wanted,
        others=[value for name, value in values.items() if name not in names],
        appearance=[replace(plan.infos[name], value=values[name]) for name in names],
        start=start,
        accepted=accepted,
        grown=plan.grown,
    )
    return Request(
        request,
        [part.image for part in parts],
        tuple(wanted),
        {name: plan.segment_ids[name] for name in wanted},
        {name: number for number, name in main.names.items()},
        first,
        tuple(notes),
    )


def growing_of(plan: Plan) -> Optional[Request]:
    """What to ask of the worker so that it grows what is painted; None where a result was applied and is right so far.

    Raises :class:`PromptSegError` when nothing of a class is painted.
    """
    part = plan.parts[0]
    known = part.compose(plan.unpainted)
    names = part.taught(known)
    if not names:
        raise PromptSegError("Nothing is painted in the segments to tune; paint some voxels of a structure.")
    values = _values(part.names.values(), None)
    own = {number: values[name] for number, name in part.names.items() if name in names}
    complete = plan.unpainted == Unpainted.VOLUME
    example = _annotated(part.image, part.name, known.codes, own, list(values.values()), complete)
    applied = _applied(part)
    if applied is not None and not contradicted(known.codes, applied):
        return None
    accepted = _accepted(part, applied, values) if applied is not None else None
    request = contract.Grow(
        classes={name: values[name] for name in names},
        example=example,
        appearance=[replace(plan.infos[name], value=values[name]) for name in names],
        accepted=accepted,
    )
    ids = {name: plan.segment_ids[name] for name in names}
    numbered = {name: number for number, name in part.names.items()}
    return Request(request, [part.image], tuple(names), ids, numbered, known)


def learning_of(plan: Plan, common: Mapping[str, Any]) -> Request:
    """What to ask of the worker so that it tunes prompts for other volumes on what was applied.

    Raises :class:`PromptSegError` where all segments are empty.

    :param common: the model and the device.
    """
    known = [part.compose(Unpainted.VOLUME) for part in plan.parts]
    taught = {name for part, each in zip(plan.parts, known) for name in part.taught(each)}
    names = [name for name in plan.parts[0].names.values() if name in taught]
    values = {name: value for value, name in enumerate(names, 1)}
    taken, examples = list(values.values()), []
    for part, each in zip(plan.parts, known):
        own = {number: values[name] for number, name in part.names.items() if name in values}
        example = _annotated(part.image, part.name, each.codes, own, taken, True)
        examples.append(replace(example, painted=sitk.Cast(each.strokes != 0, sitk.sitkUInt8)))
    request = contract.Learn(
        **common,
        classes=values,
        examples=examples,
        settings=plan.settings,
        appearance=[replace(plan.infos[name], value=values[name]) for name in names],
    )
    images = [part.image for part in plan.parts]
    ids = {name: plan.segment_ids[name] for name in names}
    return Request(request, images, tuple(names), ids, {}, known[0], plan.notes)


def model_of(plan: Plan, called: str, common: Mapping[str, Any]) -> Request:
    """What to ask of the worker so that it makes a model; for any thread.

    Raises :class:`PromptSegError` where all segments are empty.

    :param plan: of a learning.
    :param common: the model and the device.
    """
    learning = learning_of(plan, common)
    asked = learning.asked
    assert isinstance(asked, contract.Learn)
    given = {each.name: getattr(asked, each.name) for each in fields(contract.Learn)}
    given["settings"] = {"seconds": plan.settings["seconds"] / LEARNING_TAKES * SPECIALIZING_TAKES}
    return replace(learning, asked=contract.Specialize(**given, called=called, title=called))


def _applied(part: Part) -> Optional[list[sitk.Image]]:
    """The result that is corrected; None without one."""
    return (part.result.layers or None) if part.result else None


def _accepted(part: Part, applied: Sequence[sitk.Image], values: Mapping[str, int]) -> sitk.Image:
    """The result that is corrected, with the values of the classes; 0 for those that have none."""
    own = []
    for each in applied:
        numbers = sitk.GetArrayViewFromImage(each)
        table = np.zeros(max([int(numbers.max()), *(number + 1 for number in part.names)]) + 1, np.uint16)
        for number, name in part.names.items():
            table[number + 1] = values.get(name, 0)
        own.append(Grid.of(each).image(table[numbers]))
    return flat(own)


def _overlaps(part: Part, known: PartialLabels, where: str = "", refuse: bool = False) -> list[str]:
    """What is said of segments that overlap: which of them the voxels count for.

    :param refuse: raise :class:`PromptSegError` when nothing of a class is left.
    """
    said: list[str] = []
    for number, code, count in known.hidden:
        other = class_of(code)
        name, above = part.names[number], "background" if other is None else part.names.get(other, "another segment")
        if number in known.painted:
            voxels = f"{count} voxel{'s' if count > 1 else ''}"
            said.append(
                Sentence(
                    "{where}{name} and {above} overlap; there ({voxels}) it counts as {above}.",
                    where=where,
                    name=name,
                    above=above,
                    voxels=voxels,
                )
            )
        elif refuse:
            raise PromptSegError(
                "All that is painted in {name} lies under {above}, and a voxel counts for one segment "
                "only; erase it from {above}, or give {above} the role Ignore.",
                name=name,
                above=above,
            )
        else:
            said.append(
                Sentence(
                    "{where}all that is painted in {name} lies under {above} and is not taught.",
                    where=where,
                    name=name,
                    above=above,
                )
            )
    return said


def _with_companions(wanted: list[str], held: Mapping[str, int], start: Optional[Prompts]) -> list[str]:
    """The classes to tune for those that are wanted: also those that were tuned together with one of them.

    Their tokens attend to each other in one pass; a class that is taken out of it is worse at first, and a short
    retuning does not make up for that. Only the wanted ones' segments change.
    """
    groups = start.groups() if start is not None else []
    joined = [{each.info.name for each in group if not each.retired} for group in groups]
    together = {name for names in joined if names & set(wanted) for name in names}
    return [name for name in held if name in together or name in wanted]


def _segmenting(plan: Plan, common: Mapping[str, Any]) -> Request:
    part, prompts = plan.parts[0], plan.prompts
    assert prompts is not None
    known = part.compose(Unpainted.UNKNOWN) if part.any(part.classes) else None
    strokes = None
    if known is not None:
        own = {number: prompts.values[name] for number, name in part.names.items() if name in prompts.values}
        strokes = _annotated(part.image, part.name, known.codes, own, list(prompts.values.values()), False)
    numbers = {name: number for number, name in part.names.items()}
    names, notes = tuple(prompts.names), tuple(_overlaps(part, known)) if known is not None else ()
    request = contract.Segment(**common, image=part.image.key, prompts=prompts, strokes=strokes)
    return Request(request, [part.image], names, plan.segment_ids, numbers, known, notes)


def _values(names, start: Optional[Prompts]) -> dict[str, int]:
    """A label value for each class: its own in the prompts to go on from, else a free one."""
    known = start.values if start else {}
    free = iter(value for value in range(1, 65536) if value not in known.values())
    return {name: known[name] if name in known else next(free) for name in names}


def _annotated(
    image: Sent, name: str, codes: sitk.Image, values: Mapping[int, int], taken: Sequence[int], complete: bool
) -> contract.Annotated:
    """An example as the worker takes it.

    :param values: number of a class -> its value in the annotation.
    """
    annotation, background, excluded = annotation_of(codes, values, taken)
    voxels = sitk.GetArrayFromImage(annotation)
    return contract.Annotated(image.key, Grid.of(annotation), voxels, background, complete, excluded, name)

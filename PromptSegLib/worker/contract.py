"""What a worker is asked for and what it answers: one type a job, and all of them in one registry.

On their way they are the values (JSON) and arrays of a message, see :mod:`.messages`: ``pack()`` makes these of them,
``unpack()`` undoes it, and raises ``KeyError``, ``TypeError``, ``ValueError`` or ``AttributeError`` for what is none of
them, and :class:`~PromptSegLib.errors.PromptSegError` for prompts that are no prompts.

To add a job: a frozen dataclass here with its ``name``, in ``JOBS``, and what does it in ``jobs.JobHandlers``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Mapping, Optional, Protocol, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo
from ..errors import PromptSegError
from ..imaging.geometry import Grid
from ..inference.result import Segmentation
from ..prompts.store import Prompts
from .annotated import Annotated, Arrays
from .packing import (
    grid_of,
    grid_values,
    infos_of,
    notes_of,
    packed_infos,
    packed_labels,
    packed_notes,
    packed_prompts,
    prompts_of,
)

Packed = tuple[dict[str, Any], dict[str, np.ndarray]]


class Request(Protocol):
    """What a worker is asked for."""

    name: ClassVar[str]

    def pack(self) -> Packed: ...

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Request: ...


@dataclass(frozen=True)
class Prepare:
    """Bring an image to the model's grid and encode it, so that what follows is quick."""

    name: ClassVar[str] = "prepare"
    model: str
    device: str
    image: str

    def pack(self) -> Packed:
        return {"model": self.model, "device": self.device, "image": self.image}, {}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Prepare:
        return cls(*_place(values), values["image"])


@dataclass(frozen=True)
class Tune:
    """Fit prompts to examples, and segment the first of them; sends previews, and gives a :class:`Reply` with prompts.

    :param classes: name -> value in the annotations.
    :param settings: arguments of :class:`~PromptSegLib.tuning.settings.Settings`.
    :param wanted: names of the classes to preview; None for all.
    :param others: values of other classes that are painted too.
    :param appearance: names, colors and terminology of new classes.
    :param start: prompts to go on from.
    :param accepted: a result that is corrected, as label values: what nobody corrected stays as it is.
    :param grown: whether what is painted is seen grown already; if not, that is the first preview, before a model is
        even loaded.
    """

    name: ClassVar[str] = "tune"
    model: str
    device: str
    classes: Mapping[str, int]
    examples: Sequence[Annotated]
    settings: Mapping[str, Any] = field(default_factory=dict)
    wanted: Optional[Sequence[str]] = None
    others: Sequence[int] = ()
    appearance: Sequence[ClassInfo] = ()
    previews: bool = True
    start: Optional[Prompts] = None
    accepted: Optional[sitk.Image] = None
    grown: bool = False

    def pack(self) -> Packed:
        values: dict[str, Any] = {
            "model": self.model,
            "device": self.device,
            "settings": dict(self.settings),
            "classes": dict(self.classes),
            "others": list(self.others),
            "appearance": packed_infos(self.appearance),
            "previews": self.previews,
            "grown": self.grown,
            "examples": [each.values() for each in self.examples],
        }
        if self.wanted is not None:
            values["wanted"] = list(self.wanted)
        arrays = _arrays(self.examples)
        if self.start is not None:
            arrays["start"] = packed_prompts(self.start)
        _pack_image("accepted", self.accepted, values, arrays)
        return values, arrays

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Tune:
        return cls(
            *_place(values),
            _classes(values),
            _examples(values, arrays),
            values.get("settings", {}),
            values.get("wanted"),
            [int(value) for value in values.get("others", [])],
            infos_of(values.get("appearance", [])),
            bool(values.get("previews", True)),
            prompts_of(arrays["start"]) if "start" in arrays else None,
            _unpack_image("accepted", values, arrays),
            bool(values.get("grown", False)),
        )


@dataclass(frozen=True)
class Learn:
    """Fit prompts for other images to complete examples; gives :class:`Taught`. Parameters as of :class:`Tune`."""

    name: ClassVar[str] = "learn"
    model: str
    device: str
    classes: Mapping[str, int]
    examples: Sequence[Annotated]
    settings: Mapping[str, Any] = field(default_factory=dict)
    appearance: Sequence[ClassInfo] = ()

    def pack(self) -> Packed:
        values = {
            "model": self.model,
            "device": self.device,
            "settings": dict(self.settings),
            "classes": dict(self.classes),
            "appearance": packed_infos(self.appearance),
            "examples": [each.values() for each in self.examples],
        }
        return values, _arrays(self.examples)

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Learn:
        examples, settings = _examples(values, arrays), values.get("settings", {})
        return cls(*_place(values), _classes(values), examples, settings, infos_of(values.get("appearance", [])))


@dataclass(frozen=True)
class Specialize(Learn):
    """Make a model of its own of complete examples; gives :class:`Specialized`.

    :param settings: arguments of :class:`~PromptSegLib.specializing.specialize.Effort`.
    :param called: the name of the new model; ``title``: what lists show.
    """

    name: ClassVar[str] = "specialize"
    called: str = ""
    title: str = ""

    def pack(self) -> Packed:
        values, arrays = super().pack()
        return {**values, "called": self.called, "title": self.title}, arrays

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Specialize:
        given = Learn.unpack(values, arrays)
        return cls(**vars(given), called=str(values["called"]), title=str(values.get("title", "")))


@dataclass(frozen=True)
class Segment:
    """Segment an image with prompts; gives a :class:`Reply`.

    :param image: its key; not needed with strokes, which name it.
    """

    name: ClassVar[str] = "segment"
    model: str
    device: str
    image: str
    prompts: Prompts
    strokes: Optional[Annotated] = None

    def pack(self) -> Packed:
        values: dict[str, Any] = {"model": self.model, "device": self.device, "image": self.image}
        arrays = {"prompts": packed_prompts(self.prompts)}
        if self.strokes is not None:
            values["strokes"] = self.strokes.values()
            arrays.update(self.strokes.arrays(0))
        return values, arrays

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Segment:
        strokes = Annotated.of(values["strokes"], arrays, 0) if values.get("strokes") else None
        image = strokes.image if strokes else values["image"]
        return cls(*_place(values), image, prompts_of(arrays["prompts"]), strokes)


@dataclass(frozen=True)
class Grow:
    """Grow what is painted, without any model; sends a quick preview first, and gives a :class:`Reply`.

    :param accepted: a result that is corrected, as label values: then only what the corrections touch changes.
    """

    name: ClassVar[str] = "grow"
    classes: Mapping[str, int]
    example: Annotated
    appearance: Sequence[ClassInfo] = ()
    previews: bool = True
    accepted: Optional[sitk.Image] = None

    def pack(self) -> Packed:
        values: dict[str, Any] = {
            "classes": dict(self.classes),
            "appearance": packed_infos(self.appearance),
            "previews": self.previews,
            "examples": [self.example.values()],
        }
        arrays = self.example.arrays(0)
        _pack_image("accepted", self.accepted, values, arrays)
        return values, arrays

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Grow:
        return cls(
            _classes(values),
            Annotated.of(values["examples"][0], arrays, 0),
            infos_of(values.get("appearance", [])),
            bool(values.get("previews", True)),
            _unpack_image("accepted", values, arrays),
        )


JOBS: Mapping[str, type[Request]] = {each.name: each for each in (Prepare, Tune, Learn, Specialize, Segment, Grow)}


def request_of(name: str, values: Mapping[str, Any], arrays: Arrays) -> Request:
    """The request of a message of kind ``job``. Raises :class:`PromptSegError` for a job that there is not."""
    if name not in JOBS:
        raise PromptSegError(
            "The worker does not know the job {name}; update PromptSeg on both machines.", name=repr(name)
        )
    return JOBS[name].unpack(values, arrays)


@dataclass(frozen=True)
class Reply:
    """A segmentation, as a preview or at the end of a job.

    :param result: on the image's own grid; once unpacked, on the part of it that is not empty.
    :param prompts: those that it was made with, of a tuning; None for the first look, and of other jobs.
    :param other: of a retuning, the labels with what nobody corrected as the prompts have it, or as it was, whichever
        is not in ``result``; None where they are not much different.
    :param keeps: whether ``result`` keeps what nobody corrected.
    """

    result: Segmentation
    prompts: Optional[Prompts] = None
    other: Optional[sitk.Image] = None
    keeps: bool = True

    def pack(self) -> Packed:
        grid, labels = packed_labels(self.result.labels)
        values: dict[str, Any] = {
            "grid": grid,
            "classes": packed_infos(self.result.classes),
            "places": self.result.places,
            "place_classes": list(self.result.place_classes),
            "notes": packed_notes(self.result.notes),
        }
        arrays = {"labels": labels}
        if self.result.uncertainty is not None:
            values["map_grid"] = grid_values(Grid.of(self.result.uncertainty))
            unsure = sitk.GetArrayViewFromImage(self.result.uncertainty)
            arrays["map"] = np.round(np.clip(unsure, 0, 1) * 255).astype(np.uint8)
        if self.prompts is not None:
            arrays["prompts"] = packed_prompts(self.prompts)
        if self.other is not None:
            values["other"], arrays["other"] = packed_labels(self.other)
            values["keeps"] = self.keeps
        return values, arrays

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Reply:
        """The uncertainty comes as uint8, 0..255, on the model's grid."""
        labels = grid_of(values["grid"]).image(arrays["labels"])
        places = tuple((float(x), float(y), float(z)) for x, y, z in values.get("places", []))
        notes = notes_of(values.get("notes", []))
        unsure = grid_of(values["map_grid"]).image(arrays["map"]) if "map" in arrays else None
        about = tuple(str(each) for each in values.get("place_classes", []))
        infos = infos_of(values["classes"])
        result = Segmentation(labels, infos, None, unsure, places=places, notes=notes, place_classes=about)
        prompts = prompts_of(arrays["prompts"]) if "prompts" in arrays else None
        return cls(result, prompts, _unpack_image("other", values, arrays), bool(values.get("keeps", True)))


@dataclass(frozen=True)
class Taught:
    """What :class:`Learn` gives: prompts, and with them what they have to say to the user."""

    prompts: Prompts

    def pack(self) -> Packed:
        return {"notes": packed_notes(self.prompts.notes)}, {"prompts": packed_prompts(self.prompts)}

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Taught:
        return cls(prompts_of(arrays["prompts"]))


@dataclass(frozen=True)
class Specialized:
    """What :class:`Specialize` gives: a model's files, which may lie on another machine.

    :param files: the end of a file's name -> its content, as ``models.own.take`` takes them.
    """

    called: str
    sha256: str
    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()

    def pack(self) -> Packed:
        arrays = {f"file{kind}": np.frombuffer(content, np.uint8) for kind, content in self.files.items()}
        return {"called": self.called, "sha256": self.sha256, "notes": packed_notes(self.notes)}, arrays

    @classmethod
    def unpack(cls, values: Mapping[str, Any], arrays: Arrays) -> Specialized:
        files = {name[4:]: array.tobytes() for name, array in arrays.items() if name.startswith("file")}
        notes = notes_of(values.get("notes", []))
        return cls(str(values["called"]), str(values["sha256"]), files, notes)


def _arrays(examples: Sequence[Annotated]) -> dict[str, np.ndarray]:
    return {name: array for index, each in enumerate(examples) for name, array in each.arrays(index).items()}


def _examples(values: Mapping[str, Any], arrays: Arrays) -> list[Annotated]:
    return [Annotated.of(each, arrays, index) for index, each in enumerate(values["examples"])]


def _place(values: Mapping[str, Any]) -> tuple[str, str]:
    return str(values.get("model") or ""), str(values.get("device") or "auto")


def _pack_image(name: str, image: Optional[sitk.Image], values: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    if image is not None:
        values[name], arrays[name] = grid_values(Grid.of(image)), sitk.GetArrayFromImage(image)


def _unpack_image(name: str, values: Mapping[str, Any], arrays: Arrays) -> Optional[sitk.Image]:
    return grid_of(values[name]).image(arrays[name]) if name in arrays else None


def _classes(values: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(value) for name, value in values["classes"].items()}

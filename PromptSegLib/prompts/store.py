"""Prompts: the tuned tokens of one or several classes, and the file that carries them.

The file is safetensors: tensors named ``<class index>/<prompt tensor>``, and one JSON
object in the header's metadata. Nothing in it is executed. Reading needs no torch.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional

import numpy as np

from ..annotation.classes import MAX_CLASSES, MAX_VALUE, canonical_name, check_names, is_name, matching_name
from ..annotation.strokes import MAX_BYTES, MAX_PACKED, Strokes, is_sha256
from ..errors import PromptSegError
from ..files import atomic_write
from ..imaging.intensity import IntensityRule
from ..imaging.preprocessing import Preprocessing
from ..network.config import MODES, NetworkConfig
from ..network.methods import registry
from . import beside
from .class_prompts import ClassPrompts, classes_of, record_of_renamed
from .untrusted import check_json, refuse_constant, short

# 1: strokes voxel by voxel, PUNet's tokens, and what was called DVPT and EPT before they were as published.
FORMATS = (1, 2)
MAX_BYTES_PER_CLASS = 384 * 1024  # of any mode and method of the default network, with its share of the strokes
_MAX_HEADER = 4 * 1024 * 1024
_STROKES_OVERHEAD = 512  # bytes in the header for one image's strokes
_STROKES_PER_CLASS = MAX_BYTES + _STROKES_OVERHEAD  # so that those of one image always fit, whatever the tokens take
_MAX_MISSING = 64  # images whose strokes lie beside the file


@dataclass(frozen=True)
class Prompts:
    """Tuned prompts of one backbone.

    :param classes: the classes, with distinct names and label values.
    :param backbone: name of the backbone they were tuned on.
    :param sha256: SHA-256 of that backbone's file; they work on no other.
    :param tuning: per group (as text) how it was tuned: examples' shape and spacing, steps,
        seconds, seed, library versions, scores on the annotated voxels.
    :param strokes: the sparse annotations they were tuned on, so that the same image is
        grown from the same strokes when it is segmented again.
    :param intensity: what became of the intensities of the image that they were tuned on, so that the next image's
        become the same; None where a file does not say.
    :param missing: strokes that these prompts were tuned on and that were not found beside their file.
    """

    classes: tuple[ClassPrompts, ...]
    backbone: str
    sha256: str
    network: NetworkConfig
    preprocessing: Preprocessing
    mode: str = "decoder"
    method: str = "punet"
    tuning: Mapping[str, Any] = field(default_factory=dict)
    strokes: tuple[Strokes, ...] = ()
    intensity: Optional[IntensityRule] = None
    missing: tuple[beside.Key, ...] = ()

    @property
    def notes(self) -> list[str]:
        """What the last tuning had to say to the user."""
        record = self.tuning.get(str(max(each.group for each in self.classes)))
        said = record.get("notes") if isinstance(record, dict) else None
        return [each for each in said if isinstance(each, str)] if isinstance(said, list) else []

    @property
    def names(self) -> list[str]:
        return [each.info.name for each in self.active]

    @property
    def values(self) -> dict[str, int]:
        """Class name -> label value."""
        return {each.info.name: each.info.value for each in self.active}

    @property
    def active(self) -> list[ClassPrompts]:
        """The classes that give output, in the order in which evidence lists them."""
        return [each for group in self.groups() for each in group if not each.retired]

    def groups(self) -> list[tuple[ClassPrompts, ...]]:
        """The classes, retired ones included, by group, in file order."""
        order = list(dict.fromkeys(each.group for each in self.classes))
        return [tuple(each for each in self.classes if each.group == group) for group in order]

    def find(self, name: str) -> ClassPrompts:
        """The class of that name, or one that looks the same; raises :class:`PromptSegError` naming those there are."""
        found = matching_name(name, self.names)
        for each in self.active:
            if each.info.name == found:
                return each
        raise PromptSegError(
            "There is no class {name} in these prompts; they hold {names}.",
            name=repr(name),
            names=", ".join(self.names),
        )

    def only(self, names: Iterable[str]) -> Prompts:
        """Prompts with whole groups kept wherever one of ``names`` is a member (a group is one pass)."""
        groups = {self.find(name).group for name in names}
        return replace(self, classes=tuple(each for each in self.classes if each.group in groups))

    def renamed(self, names: Mapping[str, str]) -> Prompts:
        """These prompts with classes called otherwise (old name -> new); raises for a name that is there already."""
        wanted = [canonical_name(names[each]) for each in self.names if each in names]
        others = {canonical_name(each) for each in self.names if each not in names}
        if len(set(wanted)) < len(wanted) or others & set(wanted):
            raise PromptSegError("Two classes of these prompts would have the same name; give each its own.")

        def called(each: ClassPrompts) -> ClassPrompts:
            if each.retired or each.info.name not in names:
                return each
            return replace(each, info=replace(each.info, name=names[each.info.name]))

        classes = tuple(called(each) for each in self.classes)
        changed: dict[str, dict[str, str]] = {}
        for before, now in zip(self.classes, classes):
            if now is not before:
                changed.setdefault(str(before.group), {})[before.info.name] = now.info.name
        records = {key: record_of_renamed(record, changed.get(key, {})) for key, record in self.tuning.items()}
        return replace(self, classes=classes, tuning=records)

    def called(self, names: Iterable[str]) -> Prompts:
        """These prompts with the classes that look like one of ``names`` called exactly that."""
        own = set(self.names)
        found = {matching_name(name, own): name for name in names if name not in own}
        return self.renamed({before: name for before, name in found.items() if before is not None})

    def decoder_only(self) -> Prompts:
        """These prompts without their tokens in the encoder, which then is the same for all classes."""

        def kept(each: ClassPrompts) -> ClassPrompts:
            tensors = {name: tensor for name, tensor in each.tensors.items() if not name.startswith("encoder")}
            return replace(each, tensors=tensors)

        mode = {"full": "decoder", "encoder": "decoder", "start": "decoder"}.get(self.mode, self.mode)
        return replace(self, classes=tuple(kept(each) for each in self.classes), mode=mode)

    def check_backbone(self, name: str, sha256: str, network: NetworkConfig) -> None:
        """Raise :class:`PromptSegError` unless these prompts belong to that backbone."""
        if sha256 != self.sha256:
            raise PromptSegError(
                "These prompts were tuned on the backbone {backbone} (SHA-256 {own}...), not on {name} "
                "({other}...); choose the right model or tune again.",
                backbone=repr(self.backbone),
                own=self.sha256[:12],
                name=repr(name),
                other=sha256[:12],
            )
        if network != self.network:
            raise PromptSegError(
                "These prompts are damaged: their tensors do not fit {name}; choose another file.", name=repr(name)
            )

    def fitted(self) -> Prompts:
        """These prompts with as many strokes, the newest first, as fit into 64 kB a class."""
        room = _STROKES_PER_CLASS * len(self.classes)
        kept: list[Strokes] = []
        for each in reversed(self.strokes):
            room -= each.data.size + _STROKES_OVERHEAD
            if room >= 0:
                kept.insert(0, each)
        return replace(self, strokes=tuple(kept))

    @property
    def outside(self) -> tuple[Strokes, ...]:
        """The strokes for which :meth:`fitted` has no room."""
        inside = {id(each) for each in self.fitted().strokes}
        return tuple(each for each in self.strokes if id(each) not in inside)

    def to_bytes(self, whole: bool = False) -> bytes:
        """The file's content; a pure function of the prompts. Strokes that have no room in it are only named.

        :param whole: with all strokes, for where there is nothing beside it: a node, a message.
        """
        from safetensors.numpy import save  # not at the top: the panel opens before anything is installed

        tensors = {
            f"{index}/{name}": np.ascontiguousarray(tensor)
            for index, each in enumerate(self.classes)
            for name, tensor in each.tensors.items()
        }
        inside = self.strokes if whole else self.fitted().strokes
        for index, strokes in enumerate(inside):
            tensors[f"strokes/{index}"] = strokes.data
        named = [*self.missing, *(() if whole else (beside.key_of(each) for each in self.outside))]
        method_format, method = registry.method(self.method).stored
        header = {
            # The earliest that holds all of it, so that older versions can read it.
            "format": max(method_format, 2 if any(each.runs for each in inside) else 1),
            "method_format": method_format,
            "backbone": self.backbone,
            "sha256": self.sha256,
            "network": self.network.to_dict(),
            "preprocessing": self.preprocessing.to_dict(),
            "mode": self.mode,
            "method": method,
            "classes": [{**each.info.to_dict(), "group": each.group, "retired": each.retired} for each in self.classes],
            "tuning": dict(self.tuning),
            "strokes": [strokes.to_dict() for strokes in inside],
            "beside": [list(key) for key in dict.fromkeys(named)][-_MAX_MISSING:],
            "intensity": self.intensity.to_dict() if self.intensity else None,
        }
        return save(tensors, {"promptseg": json.dumps(header, allow_nan=False)})

    def save(self, path: Path) -> None:
        """Write to ``path``; whatever was there stays untouched if that fails. Strokes that have no room there are
        written beside it."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise PromptSegError("Prompts are saved as .safetensors; {name} ends otherwise.", name=path.name)
        if len(self.classes) > MAX_CLASSES:
            raise PromptSegError(
                "A prompts file holds at most {max_classes} classes; save fewer.", max_classes=MAX_CLASSES
            )
        content = self.to_bytes()
        with beside.written(path, self.outside), atomic_write(path) as temporary:
            temporary.write_bytes(content)

    @classmethod
    def load(cls, path: Path) -> Prompts:
        """Read a prompts file; raises :class:`PromptSegError` with one sentence for anything that is not one."""
        path, most = Path(path), MAX_CLASSES * MAX_BYTES_PER_CLASS
        try:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise PromptSegError("{path} is a device or a pipe; give a prompts file.", path=path)
            with open(path, "rb") as file:
                content = file.read(most + 1)
            if len(content) > most:
                raise PromptSegError(
                    "{path} is too large to be a prompts file (over {most:.0f} MB).", path=path, most=most / 2**20
                )
        except OSError as error:
            raise PromptSegError(
                "Cannot read the prompts file {path}: {strerror}.", path=path, strerror=error.strerror or error
            ) from error
        try:
            prompts = cls.from_bytes(content)
        except PromptSegError as error:
            raise PromptSegError("{path}: {error}", path=path, error=error) from error
        found = beside.read(path, prompts.missing)
        missing = set(prompts.missing) - {beside.key_of(each) for each in found}
        left = tuple(each for each in prompts.missing if each in missing)
        return replace(prompts, strokes=(*found, *prompts.strokes), missing=left)

    @classmethod
    def from_bytes(cls, content: bytes, whole: bool = False) -> Prompts:
        """Undo :meth:`to_bytes`, believing nothing; ``whole`` as there."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            (length,) = struct.unpack("<Q", content[:8])
            if length > min(_MAX_HEADER, len(content) - 8):
                raise ValueError("its header is longer than the file")
            text = json.loads(content[8 : 8 + length])["__metadata__"]["promptseg"]
            header = json.loads(text, parse_constant=refuse_constant)
            check_json(header)
            tensors = load(content)
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, struct.error) as error:
            raise PromptSegError("this is not a PromptSeg prompts file, or it is damaged; choose another.") from error
        try:
            return cls._checked(header, tensors, whole)
        except PromptSegError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise PromptSegError(
                "this prompts file is damaged ({short}); choose another.", short=short(error)
            ) from error

    @classmethod
    def _checked(cls, header: dict, tensors: dict[str, np.ndarray], whole: bool) -> Prompts:
        if type(header["format"]) is not int or header["format"] not in FORMATS:
            raise PromptSegError(
                "this prompts file has format {short}, not {formats}; update PromptSeg.",
                short=short(header["format"]),
                formats=FORMATS[-1],
            )
        network = NetworkConfig.from_dict(header["network"])
        mode, sha256, backbone = (header[key] for key in ("mode", "sha256", "backbone"))
        if mode not in MODES:
            raise ValueError(f"mode {short(mode)}")
        method = registry.stored_as(header.get("method_format", header["format"]), header["method"]).name
        if not is_sha256(sha256) or not is_name(backbone):
            raise ValueError("no name and SHA-256 of a backbone")
        classes = classes_of(header["classes"], tensors, network, mode, method)
        largest = MAX_PACKED if whole else MAX_BYTES * len(classes)
        strokes = tuple(
            Strokes.from_dict(entry, tensors.pop(f"strokes/{index}"), largest)
            for index, entry in enumerate(header.get("strokes", []))
        )
        if tensors:
            raise ValueError(f"unknown tensor {short(next(iter(tensors)))}")
        tuning = header["tuning"]
        if not all(key.isdecimal() and len(key) <= 10 and isinstance(record, dict) for key, record in tuning.items()):
            raise ValueError("its record of the tuning makes no sense")
        intensity = header.get("intensity")
        missing = tuple((image, digest) for image, digest in header.get("beside", []))
        if len(missing) > _MAX_MISSING or not all(is_sha256(image) and is_sha256(key) for image, key in missing):
            raise ValueError("its strokes beside it have no fingerprints")
        return cls(
            classes,
            backbone,
            sha256,
            network,
            Preprocessing.from_dict(header["preprocessing"]),
            mode,
            method,
            tuning,
            strokes,
            None if intensity is None else IntensityRule.from_dict(intensity),
            missing,
        )


def parse_classes(words: Iterable[str]) -> dict[str, int]:
    """``["liver=6", "spleen=1"]`` -> names and label values; raises :class:`PromptSegError`."""
    classes: dict[str, int] = {}
    for word in words:
        name, equals, text = word.rpartition("=")
        name, value = name.strip(), int(text) if text.isascii() and text.isdecimal() and len(text) <= 5 else 0
        if not equals or not name or not 1 <= value <= MAX_VALUE:
            raise PromptSegError(
                "{short} is not a class; write NAME=VALUE, a value from 1 to {max_value}.",
                short=short(repr(word)),
                max_value=MAX_VALUE,
            )
        if not is_name(name):
            raise PromptSegError(
                "The class name {short} is too long or has invisible letters; write NAME=VALUE anew.",
                short=short(ascii(name)),
            )
        if name in classes or value in classes.values():
            raise PromptSegError(
                "{word} repeats a class name or a label value; each must be given once.", word=repr(word)
            )
        classes[name] = value
    check_names(classes)
    if len(classes) > MAX_CLASSES:
        raise PromptSegError(
            "There are {count} classes; give at most {max_classes}.", count=len(classes), max_classes=MAX_CLASSES
        )
    return classes

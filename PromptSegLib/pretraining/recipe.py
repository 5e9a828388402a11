"""A pretraining run, described in one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Optional

from ..annotation.classes import MAX_CLASSES, is_name
from ..errors import PromptSegError
from ..imaging.preprocessing import Preprocessing
from ..network.config import NetworkConfig
from .settings import Assignment, settings_of
from .source import Source

# The paper's variants: segmentation and self-supervision, segmentation alone, self-supervision alone
# (docs/methods.md#pretraining).
VARIANTS = ("meta_self", "meta", "self")
_POSITIVE = ("batch", "body_rate", "prompt_rate", "validations", "cache_gib")
_NOT_NEGATIVE = ("steps", "minutes", "weight_decay", "seed")
_SHARES = ("warm_up", "ema", "all_classes", "foreground", "encoder_prompts", "taught", "contrast", "zoom", "windows")
_GROUPS: dict[str, Any] = {"preprocessing": Preprocessing, "network": NetworkConfig, "assignment": Assignment}
# What may change while a run is resumed: what is said of it, where its files lie and are kept, how long it goes on.
_FREE = ("name", "title", "card", "validations", "cache_gib", "folder", "licence", "modality")


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on. Sizes are voxels (z, y, x) on the model's grid.

    ``steps`` or ``minutes`` bounds the run; the learning rate follows the share of that
    bound that is spent, so a run bounded by steps is reproducible and one bounded by
    minutes always ends with a finished schedule.

    :param variant: ``meta_self``, ``meta`` or ``self``, as the authors call them.
    :param instructed: whether the prompts are keys and values in attention; if not, only their output tokens are used.
    :param crop: extents of the large student's view, and of the teacher's.
    :param small_crop: extents of the second student's view.
    :param start: a backbone (name or file) or a checkpoint of another run whose weights this one begins with.
    :param contrast: share of views whose contrast is randomized, so that other windows and modalities stay usable.
    :param zoom: share of views whose voxels are 0.4 to 1.6 times the model's, along each axis or along all.
    :param windows: share of the views of a CT whose intensity window is wider than the model's, as far as the CT goes.
    :param all_classes: share of steps that ask for all classes; the others ask for a random subset.
    :param foreground: share of views that are centered on a voxel of an active class.
    :param encoder_prompts: share of steps in which prompts enter the encoder.
    :param taught: share of steps with self-supervision, which cost twice as much as those without; of ``meta_self``.
    :param validations: how often the validation cases are segmented during the run, evenly spread; the last at its end.
    :param clock: what ``minutes`` counts: ``wall`` time, or the ``processor`` time of the process, which does not run
        faster on an idle machine.
    :param mixed_precision: bfloat16 where it is fast, float16 with a scaled loss on older GPUs.
    :param cache_gib: memory for volumes that are kept; what does not fit is read again.
    """

    name: str
    title: str
    card: str
    sources: tuple[Source, ...]
    variant: str = "meta_self"
    instructed: bool = True
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    assignment: Assignment = field(default_factory=Assignment)
    crop: tuple[int, int, int] = (32, 64, 64)
    small_crop: tuple[int, int, int] = (16, 64, 64)
    start: Optional[str] = None
    batch: int = 1
    steps: int = 0
    minutes: float = 0.0
    body_rate: float = 1e-3
    prompt_rate: float = 3e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.02
    ema: float = 0.998
    all_classes: float = 0.35
    foreground: float = 0.8
    encoder_prompts: float = 0.5
    taught: float = 1.0
    contrast: float = 0.25
    zoom: float = 0.0
    windows: float = 0.0
    validations: int = 5
    cache_gib: float = 8.0
    clock: str = "wall"
    mixed_precision: bool = True
    seed: int = 0

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe; raises :class:`PromptSegError` with what is wrong."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8-sig"))  # Windows' Notepad begins with a mark
        except (OSError, ValueError, RecursionError) as error:
            raise PromptSegError(
                "Cannot read the pretraining recipe {path}: {error}.", path=path, error=error
            ) from error
        if not isinstance(values, dict):
            raise PromptSegError("The recipe {path} is not a JSON object.", path=path)
        try:
            for key, group in _GROUPS.items():
                if key in values:
                    values[key] = group.from_dict(settings_of(group, values[key], f' of "{key}"'))
            if isinstance(values.get("sources"), list):
                values["sources"] = [Source.from_dict(each) for each in values["sources"]]
            recipe = cls(**settings_of(cls, values))
            recipe._check()
        except KeyError as error:
            raise PromptSegError(
                "The recipe {path} is incomplete: the setting {error} is missing.", path=path, error=error
            ) from error
        except ValueError as error:
            raise PromptSegError(
                "The recipe {path} is incomplete or wrong: {error}.", path=path, error=error
            ) from error
        return recipe

    def _check(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"the variant is none of {', '.join(VARIANTS)}")
        if bool(self.steps) == bool(self.minutes):
            raise ValueError("the run must be bounded by either steps or minutes")
        if self.clock not in ("wall", "processor"):
            raise ValueError('the clock is neither "wall" nor "processor"')
        if not self.sources:
            raise ValueError("there is no source of images")
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise ValueError("two sources have the same name")
        if not is_name(self.name) or set(self.name) & set('/\\:*?"<>|'):
            raise ValueError("the name is not one that a file can have")
        if len(self.class_names) > MAX_CLASSES:
            raise ValueError(f"there are more than {MAX_CLASSES} classes")
        if not self.class_names:
            raise ValueError("no source declares a class; a run without labels still needs the names of its prompts")
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f'"{name}" must be above 0')
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f'"{name}" must not be below 0')
        for name in _SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'"{name}" must lie between 0 and 1')
        for name in ("crop", "small_crop"):
            if not all(0 < size <= 1024 for size in getattr(self, name)):
                raise ValueError(f'"{name}" must be three sizes from 1 to 1024')
        for source in self.sources:
            strangers = set(source.absent) - set(self.class_names)
            if strangers:
                raise ValueError(f"{source.name} lists absent classes that no source declares: {', '.join(strangers)}")

    def to_dict(self) -> dict:
        return asdict(self)

    def differences(self, earlier: dict) -> list[str]:
        """Names of the settings of an ``earlier`` recipe (:meth:`to_dict`, from JSON) with which this one cannot go on.

        What an earlier version did not know had its default.
        """
        before, now = _flat(earlier), _flat(json.loads(json.dumps(self.to_dict())))
        return [name for name in now if name in before and before[name] != now[name]]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Every class of every source, once; the k-th (from 1) is class k of labels and prompts."""
        return tuple(dict.fromkeys(name for source in self.sources for name in source.classes))

    @property
    def supervised(self) -> bool:
        """Whether labels are learned from."""
        return self.variant != "self"

    @property
    def taught_share(self) -> float:
        """Share of steps with self-supervision."""
        return {"meta": 0.0, "meta_self": self.taught, "self": 1.0}[self.variant]


def _flat(recipe: dict) -> dict[str, Any]:
    """Setting -> value of what must stay in a run: "seed", "network.window", "sources.NAME.weight"."""
    defaults = json.loads(json.dumps(asdict(Recipe("", "", "", ()))))
    of_source = json.loads(json.dumps(asdict(Source("", "", None, "", ""))))
    values = {**defaults, **recipe}
    groups = {name: {**defaults[name], **values.pop(name)} for name in _GROUPS}
    sources = values.pop("sources")
    groups.update({f"sources.{source['name']}": {**of_source, **source} for source in sources})
    values["sources"] = [source["name"] for source in sources]
    values.update({bound: bool(values[bound]) for bound in ("steps", "minutes")})  # the kind of bound, not how far
    values.update({f"{group}.{name}": value for group, each in groups.items() for name, value in each.items()})
    return {name: value for name, value in values.items() if name.rpartition(".")[2] not in _FREE}

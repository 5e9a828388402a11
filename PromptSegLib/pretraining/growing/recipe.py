"""A training of the growing network, described in one JSON file; needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ...errors import PromptSegError
from ..settings import settings_of


@dataclass(frozen=True)
class Source:
    """A set of label maps, with images or without (then they are synthesized).

    :param folder: folder of the set; relative ones are taken from the working directory.
    :param label: pattern of the label files below ``folder``, with ``{case}`` for the case's name.
    :param image: pattern of the image files; None for label maps alone.
    :param training: names of cases, or patterns (``train_*``), that are learned from; all that are found when None.
    :param held_out: names or patterns of cases that are never learned from, whatever ``training`` says.
    :param most: at most so many cases, evenly spread over the sorted names; 0 for all.
    :param weight: how often its cases are drawn, against those of the other sources.
    :param evidence: class name -> label value of the classes for which the backbone's own evidence is shown.
    """

    name: str
    folder: str
    label: str
    license: str
    image: Optional[str] = None
    training: Optional[tuple[str, ...]] = None
    held_out: tuple[str, ...] = ()
    most: int = 0
    weight: float = 1.0
    evidence: Optional[dict[str, int]] = None


@dataclass(frozen=True)
class Recipe:
    """All that a training depends on. ``steps`` or ``minutes`` bounds it; the rate follows the share that is spent.

    :param voxels: of a view, about.
    :param asked: at most so many classes of a view are asked for.
    :param views: in a step; their gradients are added up.
    :param phantoms: weight of tubes, sheets and blobs made by code, as that of a source.
    :param synthesized: share of the views of images that get a contrast drawn anew for every tissue.
    :param redrawn: share of the others whose intensities go through a random curve.
    :param evidence: share of the questions that come with evidence.
    :param corrections: share of the views with a stroke where the network's last answer was wrong.
    :param coarse: share of the views whose evidence is the network's own answer on coarser voxels, as at use.
    :param turns: how often a view is learned from, each time mirrored and turned anew.
    :param start: weights file to begin with, ``bundled`` for those that come with PromptSeg; None for random ones.
    :param keep: share of the weights that the run started with in those that it writes.
    :param backbone: whose evidence is shown where a source names classes for it; None for simulated evidence alone.
    """

    name: str
    title: str
    card: str
    sources: tuple[Source, ...]
    steps: int = 0
    minutes: float = 0.0
    voxels: int = 300_000
    asked: int = 3
    views: int = 2
    phantoms: float = 1.0
    synthesized: float = 0.25
    redrawn: float = 0.4
    evidence: float = 0.5
    corrections: float = 0.2
    coarse: float = 0.0
    turns: int = 1
    start: Optional[str] = None
    keep: float = 0.0
    backbone: Optional[str] = None
    rate: float = 2e-3
    weight_decay: float = 1e-2
    warm_up: float = 0.02
    ema: float = 0.998
    seed: int = 0

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe; raises :class:`PromptSegError` with what is wrong."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
            if not isinstance(values, dict):
                raise ValueError("it is not a JSON object")
            if isinstance(values.get("sources"), list):
                values["sources"] = [Source(**settings_of(Source, each, " of a source")) for each in values["sources"]]
            recipe = cls(**settings_of(cls, values))
            recipe._check()
        except (OSError, ValueError, RecursionError) as error:
            raise PromptSegError("Cannot use the growing recipe {path}: {error}.", path=path, error=error) from error
        return recipe

    def _check(self) -> None:
        if bool(self.steps) == bool(self.minutes) or self.steps < 0 or self.minutes < 0:
            raise ValueError("the training must be bounded by either steps or minutes")
        if not self.sources:
            raise ValueError("there is no source")
        if len({source.name for source in self.sources}) < len(self.sources):
            raise ValueError("two sources have the same name")
        for name in ("voxels", "asked", "views", "turns", "rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f'"{name}" must be above 0')
        for name in ("synthesized", "redrawn", "evidence", "corrections", "coarse", "keep", "warm_up", "ema"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'"{name}" must lie between 0 and 1')
        for source in self.sources:
            if any(pattern is not None and pattern.count("{case}") != 1 for pattern in (source.label, source.image)):
                raise ValueError(f"the patterns of {source.name} must hold {{case}} once")

    def to_dict(self) -> dict:
        return asdict(self)

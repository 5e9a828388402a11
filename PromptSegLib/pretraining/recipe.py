"""A pretraining run, described in one JSON file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import PromptSegError
from ..examples.preprocessing import Preprocessing
from ..network.config import NetworkConfig


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on. Sizes are voxels (z, y, x) on the model's grid.

    ``steps`` or ``minutes`` bounds the run; the learning rate follows the share of that
    bound that is spent, so a run bounded by steps is reproducible and one bounded by
    minutes always ends with a finished schedule.
    """

    name: str
    title: str
    modality: str
    licence: str
    data: str
    image_suffix: str
    label_suffix: str
    training: tuple[str, ...]
    validation: tuple[str, ...]
    classes: dict[str, int]
    card: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    crop: tuple[int, int, int] = (32, 64, 64)
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
    seed: int = 0

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read a recipe; raises :class:`PromptSegError` with what is wrong."""
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PromptSegError(f"Cannot read the pretraining recipe {path}: {error}.") from error
        unknown = set(values) - {item.name for item in fields(cls)}
        if unknown:
            raise PromptSegError(f"The recipe {path} has unknown settings: {', '.join(sorted(unknown))}.")
        try:
            if "preprocessing" in values:
                values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
            if "network" in values:
                values["network"] = NetworkConfig.from_dict(values["network"])
            settings: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            recipe = cls(**settings)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise PromptSegError(f"The recipe {path} is incomplete or wrong: {error}.") from error
        if bool(recipe.steps) == bool(recipe.minutes):
            raise PromptSegError(f"The recipe {path} must bound the run by either steps or minutes.")
        return recipe

    def to_dict(self) -> dict:
        return asdict(self)

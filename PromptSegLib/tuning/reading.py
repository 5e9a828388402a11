"""Examples on the grid that they are learned from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from ..annotation.example import Example
from ..annotation.labels import UNKNOWN, labels_on_grid, painted_on_grid
from ..errors import PromptSegError
from ..imaging.checking import check_extent
from ..imaging.geometry import Grid
from ..imaging.intensity import IntensityRule
from ..imaging.preprocessing import Preprocessing
from ..models.feature_cache import FeatureCache
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .crops import Crop, cover, cut
from .training import Annotated

MANY = 4  # times as many crops as wanted at most: a training sees all volumes anyway, later


@dataclass
class LearningSet:
    """Volumes with labels, and the rule of intensities that prompts keep of them, if any; what the record says of each,
    and what to tell the user."""

    intensity: Optional[IntensityRule]
    volumes: list[Annotated] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_examples(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    preprocessing: Preprocessing,
    start: Optional[Prompts],
    feature_cache: FeatureCache,
    painted: bool,
    job: ProgressHandle,
) -> LearningSet:
    """Bring examples to the model's grid.

    :param start: prompts that are gone on from, whose rule of intensities holds; else the first image decides for all.
    :param painted: also say where the user painted himself, where examples know.
    :raises PromptSegError: an image that has too many voxels on that grid.
    """
    read = LearningSet(start.intensity if start else None)
    # A rule is for all classes that prompts hold: those that are left alone have none, and must get none. Then every
    # image is read by its own, as it will be when it is segmented.
    left = start is not None and any(name not in classes for name in start.names)
    for index, example in enumerate(examples):
        job.report("reading examples", index / len(examples))
        check_extent(Grid.of(example.image), preprocessing.spacing, example.name)
        volume = feature_cache.volume(example.image, preprocessing, read.intensity)
        read.intensity = read.intensity or (None if left else volume.rule)
        if volume.rule.sentence:
            read.notes.append(volume.rule.sentence if len(examples) == 1 else f"{example.name}: {volume.rule.sentence}")
        labels = labels_on_grid(example, classes, volume.grid)
        where = painted_on_grid(example, volume.grid) if painted else None
        read.volumes.append(Annotated(volume.array, labels, where))
        spacing = [round(step, 4) for step in volume.native.spacing[::-1]]
        shape = list(volume.native.shape)
        read.records.append({"name": example.name, "shape": shape, "spacing": spacing, "complete": example.complete})
    return read


def covering_crops(
    volumes: Sequence[Annotated],
    classes: int,
    tile: tuple[int, int, int],
    most: int,
    rng: np.random.Generator,
    training: bool = False,
) -> list[Crop]:
    """Crops that hold what is annotated: ``most`` of all volumes together, but one more than there are classes of
    each. Raises :class:`PromptSegError` where there are none.

    :param training: they are a start alone, so that half as many do, and some of very many volumes may give none.
    """
    if training:
        volumes = _some(volumes, classes, max(1, MANY * most // (classes + 1)))
    limit = max(most // len(volumes), classes + 1)
    limit = -(-limit // 2) if training else limit
    crops = [crop for each in volumes for crop in cover(each.array, each.labels, tile, limit, rng)]
    if training:
        crops += _of_missing(volumes, classes, tile, crops, rng)
    if not crops:
        raise PromptSegError("No annotated voxel lies inside its image; check that they belong together.")
    return crops


def _of_missing(
    volumes: Sequence[Annotated],
    classes: int,
    tile: tuple[int, int, int],
    crops: Sequence[Crop],
    rng: np.random.Generator,
) -> list[Crop]:
    """A crop of each class that volumes show and ``crops`` do not."""
    found = []
    for index in range(1, classes + 1):
        holders = [each for each in volumes if (each.labels == index).any()]
        if holders and not any((crop.labels == index).any() for crop in crops):
            only = np.where(holders[0].labels == index, index, UNKNOWN)
            start = cover(holders[0].array, only, tile, 1, rng)[0].start
            found.append(cut(holders[0].array, holders[0].labels, np.asarray(start), np.asarray(tile)))
    return found


def _some(volumes: Sequence[Annotated], classes: int, most: int) -> list[Annotated]:
    """At most ``most`` volumes, evenly spread, and of a class that none of these shows one more that does."""
    if len(volumes) <= most:
        return list(volumes)
    chosen = list(volumes[:: -(-len(volumes) // most)])
    for index in range(1, classes + 1):
        if not any((each.labels == index).any() for each in chosen):
            chosen += [each for each in volumes if (each.labels == index).any()][:1]
    return chosen

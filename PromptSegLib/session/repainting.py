"""What the user painted or erased while a job ran: kept over its result, where it counts as a correction."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import numpy as np

from ..annotation.classes import ClassInfo
from ..imaging.geometry import Grid
from ..inference.result import Segmentation
from ..scene import painting
from ..scene.segmentations import apply_result
from ..scene.volumes import voxels_of_volume


def repainted(then: painting.Painting, now: painting.Painting) -> list[str]:
    """IDs of the segments of ``now`` that are not what they were."""
    same: dict[tuple[int, int], bool] = {}
    found = []
    for segment_id, (layer, label) in now.segments.items():
        before, old = then.segments.get(segment_id, (None, label))
        if layer is None or before is None:
            if not (now.empty(segment_id) and (before is None or then.empty(segment_id))):
                found.append(segment_id)
            continue
        key = (id(layer), id(before))
        if key not in same:
            placed = layer.voxels.shape == before.voxels.shape and np.array_equal(layer.start, before.start)
            same[key] = placed and np.array_equal(layer.voxels, before.voxels)
        if not same[key] or label != old:
            found.append(segment_id)
    return found


def repaint(
    segmentation: Any,
    volume: Any,
    then: painting.Painting,
    now: painting.Painting,
    classes: Sequence[ClassInfo],
    ids: Mapping[str, str],
) -> None:
    """Bring what was painted and erased between two moments into segments that a result has replaced since.

    :param ids: class name -> ID of its segment.
    """
    changed = repainted(then, now)
    if not any(ids.get(info.name) in changed for info in classes):
        return
    grid: Grid = voxels_of_volume(volume).grid
    applied = painting.snapshot(segmentation, volume, ids.values())
    labels = np.zeros(grid.shape, np.uint16)
    for info in classes:
        labels[applied.masks([ids[info.name]], grid)[ids[info.name]]] = info.value
    for info in classes:
        segment_id = ids[info.name]
        if segment_id not in changed or segment_id not in then.segments:
            continue
        before, after = (each.masks([segment_id], grid)[segment_id] for each in (then, now))
        labels[before & ~after & (labels == info.value)] = 0
        labels[after & ~before] = info.value
    apply_result(segmentation, volume, Segmentation(grid.image(labels), tuple(classes)), segment_ids=ids)

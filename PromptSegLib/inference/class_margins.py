"""The network over a whole volume: sliding tiles, all classes of a prompt set in one sweep."""

from __future__ import annotations

from typing import Callable, Optional, Sequence, cast

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor

from ..models.backbone import Backbone
from ..models.feature_cache import EncoderMaps, Start
from ..network.precision import autocast
from ..network.tokens import from_arrays, touches_encoder
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .tiling import OVERLAP, Extents, overlaps, starts, steps

FLAT = 1e-3
ABSENT = -20.0  # evidence where a tile holds nothing but one intensity (air outside the body)


def group_tensors(prompts: Prompts, device: torch.device) -> list[dict[str, Tensor]]:
    """Per group, the stacked prompt tensors of its classes on ``device``."""
    return [from_arrays([each.tensors for each in group], device) for group in prompts.groups()]


def active_rows(prompts: Prompts) -> list[int]:
    """Which of the rows of :func:`tile_margins` belong to classes that give output."""
    return [index for index, each in enumerate(each for g in prompts.groups() for each in g) if not each.retired]


def tile_margins(
    backbone: Backbone,
    groups: Sequence[dict[str, Tensor]],
    tile: Tensor,
    encode: Optional[Callable[[Tensor], list[Tensor]]] = None,
) -> Tensor:
    """Evidence (B, classes of all groups, retired included, D, H, W) for a batch of tiles (B, 1, D, H, W).

    Evidence of a class is its logit minus the background logit of its group, so that
    classes of different groups can be compared. Groups whose prompts stay out of the
    encoder share one encoding, by ``encode`` where given.
    """
    net, shared, parts = backbone.net, None, []
    with torch.inference_mode(), autocast(tile.device):
        for prompts in groups:
            if touches_encoder(prompts):
                maps = net.encode(tile, prompts)
            else:
                maps = shared = (encode or net.encode)(tile) if shared is None else shared
            logits = net.logits(tile, maps, prompts)
            parts.append(logits[:, 1:] - logits[:, :1])
    return torch.cat(parts, 1).float()


def class_margins(
    backbone: Backbone,
    prompts: Prompts,
    array: np.ndarray,
    job: Optional[ProgressHandle] = None,
    maps: Optional[EncoderMaps] = None,
    offset: Start = (0, 0, 0),
    step: Optional[Extents] = None,
    overlap: float = OVERLAP,
) -> np.ndarray:
    """Evidence of every class over a volume.

    :param array: (z, y, x) as in :class:`~PromptSegLib.imaging.volume.Volume`.
    :param maps: encoder maps of this volume's tiles, kept for the next sweep.
    :param offset: where ``array`` starts in that volume, (z, y, x).
    :param step: from one tile to the next, (z, y, x); that of the volume, where the array is a part of it.
    :param overlap: of tiles at least, a share of them; where there is no ``step``.
    :return: (classes, z, y, x) float16, classes in the order of ``prompts.active``.

    MONAI's sliding window with Gaussian blending. Working memory is bounded: a large
    volume is swept in slabs along z, which change nothing of the result: how many there are
    depends on the number of classes, and no class may depend on that.
    """
    job = job or ProgressHandle()
    groups = group_tensors(prompts, backbone.device)
    rows = active_rows(prompts)
    count = len(rows)
    plane = array.shape[1] * array.shape[2] * count * 4
    step = step or steps(array.shape, backbone.tile, overlap)
    slabs = _slabs(array.shape, backbone.tile, step, int(backbone.slab_bytes // plane))
    shapes = [(outer[1] - outer[0], *array.shape[1:]) for outer, _ in slabs]
    total = sum(len(starts(shape, backbone.tile, step)) for shape in shapes)
    result = np.empty((count, *array.shape), np.float16)
    done = 0

    def predict(tile: Tensor, where: Sequence[Sequence[slice]]) -> Tensor:
        nonlocal done
        job.report("segmenting", done / total)
        done += 1
        if float(tile.max() - tile.min()) < FLAT:
            return tile.new_full((tile.shape[0], count, *tile.shape[2:]), ABSENT)
        if maps is None:
            return tile_margins(backbone, groups, tile)[:, rows]
        z, y, x = (at + part.start for at, part in zip((offset[0] + first, *offset[1:]), where[0][2:]))
        return tile_margins(backbone, groups, tile, lambda image: maps.of(backbone, image, (z, y, x)))[:, rows]

    first = 0
    for outer, inner in slabs:
        first = outer[0]
        values = _blended(backbone, array[outer[0] : outer[1]], predict, step)
        result[:, inner[0] : inner[1]] = values[0, :, inner[0] - outer[0] : inner[1] - outer[0]].numpy()
    job.report("segmenting", 1.0)
    return result


def _blended(backbone: Backbone, array: np.ndarray, predict: Callable[..., Tensor], step: Extents) -> Tensor:
    """What ``predict`` says of the tiles of an array (z, y, x), (1, classes, z, y, x) on the CPU."""
    values = sliding_window_inference(
        torch.from_numpy(array)[None, None],
        backbone.tile,
        1,
        predict,
        overlap=overlaps(step, backbone.tile),
        mode="gaussian",
        cval=-1.0,
        sw_device=backbone.device,
        device="cpu",
        with_coord=True,
    )
    return cast(Tensor, values)  # one output, so neither a tuple nor a dict


def encode_tiles(backbone: Backbone, array: np.ndarray, maps: EncoderMaps, job: ProgressHandle) -> None:
    """Encode tiles of a volume (z, y, x) as :func:`class_margins` will ask for them, while there is room for them."""
    tile = backbone.tile
    places = starts(array.shape, tile, steps(array.shape, tile))
    for done, start in enumerate(places):
        job.report("encoding", done / len(places))
        part = array[tuple(slice(at, at + size) for at, size in zip(start, tile))]
        if part.shape == tile and part.max() - part.min() >= FLAT:
            maps.of(backbone, torch.from_numpy(np.ascontiguousarray(part))[None, None], start)


class Probabilities:
    """Softmax of evidence (classes, ...) with the background's 0 in front, one class at a time.

    ``[0]`` is background, ``[k]`` the k-th class, each float32: all of them at once would be
    the largest array of a segmentation.
    """

    def __init__(self, values: np.ndarray):
        self._values = values
        # Relative to the best, so that the exponential stays finite and one of two large numbers still wins.
        self._best = np.maximum(values.max(0), 0).astype(np.float32)
        self._total = np.exp(-self._best)
        for value in values:
            self._total += np.exp(value.astype(np.float32) - self._best)

    def __len__(self) -> int:
        return len(self._values) + 1

    def __getitem__(self, index: int) -> np.ndarray:
        if index == 0:
            return np.exp(-self._best) / self._total
        if index >= len(self):
            raise IndexError(index)
        return np.exp(self._values[index - 1].astype(np.float32) - self._best) / self._total


def _slabs(
    shape: Sequence[int], tile: Sequence[int], step: Extents, deep: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs of (slab, part kept) along z; one where ``deep`` voxels hold the volume.

    A slab is made of tiles of the sweep over all of ``shape``: of every one that reaches into the part kept.
    """
    if shape[0] <= max(deep, 2 * tile[0]):
        return [((0, shape[0]), (0, shape[0]))]
    rows = sorted({start[0] for start in starts(shape, tile, step)})
    pairs, row = [], 0
    while row < len(rows):
        first = min(start for start in rows if start + tile[0] > rows[row])
        last = row
        while last + 1 < len(rows) and rows[last + 1] + tile[0] - first <= deep:
            last += 1
        end = rows[last + 1] if last + 1 < len(rows) else shape[0]
        pairs.append(((first, rows[last] + tile[0]), (rows[row], end)))
        row = last + 1
    return pairs

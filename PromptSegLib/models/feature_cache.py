"""What a process keeps between jobs on the same images: volumes on the model's grid, and encoder maps of tiles."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Optional

import SimpleITK as sitk
import torch
from torch import Tensor

from ..annotation.strokes import fingerprints
from ..imaging.intensity import IntensityRule, decide
from ..imaging.preprocessing import Preprocessing
from ..imaging.volume import Volume
from ..network.precision import autocast
from .backbone import Backbone

IMAGES = 4
MAPS_BYTES = 2**30

Start = tuple[int, int, int]


class EncoderMaps:
    """Encoder maps of tiles of one volume by one backbone, as many as ``limit`` bytes hold.

    A tile is known by where it starts (z, y, x); the encoder sees no prompts, so its maps never change.
    """

    def __init__(self, limit: int = MAPS_BYTES):
        self._kept: dict[Start, list[Tensor]] = {}
        self._room = limit

    def __len__(self) -> int:
        return len(self._kept)

    def of(self, backbone: Backbone, tile: Tensor, start: Start) -> list[Tensor]:
        """Maps of ``tile`` (1, 1, D, H, W); usable as inputs of a graph."""
        maps = self._kept.get(start)
        if maps is None:
            # no_grad, not inference_mode: the maps may be inputs of a graph later.
            with torch.inference_mode(False), torch.no_grad(), autocast(backbone.device):
                maps = backbone.net.encode(tile.to(backbone.device))
            self._room -= sum(each.numel() * each.element_size() for each in maps)
            if self._room >= 0:
                self._kept[start] = maps
        return maps


@dataclass
class _Kept:
    image: sitk.Image  # kept so that its id stays its own
    preprocessing: Optional[Preprocessing] = None
    given: Optional[IntensityRule] = None
    volume: Optional[Volume] = None
    fingerprints: tuple[str, ...] = ()


class FeatureCache:
    """Keeps the last ``IMAGES`` images' volumes, and the encoder maps of the last one worked on.

    Images are known by identity: hand in the same object, and never change its voxels.
    """

    def __init__(self, maps_bytes: int = MAPS_BYTES):
        self._maps_bytes = maps_bytes
        self._images: OrderedDict[int, _Kept] = OrderedDict()
        self._current: tuple[Optional[int], Any] = (None, None)
        self._maps = EncoderMaps(0)

    def volume(self, image: sitk.Image, preprocessing: Preprocessing, given: Optional[IntensityRule] = None) -> Volume:
        """:meth:`Volume.of`, kept for the next call; of several for one image, the last."""
        kept = self._of(image)
        if kept.volume is not None and kept.preprocessing == preprocessing:
            if kept.given != given:
                rule = decide(image, preprocessing, given=given)
                if (rule.low, rule.high) != (kept.volume.rule.low, kept.volume.rule.high):
                    kept.volume = None
                else:  # it only has something else to say
                    kept.volume = replace(kept.volume, rule=rule)
        else:
            kept.volume = None
        kept.preprocessing, kept.given = preprocessing, given
        if kept.volume is None:
            kept.volume = Volume.of(image, preprocessing, given)
        return kept.volume

    def fingerprints(self, image: sitk.Image) -> tuple[str, ...]:
        """:func:`~..annotation.strokes.fingerprints`, kept for the next call."""
        kept = self._of(image)
        kept.fingerprints = kept.fingerprints or fingerprints(image)
        return kept.fingerprints

    def maps(self, image: sitk.Image, backbone: Backbone) -> EncoderMaps:
        """Where the encoder maps of this image's last volume are kept; those of any other image, backbone or rule of
        intensities are dropped."""
        volume = self._of(image).volume
        limits = (volume.rule.low, volume.rule.high) if volume else None
        current = (id(image), (backbone.sha256, backbone.preprocessing, backbone.tile, limits))
        if self._current != current:
            self._current, self._maps = current, EncoderMaps(self._maps_bytes)
        return self._maps

    def _of(self, image: sitk.Image) -> _Kept:
        kept = self._images.setdefault(id(image), _Kept(image))
        self._images.move_to_end(id(image))
        while len(self._images) > IMAGES:
            dropped, _ = self._images.popitem(last=False)
            if dropped == self._current[0]:
                # The id may soon be another image's, which must not get these maps.
                self._current, self._maps = (None, None), EncoderMaps(0)
        return kept

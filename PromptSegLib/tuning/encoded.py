"""Crops as the network sees them: encoder maps computed once where prompts stay out of the encoder."""

from __future__ import annotations

import copy
from typing import Optional, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ..annotation.labels import UNKNOWN, excluded_label
from ..models.backbone import Backbone
from ..models.feature_cache import EncoderMaps
from ..network.attention import PromptTensors
from ..network.precision import autocast
from ..network.tokens import touches_encoder
from ..progress import ProgressHandle
from .crops import Crop

THINNED = 2048
ALL_MAPS_THINNED = 12_000  # of a class in all crops together
MOST_ROWS = 24_000  # of all classes and crops together; all maps of so many voxels are 125 MB


class EncodedCrops:
    """The crops of a tuning, on the backbone's device, with the positions of their annotated voxels."""

    def __init__(
        self,
        backbone: Backbone,
        crops: Sequence[Crop],
        cached: bool,
        job: ProgressHandle,
        maps: Optional[EncoderMaps] = None,
    ):
        """``maps``: where maps of the crops may be found and are kept, when all crops come from one volume."""
        maps = EncoderMaps(0) if maps is None else maps
        self.backbone, self.cached = backbone, cached
        self.images = [crop.image.to(backbone.device) for crop in crops]
        self.starts = [crop.start for crop in crops]
        self.places = torch.zeros(0, 3, dtype=torch.long)  # of the rows of ``annotated_features``, (z, y, x)
        self.positions, self.labels = [], []
        for crop in crops:
            flat = crop.labels.flatten()
            where = torch.nonzero(flat != UNKNOWN).flatten()
            self.positions.append(where.to(backbone.device))
            self.labels.append(flat[where].to(backbone.device))
        self.maps: list[Optional[list[Tensor]]] = []
        for index, (image, crop) in enumerate(zip(self.images, crops)):
            job.report("encoding", index / len(self.images))
            self.maps.append(maps.of(backbone, image, crop.start) if cached else None)

    def alone(self, index: int) -> EncodedCrops:
        """The same crops for the class with label ``index`` alone: all other classes are background.

        What is said not to be another class says nothing of this one.
        """
        own = copy.copy(self)
        own.positions, own.labels = [], []
        for where, labels in zip(self.positions, self.labels):
            kept = (labels >= 0) | (labels == excluded_label(index))
            said = labels[kept]
            mine = torch.where(said == index, 1, 0)
            own.positions.append(where[kept])
            own.labels.append(torch.where(said < 0, excluded_label(1), mine))
        return own

    def __len__(self) -> int:
        return len(self.images)

    def _encode(self, image: Tensor) -> list[Tensor]:
        # no_grad, not inference_mode: the maps are inputs of a graph later.
        with torch.no_grad(), autocast(self.backbone.device):
            return self.backbone.net.encode(image)

    def features(self, index: int, prompts: PromptTensors, outputs: Optional[str] = None) -> list[Tensor]:
        """The features of one crop under ``prompts``, as ``PUNet.decode`` gives them; differentiable in them."""
        with autocast(self.backbone.device):
            return self.backbone.net.decode(self._maps(index, prompts), prompts, outputs)

    def _maps(self, index: int, prompts: PromptTensors) -> list[Tensor]:
        if touches_encoder(prompts):
            return self.backbone.net.encode(self.images[index], prompts)
        return self.maps[index] or self._encode(self.images[index])

    def logits(self, index: int, prompts: PromptTensors, features: Optional[Sequence[Tensor]] = None) -> Tensor:
        """Logits (n, 1 + classes) at the annotated voxels of one crop.

        :param features: as :meth:`features` gives them, where these are known already.
        """
        net, image = self.backbone.net, self.images[index]
        with autocast(self.backbone.device):
            if features is None:
                logits = net.logits(image, self._maps(index, prompts), prompts)
            else:
                logits = net.logits_from(image, features, prompts)
        return logits[0].flatten(1)[:, self.positions[index]].t().float()

    def annotated_features(
        self, prompts: PromptTensors, job: ProgressHandle, outputs: Optional[str] = None
    ) -> tuple[Tensor, Tensor]:
        """Features (n, C) at annotated voxels of all crops and their labels (n,).

        C: the channels of the maps that ``PUNet.decode`` gives, one after the other, each part of length 1. Of a
        dense annotation, every class gives at most ``THINNED`` voxels of each crop.
        """
        found, places, rows = [], [], self._rows(outputs)
        with torch.no_grad():
            for index, (image, chosen) in enumerate(zip(self.images, rows)):
                job.report("features", index / len(self.images))
                features = self.features(index, prompts, outputs)
                found.append(self._at(features, image.shape[2:], self.positions[index][chosen]))
                at = torch.unravel_index(self.positions[index][chosen].cpu(), tuple(image.shape[2:]))
                places.append(torch.stack(at, 1) + torch.tensor(self.starts[index]))
        self.places = torch.cat(places)
        return torch.cat(found), self.annotated_labels(outputs)

    def annotated_labels(self, outputs: Optional[str] = None) -> Tensor:
        """The labels (n,) that go with :meth:`annotated_features`."""
        return torch.cat([labels[chosen] for labels, chosen in zip(self.labels, self._rows(outputs))])

    def _rows(self, outputs: Optional[str]) -> list[Tensor]:
        """Of each crop, which of its annotated voxels are enough."""
        most = THINNED
        if outputs == "all":  # all maps have some 40 times the channels of the last: as many voxels as fit into memory
            kinds = max([len(labels.unique()) for labels in self.labels], default=1)
            each = min(ALL_MAPS_THINNED // len(self), MOST_ROWS // (len(self) * max(kinds, 1)))
            most = max(1, min(most, each))
        return [_thinned(labels, most) for labels in self.labels]

    def _at(self, features: Sequence[Tensor], extents: Sequence[int], positions: Tensor) -> Tensor:
        """Features (n, C) at voxels (flat indices of a crop of ``extents``), interpolated linearly."""
        stride = self.backbone.config.stride
        indices = torch.unravel_index(positions, tuple(extents))
        # Maps cover the crop padded to the network's stride. grid_sample wants (x, y, z), -1 and 1 at the outer faces.
        shares = [(2 * at + 1) / (-(-extent // step) * step) - 1 for at, extent, step in zip(indices, extents, stride)]
        grid = torch.stack(shares[::-1], -1)[None, :, None, None]
        rows = []
        for map_ in features:
            sampled = F.grid_sample(map_.float(), grid, padding_mode="border", align_corners=False)
            rows.append(F.normalize(sampled[0, :, :, 0, 0], dim=0).t())
        return torch.cat(rows, 1)


def _thinned(labels: Tensor, most: int) -> Tensor:
    """Indices of at most ``most`` evenly spread voxels of every class, in order."""
    chosen = []
    for value in labels.unique().tolist():
        own = torch.nonzero(labels == value).flatten()
        chosen.append(own[:: -(-len(own) // most)])
    return torch.cat(chosen).sort().values if chosen else labels.new_zeros(0)

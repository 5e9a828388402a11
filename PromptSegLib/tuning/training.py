"""Tuning as training: random, changed crops of complete annotations, and held-out parts that say when to stop."""

from __future__ import annotations

import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Optional, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from ..annotation.labels import UNKNOWN, excluded_label
from ..network.attention import PromptTensors
from ..network.punet import leaves_features
from ..pretraining.views import apply_random, as_tensor, center_crop, student_changes
from ..progress import ProgressHandle
from .crops import Crop, cut
from .encoded import EncodedCrops
from .objective import agreement, mean
from .optimization import Tuner
from .settings import Settings
from .warm_start import WarmStart

MARGIN = 1.35  # cut out that much more, so that a rotation brings in no border
MEMBERS = 20_000  # voxels of a class and volume that crops are centered on
BACKGROUND = 0.25  # share of the crops that are centered anywhere
PAINTED = 0.3  # share of those centered on what the user painted, where that is known
AHEAD = 2  # crops that are prepared while a step is made
# Crops that are kept to be seen once more, where prompts leave the body's features as they are: these are half of what
# a step costs.
APART = 8
CHECKS = (0.4, 0.55, 0.7, 0.85)  # shares of the budget at which the held-out parts are looked at
PATIENCE = 2  # checks in a row that are worse than the best by more than BETTER, after which it stops
BOXES = 8  # that are tried in a volume
DEAR = 0.02  # of the budget: a check that takes more is made at the end alone
BETTER = 0.02  # held-out boxes are small: what agrees with them by less than that more is not better for it
# By so much the start has to agree more to be gone back to. A fit to other parts of the same patients knows their boxes
# well: on five vertebrae .449 against .344 after 80 steps, where other patients were at .249 and .350.
LOST = 0.2


@dataclass(frozen=True)
class Annotated:
    """A volume and its labels (z, y, x) on the working grid, labels as in ``annotation.labels``; where the user
    painted himself, bool, if that is known."""

    array: np.ndarray
    labels: np.ndarray
    painted: Optional[np.ndarray] = None

    def alone(self, index: int) -> Annotated:
        """For the class with label ``index`` alone, as :meth:`~.encoded.EncodedCrops.alone`."""
        labels = np.where(self.labels == index, 1, np.minimum(self.labels, 0))
        labels[self.labels < UNKNOWN] = UNKNOWN
        labels[self.labels == excluded_label(index)] = excluded_label(1)
        return replace(self, labels=labels.astype(self.labels.dtype))


def hold_out(
    volumes: Sequence[Annotated], size: Sequence[int], rng: np.random.Generator
) -> tuple[list[Annotated], list[Crop]]:
    """The volumes without the labels of a box in each, and crops of ``size`` with nothing but those.

    A box is at most half a crop and a third of the volume along each axis, around a voxel of a class, and never all
    that there is of one. Of a single volume nothing is held out: it would lack more than the check is worth.
    """
    if len(volumes) < 2:
        return list(volumes), []
    rest: list[Annotated] = []
    held: list[Crop] = []
    for each in volumes:
        shape = np.asarray(each.array.shape)
        extents = np.maximum(np.minimum(np.asarray(size) // 2, shape // 3), 1)
        labels, only = each.labels.copy(), np.full_like(each.labels, UNKNOWN)
        members = np.argwhere(labels > 0)
        others = [*rest, *volumes[len(rest) + 1 :]]
        elsewhere = {value for other in others for value in np.unique(other.labels)}
        for center in members[rng.integers(len(members), size=BOXES)] if len(members) else ():
            start = np.clip(center - extents // 2, 0, shape - extents)
            box = tuple(slice(a, a + n) for a, n in zip(start, extents))
            outside = labels.copy()
            outside[box] = UNKNOWN
            if not set(np.unique(labels[labels > 0])) <= elsewhere | set(np.unique(outside)):
                continue  # nothing would be left of a class
            only[box], labels = labels[box], outside
            corner = np.clip(start + extents // 2 - np.asarray(size) // 2, 0, np.maximum(shape - size, 0))
            held.append(cut(each.array, only, corner, np.asarray(size)))
            break
        rest.append(replace(each, labels=labels))
    return rest, held


class RandomCrops:
    """Crops number 0, 1, ... of volumes, each a function of the seed and its number alone, prepared ahead.

    Classes are centered on equally often, and a part of the crops lies anywhere, another where the user painted.
    """

    def __init__(self, volumes: Sequence[Annotated], classes: int, size: tuple[int, int, int], seed: int):
        self.volumes, self.size, self.seed = volumes, size, seed
        self.changes = student_changes(size, False)
        # Not mirrored: unlike a body, prompts need not know patients who lie the other way round.
        self.changes.transforms = self.changes.transforms[1:]
        draw = np.random.default_rng([seed, 0])
        self.members: list[list[tuple[int, np.ndarray]]] = []
        for index in range(1, classes + 1):
            found = [(place, np.argwhere(each.labels == index)) for place, each in enumerate(volumes)]
            thinned = [(place, own[draw.permutation(len(own))[:MEMBERS]]) for place, own in found if len(own)]
            self.members += [thinned] if thinned else []
        own = [(place, np.argwhere(each.painted)) for place, each in enumerate(volumes) if each.painted is not None]
        self.painted = [(place, where[draw.permutation(len(where))[:MEMBERS]]) for place, where in own if len(where)]
        self._threads = ThreadPoolExecutor(1)
        self._ahead: deque[Future] = deque()
        self._next = 0

    def start(self, number: int) -> None:
        """Go on with the crop of that number."""
        self._next = number

    def __next__(self) -> Crop:
        while len(self._ahead) < AHEAD:
            self._ahead.append(self._threads.submit(self.crop, self._next))
            self._next += 1
        return self._ahead.popleft().result()

    def close(self) -> None:
        for each in self._ahead:
            each.cancel()
        self._threads.shutdown(wait=True)

    def crop(self, number: int) -> Crop:
        draw = np.random.default_rng([self.seed, 1, number])
        place, center = self._center(draw)
        volume, wide = self.volumes[place], np.ceil(np.asarray(self.size) * MARGIN).astype(int)
        start = np.clip(center - wide // 2, 0, np.maximum(np.asarray(volume.array.shape) - wide, 0))
        larger = cut(volume.array, volume.labels, start, wide)
        content: dict[str, Any] = {"image": larger.image[0], "label": larger.labels[None].float()}
        content = {key: MetaTensor(value, affine=torch.eye(4, dtype=torch.float64)) for key, value in content.items()}
        content = apply_random(self.changes, content, draw)
        image, label = (as_tensor(center_crop(content[key], self.size)[0]) for key in ("image", "label"))
        return Crop(image[None].clamp(-1.0, 1.0), label[0].round().long())

    def _center(self, draw: np.random.Generator) -> tuple[int, np.ndarray]:
        if not self.members or draw.random() < BACKGROUND:
            place = int(draw.integers(len(self.volumes)))
            return place, draw.integers(0, np.asarray(self.volumes[place].array.shape))
        holders = self.members[draw.integers(len(self.members))]
        if self.painted and draw.random() < PAINTED:
            holders = self.painted
        place, own = holders[draw.integers(len(holders))]
        reach = np.asarray(self.size) // 4
        return place, own[draw.integers(len(own))] + draw.integers(-reach, reach + 1)


class Trainer(Tuner):
    """A tuner whose steps see crops that were not seen before, or, where that saves the body's pass, once before; and
    that keeps what held-out parts agree with."""

    def __init__(
        self,
        encoded: EncodedCrops,
        warm: WarmStart,
        classes: int,
        settings: Settings,
        rng: np.random.Generator,
        crops: RandomCrops,
        held: Optional[EncodedCrops],
    ):
        super().__init__(encoded, warm, classes, settings, rng)
        self.crops, self.held = crops, held
        self.checks: list[float] = []
        self._best: tuple[float, Optional[PromptTensors]] = (-1.0, None)
        self._since = 0
        self._check_seconds = 0.0
        self._held_features: dict[int, list[Tensor]] = {}
        self._drawn = 0
        self._recent: deque[tuple[EncodedCrops, list[Tensor]]] = deque()

    def _answers(self) -> tuple[Tensor, Tensor]:
        crop, features = self._crop()
        if not len(crop.labels[0]):  # nothing but what is held out
            return super()._answers()
        return crop.logits(0, self.prompts, features), crop.labels[0]

    def _crop(self) -> tuple[EncodedCrops, Optional[list[Tensor]]]:
        """A new crop, or one of some steps ago with its features, which need no pass of the body then."""
        self._drawn += 1
        if len(self._recent) >= APART and self._drawn % 2:
            return self._recent.popleft()
        crop = EncodedCrops(self.encoded.backbone, [next(self.crops)], False, ProgressHandle())
        if not leaves_features(self.prompts):
            return crop, None
        with torch.no_grad():
            features = crop.features(0, self.prompts)
        self._recent.append((crop, features))
        return crop, features

    def run(self, began: float, job: ProgressHandle, previews: Any) -> None:
        try:
            super().run(began, job, previews)
        finally:
            self.crops.close()

    def _enough(self, share: float) -> bool:
        if self.held is None or len(self.checks) >= len(CHECKS) or share < CHECKS[len(self.checks)]:
            return False
        if self.settings.steps is None and self._check_seconds > DEAR * (self.settings.seconds or 0.0):
            return False
        self._check(self.trusted())
        return self._since >= PATIENCE

    def _check(self, prompts: PromptTensors) -> None:
        """Look at the held-out parts. The latest prompts are kept as the best, unless earlier ones were clearly better:
        rates end at nearly nothing, so that the last steps gain most."""
        began = time.monotonic()
        self.held_back = self._on_held(prompts)
        self._check_seconds = time.monotonic() - began
        score = mean(self.held_back)
        self.checks.append(round(score, 4))
        self._since += 1
        if score > self._best[0] - BETTER:
            best = max(score, self._best[0])
            self._best, self._since = (best, {name: tensor.clone() for name, tensor in prompts.items()}), 0

    def _on_held(self, prompts: PromptTensors) -> list[float]:
        """Dice per class over the held-out parts. The body's features there are kept, of as many as memory is for,
        where prompts leave them as they are."""
        assert self.held is not None
        said, kept = [], leaves_features(prompts)
        with torch.no_grad():
            for index in range(len(self.held)):
                features = self._held_features.get(index)
                if kept and features is None:
                    features = self.held.features(index, prompts)
                    if len(self._held_features) < APART:
                        self._held_features[index] = features
                said.append(self.held.logits(index, prompts, features).argmax(1))
        return agreement(torch.cat(said), torch.cat(self.held.labels), self.classes)

    def _last_look(self) -> float:
        return super()._last_look() if self.held is None else 2 * self._check_seconds

    def best(self, first: list[float], job: ProgressHandle) -> tuple[PromptTensors, list[float]]:
        """The prompts that agreed best with the held-out parts; without any, as a tuner has it."""
        if self.held is None:
            return super().best(first, job)
        if not (self.step or self.token_steps):  # how well the start does is worth knowing, too
            self._check(self.warm.prompts)
            return self.warm.prompts, first
        final = self.trusted()
        began = mean(self._on_held(self.warm.prompts))
        self._check(final)
        if began > self._best[0] + LOST:
            return self.warm.prompts, first
        chosen = self._best[1]
        assert chosen is not None
        return chosen, [math.nan] * self.classes  # what was learned from is not looked at again

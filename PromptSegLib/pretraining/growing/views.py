"""Views: a part of a volume at some spacing, what a simulated user painted there, and the questions about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from ...growing.answering import answer_coarsely
from ...growing.inputs import Ground, question
from ...growing.network import GrowingNet, Stride, multiples, strides
from ..synthesis import smooth_noise, spoiled
from .contrast import redrawn, synthesized, with_clusters
from .phantoms import phantom
from .recipe import Recipe
from .users import corrected, painted, simulated_evidence
from .volumes import LabeledVolume

IGNORED = 255  # target of voxels that only fill up
_LEAST = 12  # voxels of a class in a view
_TRIES = 20
_WAITING = 16  # views that wait for their next turn, so that turns of one view are far apart
_WIDER = 1.6  # times the voxels of other views, of those that come with an answer on coarser voxels
_REAL = 0.9  # of the questions with evidence of classes that the backbone knows, those that get the backbone's own


@dataclass
class Scene:
    """A view before anything is asked; arrays (z, y, x), ``truth`` 0 or a class 1..count."""

    image: np.ndarray
    truth: np.ndarray
    count: int
    spacing: np.ndarray
    evidence: dict[int, np.ndarray]


class Views(IterableDataset):
    """Endless views as (questions (classes, CHANNELS, z, y, x) float16, targets (classes, z, y, x) uint8, strides).

    :param groups: the volumes of every source of the recipe, in its order.
    :param net: asked for corrections; its weights may change meanwhile (shared memory). None for views without.
    """

    def __init__(self, recipe: Recipe, groups: Sequence[Sequence[LabeledVolume]], net: Optional[GrowingNet] = None):
        self._recipe, self._groups, self._net = recipe, groups, net
        weights = np.array([*(source.weight for source in recipe.sources), recipe.phantoms])
        self._shares = weights / weights.sum()
        self.began = 0  # views drawn by an earlier part of the run

    def __iter__(self):
        worker = get_worker_info()
        rng = np.random.default_rng([self._recipe.seed, self.began, worker.id if worker else 0])
        waiting: list[tuple[Scene, np.ndarray, int]] = []
        while True:
            while len(waiting) < (_WAITING if self._recipe.turns > 1 else 1):
                waiting.append((*self.prepare(rng), self._recipe.turns))
            scene, asked, turns = waiting.pop(int(rng.integers(len(waiting))))
            if turns > 1:
                waiting.append((scene, asked, turns - 1))
            yield turned(scene, asked, rng)

    def draw(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[Stride]]:
        """A view of its own."""
        return turned(*self.prepare(rng), rng)

    def prepare(self, rng: np.random.Generator) -> tuple[Scene, np.ndarray]:
        """A scene and the questions about it, (classes, CHANNELS, z, y, x) float16."""
        net = self._net
        coarsely = net is not None and rng.random() < self._recipe.coarse
        scene = self._scene(rng, self._recipe.voxels * (_WIDER if coarsely else 1))
        strokes = painted(scene.truth, scene.count, rng)
        ground = Ground.of(scene.image, strokes, _triple(scene.spacing))
        shown = _shown(scene, self._recipe.evidence, rng)
        if net is not None and coarsely:
            for index in range(1, scene.count + 1):
                shown[index] = answer_coarsely(net, ground, index, shown.get(index), int(rng.integers(2, 4)))
        elif net is not None and rng.random() < self._recipe.corrections:
            answer = answers(net, questions(ground, scene.count, shown), _triple(scene.spacing))
            strokes = corrected(scene.truth, strokes, answer, rng)
            ground = Ground.of(scene.image, strokes, _triple(scene.spacing))
        return scene, questions(ground, scene.count, shown).astype(np.float16)

    def _scene(self, rng: np.random.Generator, voxels: float) -> Scene:
        for _ in range(_TRIES):
            source = int(rng.choice(len(self._shares), p=self._shares))
            if source == len(self._groups):
                scene = self._phantom(rng, voxels)
            else:
                volumes = self._groups[source]
                scene = self._cut(volumes[int(rng.integers(len(volumes)))], rng, voxels)
            if scene is not None:
                return scene
        return self._phantom(rng, voxels) or self._scene(rng, voxels)

    def _cut(self, volume: LabeledVolume, rng: np.random.Generator, voxels: float) -> Optional[Scene]:
        value = int(rng.choice(list(volume.boxes)))
        low, high = volume.boxes[value]
        spacing, shape = self._window(volume, (high - low) * volume.spacing, rng, voxels)
        extent = np.asarray(volume.levels[0].labels.shape)
        size = shape * spacing / volume.spacing  # of the view, voxels of the full resolution
        slack = np.maximum((size - (high - low)) / 2, 0.25 * (high - low))
        start = (low + high) / 2 - size / 2 + rng.uniform(-0.8, 0.8, 3) * slack
        start = np.clip(start, 0, np.maximum(extent - size, 0))
        image, labels = volume.cut(start, spacing, shape)
        truth, values = _asked_for(labels, value, self._recipe.asked, rng)
        if not values:
            return None
        evidence = {}
        if image is None:
            image = spoiled(synthesized(labels, rng), rng)
        elif rng.random() < self._recipe.synthesized:
            image = spoiled(synthesized(with_clusters(image, labels, rng), rng), rng)
        else:
            for index, each in enumerate(values, 1):
                known = volume.evidence_at(each[0], start, spacing, shape) if len(each) == 1 else None
                if known is not None:
                    evidence[index] = known
            if rng.random() < self._recipe.redrawn:
                image, evidence = redrawn(image, rng), {}
            image = spoiled(image, rng) if rng.random() < 0.5 else image
        return Scene(image, truth, len(values), spacing, evidence)

    def _window(
        self, volume: LabeledVolume, extent: np.ndarray, rng: np.random.Generator, voxels: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Spacing and shape of a view around a structure of that extent in mm, all (z, y, x)."""
        shape = rng.uniform(0.7, 1.4, 3)
        shape *= (voxels / np.prod(shape)) ** (1 / 3)
        step = float((extent * rng.uniform(1.1, 2.0, 3) / shape).max()) * np.exp(rng.uniform(-0.5, 0.3))
        spacing = np.maximum(step, volume.spacing * rng.uniform(0.7, 1.0))
        if rng.random() < 0.2:
            spacing[rng.integers(3)] *= rng.uniform(1.5, 5)
        whole = np.asarray(volume.levels[0].labels.shape) * volume.spacing / spacing
        shape = np.minimum(shape, whole)
        # What a short axis leaves, the others may have.
        shape = np.minimum(shape * max((voxels / np.prod(shape)) ** 0.35, 1), np.minimum(whole, 2 * shape))
        return spacing, np.maximum(shape.astype(int), 8)

    def _phantom(self, rng: np.random.Generator, voxels: float) -> Optional[Scene]:
        shape = rng.uniform(0.7, 1.4, 3)
        z, y, x = (int(each) for each in shape * (0.6 * voxels / np.prod(shape)) ** (1 / 3))
        tissues, labels = phantom((z, y, x), rng)
        present = [value for value in np.unique(labels[labels > 0]) if (labels == value).sum() >= _LEAST]
        if not present:
            return None
        truth, values = _asked_for(labels, int(rng.choice(present)), self._recipe.asked, rng)
        if not values:
            return None
        image = spoiled(synthesized(tissues, rng), rng)
        return Scene(image, truth, len(values), np.ones(3), {})


def turned(scene: Scene, asked: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor, list[Stride]]:
    """The questions about a scene and their targets, mirrored and turned at random, filled up as the network needs."""
    targets, order, flips = scene.truth, [0, 1, 2], [axis for axis in range(3) if rng.random() < 0.5]
    spacing = scene.spacing
    if rng.random() < 0.3:
        order = [int(axis) for axis in rng.permutation(3)]
        spacing = spacing[order]
    asked = np.flip(asked.transpose(0, 1, *(axis + 2 for axis in order)), tuple(axis + 2 for axis in flips))
    targets = np.flip(targets.transpose(order), tuple(flips))
    steps = strides(_triple(spacing))
    pads = [(0, -extent % each) for extent, each in zip(targets.shape, multiples(steps))]
    asked = np.pad(asked, ((0, 0), (0, 0), *pads), mode="edge")  # as ``model.ask`` does
    masks = np.stack([targets == index for index in range(1, scene.count + 1)]).astype(np.uint8)
    masks = np.pad(masks, ((0, 0), *pads), constant_values=IGNORED)
    return torch.from_numpy(np.ascontiguousarray(asked)), torch.from_numpy(masks), steps


def _asked_for(
    labels: np.ndarray, first: int, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[list[int]]]:
    """The truth for ``first`` and some other classes (0 elsewhere), and which label values each of them stands for."""
    counts = {int(value): int(n) for value, n in zip(*np.unique(labels[labels > 0], return_counts=True))}
    if counts.get(first, 0) < _LEAST:
        return labels, []
    rest = [value for value, n in counts.items() if value != first and n >= _LEAST]
    rng.shuffle(rest)
    number = int(rng.integers(1, most + 1))
    values = [[first], *([value] for value in rest[: number - 1])]
    if rng.random() < 0.12 and len(rest) >= number:  # several structures as one
        values[0] += rest[number - 1 : number + 2]
    rng.shuffle(values)
    truth = np.zeros(labels.shape, np.int16)
    for index, each in enumerate(values, 1):
        truth[np.isin(labels, each)] = index
    return truth, values


def _shown(scene: Scene, share: float, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """The evidence that comes with the questions: the backbone's, spoiled at times, or a simulated one."""
    if rng.random() >= share:
        return {}
    shown = {}
    noise = [smooth_noise(scene.truth.shape, rng.uniform(4, 25), rng) for _ in range(2)]
    for index in range(1, scene.count + 1):
        if rng.random() < 0.15:
            continue
        if index in scene.evidence and rng.random() < _REAL:
            shown[index] = scene.evidence[index]
        else:
            shown[index] = simulated_evidence(scene.truth, index, scene.count, rng, noise)
    return shown


def questions(ground: Ground, count: int, evidence: dict[int, np.ndarray]) -> np.ndarray:
    """(count, CHANNELS, z, y, x) float32."""
    return np.stack([question(ground, index, evidence.get(index)) for index in range(1, count + 1)])


def answers(net: GrowingNet, asked: np.ndarray, spacing: Sequence[float] = (1, 1, 1)) -> np.ndarray:
    """The class with the highest positive answer (z, y, x), or 0."""
    from ...growing.model import ask  # torch is at work there

    logits = ask(net, asked, spacing)
    return np.where(logits.max(0) > 0, logits.argmax(0) + 1, 0)


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    z, y, x = (float(value) for value in values)
    return z, y, x

"""The optimization of one group of classes on encoded crops, and the previews on the way."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Optional, Sequence

import numpy as np
import torch
from torch import Tensor

from ..annotation.labels import excluded_label
from ..network.attention import PromptTensors
from ..network.methods.method import TOKEN_SIZE
from ..network.methods.registry import method as method_called
from ..progress import ProgressHandle
from .encoded import EncodedCrops
from .held_out import Rows, held_out
from .objective import agreement, annotated_loss, class_weights, known_counts, mean
from .settings import Settings
from .warm_start import WarmStart, widths

# Agreement with the strokes from which the last map alone is enough for a new class. Chosen on organs that
# ct-abdomen's body knew (BTCV 14 and 15: .946 and more) and on some that it did not (OpenKBP's training cases: .919 and
# less). Tokens for all maps were better for the latter, and worse for the former, above all on the next patient.
MIN_SEPARABILITY = 0.93


class Previews:
    """Shows previews so that no more than a quarter of the time goes into them.

    :param looked: seconds that a look took which the user has just had; None for none. The first preview is then due
        only when it, too, is worth its time.
    """

    def __init__(self, look: Callable[[], None], looked: Optional[float] = None):
        self._look, self._cost = look, looked or 0.0
        self._next = 0.0 if looked is None else time.monotonic() + 3 * looked

    def show(self) -> None:
        began = time.monotonic()
        self._look()
        self._cost = time.monotonic() - began
        self._next = began + 4 * self._cost

    def due(self, left: Optional[float]) -> bool:
        """Whether to show the next, ``left`` seconds before the result, where known: not just before it."""
        return time.monotonic() >= self._next and (left is None or left > 2 * self._cost)


class Tuner:
    """The optimization of one group of classes on encoded crops."""

    def __init__(
        self, encoded: EncodedCrops, warm: WarmStart, classes: int, settings: Settings, rng: np.random.Generator
    ):
        self.encoded, self.warm, self.classes, self.settings, self.rng = encoded, warm, classes, settings, rng
        self.prompts = {name: tensor.detach().clone().requires_grad_() for name, tensor in warm.prompts.items()}
        self.average = {name: tensor.detach().clone() for name, tensor in warm.prompts.items()}
        self.weights = class_weights(known_counts(warm.labels, classes))
        # Crops by class, so that every class is seen equally often whatever its size.
        self.holders = []
        for index in range(1, classes + 1):
            teaching = [(labels == index) | (labels == excluded_label(index)) for labels in encoded.labels]
            self.holders.append([place for place, mask in enumerate(teaching) if mask.any()])
        self.step = self.token_steps = 0
        self.held_back = [float("nan")] * classes  # agreement of each class with what was held back

    def hold_back(self, spacing: Sequence[float], places: Tensor, until: Optional[float]) -> None:
        """Let painted slices predict each other, see :func:`~.held_out.held_out`; before any step.

        :param spacing: mm (z, y, x) of the grid on which ``places``, (n, 3), are those of ``warm.features``.
        """
        if method_called(self.settings.method).output_tokens and len(places) == len(self.warm.labels):
            rows = Rows(places.to(self.warm.labels.device), spacing)
            config = self.encoded.backbone.net.config
            self.held_back = held_out(config, self._logits, self.warm, rows, self.settings, until)

    def agreement(self, prompts: PromptTensors, features: Tensor, labels: Tensor) -> list[float]:
        """Dice per class over the annotated voxels, from their features under ``prompts``."""
        with torch.no_grad():
            said = self._logits(features, prompts).argmax(1)
        return agreement(said, labels, self.classes)

    def _on_crops(
        self, prompts: PromptTensors, job: ProgressHandle, crops: Optional[EncodedCrops] = None
    ) -> list[float]:
        """As :meth:`agreement`, where a voxel's features alone do not say what it is; on other crops where given."""
        said, crops = [], crops or self.encoded
        with torch.no_grad():
            for index in range(len(crops)):
                job.report("features", index / len(crops))
                said.append(crops.logits(index, prompts).argmax(1))
        return agreement(torch.cat(said), torch.cat(crops.labels), self.classes)

    def _logits(self, features: Tensor, prompts: PromptTensors) -> Tensor:
        """Features (n, C) as ``annotated_features`` gives them, of more maps where so -> logits (n, 1 + classes)."""
        net = self.encoded.backbone.net
        channels = widths(net.config, prompts)
        parts = features[:, : sum(channels)].t()[None, :, :, None, None].split(channels, 1)
        return net.similarity(parts, prompts)[0, :, :, 0, 0].t()

    def tokens(self, job: ProgressHandle, until: Optional[float] = None) -> None:
        """Full-batch steps on the output tokens over fixed features: cheap, and most of the way.

        :param until: the time (``time.monotonic``) at which they end early: with many classes they are not cheap.

        A class that starts from prototypes and that the last map does not tell apart then gets tokens for all maps.
        """
        if self.settings.steps == 0 or not method_called(self.settings.method).output_tokens:
            return
        self.token_steps = self.settings.token_steps
        if not self.token_steps:
            return
        self._fit(job.part(0.0, 0.5), until)
        if (until is None or time.monotonic() < until) and self._widen():
            self._fit(job.part(0.5, 1.0), until)

    def _widen(self) -> bool:
        """Output tokens of further maps for the classes that need them; whether there are such."""
        found = self.agreement(self.average, self.warm.features, self.warm.labels)
        tokens = self.warm.extra_output_tokens.values()
        rows = [i for i, each in enumerate(found) if each < MIN_SEPARABILITY and any(bool(t[i].any()) for t in tokens)]
        for name, tensor in self.warm.extra_output_tokens.items() if rows else ():
            before = self.average.get(name)
            added = torch.zeros_like(tensor) if before is None else before.clone()
            added[rows] = tensor[rows]
            self.average[name], self.prompts[name] = added, added.clone().requires_grad_()
        return bool(rows)

    def _fit(self, job: ProgressHandle, until: Optional[float]) -> None:
        steps = self.token_steps
        chosen = {name: tensor for name, tensor in self.prompts.items() if name.startswith("output")}
        optimizer = torch.optim.Adam(chosen.values(), lr=self.settings.token_rate)
        for step in range(steps):
            if until is not None and step and time.monotonic() >= until:
                break
            logits = self._logits(self.warm.features, chosen)
            loss = annotated_loss(logits, self.warm.labels, self.weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            job.report("output tokens", step / steps, loss=float(loss.detach()))
        for name, tensor in chosen.items():
            self.average[name].copy_(tensor.detach())

    def run(self, began: float, job: ProgressHandle, previews: Previews) -> None:
        """Steps through the decoder (or the whole network) until the budget is spent."""
        settings = self.settings
        optimizer = torch.optim.Adam(self._groups())
        begin = time.monotonic()
        budget = 0.0
        while True:
            if settings.steps is not None:
                share = self.step / settings.steps if settings.steps else 1.0
            else:
                # What is left of the user's seconds, less the last look at the agreement.
                budget = (settings.seconds or 0.0) - (begin - began) - self._last_look()
                share = (time.monotonic() - begin) / budget if budget > 0 else 1.0
            if share >= 1.0:
                break
            if self.step and previews.due(None if settings.steps is not None else (1 - share) * budget):
                previews.show()
            for group in optimizer.param_groups:
                group["lr"] = group["most"] * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
            logits, labels = self._answers()
            loss = annotated_loss(logits, labels, self.weights)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(list(self.prompts.values()), 1.0)
            optimizer.step()
            self.step += 1
            decay = min(settings.average, self.step / (self.step + 4))
            with torch.no_grad():
                for name, tensor in self.average.items():
                    tensor.lerp_(self.prompts[name], 1 - decay)
            job.report("tuning", share, loss=float(loss.detach()), agreement=self.told, step=self.step)
            if self._enough(share):
                break

    @property
    def told(self) -> float:
        """Mean agreement with what was held back; nan where nothing was."""
        return mean(self.held_back) if any(each == each for each in self.held_back) else math.nan

    def _answers(self) -> tuple[Tensor, Tensor]:
        """What a step learns from: logits (n, 1 + classes) and labels (n,) of annotated voxels."""
        index = self._pick()
        return self.encoded.logits(index, self.prompts), self.encoded.labels[index]

    def _last_look(self) -> float:
        """Seconds of the budget that :meth:`best` will need."""
        return self.warm.seconds

    def _enough(self, share: float) -> bool:
        """Whether to stop after a step at ``share`` of the budget."""
        return False

    def _groups(self) -> list[dict[str, Any]]:
        """Every tensor with the rate it begins with: in proportion to how far it must move to matter."""
        own, groups = method_called(self.settings.method), []
        for name, tensor in self.prompts.items():
            tokens = own.output_tokens and name.startswith("output")
            size = TOKEN_SIZE if tokens else own.size(name)
            if size is None:
                size = float(tensor.detach().square().mean().sqrt())
            groups.append({"params": [tensor], "most": self.settings.rate * size / TOKEN_SIZE})
        return groups

    def _pick(self) -> int:
        present = [holders for holders in self.holders if holders]
        holders = present[self.rng.integers(len(present))]
        return holders[self.rng.integers(len(holders))]

    def trusted(self) -> PromptTensors:
        """The averaged prompts; of classes that started from prompts, part of the way from there."""
        start, final = self.warm.prompts, {}
        for name, tensor in self.average.items():
            lent = self.warm.borrowed.get(name, self.warm.from_prompts)
            shares = torch.tensor([self.settings.trust if each else 1.0 for each in lent])
            share = shares.to(tensor.device).view(-1, *[1] * (tensor.ndim - 1))
            before = start.get(name, torch.zeros_like(tensor))
            final[name] = torch.lerp(before, tensor, share.expand_as(tensor))
        return final

    def best(self, first: list[float], job: ProgressHandle) -> tuple[PromptTensors, list[float]]:
        """:meth:`trusted`; or the start, where that agrees less with the strokes."""
        start = self.warm.prompts
        if not self.step and not self.token_steps:
            return start, first
        final = self.trusted()
        if not method_called(self.settings.method).pointwise:
            scores, first = self._on_crops(final, job.part(0.0, 0.5)), self._on_crops(start, job.part(0.5, 1.0))
        elif self.step:
            features, labels = self.encoded.annotated_features(final, job)
            scores = self.agreement(final, features, labels)
        else:  # output tokens come after the features
            scores = self.agreement(final, self.warm.features, self.warm.labels)
        if mean(scores) < mean(first):
            return start, first
        return final, scores

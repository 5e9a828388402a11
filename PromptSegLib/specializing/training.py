"""Training an adaptation on random, changed crops of complete annotations, with checkpoints to go on from."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, Callable, Optional

import torch
from torch import Tensor, nn

from ..annotation.labels import UNKNOWN
from ..errors import PromptSegError
from ..network.precision import autocast
from ..pretraining import checkpoint
from ..pretraining.objective import segmentation_loss
from ..progress import ProgressHandle
from ..tuning.crops import Crop
from ..tuning.training import RandomCrops
from .adaptations import Adaptation

WARM_UP = 0.03
LOWEST = 0.01  # of the learning rate, at the end and at the start
AVERAGE = 0.99
SAVED_EVERY = 45.0  # seconds


def rate_at(share: float) -> float:
    """Factor on the learning rates when ``share`` of the effort is spent: linear warm-up, then cosine."""
    if share < WARM_UP:
        return max(share / WARM_UP, LOWEST)
    return LOWEST + (1 - LOWEST) * 0.5 * (1 + math.cos(math.pi * share))


def crop_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy and Dice of one crop, over the voxels that are known; a zero where none is.

    :param logits: (1, 1 + classes, D, H, W); ``labels``: (D, H, W) 0 background, k the k-th class, less for unknown.
    """
    known = labels > UNKNOWN
    if not known.any():
        return logits.sum() * 0.0
    logits, labels = logits[:, :, known], labels[known]
    every = torch.ones(1, logits.shape[1] - 1, dtype=torch.bool, device=logits.device)
    return segmentation_loss(logits[..., None, None], labels[None, :, None, None], every).mean()


class Training:
    """The training of one adaptation; when it ends, the adaptation holds the running average of its weights.

    :param seconds: of ``clock`` (by default the time that passes), all attempts together; or ``steps``, which are
        reproducible for a seed on the CPU.
    :param saved: where the checkpoint is that an interrupted training goes on from; None for none.
    :param task: what the training is about, in a JSON object: only a checkpoint of the same is gone on from.
    """

    def __init__(
        self,
        made: Adaptation,
        crops: RandomCrops,
        *,
        seconds: Optional[float] = None,
        steps: Optional[int] = None,
        saved: Optional[Path] = None,
        task: Optional[dict[str, Any]] = None,
        device: Optional[torch.device] = None,
        clock: Optional[Callable[[], float]] = None,
    ):
        self.made, self.crops, self.seconds, self.steps, self.saved = made, crops, seconds, steps, saved
        self.task, self.device, self._clock = task or {}, device or torch.device("cpu"), clock or time.monotonic
        groups = [{"params": parameters, "lr": rate, "base": rate} for parameters, rate in made.trained]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=made.decay)
        self._weights: dict[str, nn.Parameter] = {
            name: each for name, each in made.named_parameters() if each.requires_grad
        }
        self._average = {name: each.detach().clone() for name, each in self._weights.items()}
        self.step, self.spent = 0, 0.0
        if saved is not None and saved.exists():
            self._go_on(saved)

    def _go_on(self, saved: Path) -> None:
        state = checkpoint.read_state(saved)
        if state.get("task") != self.task:
            raise PromptSegError(
                "{name} was begun with other examples, classes or settings; give another name, or delete it first.",
                name=str(self.task.get("name", saved.name)),
            )
        checkpoint.restore(saved, self._weights, self._average, self._optimizer)
        self.step, self.spent = int(state["step"]), float(state["seconds"])

    @property
    def share(self) -> float:
        """How much of the effort is spent, 0..1."""
        if self.steps is not None:
            return min(self.step / self.steps, 1.0) if self.steps else 1.0
        return min(self.spent / self.seconds, 1.0) if self.seconds else 1.0

    def save(self) -> None:
        """Write the checkpoint, if there is to be one; raises :class:`PromptSegError` where the disk is full."""
        if self.saved is not None:
            state = {"classes": self.made.classes, "step": self.step, "seconds": self.spent, "task": self.task}
            checkpoint.save(self.saved, self._weights, self._average, self._optimizer, state)

    def run(self, job: ProgressHandle) -> None:
        """Train until the effort is spent; what a caller cancels is saved, and gone on from by the next training.

        Raises :class:`Cancelled` and what :meth:`save` does.
        """
        self.crops.start(self.step)
        last, kept = self._clock(), self.spent
        try:
            while self.share < 1.0:
                loss = self._one_step(next(self.crops))
                now = self._clock()
                self.spent, last = self.spent + now - last, now
                if self.spent - kept > SAVED_EVERY:
                    kept = self.spent
                    self.save()
                    last = self._clock()
                job.report("training", self.share, loss=loss, step=self.step)
        except BaseException:
            if self.step:
                self.save()
            raise
        finally:
            self.crops.close()
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(self._average[name])

    def _one_step(self, crop: Crop) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = group["base"] * rate_at(self.share)
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self.device):
            logits = self.made(crop.image.to(self.device))
        loss = crop_loss(logits.float(), crop.labels.to(self.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self._weights.values()), 1.0)
        self._optimizer.step()
        self.step += 1
        # The average forgets the start faster than it could in the long run, as there may be few steps.
        keep = min(AVERAGE, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, weight in self._weights.items():
                self._average[name].lerp_(weight, 1 - keep)
        return float(loss.detach())

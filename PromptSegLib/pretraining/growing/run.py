"""The training loop of the growing network, resumable."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from ...errors import PromptSegError
from ...files import check_writable
from ...growing.model import load_growing, save_growing
from ...growing.network import GrowingNet
from ...models.backbone import load_model
from ...network.precision import autocast
from .. import checkpoint
from .backbone_evidence import add_evidence
from .card import card_text
from .recipe import Recipe
from .views import IGNORED, Views
from .volumes import load_source

SAVE_EVERY = 180.0  # seconds
_REPORT_EVERY = 50  # steps


class Training:
    """A training that can be killed at any step and resumed from its folder.

    :param workers: processes that prepare views beside the steps, forked from this one; 0 prepares them in between.
    :raises PromptSegError: unusable data, a folder that cannot be written, a checkpoint of something else.
    """

    def __init__(self, recipe: Recipe, folder: Path, log: Callable[[str], None] = print, workers: int = 1):
        self.recipe, self.folder, self.log, self.workers = recipe, Path(folder), log, workers
        self.folder.mkdir(parents=True, exist_ok=True)
        check_writable(self.checkpoint)
        torch.manual_seed(recipe.seed)
        self.net = GrowingNet().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        if recipe.start is not None and not self.checkpoint.exists():
            self.net.load_state_dict(_start(recipe.start))
        self.average = copy.deepcopy(self.net).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=recipe.rate, weight_decay=recipe.weight_decay)
        self.step, self.seconds = 0, 0.0
        if self.checkpoint.exists():
            state = checkpoint.restore(
                self.checkpoint,
                dict(self.net.named_parameters()),
                dict(self.average.named_parameters()),
                self.optimizer,
            )
            self.step, self.seconds = int(state["step"]), float(state["seconds"])
            log(f"goes on at step {self.step} after {self.seconds / 60:.1f} minutes")
        self.groups = [load_source(source, log) for source in recipe.sources]
        log(", ".join(f"{source.name}: {len(group)}" for source, group in zip(recipe.sources, self.groups)))
        if recipe.backbone is not None:
            backbone = load_model(recipe.backbone, "cpu")
            for source, group in zip(recipe.sources, self.groups):
                add_evidence(source, group, backbone, self.folder / "evidence", log)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def run(self) -> None:
        """Train to the recipe's end, save every few minutes, and write ``NAME.safetensors``."""
        views, losses, dices = self._views(), [], []
        began = saved = time.monotonic()
        before = self.seconds
        while self._spent() < 1:
            self._set_rate()
            self.optimizer.zero_grad(set_to_none=True)
            for _ in range(self.recipe.views):
                questions, targets, steps = next(views)
                loss, dice = self._loss(questions, targets, steps)
                (loss / self.recipe.views).backward()
                losses.append(float(loss.detach()))
                dices.append(dice)
            norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimizer.step()
                self._follow()
            self.step += 1
            self.seconds = before + time.monotonic() - began
            if self.step % _REPORT_EVERY == 0:
                self._report(losses, dices)
                losses, dices = [], []
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()
        self.publish()

    def _views(self) -> Iterator:
        dataset = Views(self.recipe, self.groups, self.net.share_memory())
        dataset.began = self.step
        more: dict[str, Any] = {"prefetch_factor": 4, "multiprocessing_context": "fork"} if self.workers else {}
        return iter(DataLoader(dataset, batch_size=None, num_workers=self.workers, **more))

    def _loss(self, questions: Tensor, targets: Tensor, steps: list) -> tuple[Tensor, float]:
        """Cross-entropy and Dice of every class that is asked for, and the mean Dice of the answers."""
        inputs = questions.float().contiguous(memory_format=torch.channels_last_3d)
        with autocast(inputs.device):
            logits = self.net(inputs, steps)[:, 0]
        logits, known = logits.float(), targets != IGNORED
        truth = (targets == 1).float()
        entropy = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")[known].mean()
        shares = torch.sigmoid(logits) * known
        axes = (1, 2, 3)
        dice = (2 * (shares * truth).sum(axes) + 10) / (shares.sum(axes) + truth.sum(axes) + 10)
        with torch.no_grad():
            hard = (logits > 0) & known
            agreed = 2 * (hard * truth).sum(axes) / (hard.sum(axes) + truth.sum(axes)).clamp(min=1)
        return entropy + 1 - dice.mean(), float(agreed.mean())

    def _spent(self) -> float:
        recipe = self.recipe
        return self.step / recipe.steps if recipe.steps else self.seconds / (60 * recipe.minutes)

    def _set_rate(self) -> None:
        spent, warm = self._spent(), self.recipe.warm_up
        share = spent / warm if spent < warm else 0.5 + 0.5 * math.cos(math.pi * (spent - warm) / max(1 - warm, 1e-9))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * max(share, 0.01)

    def _follow(self) -> None:
        """The average of the weights follows, slowly but at the beginning."""
        keep = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.parameters(), self.net.parameters()):
                mean.lerp_(now, 1 - keep)

    def _report(self, losses: list[float], dices: list[float]) -> None:
        line = f"step {self.step}  {self.seconds / 60:.1f} min  loss {sum(losses) / len(losses):.3f}"
        line += f"  Dice {sum(dices) / len(dices):.3f}"
        self.log(line)
        with (self.folder / "curve.txt").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        state = {"step": self.step, "seconds": self.seconds, "classes": [], "recipe": self.recipe.to_dict()}
        names = dict(self.net.named_parameters())
        checkpoint.save(self.checkpoint, names, dict(self.average.named_parameters()), self.optimizer, state)

    def _published(self) -> dict[str, Tensor]:
        """The averaged weights, and among them those of the start: the mean of a network and of what became of it keeps
        what either does well (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022)."""
        trained = {name: tensor.detach() for name, tensor in self.average.named_parameters()}
        if self.recipe.start is None or not self.recipe.keep:
            return trained
        before = _start(self.recipe.start)
        return {name: torch.lerp(tensor, before[name], self.recipe.keep) for name, tensor in trained.items()}

    def publish(self) -> Path:
        """Write the averaged weights in half precision, with their card."""
        path = self.folder / f"{self.recipe.name}.safetensors"
        sources = [
            {"name": s.name, "license": s.license, "cases": len(g)} for s, g in zip(self.recipe.sources, self.groups)
        ]
        card = {
            "title": self.recipe.title,
            "card": self.recipe.card,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "sources": sources,
            "recipe": json.loads(json.dumps(self.recipe.to_dict())),
        }
        save_growing(path, self._published(), card)
        path.with_suffix(".md").write_text(card_text(self.recipe.name, card), encoding="utf-8")
        self.log(f"wrote {path}")
        return path


def _start(name: str) -> dict[str, Tensor]:
    return load_growing(None if name == "bundled" else Path(name)).state_dict()


def train(recipe: Path, folder: Path, log: Callable[[str], None] = print, workers: int = 1) -> None:
    """Train the growing network as a recipe says, or go on with a training that was stopped."""
    loaded = Recipe.load(recipe)
    if loaded.minutes == 0 and loaded.steps == 0:
        raise PromptSegError("The recipe {recipe} has neither steps nor minutes; give one.", recipe=recipe)
    Training(loaded, folder, log, workers).run()

"""The pretraining loop: joint segmentation of random subsets of the base classes.

Concurrent class-prompted supervision of PUNet (METHODS.md 1.6) with Dice + cross-entropy
and foreground-centred crops as in the authors' revision (1.13).
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, Callable, Optional

import torch
import torch.distributed as distributed
from monai.losses import DiceLoss
from monai.utils import set_determinism
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ..errors import PromptSegError
from ..files import replacing
from ..network.precision import autocast
from ..network.punet import PUNet
from ..network.tokens import new_prompts, select, without_encoder
from .cases import load_cases
from .recipe import Recipe
from .views import augmentation, draw_view


def segmentation_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy + Dice over the classes present (averaging over absent ones stalls training, FINDINGS.md)."""
    classes = logits.shape[1]
    loss = F.cross_entropy(logits, label)
    onehot = F.one_hot(label, classes).movedim(-1, 1).float()
    present = onehot.flatten(2).sum((0, 2)) > 0
    present[0] = False
    if present.any():
        dice = DiceLoss(softmax=False, smooth_nr=1e-2, smooth_dr=1e-2, reduction="none", batch=True)
        each = dice(logits.softmax(1), onehot).flatten()
        loss = loss + each[present].mean()
    return loss


class Pretraining:
    """A run that can be stopped at any step and resumed from its folder with the same curve."""

    def __init__(self, recipe: Recipe, folder: Path, device: str = "cpu", log: Callable[[str], None] = print):
        self.recipe, self.folder, self.log = recipe, Path(folder), log
        self.device = torch.device(device)
        self.folder.mkdir(parents=True, exist_ok=True)
        set_determinism(recipe.seed)
        self.net = PUNet(recipe.network).to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        generator = torch.Generator().manual_seed(recipe.seed)
        prompts = new_prompts(recipe.network, len(recipe.classes), generator=generator)
        self.prompts = {name: tensor.to(self.device).requires_grad_() for name, tensor in prompts.items()}
        body = list(self.net.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in body if p.ndim > 1], "base": recipe.body_rate},
                {"params": [p for p in body if p.ndim <= 1], "base": recipe.body_rate, "weight_decay": 0.0},
                {"params": list(self.prompts.values()), "base": recipe.prompt_rate, "weight_decay": 0.0},
            ],
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.average = {name: tensor.detach().clone() for name, tensor in self._named().items()}
        self.step, self.seconds, self.recent = 0, 0.0, 0.0
        self.ranks = distributed.get_world_size() if distributed.is_initialized() else 1
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0
        if recipe.batch % self.ranks:
            raise PromptSegError(f"A batch of {recipe.batch} cannot be shared by {self.ranks} processes.")
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _named(self) -> dict[str, Tensor]:
        named = {f"body.{name}": tensor for name, tensor in self.net.named_parameters()}
        named.update({f"prompts.{name}": tensor for name, tensor in self.prompts.items()})
        return named

    def save(self) -> None:
        """Write the checkpoint (first process only): now, average and optimiser state of every tensor."""
        if self.rank:
            return
        tensors = {}
        for name, tensor in self._named().items():
            tensors[f"now.{name}"] = tensor.detach().cpu().contiguous()
            tensors[f"average.{name}"] = self.average[name].cpu().contiguous()
            for key, value in self.optimizer.state.get(tensor, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value).cpu().contiguous()
        state: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "recent": self.recent, "ranks": self.ranks}
        state["recipe"] = self.recipe.to_dict()
        with replacing(self.checkpoint) as temporary:
            save_file(tensors, str(temporary), {"state": json.dumps(state)})

    def _resume(self) -> None:
        with safe_open(str(self.checkpoint), "pt") as file:
            state = json.loads(file.metadata()["state"])
            names = set(file.keys())
            with torch.no_grad():
                for name, tensor in self._named().items():
                    tensor.copy_(file.get_tensor(f"now.{name}"))
                    self.average[name].copy_(file.get_tensor(f"average.{name}"))
                    if f"step.{name}" in names:
                        # The fused optimiser walks raw memory: the moments must be laid out as the parameter is.
                        moments = {
                            key: torch.empty_like(tensor).copy_(file.get_tensor(f"{key}.{name}"))
                            for key in ("exp_avg", "exp_avg_sq")
                        }
                        self.optimizer.state[tensor] = {"step": file.get_tensor(f"step.{name}"), **moments}
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]
        self.log(f"resumed at step {self.step}")

    def share(self) -> float:
        """How much of the run's bound is spent, 0..1."""
        recipe = self.recipe
        return self.step / recipe.steps if recipe.steps else self.seconds / 60 / recipe.minutes

    def rate(self) -> float:
        """Factor on the learning rates: linear warm-up, then cosine to 1 %."""
        share = min(self.share(), 1.0)
        if share < self.recipe.warm_up:
            return max(share / self.recipe.warm_up, 0.02)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))

    def run(self, stop: Optional[Callable[[], bool]] = None, save_every: float = 300.0) -> None:
        """Train until the bound is spent or ``stop`` says so; saves every ``save_every`` seconds."""
        recipe = self.recipe
        cases = load_cases(recipe, recipe.training)
        transform = augmentation(recipe)
        self.net.train()
        saved = reported = time.monotonic()
        while self.share() < 1.0 and not (stop and stop()):
            begin = time.monotonic()
            views = [
                draw_view(recipe, cases, transform, self.step * recipe.batch + index)
                for index in range(self.rank, recipe.batch, self.ranks)
            ]
            for group in self.optimizer.param_groups:
                group["lr"] = group["base"] * self.rate()
            for image, label, active, into_encoder in views:
                prompts = select(self.prompts, active.tolist())
                image = image.to(self.device, memory_format=torch.channels_last_3d)
                with autocast(self.device):
                    maps = self.net.encode(image, prompts if into_encoder else without_encoder(prompts))
                    features = self.net.decode(maps, prompts)
                    logits = self.net.upsample(self.net.similarity(features, prompts), image.shape[2:])
                loss = segmentation_loss(logits.float(), label.to(self.device)) / recipe.batch
                loss.backward()
            parameters = list(self._named().values())
            spent, value = self._exchange(parameters, time.monotonic() - begin, float(loss.detach()) * recipe.batch)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self._update_average()
            self.recent = value if not self.step else 0.99 * self.recent + 0.01 * value
            self.step += 1
            self.seconds += spent
            now = time.monotonic()
            if now - reported > 30 and not self.rank:
                reported = now
                left = self.seconds * (1 / max(self.share(), 1e-9) - 1)
                self.log(
                    f"step {self.step}  loss {self.recent:.4f}  {self.step / self.seconds:.2f} steps/s  "
                    f"{left / 60:.0f} min left"
                )
            if now - saved > save_every:
                saved = now
                self.save()
        self.save()

    def _exchange(self, parameters: list[Tensor], *scalars: float) -> tuple[float, ...]:
        """Sum gradients over the processes; returns the scalars' means, so that all processes agree on the clock."""
        if self.ranks == 1:
            return scalars
        gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        extra = torch.tensor(scalars, device=self.device)
        buffer = torch.cat([gradient.flatten() for gradient in gradients] + [extra])
        distributed.all_reduce(buffer)
        parts = buffer.split([gradient.numel() for gradient in gradients] + [len(scalars)])
        for gradient, part in zip(gradients, parts):
            gradient.copy_(part.view_as(gradient))
        return tuple((parts[-1] / self.ranks).tolist())

    def _update_average(self) -> None:
        named = self._named()
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), [named[name].detach() for name in self.average], 1 - decay)

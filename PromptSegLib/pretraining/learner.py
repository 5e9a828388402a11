"""What a run trains: the body and the prompts of its classes, and what a batch of views says about them."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn

from ..network.attention import PromptTensors
from ..network.precision import autocast
from ..network.punet import PUNet
from ..network.tokens import new_prompts, select, without_encoder
from .assignment import assignment_loss
from .objective import segmentation_loss
from .recipe import Recipe
from .views import STUDENTS

_DOT = ":"  # a parameter's name must not hold a dot


class Learner(nn.Module):
    """A PUNet and the stacked prompts of all classes; calling it with a batch gives the losses.

    The student, the momentum teacher and the network that is published are all learners: the latter two are one,
    the moving average of the student.
    """

    def __init__(self, recipe: Recipe):
        super().__init__()
        self.recipe = recipe
        self.net = PUNet(recipe.network)
        generator = torch.Generator().manual_seed(recipe.seed)
        prompts = new_prompts(recipe.network, len(recipe.class_names), generator=generator)
        self.prompts = nn.ParameterDict({name.replace(".", _DOT): tensor for name, tensor in prompts.items()})

    def stacked(self) -> PromptTensors:
        """The prompts of all classes, named as in ``NetworkConfig.prompt_shapes``."""
        return {name.replace(_DOT, "."): tensor for name, tensor in self.prompts.items()}

    def features(self, image: Tensor, prompts: PromptTensors, encoder: bool) -> list[Tensor]:
        """Features of images (B, 1, D, H, W), as ``PUNet.decode`` gives them, steered where the recipe wants it."""
        if not self.recipe.instructed:
            return self.net.decode(self.net.encode(image))
        return self.net.decode(self.net.encode(image, prompts if encoder else without_encoder(prompts)), prompts)

    def _precision(self, device: torch.device) -> torch.autocast:
        if self.recipe.mixed_precision:
            return autocast(device, scaled=True)
        return torch.autocast(device.type, enabled=False)

    def teach(self, batch: dict[str, Any]) -> Tensor:
        """F (B, C0, d, h, w) of the teacher's views of a batch of :class:`~.views.Views`; no gradient."""
        with torch.no_grad(), self._precision(batch["teacher"].device):
            return self.features(batch["teacher"], select(self.stacked(), batch["active"]), batch["encoder"])[0]

    def forward(self, batch: dict[str, Any], taught: Optional[Tensor] = None) -> dict[str, Tensor]:
        """Losses of a batch, each the mean over its images: ``loss`` and its parts.

        :param taught: what the teacher says of its views, (B, C0, d, h, w), in a step with self-supervision.
        """
        recipe = self.recipe
        prompts = select(self.stacked(), batch["active"])
        found: dict[str, Tensor] = {}
        parts, students = [], []
        for name in [name for name in STUDENTS if name in batch]:
            image = batch[name]
            with self._precision(image.device):
                features = self.features(image, prompts, batch["encoder"])
                students.append((features[0], batch[f"{name}_affine"]))
                if recipe.supervised:
                    logits = self.net.upsample(self.net.similarity(features, prompts), image.shape[2:])
            if recipe.supervised:
                parts.append(segmentation_loss(logits.float(), batch[f"{name}_label"], batch["known"]))
        loss = batch["large"].new_zeros(())
        if parts:
            found["segmentation"] = torch.stack(parts).mean()
            loss = loss + found["segmentation"]
        if taught is not None:
            each, told = assignment_loss(
                taught,
                batch["teacher_affine"],
                students,
                recipe.network.stem_stride,
                recipe.preprocessing.spacing,
                recipe.assignment,
            )
            found["assignment"] = each.mean()
            found.update(told)
            weight = recipe.assignment.weight if recipe.supervised else 1.0
            loss = loss + weight * found["assignment"]
        return {"loss": loss, **found}

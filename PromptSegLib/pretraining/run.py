"""The pretraining loop: class-prompted segmentation and prototype assignment, resumable, on any number of processes.

Concurrent supervision and self-supervision of PUNet (docs/methods.md#pretraining) with Dice + cross-entropy and
foreground-centered crops as in the authors' revision.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import multiprocessing
import shutil
import time
from contextlib import contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import torch
from monai.utils import set_determinism
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..errors import PromptSegError
from ..files import check_writable
from ..network.precision import needs_scaling
from . import checkpoint
from .cases import Cases
from .checking import check_cases
from .curves import Curves
from .finding import CaseFile, case_key, find_cases
from .learner import Learner
from .process import Ranks, asked_to_end, deaf_children, device_name, new_scaler
from .publish import commit
from .recipe import Recipe
from .start import begin_with
from .validation import as_backbone, line, means, overall, prompts_of, validate
from .views import Views, collate, to_device

REPORT_EVERY = 30.0  # seconds
MOST_UNUSABLE = 50  # steps in a row without a finite gradient; a single one is left out


class Pretraining:
    """A run that can be stopped or killed at any step and resumed from its folder with the same curve.

    Under ``torchrun`` (or any launcher that initialized ``torch.distributed``) the processes share each batch, and
    take the steps that a single process takes.

    :param device: a CPU or a CUDA device.
    :param workers: processes that prepare views, forked from this one.
    :param command: how the run was asked for, for the model card.
    :raises PromptSegError: unusable data, an output folder that cannot be written or has no room, a checkpoint there
        that is of another run, a device or a number of processes that cannot train.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        device: str = "cpu",
        log: Callable[[str], None] = print,
        workers: int = 0,
        command: str = "",
    ):
        self.recipe, self.folder, self.workers, self.command = recipe, Path(folder), workers, command
        self.device = torch.device(device)
        if self.device.type not in ("cpu", "cuda"):
            raise PromptSegError(
                "Pretraining does not run on {type}; choose the device cpu or cuda.", type=self.device.type
            )
        if workers and "fork" not in multiprocessing.get_all_start_methods():
            raise PromptSegError("This system cannot fork processes to prepare views; leave out --workers.")
        self.ranks = Ranks()
        self.log = log if not self.ranks.rank else lambda text: None
        if recipe.batch % self.ranks.count:
            raise PromptSegError(
                'A batch of {batch} cannot be shared by {ranks} processes; change "batch" in the recipe.',
                batch=recipe.batch,
                ranks=self.ranks.count,
            )
        set_determinism(recipe.seed)
        self.learner = Learner(recipe)
        self._prepare_folder()
        resuming = self.checkpoint.exists()
        if resuming:
            self._check_same_run(checkpoint.read_state(self.checkpoint))
        self.training, self.validation, self.skipped = self._files()
        self.earlier: list[str] = []
        if recipe.start and not resuming:
            self.earlier = begin_with(self.learner, recipe.start, self.log)
        self.learner.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        self.teacher = copy.deepcopy(self.learner).eval().requires_grad_(False)
        self.optimizer = self._optimizer()
        self.scaler = new_scaler(self.device, recipe.mixed_precision and needs_scaling(self.device))
        self.step, self.seconds, self.recent, self.unusable, self.validated = 0, 0.0, 0.0, 0, 0
        self.commit = commit()
        if resuming:
            self._resume()
        self._check_processes()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def _prepare_folder(self) -> None:
        """Make the output folder; see to it that it can be written, without leftovers, and has room."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PromptSegError(
                "Cannot make the folder {folder}: {strerror}.", folder=self.folder, strerror=error.strerror or error
            ) from error
        if self.ranks.rank:
            return
        check_writable(self.checkpoint)
        for leftover in self.folder.glob(f".promptseg-*/{self.checkpoint.name}"):  # killed while it saved
            shutil.rmtree(leftover.parent, ignore_errors=True)
        checkpoint.check_room(self.checkpoint, dict(self.learner.named_parameters()))

    def _files(self) -> tuple[list[CaseFile], list[CaseFile], dict[str, str]]:
        training, validation = find_cases(self.recipe)
        training, skipped = check_cases(self.recipe, training, self.log)
        self._check_labels(training)
        if validation:
            validation, more = check_cases(self.recipe, validation, self.log)
            skipped = {**skipped, **more}
        return training, validation, skipped

    def _check_labels(self, training: list[CaseFile]) -> None:
        if self.recipe.supervised and not any(file.label for file in training):
            raise PromptSegError(
                'No usable image has labels, and the variant "{variant}" learns from them; correct "label" '
                'of the sources, or choose the variant "self".',
                variant=self.recipe.variant,
            )

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe, body = self.recipe, list(self.learner.net.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in body if p.ndim > 1], "base": recipe.body_rate},
            {"params": [p for p in body if p.ndim <= 1], "base": recipe.body_rate, "weight_decay": 0.0},
            {"params": list(self.learner.prompts.values()), "base": recipe.prompt_rate, "weight_decay": 0.0},
        ]
        try:
            return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, fused=True)
        except RuntimeError:  # on the CPU, torch < 2.4
            return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)

    def save(self) -> None:
        """Write the checkpoint (first process only)."""
        if self.ranks.rank:
            return
        names: dict[str, list[str]] = {source.name: [] for source in self.recipe.sources}
        for file in self.training:
            if case_key(self.recipe, file) not in self.skipped:
                names[self.recipe.sources[file.source].name].append(file.name)
        state: dict[str, Any] = {
            "step": self.step,
            "seconds": self.seconds,
            "recent": self.recent,
            "validated": self.validated,
            "command": self.command,
            "commit": self.commit,
            "ranks": self.ranks.count,
            "device": device_name(self.device),
            "scaler": self.scaler.state_dict(),
            "classes": list(self.recipe.class_names),
            "training": names,
            "skipped": self.skipped,
            "earlier": self.earlier,
            "recipe": self.recipe.to_dict(),
        }
        now, average = (dict(each.named_parameters()) for each in (self.learner, self.teacher))
        checkpoint.save(self.checkpoint, now, average, self.optimizer, state)

    def _check_same_run(self, state: dict[str, Any]) -> None:
        """Refuse to go on with the checkpoint of a run that was described otherwise."""
        changed = self.recipe.differences(state["recipe"]) if "recipe" in state else []
        if not changed and state["classes"] != list(self.recipe.class_names):
            changed = ["the order of the classes"]
        if changed:
            raise PromptSegError(
                "{checkpoint} was trained with other settings ({changed}); restore them in the recipe, or "
                'give another output folder, with this checkpoint as "start" to go on with its weights.',
                checkpoint=self.checkpoint,
                changed=", ".join(changed),
            )

    def _resume(self) -> None:
        now, average = (dict(each.named_parameters()) for each in (self.learner, self.teacher))
        state = checkpoint.restore(self.checkpoint, now, average, self.optimizer)
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.recent = state["step"], state["seconds"], state["recent"]
        self.validated = min(state.get("validated", self._due()), self._due())
        self.earlier = state.get("earlier", [])
        self.command = state.get("command") or self.command
        commits = (state.get("commit") or "unknown").split(", ")
        self.commit = ", ".join(dict.fromkeys([*commits, self.commit or "unknown"]))
        self.log(f"resumed at step {self.step}")

    def _check_processes(self) -> None:
        """Stop all processes where they would not take the same steps."""
        if self.ranks.count == 1:
            return
        recipe = self.recipe.to_dict()
        for source in recipe["sources"]:
            del source["folder"]  # machines may have the same data in different places
        cases = [(file.source, file.name, bool(file.label)) for file in (*self.training, *self.validation)]
        mine = {
            what: hashlib.sha256(json.dumps(value).encode()).hexdigest()
            for what, value in (("step", self.step), ("recipe", recipe), ("cases", cases))
        }
        everyone = self.ranks.gathered(mine)
        differing = [what for what in mine if any(each[what] != mine[what] for each in everyone)]
        if differing:
            raise PromptSegError(
                "The processes differ in {differing}; give all machines the same recipe, the same images "
                "and the same output folder.",
                differing=" and ".join(differing),
            )

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

    def _due(self) -> int:
        """How many validations should have been made by now."""
        return math.floor(min(self.share(), 1.0) * self.recipe.validations)

    def run(self, stop: Optional[Callable[[], bool]] = None, save_every: float = 300.0) -> None:
        """Train until the bound is spent, ``stop`` says so, or the process is asked to end (SIGTERM, Ctrl+C).

        Saves every ``save_every`` seconds, before each validation and at the end, whatever ended it.
        """
        if self.share() >= 1.0 and self.validated >= self._due():
            return  # a finished run that is published again keeps what it says of its making
        cases = Cases(self.recipe, self.training, self.log)
        self._check_labels(cases.files)
        self.skipped.update(cases.skipped)
        self.learner.train()
        model = self.learner
        if self.ranks.count > 1:
            # Which prompts and blocks a step uses depends on its classes.
            model = DistributedDataParallel(self.learner, find_unused_parameters=True)  # type: ignore[assignment]
        saved = reported = time.monotonic()
        reported_step = self.step
        with asked_to_end(alone=self.ranks.count == 1) as ended, self._batches(Views(self.recipe, cases)) as batches:
            curves = Curves(self.folder / "curves", self.step, self.log) if not self.ranks.rank else None
            while True:
                if self._due() > self.validated:  # also one that was due when the run was stopped
                    self._validate(curves)
                if self.share() >= 1.0:
                    break
                clock = self._clock()
                batch = to_device(next(batches), self.device)
                self.skipped.update(batch.pop("skipped"))
                found = self._step(model, batch)
                asked = float(ended() or bool(stop and stop()))
                spent, over = self.ranks.agree(self._clock() - clock, asked, self.device)
                value = float(found["loss"])
                if math.isfinite(value):
                    self.recent = value if not self.step else 0.99 * self.recent + 0.01 * value
                self.step += 1
                self.seconds += spent
                now = time.monotonic()
                if now - reported > REPORT_EVERY and not self.ranks.rank:
                    pace = (self.step - reported_step) / (now - reported)
                    self._report(found, pace, curves)
                    reported, reported_step = now, self.step
                if over:
                    break
                if now - saved > save_every:
                    saved = now
                    self.save()
            self.skipped = self.ranks.merged(self.skipped)
            self.save()
        if curves:
            curves.close()

    def _step(self, model: torch.nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * self.rate()
        taught = self.teacher.teach(batch) if "teacher" in batch else None
        found = model(batch, taught)
        self.scaler.scale(found["loss"]).backward()
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters(), 1.0)
        self.unusable = 0 if torch.isfinite(norm) else self.unusable + 1
        if self.unusable > MOST_UNUSABLE:
            raise PromptSegError(
                "The run has diverged: {unusable} steps in a row had no finite gradient; lower its rates, "
                'or set "mixed_precision" to false, and start again in another folder.',
                unusable=self.unusable,
            )
        if self.scaler.is_enabled() or not self.unusable:
            self.scaler.step(self.optimizer)  # does nothing itself where the scaled loss was too large
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.learner.parameters()), 1 - decay)
        return {**{name: value.detach() for name, value in found.items()}, "gradient": norm}

    @contextmanager
    def _batches(self, views: Views) -> Iterator[Iterator[dict[str, Any]]]:
        """This process's part of every batch from the present step on."""
        batch, ranks = self.recipe.batch, self.ranks
        mine = ([step * batch + each for each in range(ranks.rank, batch, ranks.count)] for step in count(self.step))
        more: dict[str, Any] = {"multiprocessing_context": "fork", "prefetch_factor": 2} if self.workers else {}
        pinned = self.device.type == "cuda"
        loader: DataLoader = DataLoader(
            views, batch_sampler=mine, num_workers=self.workers, collate_fn=collate, pin_memory=pinned, **more
        )
        with deaf_children() if self.workers else nullcontext():
            batches: Any = iter(loader)
        try:
            yield batches
        except PromptSegError as error:  # torch puts the traceback of a worker process before its sentence
            raise PromptSegError(str(error).rpartition("PromptSegError: ")[2].strip()) from error
        finally:
            if self.workers:  # they would not hear the signal that ends forgotten ones
                batches._shutdown_workers()

    def _clock(self) -> float:
        return time.process_time() if self.recipe.clock == "processor" else time.monotonic()

    def _report(self, found: dict[str, Tensor], pace: float, curves: Optional[Curves]) -> None:
        left = (1 - self.share()) * self.seconds / max(self.share(), 1e-9) if self.share() else 0.0
        parts = "  ".join(f"{name} {float(value):.3f}" for name, value in found.items() if name not in ("loss",))
        memory = f"  {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if self.device.type == "cuda" else ""
        self.log(
            f"step {self.step}  loss {self.recent:.4f}  ({parts})  {pace:.2f} steps/s, "
            f"{pace * self.recipe.batch:.1f} views/s{memory}  {left / 60:.0f} min left"
        )
        if curves:
            rates = {"rate": self.rate(), "steps per second": pace, "smoothed loss": self.recent}
            curves.add(self.step, {**rates, **{name: float(value) for name, value in found.items()}})

    def _validate(self, curves: Optional[Curves]) -> None:
        if self.validation and self.recipe.supervised:
            self.save()  # not one step is lost to what may happen now
            self._score(curves)
        self.validated = self._due()

    def _score(self, curves: Optional[Curves]) -> None:
        self.skipped = self.ranks.merged(self.skipped)
        known = set(self.skipped)
        usable = [file for file in self.validation if case_key(self.recipe, file) not in known]
        own = usable[self.ranks.rank :: self.ranks.count]
        found = validate(self.recipe, as_backbone(self.teacher), prompts_of(self.teacher), own, self.skipped)
        self.skipped = self.ranks.merged(self.skipped)
        unusable = [key for key in self.skipped if key not in known]
        for key in unusable:
            self.log(f"{key} is skipped: {self.skipped[key]}")
        if unusable:
            self.log(f"{len(unusable)} of {len(usable)} validation cases are skipped")
        if self.ranks.count > 1:
            pairs = [[sum(values), len(values)] for values in found.values()]
            sums = self.ranks.summed(pairs, self.device)
            found = {name: [a / n] if n else [] for name, (a, n) in zip(found, sums.tolist())}
        scores = means(found)
        self.log(f"step {self.step}  validation: {line(scores)}")
        if curves:
            points = {f"validation/{name}": value for name, value in scores.items() if value is not None}
            mean = overall(scores)
            curves.add(self.step, {**points, **({"validation/mean": mean} if mean is not None else {})})

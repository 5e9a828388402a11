"""Training a backbone from the command line, in one process or in several that a launcher starts."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from pathlib import Path

from ..errors import PromptSegError
from ..memory import keep_freed_memory
from ..models import catalogue


def pretrain(options: argparse.Namespace) -> None:
    from ..pretraining.recipe import Recipe

    bundled = Path(__file__).parents[1] / "pretraining" / "recipes" / f"{options.recipe}.json"
    recipe = Recipe.load(bundled if bundled.is_file() else Path(options.recipe))
    ranks, local = _processes()
    if ranks > 1 and ":" in options.device:
        raise PromptSegError("Each of the {ranks} processes takes a GPU of its own; give --device cuda.", ranks=ranks)
    import torch

    from ..models.backbone import choose_device
    from ..pretraining.publish import publish, register
    from ..pretraining.run import Pretraining

    if options.threads:
        torch.set_num_threads(options.threads)
    device = str(choose_device(options.device))
    if device == "cuda" and ranks > 1:
        device = str(choose_device(f"cuda:{local}"))
        torch.cuda.set_device(device)
    if ranks > 1:
        try:
            torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
        except (RuntimeError, ValueError) as error:
            raise PromptSegError(
                "The {ranks} processes do not find each other ({error}); start them with torchrun.",
                ranks=ranks,
                error=str(error).splitlines()[0][:100],
            ) from error
    if device == "cpu":
        keep_freed_memory(2**31 - 1)  # it holds what its largest step took until it ends
    output = Path(options.output or recipe.name)

    def log(line: str) -> None:
        print(line, flush=True)

    try:
        run = Pretraining(recipe, output, device, log, options.workers, _pretrain_command(options, ranks))
        run.run()
    finally:
        if ranks > 1:
            torch.distributed.destroy_process_group()
    if run.ranks.rank:
        return
    if run.share() < 1.0:
        print(f"stopped at step {run.step}; the same command goes on from there")
        return
    folder = Path(catalogue.__file__).parent / "weights" if options.bundle else output
    entry = publish(recipe, run.checkpoint, folder, run.validation, device)
    if options.bundle:
        register(entry)
    print(json.dumps(entry, indent=2))


def pretrain_prompts(options: argparse.Namespace) -> None:
    from ..models.backbone import load_model
    from ..specializing import further_prompts as further
    from .commands import progress

    bundled = Path(__file__).parents[1] / "specializing" / "recipes" / f"{options.recipe}.json"
    recipe = further.PromptsRecipe.load(bundled if bundled.is_file() else Path(options.recipe))
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    backbone = load_model(recipe.model, options.device)
    command = shlex.join(["python", "-m", "PromptSegLib", "pretrain-prompts", options.recipe])
    with progress() as job:
        prompts, card = further.further_prompts(recipe, backbone, command, job=job)
    folder = catalogue.FOLDER / "weights" if options.bundle else Path(options.output or recipe.name)
    entry = further.publish(prompts, card, recipe.name, folder)
    if options.bundle:
        further.register(entry, recipe.model)
    print(json.dumps(entry, indent=2))


def launched() -> bool:
    """Whether this is one of several processes, started by torchrun or a launcher that sets what it sets."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def _processes() -> tuple[int, int]:
    """How many processes train together, and the number of this one on its machine."""
    if not launched():
        return 1, 0
    names = ("WORLD_SIZE", "RANK", "MASTER_PORT", "LOCAL_RANK")
    values = [os.environ.get(name, "0") for name in names]
    for name, value in zip(names, values):
        if not value.isdecimal():
            raise PromptSegError(
                "The environment's {name} is {value}, not a number; start with torchrun.", name=name, value=repr(value)
            )
    ranks, rank, _, local = map(int, values)
    if rank >= ranks:
        raise PromptSegError(
            "The environment's RANK {rank} is not below WORLD_SIZE {ranks}; start with torchrun.",
            rank=rank,
            ranks=ranks,
        )
    return ranks, local


def _pretrain_command(options: argparse.Namespace, ranks: int) -> str:
    """The command of a run, for its model card."""
    words = ["python", "-m", "PromptSegLib", "pretrain", options.recipe]
    if ranks > 1:
        here = os.environ.get("LOCAL_WORLD_SIZE", str(ranks))
        nodes = ranks // int(here) if here.isdecimal() and int(here) else 1
        launcher = ["torchrun", *(["--nnodes", str(nodes)] if nodes > 1 else []), "--nproc-per-node", here]
        words = [*launcher, *words[1:]]
    for name, default in (("output", None), ("workers", 0), ("threads", 0), ("device", "auto")):
        if getattr(options, name) != default:
            words += [f"--{name}", str(getattr(options, name))]
    return shlex.join([*words, "--bundle"] if options.bundle else words)

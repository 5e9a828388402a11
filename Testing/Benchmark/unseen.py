"""Learned growing by networks that never saw the kind of structure: beside the one that is shipped, which did.

Usage: ``make bench-unseen`` or ``python Testing/Benchmark/unseen.py FOLDER``. For each kind, a network is trained from
random weights by the shipped one's recipe without the sets and label maps of that kind, in FOLDER, and goes on there
where it was stopped; then the bench on novel structures (``novel.py``) is run on the sets of that kind, with that
network and with the shipped one, on development cases.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch
from novel import METHODS, Bench, Method, Options, Rows, grown, runs
from novel_cases import SETS, chosen
from novel_table import table

from PromptSegLib.errors import PromptSegError
from PromptSegLib.growing.model import load_growing
from PromptSegLib.growing.network import GrowingNet

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "PromptSegLib" / "growing" / "recipes" / "growing.json"
DATA = ROOT.parent / "shared" / "data"
UNSEEN = "learned growing, kind left out"


@dataclass(frozen=True)
class Kind:
    """What a network is left without.

    :param sources: sets of the recipe.
    :param maps: patterns of the label maps that hold such structures.
    :param sets: of the bench on novel structures.
    """

    name: str
    sources: tuple[str, ...]
    maps: tuple[str, ...]
    sets: tuple[str, ...]


_BRAINS = ("hoa2_*", "synthseg_*", "spl_brain")  # with brainstems, which OpenKBP has too
KINDS = (
    Kind("limbs-and-brains", ("sarcoma CT", "sarcoma T1", "hippocampus"), _BRAINS, ("sts_ct", "sts_t1", "hippocampus")),
    Kind("trunks-and-heads", ("BTCV", "OpenKBP"), ("spl_abdomen", *_BRAINS), ("btcv", "openkbp")),
    Kind("spines", ("spine T1", "spine T2"), ("spl_abdomen",), ("spine_t1", "spine_t2")),
)


def recipe_without(kind: Kind, steps: int) -> dict:
    """The shipped network's recipe without a kind of structures, from random weights, in views half as large and with
    simulated evidence alone: the bench shows none, and computing the backbone's takes as long as some hundred steps."""
    recipe = json.loads(RECIPE.read_text(encoding="utf-8"))
    recipe.update(name=kind.name, title=f"Growing, without {kind.name}", start=None, keep=0.0, rate=0.002)
    recipe.update(minutes=0.0, steps=steps, voxels=110_000, backbone=None)
    recipe["sources"] = [source for source in recipe["sources"] if source["name"] not in kind.sources]
    for source in recipe["sources"]:
        if "image" not in source:
            source["held_out"] = [*source.get("held_out", []), *kind.maps]
    return recipe


def trained(kind: Kind, folder: Path, steps: int) -> Path:
    """The network without a kind, trained unless it is there."""
    from PromptSegLib.pretraining.growing.run import train

    network = folder / kind.name / f"{kind.name}.safetensors"
    if not network.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        recipe = folder / f"{kind.name}.json"
        recipe.write_text(json.dumps(recipe_without(kind, steps), indent=1), encoding="utf-8")
        train(recipe, network.parent, lambda line: print(line, flush=True))
    return network


def grown_by(network: GrowingNet) -> Method:
    return lambda task, options: grown(task, network=network)


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for recipes, trainings and rows")
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--kinds", nargs="+", choices=[kind.name for kind in KINDS], default=[k.name for k in KINDS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cases-per-set", type=int, default=2, metavar="N", help="the first N cases of each set")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    bench = Bench(Rows(options.folder / "rows.json", {"threads": options.threads}), Options(threads=options.threads))
    try:
        for kind in (each for each in KINDS if each.name in options.kinds):
            METHODS[UNSEEN] = grown_by(load_growing(trained(kind, options.folder, options.steps)))
            for group, case in runs(chosen(list(kind.sets)), options.data, False, options.cases_per_set):
                bench.run(group, case, options.seeds, ["Grow from seeds", UNSEEN, "learned growing"])
    except PromptSegError as error:
        print(error)
        return 2
    print(table(bench.rows.rows, {each.name: each.title for each in SETS}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

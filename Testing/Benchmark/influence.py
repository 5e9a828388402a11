"""How much a method's own tensors decide: tuned on one patient, the next is segmented with and without them.

Usage: ``python Testing/Benchmark/influence.py --methods dvpt ept [--case 12] [--next 13] [--steps 60]``. Strokes on
three slices a class as in ``make bench``, the shipped backbone, no strokes on the next patient. Printed for every
class: the Dice with the tuned prompts, with the tensors of the method switched off (output tokens stay), with
those that it started from, and the share of the class's voxels that each of the two changes (those that change their
label, against those that the tuned prompts give the class). Cases 12 to 15 are for choosing, 16 to 19 for reporting.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from PromptSegLib.evaluation.scribbles import scribble
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.network.methods.registry import method as method_called
from PromptSegLib.network.methods.registry import offered
from PromptSegLib.network.tokens import new_prompts

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "btcv"
CLASSES = {"liver": 6, "spleen": 1, "right kidney": 2, "left kidney": 3, "aorta": 8, "stomach": 7, "pancreas": 11}
BACKGROUND = 200


def replaced(prompts: ps.Prompts, change: Callable[[str, np.ndarray], np.ndarray]) -> ps.Prompts:
    """The prompts with every tensor that is no output token changed."""
    classes = [
        replace(
            each,
            tensors={
                name: tensor if name.startswith("output") else change(name, tensor)
                for name, tensor in each.tensors.items()
            },
        )
        for each in prompts.classes
    ]
    return replace(prompts, classes=tuple(classes))


def switched_off(prompts: ps.Prompts) -> ps.Prompts:
    off = method_called(prompts.method).off
    return replaced(prompts, lambda name, tensor: off(name, torch.from_numpy(tensor)).numpy())


def as_at_first(prompts: ps.Prompts, seed: int) -> ps.Prompts:
    """With the tensors that the tuning started from, for methods that no shipped class lends any."""
    count, generator = len(prompts.classes), torch.Generator().manual_seed(seed)
    fresh = new_prompts(prompts.network, count, prompts.mode, prompts.method, generator)
    return replaced(prompts, lambda name, tensor: fresh[name][0].numpy())


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return float(2 * (one & two).sum() / max(1, one.sum() + two.sum()))


def measure(method: str, backbone: ps.Backbone, options: argparse.Namespace) -> None:
    """Tune on one case and print a line for every class of the next."""
    image, reference = (
        read(_file(options.case, kind)) for read, kind in ((read_image, "ct"), (read_annotation, "label"))
    )
    following = read_image(_file(options.next, "ct"))
    truth = sitk.GetArrayFromImage(read_annotation(_file(options.next, "label")))
    strokes = scribble(reference, CLASSES, BACKGROUND, seed=options.seed)
    settings = ps.Settings(
        mode=options.mode,
        method=method,
        steps=options.steps,
        seed=options.seed,
    )
    prompts = ps.tune([ps.Example(image, strokes, BACKGROUND)], CLASSES, backbone, settings=settings)
    seconds = max(record["seconds"] for record in prompts.tuning.values())
    print(f"{method}, mode {options.mode}, {options.passes}: {options.steps} steps in {seconds:.0f} s", flush=True)
    own = sum(t.size for name, t in prompts.classes[0].tensors.items() if not name.startswith("output"))
    print(f"  {own} numbers of its own a class")
    versions = [prompts, switched_off(prompts), as_at_first(prompts, options.seed)]
    tuned, off, first = (sitk.GetArrayFromImage(ps.segment(each, following, backbone).labels) for each in versions)
    rows = []
    for name, value in CLASSES.items():
        masks = [array == value for array in (tuned, off, first)]
        size = max(1, int(masks[0].sum()))
        changed = [100 * int((masks[0] != each).sum()) / size for each in masks[1:]]
        rows.append([*(dice(each, truth == value) for each in masks), *changed])
        print("  {:13s} Dice {:.3f} off {:.3f} start {:.3f}  changed {:5.1f} % {:5.1f} %".format(name, *rows[-1]))
    print("  {:13s} Dice {:.3f} off {:.3f} start {:.3f}  changed {:5.1f} % {:5.1f} %".format("mean", *np.mean(rows, 0)))


def _file(case: int, kind: str) -> Path:
    return DATA / f"case{case:02d}_{kind}.nii.gz"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["dvpt", "ept"], choices=offered())
    parser.add_argument("--mode", default="decoder")
    parser.add_argument("--passes", default="joint")
    parser.add_argument("--case", type=int, default=12)
    parser.add_argument("--next", type=int, default=13)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    backbone = ps.load_model(device="cpu")
    for method in options.methods:
        measure(method, backbone, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

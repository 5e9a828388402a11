"""Strokes on one patient, then the next patient without any: the README's table, and more of it in docs/benchmarks.md.

Usage: ``make bench`` or ``python Testing/Benchmark/bench.py [--data DIR] [--cases 16 17 ...] [--seeds 0 1]``.

Every method gets the same simulated strokes on the same kept-back BTCV cases, in plane every second
voxel, in one run on one machine. The cases were never trained on and no setting was chosen on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from statistics import mean, median

import SimpleITK as sitk
import torch
from baselines import grow_from_seeds, random_forest

import PromptSegLib as ps
from PromptSegLib.evaluation.scores import score
from PromptSegLib.evaluation.scribbles import scribble
from PromptSegLib.imaging.reading import read_annotation, read_image

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {
    "liver": 6,
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "aorta": 8,
    "stomach": 7,
    "pancreas": 11,
}
BACKGROUND = 255


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "btcv")
    parser.add_argument("--cases", type=int, nargs="+", default=[16, 17, 18, 19])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model")
    parser.add_argument("--skip", nargs="*", default=[], choices=["baselines"])
    parser.add_argument("--json", type=Path, help="also write every figure here")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"There is no folder {options.data}; the benchmark needs BTCV as shared/data/README.md describes it.")
        return 2
    torch.set_num_threads(options.threads)
    backbone = ps.load_model(options.model, "cpu")
    cases = {number: load(options.data, number) for number in options.cases}
    bench = Bench(backbone, options)
    for seed in options.seeds:
        for number, (image, reference) in cases.items():
            bench.same_patient(number, image, reference, seed)
        if len(cases) > 1:
            bench.next_patients(cases, seed)
    rows = bench.rows
    print()
    print(table(rows, options))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    return 0


class Bench:
    """Runs the methods and keeps a row per method, case and seed."""

    def __init__(self, backbone: ps.Backbone, options: argparse.Namespace):
        self.backbone, self.options = backbone, options
        self.rows: list[dict] = []
        self.tuned: dict[int, ps.Prompts] = {}

    def same_patient(self, number: int, image: sitk.Image, reference: sitk.Image, seed: int) -> None:
        """Every method on one case with the same strokes."""
        strokes = scribble(reference, CLASSES, BACKGROUND, seed=seed)
        share = float((sitk.GetArrayViewFromImage(strokes) > 0).mean())
        print(f"case {number} seed {seed}: {share:.2%} of the voxels annotated", flush=True)
        options, backbone = self.options, self.backbone
        if "baselines" not in options.skip:
            self._timed("Grow from seeds (Slicer)", number, seed, reference, lambda: grow_from_seeds(image, strokes))
            self._timed(
                "Random forest",
                number,
                seed,
                reference,
                lambda: random_forest(image, strokes, threads=options.threads, coordinates=True),
            )
        if backbone.shipped is not None:
            shipped = backbone.shipped
            self._timed(
                "PromptSeg, shipped prompts, no strokes",
                number,
                seed,
                reference,
                lambda: ps.segment(shipped, image, backbone).labels,
            )
        began = time.perf_counter()
        settings = ps.Settings(seconds=options.seconds, seed=seed)
        prompts = ps.tune([ps.Example(image, strokes, BACKGROUND)], CLASSES, backbone, settings=settings)
        spent = time.perf_counter() - began
        self.tuned[number] = prompts
        for method, growing in (("PromptSeg, network alone", False), ("PromptSeg", None)):
            self._timed(
                method,
                number,
                seed,
                reference,
                lambda growing=growing: (
                    ps.segment(prompts, image, backbone, options=ps.SegmentationOptions(grow_strokes=growing)).labels
                ),
                spent,
            )

    def next_patients(self, cases: dict, seed: int) -> None:
        """Prompts tuned on each case on the case after it, without any annotation."""
        numbers = list(cases)
        for number, following in zip(numbers, numbers[1:] + numbers[:1]):
            image, reference = cases[following]
            prompts = self.tuned[number]
            self._timed(
                "PromptSeg, next patient, no strokes",
                following,
                seed,
                reference,
                lambda image=image, prompts=prompts: ps.segment(prompts, image, self.backbone).labels,
            )

    def _timed(self, method: str, case: int, seed: int, reference: sitk.Image, run, spent: float = 0.0) -> None:
        began = time.perf_counter()
        labels = run()
        seconds = spent + time.perf_counter() - began
        scores = {name: each.dice for name, each in score(reference, labels, CLASSES).items()}
        self.rows.append({"method": method, "case": case, "seed": seed, "seconds": seconds, "dice": scores})
        shown = "  ".join(f"{name} {value:.2f}" for name, value in scores.items() if value is not None)
        print(f"  {method:38s} {average(scores):.3f}  {seconds:5.1f} s  {shown}", flush=True)


def load(folder: Path, number: int) -> tuple[sitk.Image, sitk.Image]:
    """CT and reference of one case, in plane every second voxel."""
    image = read_image(folder / f"case{number:02d}_ct.nii.gz")
    reference = read_annotation(folder / f"case{number:02d}_label.nii.gz")
    return image[::2, ::2, :], reference[::2, ::2, :]


def average(scores: dict) -> float:
    known = [value for value in scores.values() if value is not None]
    return mean(known) if known else float("nan")


def table(rows: list[dict], options: argparse.Namespace) -> str:
    """Markdown: mean Dice over cases and seeds per organ and over organs, median seconds."""
    lines = ["| method | mean | " + " | ".join(CLASSES) + " | s |", "|---" * (len(CLASSES) + 3) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        cells = []
        for name in CLASSES:
            values = [row["dice"][name] for row in own if row["dice"][name] is not None]
            cells.append(f"{mean(values):.3f}" if values else "-")
        overall = mean(average(row["dice"]) for row in own)
        seconds = median(row["seconds"] for row in own)
        lines.append(f"| {method} | **{overall:.3f}** | " + " | ".join(cells) + f" | {seconds:.1f} |")
    lines.append("")
    lines.append(
        f"BTCV cases {', '.join(map(str, options.cases))}; stroke seeds {', '.join(map(str, options.seeds))}; tuning "
        f"{options.seconds:g} s; {options.threads} threads; torch {torch.__version__}; {platform.machine()}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

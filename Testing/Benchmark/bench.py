"""The benchmark behind the README's table: strokes on one patient, then the next patient without any.

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
from PromptSegLib.examples.reading import read_annotation, read_image

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
    parser.add_argument("--skip", nargs="*", default=[], choices=["baselines", "next"])
    parser.add_argument("--json", type=Path, help="also write every figure here")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"There is no folder {options.data}; the benchmark needs BTCV as shared/data/README.md describes it.")
        return 2
    torch.set_num_threads(options.threads)
    backbone = ps.load_model(options.model, "cpu")
    cases = {number: load(options.data, number) for number in options.cases}
    rows: list[dict] = []
    for seed in options.seeds:
        tuned = {}
        for number, (image, reference) in cases.items():
            strokes = scribble(reference, CLASSES, BACKGROUND, seed=seed)
            share = float((sitk.GetArrayViewFromImage(strokes) > 0).mean())

            def note(method: str, labels: sitk.Image, seconds: float, case=number, of=reference, seed=seed, share=share):
                scores = {name: each.dice for name, each in score(of, labels, CLASSES).items()}
                rows.append({"method": method, "case": case, "seed": seed, "seconds": seconds, "dice": scores})
                shown = "  ".join(f"{name} {value:.2f}" for name, value in scores.items() if value is not None)
                print(
                    f"case {case} seed {seed} ({share:.2%} annotated)  {method:34s} {average(scores):.3f}  "
                    f"{seconds:5.1f} s  {shown}",
                    flush=True,
                )

            if "baselines" not in options.skip:
                began = time.perf_counter()
                labels = grow_from_seeds(image, strokes)
                note("Grow from seeds (Slicer)", labels, time.perf_counter() - began)
                began = time.perf_counter()
                labels = random_forest(image, strokes, threads=options.threads, coordinates=True)
                note("Random forest", labels, time.perf_counter() - began)
            shipped = backbone.shipped
            if shipped is not None:
                began = time.perf_counter()
                result = ps.segment(shipped, image, backbone)
                note("PromptSeg, shipped prompts, no strokes", result.labels, time.perf_counter() - began)
            began = time.perf_counter()
            settings = ps.Settings(seconds=options.seconds, seed=seed)
            tuned[number] = ps.tune([ps.Example(image, strokes, BACKGROUND)], CLASSES, backbone, settings=settings)
            spent = time.perf_counter() - began
            began = time.perf_counter()
            result = ps.segment(tuned[number], image, backbone, grow_strokes=False)
            note("PromptSeg, network alone", result.labels, spent + time.perf_counter() - began)
            began = time.perf_counter()
            result = ps.segment(tuned[number], image, backbone)
            note("PromptSeg", result.labels, spent + time.perf_counter() - began)
        if "next" not in options.skip and len(cases) > 1:
            numbers = list(cases)
            for number, following in zip(numbers, numbers[1:] + numbers[:1]):
                image, reference = cases[following]
                began = time.perf_counter()
                result = ps.segment(tuned[number], image, backbone)
                seconds = time.perf_counter() - began
                scores = {name: each.dice for name, each in score(reference, result.labels, CLASSES).items()}
                method = "PromptSeg, next patient, no strokes"
                rows.append({"method": method, "case": following, "seed": seed, "seconds": seconds, "dice": scores})
                print(f"case {number} -> {following} seed {seed}  {method}  {average(scores):.3f}", flush=True)
    print()
    print(table(rows, options))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2))
    return 0


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
    lines = ["| method | mean | " + " | ".join(CLASSES) + " | seconds |", "|---" * (len(CLASSES) + 3) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        cells = []
        for name in CLASSES:
            values = [row["dice"][name] for row in own if row["dice"][name] is not None]
            cells.append(f"{mean(values):.3f}" if values else "-")
        overall = mean(average(row["dice"]) for row in own)
        seconds = median(row["seconds"] for row in own)
        lines.append(f"| {method} | **{overall:.3f}** | " + " | ".join(cells) + f" | {seconds:.0f} |")
    lines.append("")
    lines.append(
        f"BTCV cases {', '.join(map(str, options.cases))}; stroke seeds {', '.join(map(str, options.seeds))}; tuning "
        f"{options.seconds:g} s; {options.threads} threads; torch {torch.__version__}; {platform.machine()}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

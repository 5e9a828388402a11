"""The shipped prompts on cases that nothing was trained or chosen on: no strokes, no tuning.

Usage: ``make bench-shipped`` or ``python Testing/Benchmark/shipped.py [--data FOLDER]``. Dice on the cases' own grids,
as ``PromptSegLib/pretraining/validation.py`` counts it: over the cases in which a structure is labeled.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, median

import torch

from PromptSegLib.errors import PromptSegError
from PromptSegLib.models.backbone import Backbone, load_model
from PromptSegLib.pretraining.finding import find_cases
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.validation import validate

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "PromptSegLib" / "pretraining" / "recipes"
# Source of the recipe -> cases. OpenKBP's other validation cases, 201, 206, 210 and 215, were looked at in training.
CASES = {
    "BTCV": ("case16", "case17", "case18", "case19"),
    "OpenKBP": tuple(f"val_pt_{number}" for number in range(201, 241) if number not in (201, 206, 210, 215)),
}
# Labels that do not lie on their image: the brainstem's are on bone (304 HU in the mean), the parotid glands' on the
# edge of the body (-186 and -140 HU). The case counts in the mean; a second one is given without it.
MISPLACED = ("val_pt_221",)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", help="name or file (default: the bundled one)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"There is no folder {options.data}; the benchmark needs what shared/data/README.md describes.")
        return 2
    torch.set_num_threads(options.threads)
    try:
        backbone = load_model(options.model, "cpu")
        for name in CASES:
            measure(backbone, name, options.data)
    except PromptSegError as error:
        print(error)
        return 1
    return 0


def measure(backbone: Backbone, name: str, data: Path) -> None:
    """Print Dice per class of one source, as a table."""
    recipe = Recipe.load(RECIPES / f"{backbone.name}.json")
    source = next((each for each in recipe.sources if each.name == name), None)
    if source is None or source.image is None or backbone.shipped is None:
        print(f"{backbone.name} was not trained on {name}, or ships no prompts.")
        return
    folder = data / Path(source.folder).name
    there = tuple(case for case in CASES[name] if (folder / source.image.format(case=case)).exists())
    recipe = replace(recipe, sources=(replace(source, folder=str(folder), validation=there, absent=()),))
    found: dict[str, dict[str, list[float]]] = {}
    seconds = []
    for file in find_cases(recipe)[1]:
        began = time.perf_counter()
        scores = validate(recipe, backbone, backbone.shipped, [file])
        seconds.append(time.perf_counter() - began)
        found[file.name] = scores
        print(f"{file.name}  " + "  ".join(f"{key} {values[0]:.2f}" for key, values in scores.items() if values))
    known = [key for key in recipe.class_names if any(scores[key] for scores in found.values())]
    print(f"\n| {name} | cases | {' | '.join(known)} | mean | s |")
    print("|---" * (len(known) + 4) + "|")
    for left_out in [(), MISPLACED] if set(MISPLACED) & set(found) else [()]:
        kept = [scores for case, scores in found.items() if case not in left_out]
        each = [mean(value for scores in kept for value in scores[key]) for key in known]
        said = f"{backbone.name}, without {', '.join(left_out)}" if left_out else backbone.name
        cells = " | ".join(f"{value:.3f}" for value in each)
        print(f"| {said} | {len(kept)} | {cells} | **{mean(each):.3f}** | {median(seconds):.1f} |")
    print(flush=True)


if __name__ == "__main__":
    sys.exit(main())

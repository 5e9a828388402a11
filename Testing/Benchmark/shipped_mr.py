"""The shipped prompts on MR: no strokes, no tuning; development cases.

Usage: ``make bench-shipped`` or ``python Testing/Benchmark/shipped_mr.py [--data FOLDER] [--model NAME]``.

A labeled abdominal MR is hard to get: there is one (T1-weighted, of TotalSegmentator, fetched by pip). Beside it stand
stand-ins (``stand_ins.py``): BTCV 14 and 15, with the intensities of tissues on MR.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Iterator

import SimpleITK as sitk
import torch
from novel_cases import ROOT, SETS
from stand_ins import ON_CT, WEIGHTINGS, stand_in

from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scores import score
from PromptSegLib.imaging.intensity import MODALITY
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.inference.options import SegmentationOptions
from PromptSegLib.inference.segmenting import segment
from PromptSegLib.models.backbone import Backbone, load_model

CASES = ("case14", "case15")
FOUR = ("liver", "spleen", "right kidney", "left kidney")


def cases(data: Path) -> Iterator[tuple[str, sitk.Image, sitk.Image, dict[str, int]]]:
    """Name, image, reference and its classes of what there is."""
    for found in next(each for each in SETS if each.name == "abdomen_mr").cases(data):
        yield "MR, T1", *found.load()
    for case in CASES:
        image_file, label_file = (data / "btcv" / f"{case}_{kind}.nii.gz" for kind in ("ct", "label"))
        if not image_file.is_file():
            print(f"{data} has no {case} of BTCV; its stand-ins are left out.")
            continue
        ct, reference = read_image(image_file), read_annotation(label_file)
        for weighting in WEIGHTINGS:
            yield f"{case}, {weighting}", stand_in(ct, reference, weighting), reference, ON_CT


def measured(backbone: Backbone, name: str, image: sitk.Image, reference: sitk.Image, classes: dict[str, int]) -> str:
    """A row of the table."""
    assert backbone.shipped is not None
    values = backbone.shipped.values
    image.SetMetaData(MODALITY, "MR")
    began = time.perf_counter()
    labels = segment(backbone.shipped, image, backbone, options=SegmentationOptions(name=name)).labels
    seconds = time.perf_counter() - began
    renamed = {value: classes.get(each, 0) for each, value in values.items()}
    scores = score(reference, sitk.ChangeLabel(labels, renamed), classes)
    dice = {each: found.dice for each, found in scores.items() if found.dice is not None}
    four = [dice[each] for each in FOUR if each in dice]
    cells = [f"{dice[each]:.3f}" if each in dice else "" for each in FOUR]
    every = f"{mean(dice.values()):.3f}" if len(classes) > len(FOUR) else ""
    return f"| {name} | {' | '.join(cells)} | **{mean(four):.3f}** | {every} | {seconds:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--model", help="name or file (default: the bundled one)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        backbone = load_model(options.model, "cpu")
        if backbone.shipped is None:
            raise PromptSegError("The model {name} ships no prompts; give another.", name=backbone.name)
        print(f"| {backbone.name} | {' | '.join(FOUR)} | mean of these | mean of 13 | s |")
        print("|---" * (len(FOUR) + 4) + "|")
        for case in cases(options.data):
            print(measured(backbone, *case), flush=True)
    except PromptSegError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

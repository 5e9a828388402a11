"""The shipped prompts on MR: no strokes, no tuning; development cases.

Usage: ``make bench-shipped`` or ``python Testing/Benchmark/shipped_mr.py [--data FOLDER] [--model NAME]``.

A labeled abdominal MR is hard to get: there is one (T1-weighted, of TotalSegmentator, fetched by pip). Beside it stand
stand-ins: BTCV 14 and 15, with the intensities of tissues on MR. What they look like was written down by hand, of three
weightings, and has nothing to do with how training images are drawn (``PromptSegLib/pretraining/synthesis.py``).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Iterator

import numpy as np
import SimpleITK as sitk
import torch
from novel_cases import ROOT, SETS
from scipy import ndimage
from shipped import RECIPES

from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scores import score
from PromptSegLib.imaging.intensity import MODALITY
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.inference.options import SegmentationOptions
from PromptSegLib.inference.segmenting import segment
from PromptSegLib.models.backbone import Backbone, load_model
from PromptSegLib.pretraining.recipe import Recipe

CASES = ("case14", "case15")
FOUR = ("liver", "spleen", "right kidney", "left kidney")
# The classes of BTCV, spleen first, in the order of their values.
_BTCV = next(each for each in Recipe.load(RECIPES / "ct-body.json").sources if each.name == "BTCV")
ON_CT = {name: _BTCV.values_of(name)[0] for name in _BTCV.classes}
# Of each weighting, 0..1: fat, muscle, other soft tissue (bowel, marrow), and the organs in the order of ON_CT.
WEIGHTINGS = {
    "T2": (0.8, 0.13, 0.35, (0.5, 0.62, 0.62, 0.95, 0.25, 0.27, 0.45, 0.08, 0.15, 0.12, 0.35, 0.25, 0.25)),
    "T1": (0.85, 0.28, 0.3, (0.26, 0.3, 0.3, 0.2, 0.28, 0.42, 0.25, 0.12, 0.14, 0.2, 0.45, 0.3, 0.3)),
    "T2, fat dark": (0.1, 0.15, 0.4, (0.6, 0.7, 0.7, 1.0, 0.3, 0.3, 0.5, 0.06, 0.12, 0.12, 0.42, 0.3, 0.3)),
}
_GAS, _BONE = 0.02, 0.04


def stand_in(ct: sitk.Image, labels: sitk.Image, weighting: str, seed: int = 7) -> sitk.Image:
    """An image on the grid of a labeled abdominal CT (HU from -125), int16, with an MR's tissues, bias and noise."""
    rng = np.random.default_rng(seed)
    hu, organs = sitk.GetArrayFromImage(ct).astype(np.float32), sitk.GetArrayFromImage(labels)
    fat, muscle, other, of_organs = WEIGHTINGS[weighting]
    free, smooth, wide = organs == 0, ndimage.gaussian_filter(hu, 0.6), ndimage.gaussian_filter(hu, 2)
    body = _body(hu)
    bone = body & free & (smooth >= 180)
    marrow = ndimage.binary_closing(bone, iterations=3) & free & (smooth >= 80) & (smooth < 260)
    gas = body & (wide < -122) & ndimage.binary_erosion(body, iterations=12)
    drawn = np.where(body, np.float32(muscle), np.float32(0))
    drawn[body & free & (smooth >= -30) & (wide < 45)] = other * 0.8
    for where, value in ((body & (smooth < -30), fat), (bone, _BONE), (marrow, other), (gas, _GAS)):
        drawn[where] = value
    for value, brightness in zip(ON_CT.values(), of_organs):
        drawn[organs == value] = brightness * rng.uniform(0.9, 1.1)
    drawn *= 1 + 0.36 * ndimage.gaussian_filter(rng.standard_normal(hu.shape, np.float32), 1.2)
    drawn = ndimage.gaussian_filter(drawn, (0.5, 0.7, 0.7))
    slopes = (axis * rng.normal(0, size) for axis, size in zip(_axes(hu.shape), (0.125, 0.25, 0.25)))
    drawn = drawn * np.exp(sum(slopes))
    noise = 0.02 * rng.standard_normal((2, *hu.shape), np.float32)
    image = sitk.GetImageFromArray((700 * np.hypot(drawn + noise[0], noise[1])).astype(np.int16))
    image.CopyInformation(ct)
    return image


def _axes(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """-1..1 along each axis, to be broadcast."""
    for axis, extent in enumerate(shape):
        yield np.linspace(-1, 1, extent, dtype=np.float32).reshape([-1 if each == axis else 1 for each in range(3)])


def _body(hu: np.ndarray) -> np.ndarray:
    """The largest part that is no air (z, y, x), without the table where that is apart, and without holes."""
    parts, _ = ndimage.label(ndimage.binary_opening(ndimage.gaussian_filter(hu, 1.0) > -122, iterations=2))
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    return np.stack([ndimage.binary_fill_holes(each) for each in largest])


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

"""The main job on a real CT, with the bundled backbone: a validation case, never one of the test cases."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import mean

import pytest
import SimpleITK as sitk

import PromptSegLib as ps
from PromptSegLib.evaluation.scores import score
from PromptSegLib.evaluation.scribbles import correct, scribble
from PromptSegLib.imaging.reading import read_annotation, read_image

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "btcv"
CLASSES = {"liver": 6, "spleen": 1, "right kidney": 2, "left kidney": 3, "aorta": 8, "stomach": 7, "pancreas": 11}
BACKGROUND = 255

pytestmark = [pytest.mark.training, pytest.mark.skipif(not DATA.is_dir(), reason=f"needs real volumes in {DATA}")]


def case(number: int) -> tuple[sitk.Image, sitk.Image]:
    image = read_image(DATA / f"case{number}_ct.nii.gz")[::2, ::2, :]
    return image, read_annotation(DATA / f"case{number}_label.nii.gz")[::2, ::2, :]


def dice(reference: sitk.Image, labels: sitk.Image) -> float:
    return mean(each.dice for each in score(reference, labels, CLASSES).values() if each.dice is not None)


@pytest.fixture(scope="module")
def tuned():
    image, reference = case(14)
    strokes = scribble(reference, CLASSES, BACKGROUND)
    backbone = ps.load_model(device="cpu")
    before = {name: tensor.clone() for name, tensor in backbone.net.state_dict().items()}
    prompts = ps.tune([ps.Example(image, strokes, BACKGROUND)], CLASSES, backbone, settings=ps.Settings(steps=4))
    assert all((tensor == before[name]).all() for name, tensor in backbone.net.state_dict().items())
    return image, reference, strokes, backbone, prompts


def test_strokes_give_more_than_grow_from_seeds_and_a_correction_more_still(tuned):
    sys.path.insert(0, str(ROOT / "Testing" / "Benchmark"))
    from baselines import grow_from_seeds

    image, reference, strokes, backbone, prompts = tuned
    result = ps.segment(prompts, image, backbone)
    reached = dice(reference, result.labels)
    assert reached > dice(reference, grow_from_seeds(image, strokes))
    assert reached > 0.8
    more = correct(reference, strokes, result.labels, CLASSES, BACKGROUND)
    corrected = ps.segment(prompts, image, backbone, strokes=ps.Example(image, more, BACKGROUND))
    assert dice(reference, corrected.labels) > reached - 0.005


def test_prompts_segment_the_next_patient_without_strokes(tuned):
    *_, backbone, prompts = tuned
    image, reference = case(15)
    result = ps.segment(prompts, image, backbone)
    assert "growing" not in result.seconds
    assert dice(reference, result.labels) > 0.6


def test_prompts_stay_small(tuned, tmp_path):
    *_, prompts = tuned
    path = tmp_path / "prompts.safetensors"
    prompts.save(path)
    assert path.stat().st_size <= 256 * 1024 * len(CLASSES)
    assert ps.Prompts.load(path).values == CLASSES

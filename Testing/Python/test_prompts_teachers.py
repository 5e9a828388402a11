"""What prompts say they have learned from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import PromptSegLib as ps
from harness.tiny_model import CLASSES, example, tiny_backbone
from PromptSegLib.prompts.teachers import taught_by


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> ps.Prompts:
    backbone = tiny_backbone(tmp_path_factory.mktemp("tiny"))
    return ps.tune([example()], CLASSES, backbone, settings=ps.Settings(steps=0))


def record(*examples) -> dict:
    return {"0": {"examples": [{"name": name, "complete": complete} for name, complete in examples]}}


def test_what_was_painted_and_what_is_complete_are_told_apart(prompts):
    assert taught_by(prompts) == f"what was painted on {example().name}"
    one = replace(prompts, tuning=record(("A", True)))
    assert taught_by(one) == "the complete segmentation of A"
    many = replace(prompts, tuning=record(*((name, True) for name in "ABCDEF"), ("S", False)))
    assert taught_by(many) == "the complete segmentations of A, B, C, D and 2 more and what was painted on S"


@pytest.mark.parametrize(
    "tuning",
    [{}, {"0": None}, {"0": {"examples": 3}}, {"0": {"examples": [None, {"name": 4}, {"name": "A"}]}}, record((7, 1))],
)
def test_records_that_do_not_say_are_no_reason_to_fail(prompts, tuning):
    assert taught_by(replace(prompts, tuning=tuning)) == ""


def test_prompts_of_an_earlier_format_do_not_say():
    earlier = Path(__file__).parent / "data" / "format1" / "punet-full.safetensors"
    assert taught_by(ps.Prompts.load(earlier)) == ""

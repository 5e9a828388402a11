"""Names that look the same are one name, wherever classes are told apart or found by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.prompts_fixtures import make
from harness.tiny_model import CLASSES, example, tiny_backbone
from PromptSegLib.annotation.checking import check_examples
from PromptSegLib.annotation.classes import (
    MAX_CLASSES,
    canonical_name,
    check_names,
    class_infos,
    describe,
    is_name,
    is_one_body,
    matching_name,
    same_name,
)
from PromptSegLib.errors import PromptSegError
from PromptSegLib.inference.deciding import making_of
from PromptSegLib.inference.segmenting import segment
from PromptSegLib.prompts.store import Prompts, parse_classes
from PromptSegLib.tuning.pipeline import tune
from PromptSegLib.tuning.settings import Settings

ALIKE = {
    "composed and decomposed": ("L\u00e9sion", "Le\u0301sion"),
    "marks in another order": ("a\u0323\u0302", "a\u0302\u0323"),
    "a blank at the end": ("liver", "liver "),
    "a blank at the beginning": ("liver", " liver"),
    "two blanks": ("left kidney", "left  kidney"),
    "a blank that does not break": ("left kidney", "left\u00a0kidney"),
    "a wide blank": ("left kidney", "left\u3000kidney"),
    "a tab": ("left kidney", "left\tkidney"),
    "a zero-width space": ("liver", "li\u200bver"),
    "a joiner": ("liver", "liver\u200d"),
    "a byte order mark": ("liver", "\ufeffliver"),
    "a soft hyphen": ("gallbladder", "gall\u00adbladder"),
    "a mark of direction": ("liver", "liver\u200e"),
    "a selector": ("liver", "liver\ufe0f"),
    "a joiner of graphemes": ("liver", "li\u034fver"),
    "a ligature": ("fissure", "\ufb01ssure"),
    "a hyphen that does not break": ("T-cell", "T\u2011cell"),
    "another apostrophe": ("Crohn's", "Crohn\u2019s"),
    "wide letters": ("CT2", "\uff23\uff342"),
    "Cyrillic letters": ("aorta", "\u0430\u043ert\u0430"),
    "Greek capitals": ("NET", "\u039d\u0395\u03a4"),
    "two signs for one letter": ("\u03bcm", "\u00b5m"),
    "a dash": ("T-cell", "T\u2013cell"),
    "other quotes": ('the "left" one', "the \u201cleft\u201d one"),
    "another slash": ("L4/L5", "L4\u2215L5"),
    "a Greek letter": ("vein", "\u03bdein"),
    "rare Cyrillic letters": ("haqw", "\u04bba\u051b\u051d"),
    "Cyrillic letters with marks": ("l\u00ebsion", "l\u0451sion"),
    "bold letters of mathematics": ("A1", "\U0001d400\U0001d7cf"),
    "an invisible Hangul letter": ("liver", "liver\u3164"),
}
DIFFERENT = [
    ("liver", "Liver"),
    ("left kidney", "left_kidney"),
    ("left kidney", "leftkidney"),
    ("T2", "T\u00b2"),
    ("lesion 1", "lesion 2"),
    ("Lesion", "L\u00e9sion"),
    ("\u809d", "\u813e"),
]


@pytest.mark.parametrize("one, other", ALIKE.values(), ids=ALIKE)
def test_alike(one, other):
    assert one != other
    assert same_name(one, other) and same_name(other, one)
    assert canonical_name(canonical_name(other)) == canonical_name(other)
    assert matching_name(one, ["spleen", other]) == other
    assert matching_name(one, [other, one]) == one  # the very name comes first
    with pytest.raises(PromptSegError, match="^Two classes are called .*; give each its own name.$"):
        check_names([one, "spleen", other])


@pytest.mark.parametrize("one, other", DIFFERENT)
def test_different(one, other):
    assert not same_name(one, other)
    assert matching_name(one, [other]) is None
    check_names([one, other])


def test_what_cannot_be_seen_is_no_name():
    for text in ("", " ", "\u3164", "\ufe0f\u034f", "\u2800"):
        assert not is_name(text)
    assert is_name("肝") and is_name("Le\u0301sion")


def test_a_known_organ_is_known_by_its_looks():
    assert is_one_body("left  kidney ")
    assert describe("Left  Kidney", 1).terminology == describe("left kidney", 1).terminology


def test_names_that_are_not_known_have_colors_that_are_told_apart():
    for count, least in ((7, 60), (30, 60), (MAX_CLASSES, 15)):
        infos = class_infos({f"structure {number}": number for number in range(1, count + 1)}, {})
        colors = 255 * np.array([info.color for info in infos])
        apart = np.linalg.norm(colors[:, None] - colors, axis=-1) + 1000 * np.eye(count)
        assert apart.min() > least
    assert describe("one more", 1, [replace(infos[0], color=(0.901961, 0.623529, 0.0))]).color == infos[1].color


def test_a_new_class_takes_no_color_of_one_that_comes_after_it():
    tumor, red = describe("tumor", 1), describe("bone", 3, color=(86 / 255, 180 / 255, 233 / 255))
    infos = class_infos({"cyst": 2, "tumor": 1, "bone": 3}, {"bone": red}, before=[tumor])
    assert infos[1:] == [tumor, red] and infos[0].color == (0, 158 / 255, 115 / 255)


@pytest.mark.parametrize("one, other", ALIKE.values(), ids=ALIKE)
def test_given_twice(one, other):
    """On the command line and to the library."""
    with pytest.raises(PromptSegError):
        parse_classes([f"{one}=1", f"{other}=2"])
    with pytest.raises(PromptSegError, match="called|unprintable"):
        check_examples([example()], {one: CLASSES["ball"], other: CLASSES["rod"]})


def test_what_cannot_be_seen_is_said():
    with pytest.raises(PromptSegError, match=r"li\\u200bver.*invisible"):
        parse_classes(["li\u200bver=1"])


def test_prompts_are_found_by_what_their_names_look_like():
    composed, decomposed = ALIKE["composed and decomposed"]
    prompts = make((composed, 0), ("spleen", 1))
    assert prompts.find(decomposed).info.name == composed
    assert prompts.only([f"{decomposed} "]).names == [composed]
    with pytest.raises(PromptSegError, match="There is no class"):
        prompts.find("Lesion")
    assert prompts.called([decomposed, "new"]).names == [decomposed, "spleen"]
    assert prompts.called([composed]) == prompts
    with pytest.raises(PromptSegError, match="the same name"):
        prompts.renamed({"spleen": decomposed})


def test_prompts_of_two_names_alike_can_still_be_read():
    """Earlier versions wrote such files."""
    both = make(("liver", 0), ("liver ", 0))
    read = Prompts.from_bytes(both.to_bytes())
    assert [read.find(name).info.value for name in ("liver", "liver ")] == [1, 2]
    assert read.called(["liver", "liver "]).names == ["liver", "liver "]
    assert read.renamed({"liver": "lung"}).names == ["lung", "liver "]


def test_a_renamed_class_is_made_as_it_was():
    """Where it is new to the body, it is decided and grown otherwise."""
    record = {"classes": {"lesion": {"new": True}, "cyst": {"new": False}}, "steps": 3}
    prompts = make(("lesion", 0), ("cyst", 0), ("liver", 1), tuning={"0": record, "1": "anything"})
    renamed = prompts.renamed({"lesion": "cyst", "cyst": "lesion"})
    assert renamed.tuning["0"] == {"classes": {"cyst": {"new": True}, "lesion": {"new": False}}, "steps": 3}
    # Not what a retired class of that name was made of.
    classes = tuple(replace(each, retired=each.info.name == "cyst") for each in prompts.classes)
    renamed = replace(prompts, classes=classes).renamed({"lesion": "cyst"})
    assert renamed.tuning == {"0": {"classes": {"cyst": {"new": True}}, "steps": 3}, "1": "anything"}
    assert making_of(renamed, renamed.find("cyst")) == {"new": True} and prompts.tuning["0"] == record


def test_a_class_goes_on_from_one_that_looks_the_same(tmp_path):
    backbone, case = tiny_backbone(tmp_path), example()
    quick = Settings(steps=0)
    first = tune([case], {"B\u00e4ll": CLASSES["ball"], "rod": CLASSES["rod"]}, backbone, settings=quick)
    second = tune(
        [case], {"Ba\u0308ll ": CLASSES["ball"], "rod": CLASSES["rod"]}, backbone, start=first, settings=quick
    )
    assert second.names == ["Ba\u0308ll ", "rod"]
    assert second.tuning[str(second.find("rod").group)]["classes"]["Ba\u0308ll "]["start"] == "the given prompts"
    result = segment(second, case.image, backbone, classes=["B\u00e4ll"])
    assert [each.name for each in result.classes] == ["Ba\u0308ll "]

"""The prompts file: what goes in comes out; classes, groups, and saving."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.prompts_checks import painted, parts, same, sentence, strokes_of, whole
from harness.prompts_fixtures import SHA, SMALL, make
from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.strokes import Strokes
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.intensity import IntensityRule
from PromptSegLib.network.config import MODES, OUTPUTS, NetworkConfig
from PromptSegLib.network.methods.registry import known
from PromptSegLib.prompts.store import MAX_BYTES_PER_CLASS, Prompts, parse_classes

# Round trips and sizes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", known())
def test_round_trip(tmp_path, mode, method):
    record = {"steps": 2, "examples": [{"name": "a.nii.gz", "shape": [4, 5, 6], "spacing": [3.0, 1.5, 1.5]}]}
    prompts = make(
        ("liver", 0),
        ("Leber-Läsion 肝", 1),
        mode=mode,
        method=method,
        tuning={"0": {}, "1": record},
        strokes=(strokes_of(painted(), [1, 2]),),
    )
    prompts.save(tmp_path / "p.safetensors")
    loaded = Prompts.load(tmp_path / "p.safetensors")
    assert same(loaded, prompts)
    assert loaded.names == ["liver", "Leber-Läsion 肝"]
    assert loaded.values == {"liver": 1, "Leber-Läsion 肝": 2}
    assert loaded.classes[0].info.terminology == describe("liver", 1).terminology != ""
    assert np.array_equal(loaded.strokes[0].unpack([1, 2]), painted())
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_the_file_depends_on_nothing_but_the_prompts(tmp_path):
    assert make().to_bytes() == make().to_bytes()
    changed = make()
    changed.classes[1].tensors["output.foreground"][0, 0] += 1
    assert changed.to_bytes() != make().to_bytes()


def test_half_precision_is_read():
    prompts = make()
    halved = replace(
        prompts,
        classes=tuple(
            replace(each, tensors={name: tensor.astype(np.float16) for name, tensor in each.tensors.items()})
            for each in prompts.classes
        ),
    )
    loaded = Prompts.from_bytes(halved.to_bytes())
    for each, old in zip(loaded.classes, halved.classes):
        for name, tensor in each.tensors.items():
            assert tensor.dtype == np.float32
            assert np.array_equal(tensor, old.tensors[name].astype(np.float32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", known())
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_class_of_the_default_network_has_a_largest_size_and_room_for_strokes(mode, method, outputs):
    small = strokes_of(painted(), [1, 2])
    noise = np.random.default_rng(0).integers(0, 256, 64 * 1024).astype(np.uint8)
    large = Strokes("e" * 64, (100, 100, 100), 10_000, noise)
    for count in (1, 3):
        classes = tuple((f"organ {index}", index) for index in range(count))
        how = {"network": NetworkConfig(), "mode": mode, "method": method, "outputs": outputs}
        prompts = make(*classes, **how, strokes=(large,) * 20 + (small,))
        fitted = prompts.fitted()
        assert len(fitted.to_bytes()) <= count * MAX_BYTES_PER_CLASS
        assert fitted.strokes[-1] is small  # the newest
        assert len(fitted.strokes) == count  # the large ones have room in all but one class
        assert replace(prompts, strokes=(large,)).fitted().strokes == (large,)
        assert same(replace(fitted, strokes=()), replace(prompts, strokes=()))
    assert make(strokes=(small, small)).fitted().strokes == (small, small)


def test_a_new_class_takes_about_100_kB():
    """README. The tokens are stored in single precision."""
    prompts = make(("new", 0), network=NetworkConfig(), outputs="all")  # the mode and method are the default ones
    assert 90_000 < 4 * NetworkConfig().prompt_parameters("decoder", "punet", "all") < 110_000
    assert 90_000 < len(prompts.to_bytes()) < 110_000


# Classes, groups, retired classes


def test_groups_and_retired_classes():
    prompts = make(("a", 0), ("b", 2), ("c", 0), ("d", 2))
    classes = list(prompts.classes)
    classes[1] = replace(classes[1], retired=True)
    classes.append(replace(classes[1], group=3, retired=False))
    prompts = Prompts.from_bytes(replace(prompts, classes=tuple(classes)).to_bytes())
    assert prompts.names == ["a", "c", "d", "b"]
    assert [[each.info.name for each in group] for group in prompts.groups()] == [["a", "c"], ["b", "d"], ["b"]]
    assert prompts.find("b").group == 3
    assert prompts.values == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_only_keeps_whole_groups():
    prompts = make(("a", 0), ("b", 1), ("c", 0), ("d", 2))
    assert prompts.only(["c"]).names == ["a", "c"]
    assert prompts.only(["d", "a"]).names == ["a", "c", "d"]
    with pytest.raises(PromptSegError, match="no class 'x'.*a, c, b, d"):
        prompts.only(["a", "x"])


def test_prompts_belong_to_one_backbone():
    prompts = make()
    prompts.check_backbone("ct-body", SHA, SMALL)
    for sha, network in (("f" * 64, SMALL), (SHA, NetworkConfig())):
        with pytest.raises(PromptSegError) as caught:
            prompts.check_backbone("other", sha, network)
        assert "'other'" in sentence(caught.value)


@pytest.mark.parametrize(
    "words, classes",
    [
        (["liver=6", "spleen=1"], {"liver": 6, "spleen": 1}),
        (["right kidney=65535", "a=b=3", " x =007"], {"right kidney": 65535, "a=b": 3, "x": 7}),
    ],
)
def test_classes_in_words(words, classes):
    assert parse_classes(words) == classes


@pytest.mark.parametrize(
    "words",
    [
        ["liver"],
        ["=6"],
        ["  =6"],
        ["liver="],
        ["liver=0"],
        ["liver=-1"],
        ["liver=6.0"],
        ["liver=65536"],
        ["liver=²"],
        ["liver=٣"],
        ["liver=" + "9" * 5000],
        ["li\nver=6"],
        ["li\x1b[31mver=6"],
        ["l" * 200 + "=6"],
        ["liver=6", "liver=7"],
        ["liver=6", " liver=7"],
        ["liver=6", "spleen=6"],
        [f"c{n}=" + str(n) for n in range(1, 301)],
    ],
)
def test_words_that_are_no_classes(words):
    with pytest.raises(PromptSegError) as caught:
        parse_classes(words)
    sentence(caught.value)


# Saving


def test_a_failing_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "p.safetensors"
    make().save(path)
    before = path.read_bytes()

    def half(self, content):
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def stopped(self, content):
        raise KeyboardInterrupt

    for place, name, failing in ((Path, "write_bytes", half), (os, "fsync", full), (os, "replace", full)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, failing)
            with pytest.raises(PromptSegError) as caught:
                make(("kidney", 0)).save(path)
        assert "No space left" in sentence(caught.value)
        assert path.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == ["p.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", stopped)
        with pytest.raises(KeyboardInterrupt):
            make(("kidney", 0)).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["p.safetensors"]
    make(("kidney", 0)).save(path)
    assert Prompts.load(path).names == ["kidney"]


def test_places_that_take_no_prompts(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("keep")
    cases = [
        (tmp_path / "none" / "p.safetensors", "No such file"),
        (tmp_path / "file" / "p.safetensors", "Not a directory"),
        (tmp_path / "folder.safetensors", "folder"),
        (tmp_path / "p.pt", ".safetensors"),
        (tmp_path / ("x" * 300 + ".safetensors"), "too long"),
    ]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        cases.append((tmp_path / "pipe.safetensors", "pipe"))
    before = sorted(tmp_path.iterdir())
    for path, word in cases:
        with pytest.raises(PromptSegError) as caught:
            make().save(path)
        assert word in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "file").read_text() == "keep"


def test_numbers_that_are_no_json_are_not_written():
    with pytest.raises(ValueError):
        make(tuning={"0": {"seconds": float("nan")}}).to_bytes()


# Intensities


def test_the_rule_of_the_tuned_image_is_kept(tmp_path):
    rule = IntensityRule("shifted", 899.0, 1299.0, 1.0, -1024.0)
    make(intensity=rule).save(tmp_path / "p.safetensors")
    assert Prompts.load(tmp_path / "p.safetensors").intensity == rule
    header, tensors = parts(make().to_bytes())
    assert header.pop("intensity") is None  # as files were before there were rules
    assert Prompts.from_bytes(whole(header, tensors)).intensity is None

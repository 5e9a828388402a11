"""The prompts file: what goes in comes out, and nothing hostile gets in."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import struct
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from safetensors.numpy import load, save

from harness.prompts_fixtures import SHA, SMALL, make, tensors_of
from PromptSegLib.annotation.classes import ClassInfo, describe
from PromptSegLib.annotation.strokes import Strokes, fingerprint
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.intensity import IntensityRule
from PromptSegLib.network.config import MODES, OUTPUTS, NetworkConfig
from PromptSegLib.network.methods.registry import known
from PromptSegLib.prompts.store import MAX_BYTES_PER_CLASS, Prompts, parse_classes

IMAGE = "f" * 64


def painted(shape: tuple[int, int, int] = (10, 20, 30), count: int = 90) -> np.ndarray:
    labels = np.full(shape, -1, np.int16)
    labels.reshape(-1)[np.random.default_rng(0).permutation(labels.size)[:count]] = np.arange(count) % 3
    return labels


def strokes_of(labels: np.ndarray, values: list[int]) -> Strokes:
    strokes = Strokes.pack(IMAGE, labels, values)
    assert strokes is not None
    return strokes


def same(one: Prompts, other: Prompts) -> bool:
    return (
        one.to_bytes() == other.to_bytes()
        and [(each.info, each.group, each.retired) for each in one.classes]
        == [(each.info, each.group, each.retired) for each in other.classes]
        and all(
            np.array_equal(a.tensors[name], b.tensors[name])
            for a, b in zip(one.classes, other.classes)
            for name in a.tensors
        )
        and (one.network, one.preprocessing, one.mode, one.method, one.sha256, one.backbone, one.tuning)
        == (other.network, other.preprocessing, other.mode, other.method, other.sha256, other.backbone, other.tuning)
    )


def sentence(error: PromptSegError) -> str:
    text = str(error)
    assert text.isprintable(), text
    assert text.endswith(".")
    assert not re.search(r"[^.][.] ", text), text  # "..." is no end
    assert 10 < len(text) < 400, text
    return text


def refused(content: bytes, *words: str) -> None:
    with pytest.raises(PromptSegError) as caught:
        Prompts.from_bytes(content)
    text = sentence(caught.value)
    for word in words:
        assert word in text, text


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


# Hostile files


def parts(content: bytes) -> tuple[dict, dict[str, np.ndarray]]:
    """The header and the tensors of a prompts file."""
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    return json.loads(outer["__metadata__"]["promptseg"]), load(content)


def whole(header: object, tensors: dict[str, np.ndarray]) -> bytes:
    text = header if isinstance(header, str) else json.dumps(header)
    return save(tensors, {"promptseg": text})


def forged(change, prompts: Prompts | None = None) -> bytes:
    """A prompts file after ``change(header, tensors)``."""
    header, tensors = parts((prompts or make(strokes=(strokes_of(painted(), [1, 2]),))).to_bytes())
    changed = change(header, tensors)
    return whole(header if changed is None else changed, tensors)


def put(*path, value):
    """A change that sets one entry of the header."""

    def change(header, tensors):
        place = header
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


def drop(*path):
    def change(header, tensors):
        place = header
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


def tensor(name, make_value):
    """A change that replaces one tensor (``make_value`` gives None to leave it out)."""

    def change(header, tensors):
        value = make_value(tensors.get(name))
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


def filled(value):
    def fill(old):
        new = old.copy()
        new.flat[-1] = value
        return new

    return fill


def test_the_forger_forges():
    assert same(
        Prompts.from_bytes(forged(lambda header, tensors: None)), make(strokes=(strokes_of(painted(), [1, 2]),))
    )


HEADERS = {
    "another format": put("format", value=3),
    "a format of many lines": put("format", value="x\n\x1b[31m" * 1000),
    "no format": drop("format"),
    "no classes": put("classes", value=[]),
    "classes that are no list": put("classes", value={"liver": 1}),
    "classes that are text": put("classes", value="liver"),
    "a class that is a number": put("classes", 0, value=3),
    "a class without a name": drop("classes", 0, "name"),
    "an empty name": put("classes", 0, "name", value=""),
    "a blank name": put("classes", 0, "name", value="   "),
    "a long name": put("classes", 0, "name", value="x" * 129),
    "a name of two lines": put("classes", 0, "name", value="liver\nSegment1_Name:=spleen"),
    "a name that moves the cursor": put("classes", 0, "name", value="\x1b[2J"),
    "a name with a line separator": put("classes", 0, "name", value="a\u2028b"),
    "a name with half a character": put("classes", 0, "name", value="\ud800"),
    "a name that is a list": put("classes", 0, "name", value=["liver"]),
    "the same name twice": put("classes", 1, "name", value="liver"),
    "the same value twice": put("classes", 1, "value", value=1),
    "value 0": put("classes", 0, "value", value=0),
    "a negative value": put("classes", 0, "value", value=-1),
    "a large value": put("classes", 0, "value", value=65536),
    "a huge value": put("classes", 0, "value", value=10**4000),
    "a value that is no number": put("classes", 0, "value", value="1"),
    "a fractional value": put("classes", 0, "value", value=1.5),
    "a value that is true": put("classes", 0, "value", value=True),
    "two color parts": put("classes", 0, "color", value=[0, 0]),
    "a color of text": put("classes", 0, "color", value=["a", "b", "c"]),
    "a color above 1": put("classes", 0, "color", value=[0, 0, 1.01]),
    "no color": drop("classes", 0, "color"),
    "a terminology of two lines": put("classes", 0, "terminology", value="a\nSegment0_Layer:=9"),
    "a long terminology": put("classes", 0, "terminology", value="x" * 5000),
    "a terminology that is a number": put("classes", 0, "terminology", value=5),
    "no group": drop("classes", 0, "group"),
    "a group of text": put("classes", 0, "group", value="0"),
    "a negative group": put("classes", 0, "group", value=-1),
    "a huge group": put("classes", 0, "group", value=10**30),
    "retired in words": put("classes", 0, "retired", value="no"),
    "all retired": lambda header, tensors: [each.update(retired=True) for each in header["classes"]] and None,
    "a mode that is not": put("mode", value="all"),
    "a mode that is a list": put("mode", value=["decoder"]),
    "another mode": put("mode", value="encoder"),
    "a method that is not": put("method", value="lora"),
    "another method": put("method", value="ept"),
    "no hash": drop("sha256"),
    "a short hash": put("sha256", value="abc"),
    "a hash of other letters": put("sha256", value="x" * 64),
    "a hash that is a list": put("sha256", value=["a"] * 64),
    "a backbone of two lines": put("backbone", value="ct\nabdomen"),
    "a backbone that is a list": put("backbone", value=["ct"]),
    "a long backbone": put("backbone", value="x" * 4000),
    "no network": drop("network"),
    "a network that is a list": put("network", value=[]),
    "an unknown network setting": put("network", "layers", value=3),
    "no channels": put("network", "channels", value=[]),
    "a million levels": put("network", "channels", value=[8] * 10**5),
    "channels of text": put("network", "channels", value=["8", "16"]),
    "channels in a number": put("network", "channels", value=8),
    "negative channels": put("network", "channels", value=[8, -16]),
    "no head channels": put("network", "head_channels", value=0),
    "huge tokens": put("network", "tokens", value=10**12),
    "no tokens": put("network", "tokens", value=0),
    "attention from a negative level": put("network", "attention_from_level", value=-(10**9)),
    "attention from a level of text": put("network", "attention_from_level", value="1"),
    "a window in fractions": put("network", "window", value=4.5),
    "two strides": put("network", "stem_stride", value=[1, 2]),
    "a stride of 0": put("network", "stem_stride", value=[0, 2, 2]),
    "no preprocessing": drop("preprocessing"),
    "preprocessing in text": put("preprocessing", value="CT"),
    "a spacing of 0": put("preprocessing", "spacing", value=[0, 1, 1]),
    "a spacing of two": put("preprocessing", "spacing", value=[1, 1]),
    "a spacing that is infinite": put("preprocessing", "spacing", value=[float("inf"), 1, 1]),
    "an intensity that is NaN": put("preprocessing", "intensity", value=[float("nan"), 1]),
    "an empty intensity window": put("preprocessing", "intensity", value=[5, 5]),
    "an intensity rule that is not": put("preprocessing", "rule", value="histogram"),
    "percentiles above 100": put(
        "preprocessing", value={"spacing": [1, 1, 1], "intensity": [1, 101], "rule": "percentile"}
    ),
    "strokes beside it that are a number": put("beside", value=3),
    "strokes beside it without a digest": put("beside", value=[[IMAGE]]),
    "strokes beside it of no fingerprint": put("beside", value=[[IMAGE, "x"]]),
    "strokes beside it without end": put("beside", value=[[IMAGE, "a" * 64]] * 100),
    "intensities in text": put("intensity", value="CT"),
    "intensities of no kind": put("intensity", value={"low": 0, "high": 1, "scale": 1, "offset": 0}),
    "intensities of another kind": put(
        "intensity", value={"kind": "log", "low": 0, "high": 1, "scale": 1, "offset": 0}
    ),
    "intensities without a range": put(
        "intensity", value={"kind": "window", "low": 1, "high": 1, "scale": 1, "offset": 0}
    ),
    "intensities in a list": put("intensity", value=["window", 0, 1, 1, 0]),
    "no tuning": drop("tuning"),
    "tuning in a list": put("tuning", value=[1]),
    "tuning of no group": put("tuning", value={"liver": {}}),
    "tuning of a group far away": put("tuning", value={"9" * 5000: {}}),
    "a tuning record that is a number": put("tuning", value={"0": 5}),
    "a record that is NaN": put("tuning", value={"0": {"seconds": float("nan")}}),
    "strokes that are a number": put("strokes", value=3),
    "strokes of text": put("strokes", value=["abc"]),
    "strokes without their tensor": put("strokes", value=[{"image": IMAGE, "shape": [9, 9, 9], "runs": 1}] * 2),
    "strokes left out": put("strokes", value=[]),
    "strokes of two axes": put("strokes", 0, "shape", value=[10, 600]),
    "strokes of a fractional shape": put("strokes", 0, "shape", value=[10.0, 20, 30]),
    "strokes of no extent": put("strokes", 0, "shape", value=[0, 20, 30]),
    "strokes of a huge shape": put("strokes", 0, "shape", value=[10**6, 10**6, 10**6]),
    "strokes of a negative shape": put("strokes", 0, "shape", value=[-10, -20, 30]),
    "strokes without a count": drop("strokes", 0, "runs"),
    "strokes of count 0": put("strokes", 0, "runs", value=0),
    "more strokes than voxels": put("strokes", 0, "runs", value=10 * 20 * 30 + 1),
    "more strokes than can be packed": lambda h, t: h["strokes"][0].update(shape=[1600] * 3, runs=10**9),
    "strokes of a nameless image": put("strokes", 0, "image", value="\x1b" * 64),
    "an empty header": lambda header, tensors: {},
    "a header that is a list": lambda header, tensors: [1, 2],
    "a header that is a number": lambda header, tensors: "5",
    "a header that is null": lambda header, tensors: "null",
    "a header that is no JSON": lambda header, tensors: "{]",
    "a header that ends early": lambda header, tensors: json.dumps(header)[:-1],
    "a header with NaN": lambda header, tensors: json.dumps({**header, "extra": float("nan")}),
    "a header with 1e999": lambda header, tensors: json.dumps(header)[:-1] + ', "extra": 1e999}',
    "a header of brackets": lambda header, tensors: "[" * 200_000,
    "a deep header": lambda header, tensors: json.dumps(header)[:-1] + ', "extra": ' + "[" * 400 + "]" * 400 + "}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_hostile_headers(kind):
    refused(forged(HEADERS[kind]))


NAME = "0/output.foreground"
TENSORS = {
    "is missing": tensor(NAME, lambda old: None),
    "has another shape": tensor(NAME, lambda old: old[:, :-1]),
    "is transposed": tensor(NAME, lambda old: np.ascontiguousarray(old.T)),
    "is empty": tensor(NAME, lambda old: old[:0]),
    "has another axis": tensor(NAME, lambda old: old[None]),
    "is of float64": tensor(NAME, lambda old: old.astype(np.float64)),
    "is of whole numbers": tensor(NAME, lambda old: old.astype(np.int32)),
    "is complex": tensor(NAME, lambda old: old.astype(np.complex64)),
    "holds NaN": tensor(NAME, filled(np.nan)),
    "holds an infinity": tensor(NAME, filled(-np.inf)),
    "holds a huge number": tensor(NAME, filled(1e30)),
    "is one too many": tensor("extra", lambda old: np.zeros(3, np.float32)),
    "is of another class": tensor("2/output.foreground", lambda old: np.zeros((2, 8), np.float32)),
    "is of strokes too many": tensor("strokes/1", lambda old: np.zeros(3, np.uint8)),
    "is of strokes, but of floats": tensor("strokes/0", lambda old: old.astype(np.float32)),
    "is of strokes, but square": tensor("strokes/0", lambda old: old[: old.size // 2 * 2].reshape(2, -1)),
    "is of strokes, but large": tensor("strokes/0", lambda old: np.zeros(2 * 64 * 1024 + 1, np.uint8)),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_that(kind):
    refused(forged(TENSORS[kind]))


def test_output_tokens_of_further_maps_come_all_together_and_for_a_whole_group():
    def wider(*indices, without=""):
        def change(header, tensors):
            for index in indices:
                for name, tensor in tensors_of(SMALL, "decoder", "punet", 7, "all").items():
                    if name != without:
                        tensors[f"{index}/{name}"] = tensor

        return forged(change)

    read = Prompts.from_bytes(wider(0, 1))
    assert all("output.encoder0.background" in each.tensors for each in read.classes)
    refused(wider(0), "one group")
    refused(wider(0, 1, without="output.encoder0.background"))


def test_too_many_classes(tmp_path):
    def change(header, tensors):
        for index in range(2, 300):
            header["classes"].append({**header["classes"][0], "name": f"c{index}", "value": index + 1})
            for name in [name for name in tensors if name.startswith("0/")]:
                tensors[f"{index}/{name[2:]}"] = tensors[name]

    refused(forged(change), "300 classes")
    many = replace(make(), classes=make().classes * 150)
    with pytest.raises(PromptSegError, match="255"):
        many.save(tmp_path / "p.safetensors")
    assert not any(tmp_path.iterdir())


def raw(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def entry(name: str, dtype: str, shape: list, offsets: list) -> str:
    return f'"{name}": ' + json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets})


META = '"__metadata__": ' + json.dumps({"promptseg": json.dumps({"format": 1})})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"\0" * 8,
        b"\0" * 4096,
        b"\xff" * 4096,
        b"PK\x03\x04" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        "Ein Text über Prompts.\n".encode() * 20,
        raw(b"{}", length=2**63),
        raw(b"{}", length=2**64 - 1),
        raw(b"{}", length=10**12),
        raw(b"{}"),
        raw(b"[]"),
        raw(b"null"),
        raw(b"{}x"),
        raw(b"\xff\xfe{}"),
        raw(b'{"__metadata__": 5}'),
        raw(b'{"__metadata__": {"promptseg": 5}}'),
        raw(b'{"__metadata__": {"promptseg": "{}"}}'),
        raw(b'{"__metadata__": {"promptseg-backbone": "{}"}}'),
        raw(b'{"__metadata__": {"promptseg": "[[[["}}'),
        raw(b"[" * 100_000),
        raw(b'{"a":' * 100_000),
        raw(f"{{{META}}}".encode()),
        raw(f"{{{META}, {entry('a', 'F32', [2], [0, 8])}}}".encode(), bytes(4)),
        raw(f"{{{META}, {entry('a', 'F32', [2], [0, 4])}}}".encode(), bytes(8)),
        raw(f"{{{META}, {entry('a', 'F32', [2], [8, 0])}}}".encode(), bytes(8)),
        raw(f"{{{META}, {entry('a', 'F32', [2**62, 4], [0, 0])}}}".encode()),
        raw(f"{{{META}, {entry('a', 'F32', [2**40], [0, 2**42])}}}".encode()),
        raw(f"{{{META}, {entry('a', 'F32', [-1], [0, 4])}}}".encode(), bytes(4)),
        raw(f"{{{META}, {entry('a', 'BF16', [2], [0, 4])}}}".encode(), bytes(4)),
        raw(f"{{{META}, {entry('a', 'F8_E4M3', [4], [0, 4])}}}".encode(), bytes(4)),
        raw(f"{{{META}, {entry('a', 'OBJECT', [2], [0, 4])}}}".encode(), bytes(4)),
        raw(f"{{{META}, {entry('a', 'F32', [1], [0, 4])}, {entry('a', 'F32', [1], [0, 4])}}}".encode(), bytes(4)),
        raw(f"{{{META}, {entry('a', 'F32', [1], [0, 4])}, {entry('b', 'F32', [1], [0, 4])}}}".encode(), bytes(4)),
    ],
)
def test_files_that_are_no_prompts(content):
    refused(content)


def test_tensors_under_the_same_name():
    content = make().to_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + length]
    refused(raw(header.replace(b'"1/output.foreground"', b'"0/output.foreground"'), content[8 + length :]))


def test_a_file_that_ends_early():
    content = make(strokes=(strokes_of(painted(), [1, 2]),)).to_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    offsets = {*range(0, 40), *range(0, len(content), 37), length + 7, length + 8, length + 9, len(content) - 1}
    for offset in sorted(offsets):
        refused(content[:offset])
    refused(content + b"\0")


def test_a_file_with_wrong_bytes():
    """Either it is refused in one sentence, or it is read as prompts that can be written again."""
    content = make(strokes=(strokes_of(painted(), [1, 2]),)).to_bytes()
    rng = np.random.default_rng(0)
    outcomes = {True: 0, False: 0}
    for _ in range(400):
        wrong = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            wrong[position] = rng.integers(0, 256)
        try:
            loaded = Prompts.from_bytes(bytes(wrong))
        except PromptSegError as error:
            sentence(error)
            outcomes[False] += 1
        else:
            assert same(Prompts.from_bytes(loaded.to_bytes()), loaded)
            outcomes[True] += 1
    assert min(outcomes.values()) > 10


def test_a_large_header_takes_little_memory():
    fillers = (
        b'{"a":[' + b"[]," * 2_000_000 + b"[]]}",  # 6 MB: more than any header has
        b'{"__metadata__": {"promptseg": "[' + b"[]," * 1_300_000 + b'[]]"}}',
    )
    for filler in fillers:
        tracemalloc.start()
        refused(raw(filler))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 250 * 2**20


def test_a_pickle_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = tmp_path / "p.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(PromptSegError) as caught:
        Prompts.load(path)
    assert str(path) in sentence(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_places_that_hold_no_prompts(tmp_path):
    with open(tmp_path / "large.safetensors", "wb") as file:
        file.truncate(2**40)  # sparse: it takes no space
    cases = [
        (tmp_path / "none.safetensors", "No such file"),
        (tmp_path, "directory"),
        (tmp_path / "large.safetensors", "large"),
    ]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.safetensors")
        cases += [(Path("/dev/zero"), "device"), (tmp_path / "pipe.safetensors", "pipe")]
    for path, word in cases:
        tracemalloc.start()
        with pytest.raises(PromptSegError) as caught:
            Prompts.load(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert word in sentence(caught.value)
        assert peak < 150 * 2**20


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


# Strokes


@pytest.mark.parametrize("values", [[1, 2], [65535, 7]])
def test_strokes_round_trip(values):
    labels = painted()
    strokes = strokes_of(labels, values)
    assert strokes.shape == labels.shape
    assert strokes.voxels() == (labels >= 0).sum()
    unpacked = Strokes.from_dict(json.loads(json.dumps(strokes.to_dict())), strokes.data).unpack(values)
    assert unpacked.dtype == np.int16
    assert np.array_equal(unpacked, labels)


def test_strokes_follow_label_values():
    labels = painted()
    strokes = strokes_of(labels, [5, 9])
    only = strokes.unpack([9])
    assert np.array_equal(only, np.where(labels == 2, 1, np.where(labels == 0, 0, -1)))
    turned = strokes.unpack([9, 5])
    assert np.array_equal(turned == 1, labels == 2)
    assert np.array_equal(turned == 2, labels == 1)


def test_what_is_no_strokes():
    assert Strokes.pack(IMAGE, np.full((9, 9, 9), -1, np.int16), [1]) is None
    huge = np.broadcast_to(np.int16(0), (2048, 2048, 2048))  # takes no memory unless it is looked at
    assert Strokes.pack(IMAGE, huge, [1]) is None


def test_strokes_may_be_dense():
    rng = np.random.default_rng(0)
    dense = rng.integers(-1, 3, (20, 20, 20)).astype(np.int16)
    full = np.zeros((9, 9, 9), np.int16)
    scattered = np.where(rng.random((60, 100, 100)) < 0.3, 2, -1).astype(np.int16)
    for labels in (dense, full, scattered):
        assert np.array_equal(strokes_of(labels, [7, 300]).unpack([7, 300]), labels)
    # Ten classes painted as areas on fifteen slices of a large CT.
    areas = np.full((100, 512, 512), -1, np.int16)
    for z in range(0, 90, 6):
        for number in range(10):
            y, x = 40 + 45 * (number // 2), 60 + 200 * (number % 2) + z
            rows, columns = np.ogrid[-y : 512 - y, -x : 512 - x]
            areas[z][rows**2 + columns**2 < 200 + 40 * number + z] = number + 1
    packed = strokes_of(areas, list(range(1, 11)))
    assert packed.data.size < 64 * 1024 and np.array_equal(packed.unpack(list(range(1, 11))), areas)


@pytest.fixture
def too_many() -> tuple[Strokes, Strokes]:
    """Strokes that have no room in the prompts file of two classes, and some that have."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((60, 100, 100)) < 0.5, rng.integers(1, 3, (60, 100, 100)), -1).astype(np.int16)
    large = strokes_of(labels, [1, 2])
    assert large.data.size > 2 * 64 * 1024
    return large, Strokes.pack("c" * 64, painted(), [1, 2])


def test_strokes_that_have_no_room_lie_beside(tmp_path, too_many):
    large, small = too_many
    path, other = tmp_path / "p.safetensors", tmp_path / "p.strokes.safetensors"
    prompts = make(strokes=too_many)
    assert prompts.outside == (large,)
    prompts.save(path)
    assert path.stat().st_size < 2 * MAX_BYTES_PER_CLASS and other.is_file()
    loaded = Prompts.load(path)
    assert [each.image for each in loaded.strokes] == [large.image, small.image] and not loaded.missing
    assert np.array_equal(loaded.strokes[0].unpack([1, 2]), large.unpack([1, 2]))
    # By their bytes alone, and after the other file went or is another's, the prompts work without.
    for content in (
        None,
        make().to_bytes(),
        b"",
        other.read_bytes()[:-1],
        other.read_bytes().replace(b"runs", b"sunr"),
    ):
        other.unlink() if content is None else other.write_bytes(content)
        without = Prompts.load(path)
        assert [each.image for each in without.strokes] == [small.image]
        assert [image for image, _ in without.missing] == [large.image]
        assert Prompts.from_bytes(without.to_bytes()).missing == without.missing
    # Strokes of another tuning are not taken for these.
    make(strokes=(strokes_of(large.unpack([2, 1]), [1, 2]),)).save(tmp_path / "q.safetensors")
    other.unlink()
    (tmp_path / "q.strokes.safetensors").rename(other)
    assert len(Prompts.load(path).missing) == 1


def test_strokes_beside_go_with_what_they_belonged_to(tmp_path, too_many):
    path, other = tmp_path / "p.safetensors", tmp_path / "p.strokes.safetensors"
    make(strokes=too_many).save(path)
    make().save(path)
    assert not other.exists()
    make().save(other)  # somebody's own prompts
    with pytest.raises(PromptSegError, match="in the way") as caught:
        make(strokes=too_many).save(path)
    sentence(caught.value)
    assert Prompts.load(other) and not Prompts.load(path).missing
    make().save(path)
    assert Prompts.load(other)


def test_strokes_of_older_files_are_read():
    """Voxel by voxel, in files of format 1."""
    labels = painted()
    where = np.flatnonzero(labels >= 0)
    raw = np.diff(where, prepend=0).astype("<u4").tobytes()
    raw += np.asarray([0, 5, 9], "<u2")[labels.reshape(-1)[where]].tobytes()
    older = strokes_with(raw, len(where), labels.shape)
    assert not older.runs and np.array_equal(older.unpack([5, 9]), labels)
    changed = older.with_values({5: 6, 9: 9})
    assert changed.runs and np.array_equal(changed.unpack([6, 9]), labels)
    assert Prompts.from_bytes(make(strokes=(older,)).to_bytes()).strokes[0].to_dict() == older.to_dict()


def strokes_with(raw_data: bytes, count: int, shape=(100, 100, 100), level: int = 9, cut: int | None = None) -> Strokes:
    data = np.frombuffer(zlib.compress(raw_data, level)[:cut], np.uint8)

    def change(header, tensors):
        header["format"] = 1
        header["strokes"][0] = {"image": IMAGE, "shape": list(shape), "count": count}
        tensors["strokes/0"] = data

    return Prompts.from_bytes(forged(change)).strokes[0]


def runs_with(raw: bytes, count: int, shape=(100, 100, 100)) -> Strokes:
    """Strokes as runs: gaps, lengths, labels, byte by byte."""
    data = np.frombuffer(zlib.compress(raw), np.uint8)
    return Strokes.from_dict({"image": IMAGE, "shape": list(shape), "runs": count}, data)


def runs(gaps: list[int], lengths: list[int], label: int = 1) -> bytes:
    parts = (np.asarray(gaps, "<u4"), np.asarray(lengths, "<u4"), np.full(len(gaps), label, "<u2"))
    return b"".join(each.view(np.uint8).reshape(len(each), -1).T.tobytes() for each in parts)


def positions(*where: int, labels: int = 1) -> bytes:
    return np.diff(where, prepend=0).astype("<u4").tobytes() + np.full(len(where), labels, "<u2").tobytes()


def test_hostile_strokes():
    assert (strokes_with(positions(5, 999_999), 2).unpack([1]) == 1).sum() == 2
    assert (runs_with(runs([5, 999_000], [95, 900]), 2).unpack([1]) == 1).sum() == 995
    for bad in (
        strokes_with(positions(5, 1_000_000), 2),
        strokes_with(np.full(3, 2**32 - 1, "<u4").tobytes() + bytes(6), 3),
        strokes_with(positions(5, 6, 7), 2),
        strokes_with(positions(5, 6), 3),
        strokes_with(b"", 1),
        strokes_with(positions(5, 6) + b"\0", 2),
        strokes_with(positions(5, 6), 2, cut=-1),
        strokes_with(positions(5, 6), 2, cut=4),
        replace(strokes_with(positions(5, 6), 2), data=np.arange(100, dtype=np.uint8)),
        replace(strokes_with(positions(5, 6), 2), data=np.zeros(0, np.uint8)),
        runs_with(runs([0, 10], [5, 10**6]), 2),
        runs_with(runs([0, 10], [2**32 - 1, 1]), 2),
        runs_with(runs([2**32 - 1, 10], [1, 1]), 2),
        runs_with(runs([0, 10], [0, 1]), 2),
        runs_with(runs([0], [1]), 2),
        runs_with(runs([0, 1, 2], [1, 1, 1]), 2),
    ):
        with pytest.raises(ValueError, match="strokes"):
            bad.unpack([1])


def test_a_zip_bomb_takes_little_memory():
    bomb = bytes(60 * 2**20)
    few = strokes_with(bomb, 2)
    many = strokes_with(bomb, 8_000_000, (1000, 1000, 1000))
    lying = strokes_with(bytes(6), 2, (1600, 1600, 1600))  # 8 GB of labels, were they made
    for strokes, limit in ((few, 8), (many, 320), (lying, 8)):
        tracemalloc.start()
        with pytest.raises(ValueError):
            strokes.unpack([1])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit * 2**20


# Fingerprints


def scan() -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16))
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-10.0, 5.0, 100.0))
    return image


def changes():
    one = scan()
    one[3, 4, 5] = one[3, 4, 5] + 1
    yield "a voxel", one
    for number, setter in enumerate(("SetSpacing", "SetOrigin")):
        one = scan()
        values = list(one.GetSpacing() if number == 0 else one.GetOrigin())
        values[number] += 0.01
        getattr(one, setter)(values)
        yield setter, one
    one = scan()
    one.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    yield "SetDirection", one
    yield "a slice less", scan()[:, :, :-1]
    other = sitk.GetImageFromArray(sitk.GetArrayFromImage(scan()).reshape(6, 8, 7))
    other.SetSpacing(scan().GetSpacing())
    other.SetOrigin(scan().GetOrigin())
    yield "another shape", other


@pytest.mark.parametrize("kind, changed", list(changes()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_fingerprint_changes_with(kind, changed):
    assert fingerprint(changed) != fingerprint(scan())


def test_a_fingerprint_is_of_the_image_alone(tmp_path):
    own = fingerprint(scan())
    assert len(own) == 64
    assert fingerprint(scan()) == own
    assert fingerprint(sitk.Cast(scan(), sitk.sitkFloat32)) == own
    for name in ("a.nrrd", "a.nii.gz", "a.mha"):
        sitk.WriteImage(scan(), str(tmp_path / name))
        assert fingerprint(sitk.ReadImage(str(tmp_path / name))) == own


def test_a_class_info_is_read_as_written():
    for name in ("liver", "right kidney", "Tumour (left), 2"):
        info = describe(name, 7)
        assert ClassInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": []},
        {"channels": [8] * 9},
        {"channels": [8, 5000]},
        {"channels": [8, 16.0]},
        {"channels": 8},
        {"stem_stride": [1, 2]},
        {"stem_stride": [1, 2, 0]},
        {"window": True},
        {"head_channels": 0},
        {"tokens": 10**12},
        {"tokens": "2"},
        {"attention_from_level": -1},
        {"convolutions_to_level": 99},
        {"dynamic_rank": None},
    ],
)
def test_numbers_that_make_no_network(changes):
    with pytest.raises(ValueError):
        NetworkConfig.from_dict({**SMALL.to_dict(), **changes})
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL

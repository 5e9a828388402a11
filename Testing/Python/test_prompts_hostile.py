"""Prompts files that nobody should believe: nothing hostile gets in."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.prompts_checks import IMAGE, forged, painted, raw, same, sentence, strokes_of, tensor
from harness.prompts_fixtures import SMALL, make, tensors_of
from PromptSegLib.errors import PromptSegError
from PromptSegLib.prompts.store import Prompts


def refused(content: bytes, *words: str) -> None:
    with pytest.raises(PromptSegError) as caught:
        Prompts.from_bytes(content)
    text = sentence(caught.value)
    for word in words:
        assert word in text, text


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
                for name, values in tensors_of(SMALL, "decoder", "punet", 7, "all").items():
                    if name != without:
                        tensors[f"{index}/{name}"] = values

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

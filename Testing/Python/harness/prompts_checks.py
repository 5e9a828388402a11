"""What tests of the prompts file share."""

from __future__ import annotations

import json
import re
import struct

import numpy as np
from safetensors.numpy import load, save

from harness.prompts_fixtures import make
from PromptSegLib.annotation.strokes import Strokes
from PromptSegLib.errors import PromptSegError
from PromptSegLib.prompts.store import Prompts

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


def tensor(name, make_value):
    """A change that replaces one tensor (``make_value`` gives None to leave it out)."""

    def change(header, tensors):
        value = make_value(tensors.get(name))
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


def raw(header: bytes, body: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + body


def runs(gaps: list[int], lengths: list[int], label: int = 1) -> bytes:
    parts = (np.asarray(gaps, "<u4"), np.asarray(lengths, "<u4"), np.full(len(gaps), label, "<u2"))
    return b"".join(each.view(np.uint8).reshape(len(each), -1).T.tobytes() for each in parts)

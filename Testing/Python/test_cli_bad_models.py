"""Prompts and models that do not fit on the command line: one sentence, and what was there stays."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from harness.catalogue_fixtures import remote, set_up
from harness.cli_fixtures import CLASSES, OLD, SHIPPED, tune
from harness.tiny_model import tiny_backbone
from PromptSegLib.models import catalogue
from PromptSegLib.prompts.store import Prompts

pytest_plugins = ["harness.cli_fixtures"]


# Prompts and models


def other_backbone(path: Path) -> Path:
    content = Prompts.load(catalogue.entries()[0].prompts).to_bytes()
    sha256 = catalogue.entries()[0].sha256
    path.write_bytes(content.replace(sha256.encode(), sha256[::-1].encode()))
    return path


def hostile(path: Path, change) -> Path:
    path.write_bytes(change(catalogue.entries()[0].prompts.read_bytes()))
    return path


class Trap:
    def __reduce__(self):
        return os.mkdir, ("sprung",)


PROMPTS = {
    "are missing": (lambda path: path.with_name("none.safetensors"), "none.safetensors"),
    "are a folder": (lambda path: path.parent, "Cannot read"),
    "are empty": (lambda path: hostile(path, lambda content: b""), "not a PromptSeg prompts file"),
    "are truncated": (lambda path: hostile(path, lambda content: content[:-1000]), "damaged"),
    "are half a header": (lambda path: hostile(path, lambda content: content[:500]), "damaged"),
    "claim a huge header": (lambda path: hostile(path, lambda content: b"\xff" * 8 + content[8:]), "damaged"),
    "name a class in two lines": (lambda path: hostile(path, lambda c: c.replace(b"spleen", rb"\\nleen", 1)), "name"),
    "are a pickle": (lambda path: hostile(path, lambda content: pickle.dumps(Trap())), "not a PromptSeg prompts file"),
    "are a backbone": (lambda path: catalogue.entries()[0].path, "not a PromptSeg prompts file"),
    "are of another backbone": (other_backbone, "were tuned on the backbone"),
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_that(kind, phantom, tmp_path, refuse, labels, out):
    make, word = PROMPTS[kind]
    prompts = make(tmp_path / "p.safetensors")
    assert word in refuse("segment", prompts, phantom.image, "-o", labels)
    assert labels.read_bytes() == OLD
    words = tune(phantom.image, phantom.annotation, out, *CLASSES, "--steps", 0, "--start", prompts)
    assert word in refuse(*words)
    if kind != "are of another backbone":
        assert word in refuse("info", prompts)
    assert not Path("sprung").exists()


def test_going_on_in_another_mode(phantom, tmp_path, refuse, out):
    start = catalogue.entries()[0].prompts
    for more in (["--mode", "decoder"], ["--method", "dvpt"]):
        words = [*CLASSES, "--steps", 0, "--start", start, *more]
        assert "mode full" in refuse(*tune(phantom.image, phantom.annotation, out, *words))
    words = ["--classes", "tumour=6", "--background", 255, "--steps", 0, "--start", SHIPPED]
    assert "already belongs to liver" in refuse(*tune(phantom.image, phantom.annotation, out, *words))


def test_a_model_that_is_not_downloaded(phantom, tmp_path, refuse, labels, out, monkeypatch):
    set_up(monkeypatch, tmp_path, remote())
    for words in (
        ("segment", "mr-knee", phantom.image, "-o", labels),
        ("info", "mr-knee"),
        tune(phantom.image, phantom.annotation, out, "--start", "mr-knee"),
    ):
        assert "get it with promptseg models --download mr-knee" in refuse(*words)


def test_a_model_without_prompts(tmp_path, refuse, monkeypatch):
    folder = set_up(monkeypatch, tmp_path)
    folder.mkdir()
    tiny_backbone(folder)
    assert "tiny0 has no prompts of its own" in refuse("info", "tiny0")


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-1000],
        lambda content: content[:2000],
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b"promptseg-backbone", b"promptseg-backbonx"),
        lambda content: content.replace(rb"\"head_channels\": 32", rb"\"head_channels\": 00"),
        lambda content: content.replace(rb"\"head_channels\": 32", rb"\"head_channels\":  0"),
        lambda content: content.replace(rb"\"spacing\": [3", rb"\"spacing\": [0"),
        lambda content: content.replace(rb"\"format\": 1", rb"\"format\": 7"),
    ],
)
def test_a_model_that_is_damaged(change, phantom, tmp_path, refuse, out, labels):
    content = catalogue.entries()[0].path.read_bytes()
    model = tmp_path / "model.safetensors"
    model.write_bytes(change(content))
    assert model.read_bytes() != content
    words = tune(phantom.image, phantom.annotation, out, *CLASSES, "--steps", 0, "--model", model)
    assert "model.safetensors" in refuse(*words)
    assert "model.safetensors" in refuse("segment", SHIPPED, phantom.image, "-o", labels, "--model", model)


def test_another_model_than_the_prompts_have(phantom, tmp_path, refuse, labels):
    """A whole backbone, but with other weights: the prompts do not belong to it."""
    content = bytearray(catalogue.entries()[0].path.read_bytes())
    content[-1000] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    words = ["--model", tmp_path / "model.safetensors"]
    assert "tuned on the backbone" in refuse("segment", SHIPPED, phantom.image, "-o", labels, *words)


def test_a_bundled_model_that_is_damaged(phantom, tmp_path, refuse, labels, monkeypatch):
    content = bytearray(catalogue.entries()[0].path.read_bytes())
    content[-1000] ^= 1
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "ct-body.safetensors").write_bytes(content)
    prompts = catalogue.entries()[0].prompts
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    assert "SHA-256 is wrong" in refuse("segment", prompts, phantom.image, "-o", labels)

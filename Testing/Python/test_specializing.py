"""A model of its own from annotated volumes: what it gives, what is gone on from, what is refused, giving it away."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import CLASSES, phantom, tiny_backbone
from harness.tiny_model import example as stroked
from PromptSegLib.annotation.example import Example
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models import catalogue, folders, own
from PromptSegLib.progress import Cancelled, ProgressHandle
from PromptSegLib.specializing.specialize import Effort, specialize

pytestmark = pytest.mark.training

BRIEF = Effort(steps=3, seed=1)


def complete(seed: int, **keywords) -> Example:
    image, reference = phantom(seed=seed, **keywords)
    return Example(image, reference, complete=True, name=f"case {seed}")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("parent"), shipped=True)


@pytest.fixture(scope="module")
def examples():
    return [complete(seed) for seed in range(3)]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "models"))
    return tmp_path / "models"


def test_a_model_of_its_own_is_in_the_catalogue_and_segments(parent, examples, folder, tmp_path):
    before = {name: tensor.clone() for name, tensor in parent.net.state_dict().items()}
    entry = specialize(examples, CLASSES, "mine", parent, effort=BRIEF, title="Balls and rods")
    assert catalogue.find_name("mine") == entry and entry.own and entry.title == "Balls and rods"
    assert entry.classes == tuple(CLASSES) and sorted(path.name for path in folder.iterdir()) == [
        "mine.md",
        "mine.prompts.safetensors",
        "mine.safetensors",
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in parent.net.state_dict().items())
    model = ps.load_model("mine", "cpu")
    halved = {name: tensor.half().float() for name, tensor in before.items()}
    moved = {name for name, tensor in model.net.state_dict().items() if not torch.equal(tensor, halved[name])}
    assert any(name.startswith("encoder") for name in moved) and any(name.startswith("decoder") for name in moved)
    # The card says where it comes from and what it learned from, in the header and in words.
    card = entry.card
    assert [each["sha256"] for each in card["parents"]] == [parent.sha256]
    assert [each["name"] for each in card["data"]] == ["case 0", "case 1", "case 2"]
    assert 0 <= card["held_out"] <= 1 and card["training"]["steps"] == 3
    text = (folder / "mine.md").read_text(encoding="utf-8")
    assert parent.sha256 in text and "case 2" in text and "full fine-tuning: 3 steps" in text
    # Its prompts are its own, on the grid that the examples chose.
    image, reference = phantom(seed=5)
    shipped = ps.Prompts.load(entry.prompts)
    result = ps.segment(shipped, image, options=ps.SegmentationOptions(device="cpu"))
    assert result.labels.GetSize() == image.GetSize() and set(shipped.values) == set(CLASSES)
    with pytest.raises(PromptSegError, match="backbone 'mine'"):
        ps.segment(shipped, image, parent)
    # Of a model of its own, a further one can be made; both parents are named.
    other = specialize(examples, CLASSES, "mine 2", "mine", effort=BRIEF, device="cpu")
    assert [each["name"] for each in other.card["parents"]] == ["mine", parent.name]


def test_the_decoder_alone(parent, examples, folder):
    specialize(examples, CLASSES, "half", parent, effort=replace(BRIEF, what="decoder"))
    given, made = parent.net.state_dict(), ps.load_model("half", "cpu").net.state_dict()
    halved = {name: tensor.half().float() for name, tensor in given.items()}
    same = {name for name, tensor in made.items() if torch.equal(tensor, halved[name])}
    assert all(name in same for name in made if name.startswith(("encoder", "stem")))
    assert any(name not in same for name in made if name.startswith("decoder"))


def cancelling(after: int) -> ProgressHandle:
    """Cancels when that many steps are made."""
    seen = []
    return ProgressHandle(
        lambda report: seen.append(report.figures.get("step", 0)), lambda: bool(seen) and seen[-1] >= after
    )


def test_what_was_cancelled_is_gone_on_from_and_comes_to_the_same(parent, examples, folder):
    whole = specialize(examples, CLASSES, "whole", parent, effort=BRIEF)
    with pytest.raises(Cancelled):
        specialize(examples, CLASSES, "parts", parent, effort=BRIEF, job=cancelling(2))
    assert [path.name for path in folder.iterdir() if path.name.startswith("parts")] == ["parts.training.part"]
    assert "parts" not in [entry.name for entry in catalogue.entries()]
    with pytest.raises(PromptSegError, match="begun with other examples"):
        specialize(examples, {"ball": CLASSES["ball"]}, "parts", parent, effort=BRIEF)
    # Tokens and labels are numbered by the order of the classes.
    with pytest.raises(PromptSegError, match="begun with other examples"):
        specialize(examples, dict(reversed(CLASSES.items())), "parts", parent, effort=BRIEF)
    parts = specialize(examples, CLASSES, "parts", parent, effort=BRIEF)
    one, other = (ps.load_model(name, "cpu").net.state_dict() for name in ("whole", "parts"))
    assert all(torch.allclose(tensor, other[name], atol=1e-3) for name, tensor in one.items())
    assert parts.card["training"]["steps"] == whole.card["training"]["steps"] == 3
    assert not own.unfinished("parts").exists()


def refused(words: str, *arguments, **keywords) -> None:
    with pytest.raises(PromptSegError, match=words):
        specialize(*arguments, **{"effort": BRIEF, **keywords})


def test_bad_input_is_one_sentence_before_anything_is_trained(parent, examples, folder, monkeypatch):
    refused("needs 3 annotated volumes or more, and here are 2", examples[:2], CLASSES, "mine", parent)
    partly = [*examples[:2], stroked()]
    refused("complete annotations", partly, CLASSES, "mine", parent)
    refused("cannot be the name", examples, CLASSES, "../mine", parent)
    refused("cannot be the name", examples, CLASSES, "", parent)
    refused("'full' or 'decoder'|full or decoder", examples, CLASSES, "mine", parent, effort=Effort("half"))
    refused("Without any step", examples, CLASSES, "mine", parent, effort=Effort(steps=0))
    taken = catalogue.entries()[0].name
    refused(f"a model '{taken}' already", examples, CLASSES, taken, parent)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Disk", (), {"free": 1000})())
    refused("free space", examples, CLASSES, "mine", parent)
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written(parent, examples, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "file" / "models"))
    refused("Cannot make the folder of models", examples, CLASSES, "mine", parent)


def test_a_disk_that_fills_up_leaves_nothing_but_what_can_be_gone_on_from(parent, examples, folder, monkeypatch):
    def full(*_arguments, **_keywords):
        raise PromptSegError("Cannot write: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr("PromptSegLib.prompts.store.Prompts.save", full)
        refused("No space left", examples, CLASSES, "mine", parent)
    assert not [path for path in folder.iterdir() if path.suffix in (".safetensors", ".md")]


def test_examples_of_other_spacing_are_said(parent, examples, folder):
    mixed = [*examples[:2], complete(2, spacing=(4.0, 4.0, 3.0))]
    entry = specialize(mixed, CLASSES, "mixed", parent, effort=BRIEF)
    said = " ".join(ps.Prompts.load(entry.prompts).notes)
    assert "The examples' voxels differ" in said and "held out" in said


def test_a_shared_model_is_one_file_that_somebody_else_adds(parent, examples, folder, tmp_path, monkeypatch):
    entry = specialize(examples, CLASSES, "mine", parent, effort=BRIEF)
    shared = own.share(entry, tmp_path / "mine.zip")
    with pytest.raises(PromptSegError, match="is a .zip"):
        own.share(entry, tmp_path / "mine.tar")
    with pytest.raises(PromptSegError, match="was not made here"):
        own.share(catalogue.entries()[0], tmp_path / "other.zip")
    with pytest.raises(PromptSegError, match="already"):
        own.add(shared)
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "theirs"))
    added = own.add(shared)
    assert (added.sha256, added.card, added.classes) == (entry.sha256, entry.card, entry.classes)
    assert added.path.parent == tmp_path / "theirs" and added.prompts is not None
    own.delete("mine")
    assert not list((tmp_path / "theirs").iterdir())
    with pytest.raises(PromptSegError, match="no model 'mine'"):
        own.delete("mine")
    with pytest.raises(PromptSegError, match="was not made here; it stays"):
        own.delete(catalogue.entries()[0].name)


@pytest.mark.parametrize("spoil", ["name", "more", "other prompts", "cut", "text"])
def test_a_shared_file_is_not_believed(parent, examples, folder, tmp_path, monkeypatch, spoil):
    entry = specialize(examples, CLASSES, "mine", parent, effort=BRIEF)
    shared = own.share(entry, tmp_path / "mine.zip")
    with zipfile.ZipFile(shared) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    if spoil == "name":
        files = {f"../{name}": content for name, content in files.items()}
    if spoil == "more":
        files["run.py"] = b"print()"
    if spoil == "other prompts":
        files["mine.prompts.safetensors"] = parent.shipped.to_bytes()
    if spoil == "cut":
        files["mine.safetensors"] = files["mine.safetensors"][:-100]
    with zipfile.ZipFile(shared, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    if spoil == "text":
        shared.write_text("a letter")
    theirs = tmp_path / "theirs"
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(theirs))
    with pytest.raises(PromptSegError, match="is not a shared model|cannot be the name"):
        own.add(shared)
    assert not theirs.exists() or not list(theirs.iterdir())
    assert not list(tmp_path.glob("*.safetensors"))


def test_no_pickle_in_what_is_written(parent, examples, folder):
    entry = specialize(examples, CLASSES, "mine", parent, effort=BRIEF)
    for path in (entry.path, entry.prompts):
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        assert isinstance(json.loads(content[8 : 8 + length]), dict)
    labels = ps.segment(
        ps.Prompts.load(entry.prompts), examples[0].image, options=ps.SegmentationOptions(device="cpu")
    ).labels
    assert np.isfinite(sitk.GetArrayFromImage(labels)).all()

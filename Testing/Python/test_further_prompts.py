"""Prompts that come along beside a backbone's own: how they are learned, kept, found and used."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import SimpleITK as sitk

import PromptSegLib as ps
from harness.tiny_model import CLASSES, phantom, tiny_backbone
from PromptSegLib.cli.main import main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models import catalogue, folders, own
from PromptSegLib.models.further import find_further
from PromptSegLib.pretraining.source import Source
from PromptSegLib.specializing import further_prompts as further

SCHEMA = json.loads((catalogue.FOLDER / "catalogue.schema.json").read_text(encoding="utf-8"))
NAMES = ("ball", "rod")


def source(folder: Path, **settings) -> dict:
    values = {"image": "{case}_mr.nii.gz", "label": "{case}_label.nii.gz", "classes": dict(CLASSES), **settings}
    return {"name": "one", "folder": str(folder), "modality": "MR", "licence": "none", **values}


def written(folder: Path, *sources: dict, **settings) -> Path:
    values = {"name": "tiny-mr", "title": "Ball and rod, MR", "card": "A phantom.", "modality": "MR", **settings}
    path = folder / "recipe.json"
    path.write_text(json.dumps({"spacing": [3, 2, 2], "steps": 2, **values, "sources": list(sources)}))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("further")
    for seed in range(3):
        image, label = phantom(seed=seed)
        sitk.WriteImage(image, str(folder / f"{seed}_mr.nii.gz"))
        sitk.WriteImage(label, str(folder / f"{seed}_label.nii.gz"))
    sitk.WriteImage(label, str(folder / "map_atlas.nii.gz"))
    return folder


def of(**settings) -> Source:
    return Source.from_dict(source(Path("."), **settings))


def test_what_is_not_labeled_is_background_where_nothing_else_can_be_there():
    values = np.zeros((6, 4, 4), np.uint8)
    values[2, 1, 1], values[3, 2, 2] = CLASSES["ball"], CLASSES["rod"]
    known = further.annotated(values, of(), NAMES)
    assert known[2, 1, 1] == 1 and known[3, 2, 2] == 2 and (known == further.BACKGROUND).sum() == values.size - 2
    partly = further.annotated(values, of(partial=["ball"]), NAMES)
    assert (partly[2] != 0).all() and not partly[[0, 1, 4, 5]].any() and partly[3, 2, 2] == 2
    assert (partly[3] == further.BACKGROUND).sum() == 0  # beyond the last ball, there may be another
    unused = further.annotated(np.where(values == 0, 3, values), of(unused_values=[3]), NAMES)
    assert not (unused == further.BACKGROUND).any()
    one = further.annotated(values, of(classes={"ball": CLASSES["ball"]}), NAMES)
    assert set(np.unique(one)) == {0, 1}  # a rod may be anywhere
    told = further.annotated(values, of(classes={"ball": CLASSES["ball"]}, absent=["rod"]), NAMES)
    assert set(np.unique(told)) == {1, further.BACKGROUND}
    values[values == CLASSES["rod"]] = 0
    missing = further.annotated(values, of(missing="unknown"), NAMES)
    assert set(np.unique(missing)) == {0, 1}


def test_volumes_are_read_drawn_anew_and_mirrored_back(data):
    def volumes(**settings) -> list[ps.Example]:
        drawn = source(data, synthetic=0.5, **settings)
        recipe = further.PromptsRecipe.load(written(data, drawn, copies=4, mirrored=mirrored))
        training, _ = recipe.files()
        return list(further._examples(recipe, training[0], backbone, np.random.default_rng(0)))

    class backbone:
        preprocessing = ps.load_model(None, "cpu").preprocessing

    mirrored: list[str] = []
    plain = volumes(training=["0"])
    assert len(plain) == 3  # two drawn anew, and the image itself
    images = [sitk.GetArrayFromImage(each.image) for each in plain]
    assert not np.allclose(images[1], images[2]) and not np.allclose(images[0], images[1])
    mirrored = ["one"]
    back = volumes(training=["0"])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back[0].image)[:, ::-1], images[0])
    label = sitk.GetArrayFromImage(plain[0].annotation)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back[0].annotation)[:, ::-1], label)


@pytest.fixture
def listed(tmp_path, monkeypatch, data) -> tuple[Path, dict]:
    """A catalogue with a tiny backbone and prompts that were learned for it."""
    weights = tmp_path / "weights"
    weights.mkdir()
    backbone = tiny_backbone(weights)
    entry = {"name": "tiny0", "title": "Tiny", "file": "weights/tiny0.safetensors", "modality": "CT", "licence": "none"}
    entry = {**entry, "spacing": [3, 2, 2], "classes": [], "sha256": backbone.sha256}
    path = tmp_path / "catalogue.json"
    path.write_text(
        json.dumps({"schema": 1, "models": [{**entry, "size": (weights / "tiny0.safetensors").stat().st_size}]})
    )
    for module in (catalogue, further):
        monkeypatch.setattr(module, "CATALOGUE", path)
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    atlas = {"image": None, "label": "map_{case}.nii.gz", "synthetic": 1, "name": "atlas"}
    described = written(tmp_path, source(data, validation=["2"]), source(data, **atlas), model="tiny0")
    assert main(["pretrain-prompts", str(described), "--bundle", "--device", "cpu"]) == 0
    return tmp_path, json.loads(path.read_text())


def test_prompts_are_learned_listed_and_segment_by_their_name(listed, data, capsys):
    folder, content = listed
    jsonschema.validate(content, SCHEMA, jsonschema.Draft202012Validator)
    entry = catalogue.entries()[0]
    found = find_further([entry], "tiny-mr")
    assert found is not None and found.classes == NAMES and found.modality == "MR" and found.path.is_file()
    assert find_further([entry], "tiny0") is None
    card = (folder / "weights" / "tiny-mr.md").read_text()
    assert "one: 2 cases" in card and "atlas: 1 cases" in card and "On one: 2." in card
    prompts = ps.Prompts.load(found.path)
    assert prompts.method == "side" and not prompts.strokes and prompts.sha256 == entry.sha256
    capsys.readouterr()
    assert main(["models"]) == 0 and "tiny-mr: Ball and rod, MR (ball, rod)" in capsys.readouterr().out
    result = folder / "result.nii.gz"
    assert main(["segment", "tiny-mr", str(data / "2_mr.nii.gz"), "-o", str(result)]) == 0
    assert sitk.ReadImage(str(result)).GetSize() == sitk.ReadImage(str(data / "2_mr.nii.gz")).GetSize()


def test_they_are_rows_of_the_list_that_stay_as_they_are(listed):
    pytest.importorskip("slicer")
    from harness.scene_files import new_scene
    from PromptSegLib.session import prompts as prompts_list

    scene = new_scene()
    rows = prompts_list.rows(scene, "tiny0")
    assert [(row.name, row.classes, row.shipped, row.reason) for row in rows] == [
        ("Ball and rod, MR (shipped)", NAMES, True, "")
    ]
    assert prompts_list.prompts_of(scene, rows[0].key).names == list(NAMES)
    with pytest.raises(PromptSegError, match="stay as they are"):
        prompts_list.node_of(scene, rows[0].key)


def test_no_model_of_ones_own_takes_their_name(tmp_path, monkeypatch):
    """``segment NAME`` takes the prompts that come along."""
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "models"))
    name = next(each.name for entry in catalogue.entries() for each in entry.further)
    with pytest.raises(PromptSegError, match=f"a model '{name}' already"):
        own.place_for(name)
    assert not (tmp_path / "models").exists() and own.place_for(f"{name}-2").parent == tmp_path / "models"


@pytest.mark.parametrize(
    "change, words",
    [
        ({"steps": 0}, "must be above 0"),
        ({"spacing": [1, 0, 1]}, "must be above 0"),
        ({"sources": []}, "no source declares a class"),
        ({"method": 3}, "must be"),
        ({"name": ...}, "name"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(data, tmp_path, change, words, capsys):
    values = json.loads(written(tmp_path, source(data)).read_text())
    values = {key: value for key, value in {**values, **change}.items() if value is not ...}
    (tmp_path / "bad.json").write_text(json.dumps(values))
    assert main(["pretrain-prompts", str(tmp_path / "bad.json"), "-o", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err and not (tmp_path / "out").exists()

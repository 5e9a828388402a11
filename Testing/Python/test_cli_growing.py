"""``promptseg grow``, which needs no model, and ``promptseg train-growing``."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.cli.main import main

CLASSES = {"liver": 6, "spleen": 300}
WORDS = [f"{name}={value}" for name, value in CLASSES.items()]


def grow(phantom, *words: object, **changes) -> int:
    given = {"image": phantom.image, "strokes": phantom.annotation, **changes}
    options = [given["image"], "--strokes", given["strokes"], "--classes", *WORDS, "--background", 255, *words]
    return main(["grow", *map(str, options)])


@pytest.mark.parametrize("quick", [False, True])
def test_strokes_are_grown_without_any_model(phantom, tmp_path, monkeypatch, capsys, quick):
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path / "none"))
    target = tmp_path / "out.nii.gz"
    assert grow(phantom, "-o", target, *(["--quick"] if quick else [])) == 0
    assert capsys.readouterr().out.startswith(f"{target}  ")
    image, labels = sitk.ReadImage(str(phantom.image)), sitk.ReadImage(str(target))
    assert labels.GetSize() == image.GetSize() and np.allclose(labels.GetOrigin(), image.GetOrigin())
    found = sitk.GetArrayFromImage(labels)
    for value in CLASSES.values():
        own = phantom.painted == value
        assert (found[own] == value).all() and (found == value).sum() > 3 * own.sum()
    assert not found[phantom.painted == 255].any()


def test_a_result_may_go_into_a_folder(phantom, tmp_path):
    assert grow(phantom, "-o", tmp_path / "results", "--quick") == 0
    assert [each.name for each in (tmp_path / "results").iterdir()] == ["scan.seg.nrrd"]


def refused(capsys, code: int) -> str:
    said = capsys.readouterr()
    assert code == 2 and not said.out and said.err.startswith("promptseg: ") and said.err.count("\n") == 1
    return said.err


def test_bad_input_is_one_sentence_and_writes_nothing(phantom, tmp_path, capsys):
    target = tmp_path / "out.nii.gz"
    assert "image itself" in refused(capsys, grow(phantom, "-o", target, strokes=phantom.image))
    assert "used twice" in refused(capsys, grow(phantom, "-o", phantom.annotation))
    assert "not as out.txt" in refused(capsys, grow(phantom, "-o", tmp_path / "out.txt"))
    refused(capsys, grow(phantom, "-o", tmp_path / "new" / "folder", strokes=tmp_path / "none.nrrd"))
    assert "train-growing" in refused(capsys, grow(phantom, "-o", target, "--network", phantom.image))
    assert "used twice" in refused(capsys, grow(phantom, "-o", target, "--network", target))
    empty = tmp_path / "empty.nrrd"
    sitk.WriteImage(sitk.ReadImage(str(phantom.annotation)) * 0, str(empty))
    refused(capsys, grow(phantom, "-o", target, strokes=empty))
    assert [each.name for each in tmp_path.iterdir()] == ["empty.nrrd"]


def test_names_that_are_not_known_get_colors_of_their_own(phantom, tmp_path):
    assert grow(phantom, "--quick", "-o", tmp_path, "--classes", "one=6", "two=300") == 0
    header = sitk.ReadImage(str(tmp_path / "scan.seg.nrrd"))
    assert header.GetMetaData("Segment0_Color") != header.GetMetaData("Segment1_Color")


def test_a_class_that_is_not_painted_is_refused_as_where_it_is_tuned(phantom, tmp_path, capsys):
    words = ["--classes", "liver=60", "spleen=300", "tumor=7", "-o", tmp_path / "out.nrrd"]
    told = refused(capsys, grow(phantom, *words))
    assert "The classes liver, tumor are not painted in the annotation of scan.nrrd" in told
    tune = [
        "tune",
        "--example",
        phantom.image,
        phantom.annotation,
        "--background",
        255,
        "-o",
        tmp_path / "one.safetensors",
    ]
    assert refused(capsys, main([str(word) for word in [*tune, *words[:4]]])) == told
    assert not list(tmp_path.iterdir())


def test_a_background_that_no_stroke_has_is_told(phantom, tmp_path, capsys):
    for value, told in ((255, False), (77, True)):
        out = tmp_path / f"{value}.nrrd"
        assert grow(phantom, "--quick", "-o", out, "--background", value) == 0
        assert ("no stroke has the value 77 of --background." in capsys.readouterr().err) == told
        assert out.is_file()


def test_a_training_of_a_step_gives_a_network(phantom, tmp_path, capsys):
    for kind in ("image", "reference"):
        (tmp_path / f"one_{kind}.nrrd").write_bytes(getattr(phantom, kind).read_bytes())
    source = {
        "name": "phantom",
        "folder": str(tmp_path),
        "image": "{case}_image.nrrd",
        "label": "{case}_reference.nrrd",
        "license": "none",
    }
    recipe = {"name": "small", "title": "Small", "card": "One step.", "steps": 1, "views": 1, "sources": [source]}
    recipe.update(voxels=8000, asked=1, phantoms=0.0, evidence=0.0)
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    words = ["train-growing", tmp_path / "recipe.json", "-o", tmp_path / "run", "--workers", 0]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    network = tmp_path / "run" / "small.safetensors"
    assert "wrote" in capsys.readouterr().out
    results = []
    for name, more in (("own.nrrd", ["--network", network]), ("bundled.nrrd", [])):
        assert grow(phantom, "--quick", "-o", tmp_path / name, *more) == 0
        results.append(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name))))
    assert (results[0] != results[1]).any()  # it is asked, or what one step taught it would not be seen


def test_a_recipe_that_is_none_is_refused(tmp_path, capsys):
    words = ["train-growing", str(tmp_path / "none.json"), "-o", str(tmp_path / "run")]
    assert "Cannot use the growing recipe" in refused(capsys, main(words))
    assert not (tmp_path / "run").exists()

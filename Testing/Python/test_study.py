"""The study: every method in the same time, resumed where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import CLASSES, phantom, tiny_backbone

pytestmark = pytest.mark.training


@pytest.fixture
def study(benchmark_module):
    return benchmark_module("study")


@pytest.fixture
def data(tmp_path, study, monkeypatch):
    folder = tmp_path / "data" / "phantoms"
    folder.mkdir(parents=True)
    for number in range(3):
        image, label = phantom(seed=number)
        sitk.WriteImage(image, str(folder / f"{number}_ct.nii.gz"))
        sitk.WriteImage(label, str(folder / f"{number}_label.nii.gz"))
    made = study.Set("phantoms", "{}_ct", "{}_label", CLASSES, ("0", "1"), ("2",))
    monkeypatch.setattr(study, "SETS", {"phantoms": made})
    return tmp_path


def test_a_study_goes_on_where_it_was(study, data, capsys):
    tiny_backbone(data)
    words = ["--data", str(data / "data"), "--model", str(data / "tiny0.safetensors"), "--sets", "phantoms"]
    words += ["--volumes", "1", "--seeds", "0", "--seconds", "0.5", "--out", str(data / "study.json")]
    assert study.main([*words, "--methods", "linear"]) == 0
    assert study.main([*words, "--methods", "linear", "full fine-tuning"]) == 0
    rows = json.loads((data / "study.json").read_text())
    assert [row["method"] for row in rows] == ["linear", "full fine-tuning"]
    for row in rows:
        assert set(row["cases"]["2"]) == set(CLASSES) and row["numbers"] > 0
        assert all(0 <= each["dice"] <= 1 for each in row["cases"]["2"].values())
    assert capsys.readouterr().out.count("phantoms, 1 volumes, seed 0: linear") == 1
    lines = study.table(rows).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| linear | 1 | 0.5 |")


def test_a_specialized_model_is_what_users_get(study, data, tmp_path, monkeypatch):
    """It needs three volumes, is measured as the others are, and leaves nothing among the user's models."""
    made = study.SETS["phantoms"]
    monkeypatch.setitem(study.SETS, "phantoms", replace(made, teach=("0", "1", "2")))
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path / "models"))
    tiny_backbone(data)
    words = ["--data", str(data / "data"), "--model", str(data / "tiny0.safetensors"), "--sets", "phantoms"]
    words += ["--volumes", "1", "3", "--seeds", "0", "--seconds", "0.5", "--out", str(data / "study.json")]
    assert study.main([*words, "--methods", study.SPECIALIZED]) == 0
    (row,) = json.loads((data / "study.json").read_text())
    assert row["steps"] > 0 and row["numbers"] > 10_000 and set(row["cases"]["2"]) == set(CLASSES)
    assert not (tmp_path / "models").exists()


def test_no_case_for_reporting_is_studied(study):
    assert not {"16", "17", "18", "19"} & {*study.SETS["BTCV"].teach, *study.SETS["BTCV"].test}
    for each in study.SETS.values():
        assert len(each.teach) >= 5 and not set(each.teach) & set(each.test)


def test_the_cases_are_there(study):
    if not study.DATA.is_dir():
        pytest.skip(f"there is no {study.DATA}")
    for each in study.SETS.values():
        for case in (*each.teach, *each.test):
            for pattern in (each.image, each.label):
                assert (study.DATA / each.folder / f"{pattern.format(case)}.nii.gz").is_file()


def test_scatter_and_calibration_are_what_they_are_called(benchmark_module):
    features = benchmark_module("features")
    labels = np.repeat([0, 1], 50)
    spread = np.random.default_rng(0).normal(0, 1, (100, 3))
    apart = spread + 10.0 * labels[:, None]
    found = features.scatters(apart, labels)
    assert found["within"] == pytest.approx(3, abs=0.6) and found["between"] == pytest.approx(75, rel=0.1)
    assert found["Fisher ratio"] == pytest.approx(found["between"] / found["within"])
    assert features.scatters(spread, labels)["Fisher ratio"] < 0.1
    truths = np.r_[np.zeros(80, int), np.ones(20, int)]
    honest, sure = np.tile([0.8, 0.2], (100, 1)), np.tile([1.0, 0.0], (100, 1))
    assert features.calibration(honest, truths) == {"ECE": pytest.approx(0), "Brier": pytest.approx(0.32)}
    assert features.calibration(sure, truths) == {"ECE": pytest.approx(0.2), "Brier": pytest.approx(0.4)}

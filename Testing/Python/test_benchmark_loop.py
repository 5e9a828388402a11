"""The benchmark of the loop: what it times, what it keeps, and how its tables read; with a tiny backbone."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer")

from harness.tiny_model import CLASSES, phantom


@pytest.fixture
def loop(benchmark_module, workers, monkeypatch):
    """The benchmark, with a worker that is lent to its sessions; what it makes of waits is the same."""
    module = benchmark_module("loop")
    monkeypatch.setattr(module, "start_worker", workers)
    return module


def a_row(image="whole", classes=4, slices=3, volumes=1, **values):
    key = f"{image}, {classes} classes, {slices} slices, {volumes} volumes"
    painted = {"painted": 100 * slices * classes, "voxels": 1_000_000, "volumes": volumes}
    return {"key": key, "image": image, "classes": classes, **painted, **values}


@pytest.mark.training
def test_every_wait_is_timed(loop, models, tmp_path, monkeypatch):
    image, reference = phantom()
    monkeypatch.setattr(loop, "read", lambda case, data: (image, reference, dict(CLASSES)))
    row = loop.measure(loop.Case("half", 2), tmp_path, 0.2, 1, str(models / "tiny0.safetensors"))
    for name in ("stroke, cold", "stroke, warm", "tune, cold", "tune, warm"):
        assert 0 < row[f"{name} first s"] <= row[f"{name} s"]
        assert row[f"{name} first s"] <= row[f"{name} 95 % s"] <= row[f"{name} s"]
        assert 0 < row[f"{name} Dice"] <= 1 and row[f"{name} gap s"] > 0
    for name in ("correction", "retune", "whole volume", "Grow from seeds", "fine-tuning"):
        assert row[f"{name} s"] > 0
    assert row["Grow from seeds Dice"] > 0.5 and row["fine-tuning steps"] >= 1
    assert row["worker MB"] > 50 and row["main MB"] > 50
    assert row["painted"] > 0 and row["voxels"] == np.prod(image.GetSize())
    text = loop.table([row])
    assert text.count("| half, 2 classes, 3 slices, 1 volumes (0.0 M voxels) |") == 2


def test_several_volumes_get_their_results(loop, models, workers):
    image, reference = phantom()
    path = str(models / "tiny0.safetensors")
    desk = loop.Desk(image, reference, dict(CLASSES), 0, workers, seconds=0.1, model=path)
    loop.Watch(desk).until_idle(desk.session.tune)
    desk.session.apply()
    found = loop._whole(desk, loop.Case("whole", 2, volumes=2))
    assert found["volumes s"] > 0
    assert desk.scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 3
    desk.close()


def test_rows_are_kept_and_not_computed_again(loop, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        loop, "in_a_process", lambda case, options: asked.append(case) or a_row(case.image, case.classes)
    )
    file = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["loop.py", "--json", str(file), "--images", "half", "--classes", "1", "4"])
    loop.main()
    assert [case.key for case in asked] == [row["key"] for row in json.loads(file.read_text())]
    assert len(asked) == 2 and file.with_suffix(".png").is_file()
    loop.main()
    assert len(asked) == 2
    monkeypatch.setattr(sys, "argv", [*sys.argv, "mr"][:5] + ["half", "mr", "--classes", "1"])
    loop.main()
    assert [case.image for case in asked[2:]] == ["mr"]


def test_all_that_is_asked_for_is_among_the_cases(loop):
    cases = list(loop.cases([*loop.SIZES, "mr"], list(loop.COUNTS)))
    assert len({case.key for case in cases}) == len(cases) == 12 + 2 + 2
    assert {case.volumes for case in cases} == set(loop.VOLUMES)
    assert {case.slices for case in cases} == set(loop.PAINTED)


def test_growth_is_along_one_axis_at_a_time(benchmark_module):
    module = benchmark_module("loop_table")
    key = "stroke, warm first cpu s"
    rows = [a_row(classes=count, **{key: 1.0 + count / 2}) for count in (1, 4, 10)]
    rows += [a_row("half", 4, **{key: 9.0}), a_row("mr", 4, **{key: 99.0}), a_row(slices=12, **{key: 3.5})]
    assert module.series(rows, "classes", key) == [(1, 1.5), (4, 3.0), (10, 6.0)]
    assert module.series(rows, "painted", key) == [(1200, 3.0), (4800, 3.5)]
    assert module.exponent([(1, 1.5), (10, 6.0)]) == pytest.approx(np.log10(4))
    assert "| stroke to region | classes | 1 | 10 |" in module.table(rows)
    assert module.table([]) == "Nothing has been computed yet."


def test_a_reference_without_a_class_has_fewer(loop, tmp_path, monkeypatch):
    labels = sitk.GetImageFromArray(np.array([[[0, 1, 6, 6]]], np.uint8))
    monkeypatch.setattr(loop, "read_image", lambda path: labels)
    monkeypatch.setattr(loop, "read_annotation", lambda path: labels)
    _image, _reference, classes = loop.read(loop.Case("whole", 4), tmp_path)
    assert classes == {"liver": 6, "spleen": 1}
    wide, _reference, _classes = loop.read(loop.Case("double", 1), tmp_path)
    assert wide.GetSize()[0] == 8 and wide.GetSize()[2] == 1

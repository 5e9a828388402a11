"""Many images in one command: the table of volumes, bad files among them, and going on where it stopped."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import phantom
from PromptSegLib.cli import sparing
from PromptSegLib.cli.batch import Batch, images_in
from PromptSegLib.cli.main import main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.inference import writing

CLASSES = {"liver": 1, "spleen": 2, "aorta": 3}


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder with three volumes; the middle one is no volume."""
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        sitk.WriteImage(phantom(seed=number)[0], str(folder / f"case{number}.nrrd"))
    (folder / "case1.nrrd").write_bytes(b"no volume")
    (folder / "notes.txt").write_text("not an image")
    sitk.WriteImage(phantom()[1], str(folder / "case0.seg.nrrd"))
    return folder


def segment(model: Path, images: Path, *more: str) -> tuple[int, Path, Path]:
    """Exit code, folder of the results, and the table."""
    out, report = images.parent / "out", images.parent / "volumes.csv"
    words = ["segment", str(model.with_suffix(".prompts.safetensors")), str(images), "-o", str(out)]
    return main([*words, "--model", str(model), "--device", "cpu", *more]), out, report


def rows_of(report: Path) -> list[dict[str, str]]:
    with report.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_bad_image_does_not_stop_the_others_and_the_table_says_why(model, images, capsys):
    code, out, report = segment(model, images, "--report", str(images.parent / "volumes.csv"))
    assert code == 2
    told = capsys.readouterr().err.splitlines()
    assert "1 of 3 images were not segmented" in told[-1] and "--resume" in told[-1]
    assert [line for line in told if line.startswith("1 of 3") or line.startswith("3 of 3")]
    assert sorted(path.name for path in out.iterdir()) == ["case0.seg.nrrd", "case2.seg.nrrd"]
    rows = rows_of(report)
    assert [row["state"] for row in rows] == ["done", "failed", "done"]
    assert "case1.nrrd" in rows[1]["reason"] and rows[1]["reason"].endswith(".") and not rows[1]["liver (ml)"]
    for row in (rows[0], rows[2]):
        labels = sitk.ReadImage(row["result"])
        counted = sitk.GetArrayViewFromImage(labels)
        for name, value in CLASSES.items():
            volume = (counted == value).sum() * np.prod(labels.GetSpacing()) / 1000
            assert float(row[f"{name} (ml)"]) == pytest.approx(volume, abs=1e-3)
        assert sum(float(row[f"{name} (ml)"]) for name in CLASSES) > 0


def test_without_a_report_the_first_bad_image_ends_the_command(model, images, capsys):
    code, out, report = segment(model, images)
    assert code == 2 and "case1.nrrd" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["case0.seg.nrrd"] and not report.exists()


def test_resume_leaves_out_what_is_there_and_counts_it_all_the_same(model, images, monkeypatch):
    report = ["--report", str(images.parent / "volumes.csv")]
    _, out, table = segment(model, images, *report)
    before = rows_of(table)
    (out / "case2.seg.nrrd").unlink()
    sitk.WriteImage(phantom(seed=1)[0], str(images / "case1.nrrd"))
    segmented, original = [], sparing.Backbones.segment

    def counted(self, *arguments, **keywords):
        segmented.append(arguments[4].name)
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(sparing.Backbones, "segment", counted)
    code, _, _ = segment(model, images, "--resume", *report)
    rows = rows_of(table)
    assert code == 0 and segmented == ["case1.nrrd", "case2.nrrd"]
    assert [row["state"] for row in rows] == ["there already", "done", "done"]
    for name in CLASSES:
        assert rows[0][f"{name} (ml)"] == before[0][f"{name} (ml)"]
        assert rows[2][f"{name} (ml)"] == before[2][f"{name} (ml)"]


def test_resume_does_not_leave_out_an_image_of_which_maps_are_wanted_that_are_not_there(model, images):
    report, shares = ["--report", str(images.parent / "volumes.csv")], images.parent / "shares"
    (images / "case1.nrrd").unlink()
    segment(model, images, "--probabilities", str(shares), *report)
    (shares / "case0_aorta.nii.gz").unlink()
    code, _, table = segment(model, images, "--probabilities", str(shares), "--resume", *report)
    assert code == 0 and [row["state"] for row in rows_of(table)] == ["done", "there already"]
    assert (shares / "case0_aorta.nii.gz").is_file()


def test_a_volume_of_tiny_voxels_is_no_zero(tmp_path):
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[:10, :10, :10] = 1
    tiny = sitk.GetImageFromArray(labels)
    tiny.SetSpacing((0.05, 0.05, 0.05))
    batch = Batch([(tmp_path / "mouse.nrrd", tmp_path / "out.nrrd")], tmp_path / "volumes.csv", False, {"tumor": 1})
    with batch.noting(tmp_path / "mouse.nrrd") as row:
        batch.measure(row, tiny)
    assert rows_of(tmp_path / "volumes.csv")[0]["tumor (ml)"] == "0.000125"


def test_resume_of_a_result_that_is_none_is_a_failure_of_that_image_alone(model, images):
    (images / "case1.nrrd").unlink()
    out = images.parent / "out"
    out.mkdir()
    (out / "case0.seg.nrrd").write_bytes(b"nothing")
    code, _, report = segment(model, images, "--resume", "--report", str(images.parent / "volumes.csv"))
    assert code == 2 and [row["state"] for row in rows_of(report)] == ["failed", "done"]


def test_resume_does_not_leave_out_an_image_whose_maps_were_not_written(model, images, monkeypatch):
    report, shares = ["--report", str(images.parent / "volumes.csv")], images.parent / "shares"
    (images / "case1.nrrd").unlink()
    original = writing.write_image

    def full(image, path, source=None):
        if path.name.startswith("case2_spleen"):
            raise PromptSegError("Cannot write {path}; check the free disk space.", path=path)
        original(image, path, source)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_image", full)
        code, _, table = segment(model, images, "--probabilities", str(shares), *report)
    assert code == 2 and [row["state"] for row in rows_of(table)] == ["done", "failed"]
    code, _, _ = segment(model, images, "--probabilities", str(shares), "--resume", *report)
    assert code == 0 and [row["state"] for row in rows_of(table)] == ["there already", "done"]
    assert sorted(path.name for path in shares.iterdir()) == sorted(
        f"case{number}_{name}.nii.gz" for number in (0, 2) for name in CLASSES
    )


def test_ctrl_c_leaves_a_table_of_what_was_done(model, images, monkeypatch, capsys):
    original = sparing.Backbones.segment

    def interrupted(self, *arguments, **keywords):
        if arguments[4].name == "case2.nrrd":
            raise KeyboardInterrupt
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(sparing.Backbones, "segment", interrupted)
    code, out, report = segment(model, images, "--report", str(images.parent / "volumes.csv"))
    assert code == 130 and [row["state"] for row in rows_of(report)] == ["done", "failed"]
    assert [path.name for path in out.iterdir()] == ["case0.seg.nrrd"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_image_that_memory_is_not_enough_for_is_a_failure_of_its_own(model, images, monkeypatch, error):
    original = sparing.Backbones.segment

    def out(self, *arguments, **keywords):
        if arguments[4].name == "case0.nrrd":
            raise error
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(sparing.Backbones, "segment", out)
    _, _, report = segment(model, images, "--report", str(images.parent / "volumes.csv"))
    rows = rows_of(report)
    assert [row["state"] for row in rows] == ["failed", "failed", "done"] and "memory is used up" in rows[0]["reason"]


def test_a_bug_is_not_a_bad_image(model, images, monkeypatch):
    def buggy(self, *arguments, **keywords):
        raise KeyError("bug")

    monkeypatch.setattr(sparing.Backbones, "segment", buggy)
    with pytest.raises(KeyError):
        segment(model, images, "--report", str(images.parent / "volumes.csv"))


def test_a_report_that_cannot_be_written_is_refused_before_anything(model, images, capsys):
    code, out, _ = segment(model, images, "--report", str(images.parent / "missing" / "volumes.csv"))
    assert code == 2 and "no folder" in capsys.readouterr().err and not out.exists()
    image = images / "case0.nrrd"
    before = image.read_bytes()
    code, _, _ = segment(model, images, "--report", str(image))
    assert code == 2 and image.read_bytes() == before


@pytest.mark.parametrize("wrong", ["image", "prompts"])
def test_a_refused_command_leaves_no_folder(model, images, wrong):
    image, prompts = images / "case1.nrrd", model.with_suffix(".prompts.safetensors")
    given = [str(prompts), str(image)] if wrong == "image" else [str(image), str(images / "case0.nrrd")]
    out = images.parent / "new" / "deeper"
    assert main(["segment", *given, "-o", str(out), "--probabilities", str(images.parent / "shares")]) == 2
    assert not out.parent.exists() and not (images.parent / "shares").exists()


def test_a_folder_gives_its_volumes_in_order(images, tmp_path):
    found = images_in([str(images), str(tmp_path / "one.nrrd")])
    assert [path.name for path in found] == ["case0.nrrd", "case1.nrrd", "case2.nrrd", "one.nrrd"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptSegError, match="has no volume"):
        images_in([str(tmp_path / "empty")])


def test_a_folder_gives_pairs_of_files_and_nothing_hidden(images, tmp_path):
    """macOS puts a hidden file beside each file on other disks."""
    for name in ("pair.hdr", "pair.img", "._case0.nrrd", ".case9.nrrd"):
        (images / name).write_bytes(b"x")
    assert [path.name for path in images_in([str(images)])] == ["case0.nrrd", "case1.nrrd", "case2.nrrd", "pair.hdr"]


def test_a_link_that_leads_nowhere_is_a_failure_of_its_own(model, images, capsys):
    for name, target in (("lost.nrrd", "gone.nrrd"), ("loop.nrrd", "loop.nrrd"), ("folder.nrrd", ".")):
        (images / name).symlink_to(target)
    (images / "case1.nrrd").unlink()
    code, out, report = segment(model, images, "--report", str(images.parent / "volumes.csv"))
    assert code == 2 and "2 of 4 images were not segmented" in capsys.readouterr().err
    reasons = {row["image"].rpartition("/")[2]: row["reason"] for row in rows_of(report)}
    assert [name for name, reason in reasons.items() if "does not exist" in reason] == ["loop.nrrd", "lost.nrrd"]
    assert sorted(path.name for path in out.iterdir()) == ["case0.seg.nrrd", "case2.seg.nrrd"]

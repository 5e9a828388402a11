"""The command line from a scan and strokes to scored segmentations."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.cli import outputs
from PromptSegLib.cli.main import main
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.models import catalogue, folders
from PromptSegLib.network.config import OUTPUTS
from PromptSegLib.prompts import store
from PromptSegLib.prompts.store import MAX_BYTES_PER_CLASS, Prompts

pytestmark = pytest.mark.usefixtures("brisk_growing")

ROOT = Path(__file__).parents[2]
CLASSES = {"liver": 6, "spleen": 300}
WORDS = [f"{name}={value}" for name, value in CLASSES.items()]


@pytest.fixture
def promptseg(capsys):
    """Run a command that must succeed; returns what it printed."""

    def run(*words: object) -> str:
        capsys.readouterr()
        code = main([str(word) for word in words])
        said = capsys.readouterr()
        rest = [line for line in said.err.splitlines() if not re.match(r"\d+ of \d+: ", line)]
        assert (code, rest) == (0, [])
        return said.out

    return run


@pytest.fixture(scope="module")
def tuned(phantom, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "phantom.safetensors"
    words = ["tune", "--example", phantom.image, phantom.annotation, "--classes", *WORDS, "--background", "255"]
    words += ["--steps", "2", "--device", "cpu", "-o", path]
    assert main([str(word) for word in words]) == 0
    return path


@pytest.fixture(scope="module")
def plain(phantom, tuned, tmp_path_factory) -> SimpleNamespace:
    """Both classes by the network alone, with all maps; ``labels`` is an array."""
    folder = tmp_path_factory.mktemp("plain")
    words = ["segment", tuned, phantom.image, "-o", folder / "out.nii.gz", "--no-grow", "--device", "cpu"]
    words += ["--probabilities", folder / "shares", "--uncertainty", folder / "unsure.nrrd"]
    assert main([str(word) for word in words]) == 0
    return SimpleNamespace(folder=folder, labels=voxels(folder / "out.nii.gz"))


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def on_grid_of(path: Path, other: Path) -> bool:
    one, two = sitk.ReadImage(str(path)), sitk.ReadImage(str(other))
    return Grid.of(one).same_as(Grid.of(two), 1e-3) and np.allclose(one.GetDirection(), two.GetDirection(), atol=1e-5)


# Tuning


def test_tune(phantom, tuned):
    assert tuned.stat().st_size <= len(CLASSES) * MAX_BYTES_PER_CLASS
    assert [path.name for path in tuned.parent.iterdir()] == [tuned.name]
    prompts = Prompts.load(tuned)
    assert prompts.values == CLASSES
    assert (prompts.mode, prompts.method) == ("decoder", "punet")
    assert prompts.sha256 == catalogue.entries()[0].sha256
    record = prompts.tuning["0"]
    assert (record["steps"], record["seed"], record["device"]) == (2, 0, "cpu")
    (shown,) = record["examples"]
    assert shown == {"name": "scan.nrrd", "shape": [48, 64, 64], "spacing": [3.0, 3.0, 3.0], "complete": False}
    assert [each.voxels() for each in prompts.strokes] == [(phantom.painted > 0).sum()]


@pytest.mark.parametrize("room", [None, 600])
def test_an_image_is_grown_from_all_that_was_painted(phantom, tmp_path, capsys, monkeypatch, room):
    """However dense that is, and where it has no room in the prompts file."""
    if room:
        monkeypatch.setattr(store, "_STROKES_PER_CLASS", room)
    truth, rng = phantom.truth, np.random.default_rng(0)
    dense = np.where(rng.random(truth.shape) < 0.15, np.where(truth > 0, truth, 255), 0)
    dense[20:22, 40:44, 30:36] = CLASSES["liver"]  # where no network would see one
    assert (dense > 0).mean() > 0.1
    annotation = rewritten(phantom.annotation, tmp_path / "dense.nrrd", lambda _: dense.astype(np.uint16))
    path, out = tmp_path / "p.safetensors", tmp_path / "out.nrrd"
    words = ["tune", "--example", phantom.image, annotation, "--classes", *WORDS, "--background", "255", "--steps", "0"]
    capsys.readouterr()
    assert main([str(word) for word in [*words, "--device", "cpu", "-o", path]]) == 0
    beside = path.with_name("p.strokes.safetensors")
    assert beside.exists() == (beside.name in capsys.readouterr().err) == bool(room)
    again = ["segment", str(path), str(phantom.image), "-o", str(out), "--device", "cpu"]
    assert main(again) == 0
    said = capsys.readouterr().err  # but for how it was grown, nothing is to be said
    assert not said or "Grown as Grow from seeds does" in said
    labels = voxels(out)
    for value in CLASSES.values():
        assert (labels[dense == value] == value).all()
    assert not labels[dense == 255].any()
    if room:
        beside.unlink()
        assert main(again) == 0 and "not beside the prompts any more" in capsys.readouterr().err


def rewritten(path: Path, target: Path, change) -> Path:
    """An image with other intensities."""
    image = sitk.ReadImage(str(path))
    other = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
    other.CopyInformation(image)
    sitk.WriteImage(other, str(target))
    return target


def test_an_image_that_does_not_fit_the_window_is_spoken_of(phantom, tuned, tmp_path, capsys):
    """And the prompts remember how their image was taken, so that the next is taken alike."""
    mr = rewritten(phantom.image, tmp_path / "mr.nrrd", lambda array: (array + 1050).clip(0) ** 0.5)
    path, out = tmp_path / "mr.safetensors", tmp_path / "out.nrrd"
    words = ["tune", "--example", mr, phantom.annotation, "--classes", *WORDS, "--background", "255", "--steps", "0"]
    capsys.readouterr()
    assert main([str(word) for word in [*words, "--device", "cpu", "-o", path]]) == 0
    assert "Hounsfield" in capsys.readouterr().err
    assert Prompts.load(path).intensity.kind == "percentile" and Prompts.load(tuned).intensity.kind == "window"
    for prompts, image, said in ((tuned, mr, "tuned on a CT"), (path, mr, ""), (path, phantom.image, "own range")):
        assert main(["segment", str(prompts), str(image), "-o", str(out), "--device", "cpu"]) == 0
        heard = capsys.readouterr().err
        assert said in heard and bool(heard) == bool(said), heard


def test_tune_on(phantom, tuned, promptseg, tmp_path):
    """Prompts that go on from others keep what they do not touch, in the same place as well."""
    path = tmp_path / "p.safetensors"
    path.write_bytes(tuned.read_bytes())
    before = Prompts.load(path)
    words = ["tune", "--example", phantom.image, phantom.annotation, "--classes", "spleen=300"]
    said = promptseg(*words, "--start", path, "--steps", 0, "--forget-strokes", "--background", 255, "-o", path)
    assert "liver = 6" in said
    assert "spleen = 300" in said
    after = Prompts.load(path)
    assert after.values == CLASSES
    for old, new in zip(before.classes, after.classes):
        assert (old.info.name, old.group) == (new.info.name, new.group)
        assert all(np.array_equal(old.tensors[name], new.tensors[name]) for name in old.tensors)
    assert [each.retired for each in after.classes] == [False, True, False]
    assert after.find("spleen").group == 1
    assert before.strokes and not after.strokes


# Segmenting


@pytest.mark.parametrize("suffix", [".nii", ".nrrd", ".seg.nrrd"])
def test_every_format_holds_the_same(phantom, tuned, plain, promptseg, tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    said = promptseg("segment", tuned, phantom.image, "-o", path, "--no-grow", "--device", "cpu")
    assert str(path) in said
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert on_grid_of(path, phantom.image)
    labels = voxels(path)
    assert labels.dtype == np.uint16
    assert np.array_equal(labels, plain.labels)
    if suffix == ".seg.nrrd":
        image = sitk.ReadImage(str(path))
        for number, (name, value) in enumerate(CLASSES.items()):
            assert image.GetMetaData(f"Segment{number}_Name") == name
            assert image.GetMetaData(f"Segment{number}_LabelValue") == str(value)
            assert "SCT^" in image.GetMetaData(f"Segment{number}_Tags")


def test_labels_are_those_of_the_tuning(phantom, plain):
    assert on_grid_of(plain.folder / "out.nii.gz", phantom.image)
    assert set(np.unique(plain.labels)) == {0, *CLASSES.values()}
    painted = phantom.painted > 0  # the prompts carry the strokes of this very scan
    expected = np.where(phantom.painted == 255, 0, phantom.painted)
    assert np.array_equal(plain.labels[painted], expected[painted])


def test_growing_honors_the_strokes_too(phantom, tuned, plain, promptseg, tmp_path):
    promptseg("segment", tuned, phantom.image, "-o", tmp_path / "own.nrrd", "--device", "cpu")
    grown = voxels(tmp_path / "own.nrrd")
    assert set(np.unique(grown)) == {0, *CLASSES.values()}
    assert not np.array_equal(grown, plain.labels)
    painted = phantom.painted > 0
    assert np.array_equal(grown[painted], np.where(phantom.painted == 255, 0, phantom.painted)[painted])
    # Given by hand, the strokes do what those in the prompts do.
    words = ["--strokes", phantom.annotation, "--background", 255, "--device", "cpu"]
    promptseg("segment", tuned, phantom.image, "-o", tmp_path / "given.nrrd", *words)
    assert np.array_equal(voxels(tmp_path / "given.nrrd"), grown)


def test_some_of_the_classes(phantom, tuned, plain, promptseg, tmp_path):
    path = tmp_path / "out.nrrd"
    words = ["--classes", "liver", "--probabilities", tmp_path / "shares"]
    promptseg("segment", tuned, phantom.image, "-o", path, "--no-grow", "--device", "cpu", *words)
    assert np.array_equal(voxels(path), np.where(plain.labels == 6, 6, 0))
    assert [each.name for each in (tmp_path / "shares").iterdir()] == ["liver.nii.gz"]
    shares = voxels(tmp_path / "shares" / "liver.nii.gz")
    assert np.array_equal(shares, voxels(plain.folder / "shares" / "liver.nii.gz"))


def test_a_region(phantom, tuned, plain, promptseg, tmp_path):
    path = tmp_path / "out.nrrd"
    words = ["--region", 10, 30, 20, 40, 15, 33]
    promptseg("segment", tuned, phantom.image, "-o", path, "--no-grow", "--device", "cpu", *words)
    expected = np.zeros_like(plain.labels)
    expected[15:33, 20:40, 10:30] = plain.labels[15:33, 20:40, 10:30]
    assert expected.any()
    assert np.array_equal(voxels(path), expected)


def test_probabilities_and_uncertainty(phantom, plain):
    shares = plain.folder / "shares"
    assert sorted(path.name for path in shares.iterdir()) == ["liver.nii.gz", "spleen.nii.gz"]
    total = 0
    for path in shares.iterdir():
        assert on_grid_of(path, phantom.image)
        values = voxels(path)
        assert values.dtype == np.float32
        assert 0 <= values.min() < values.max() <= 1
        total = total + values
    assert total.max() <= 1 + 1e-5
    assert on_grid_of(plain.folder / "unsure.nrrd", phantom.image)
    unsure = voxels(plain.folder / "unsure.nrrd")
    assert 0 <= unsure.min() < unsure.max() <= 1 + 1e-5


def test_many_images_go_into_a_folder(phantom, tuned, plain, promptseg, tmp_path):
    """Each on its own grid: here the same scan, turned, and a part of it."""
    image = sitk.ReadImage(str(phantom.image))
    scans = {"turned.nii.gz": sitk.PermuteAxes(image, [2, 0, 1]), "part.nrrd": image[5:50, 3:60, 10:40]}
    for name, scan in scans.items():
        sitk.WriteImage(scan, str(tmp_path / name))
    out, shares = tmp_path / "new" / "results", tmp_path / "shares"
    images = [tmp_path / name for name in scans]
    words = ["--classes", "spleen", "--probabilities", shares, "--device", "cpu"]
    said = promptseg("segment", tuned, *images, "-o", out, *words)
    assert sorted(path.name for path in out.iterdir()) == ["part.seg.nrrd", "turned.seg.nrrd"]
    assert sorted(path.name for path in shares.iterdir()) == ["part_spleen.nii.gz", "turned_spleen.nii.gz"]
    assert len(said.splitlines()) == 2
    for image, name in zip(images, ("turned", "part")):
        assert on_grid_of(out / f"{name}.seg.nrrd", image)
        assert set(np.unique(voxels(out / f"{name}.seg.nrrd"))) <= {0, 300}


def test_one_image_may_go_into_a_folder_too(phantom, promptseg, tmp_path):
    """With the prompts that the model ships; what lies there is replaced."""
    (tmp_path / "scan.seg.nrrd").write_text("old")
    promptseg("segment", "ct-body", phantom.image, "-o", tmp_path, "--device", "cpu")
    assert on_grid_of(tmp_path / "scan.seg.nrrd", phantom.image)
    assert [path.name for path in tmp_path.iterdir()] == ["scan.seg.nrrd"]
    image = sitk.ReadImage(str(tmp_path / "scan.seg.nrrd"))
    names = catalogue.entries()[0].classes
    assert tuple(image.GetMetaData(f"Segment{number}_Name") for number in range(len(names))) == names


def test_files_of_classes_are_told_apart():
    names = ["liver", "a b", "a_b", "A/b", "../../etc", "Leber-Läsion"]
    prompts = SimpleNamespace(values={name: value for value, name in enumerate(names, 1)})
    words = outputs._words(prompts, names)
    assert list(words.values()) == ["liver", "a_b_2", "a_b_3", "A_b_4", "______etc", "Leber-Läsion"]


# Looking


def test_info(tuned, promptseg):
    said = promptseg("info", tuned)
    for word in (str(tuned), "ct-body", "mode decoder", "liver = 6", "spleen = 300", "2 steps", "48 x 64 x 64"):
        assert word in said
    content = json.loads(promptseg("info", tuned, "--json"))
    assert {each["name"]: each["value"] for each in content["classes"]} == CLASSES
    assert content["backbone"] == "ct-body"
    assert content["sha256"] == catalogue.entries()[0].sha256
    assert content["tuning"]["0"]["steps"] == 2
    assert content["preprocessing"]["spacing"] == [3.0, 2.0, 2.0]
    assert {each["outputs"] for each in content["classes"]} <= set(OUTPUTS)


def test_info_of_strange_records(tuned, promptseg, tmp_path):
    """A record is anybody's: info shows it, whatever it holds, on one line each."""
    prompts = Prompts.load(tuned)
    for record in (
        {"classes": [1], "seed": 0, "examples": 3},
        {"classes": {"liver": 3}, "seed": None, "examples": [1, {"shape": 3, "name": "a\nb\x1b[2J"}]},
        {"classes": {"liver": {"agreement": "\n\n", "start": {}}}, "steps": [[1]]},
        {},
    ):
        replace(prompts, tuning={"0": record}).save(tmp_path / "p.safetensors")
        said = promptseg("info", tmp_path / "p.safetensors")
        assert len(said.splitlines()) in (4, 5)
        assert said.replace("\n", "").isprintable()
        assert json.loads(promptseg("info", tmp_path / "p.safetensors", "--json"))["tuning"] == {"0": record}


def test_models(promptseg):
    said = promptseg("models")
    entry = catalogue.entries()[0]
    for word in (entry.name, entry.sha256, entry.licence, "3 x 2 x 2 mm", *entry.classes):
        assert word in said
    content = json.loads(promptseg("models", "--json"))
    assert content[0]["name"] == entry.name
    assert Path(content[0]["path"]).is_file()
    assert Path(content[0]["prompts"]).is_file()


def test_score(phantom, promptseg, tmp_path):
    truth = sitk.ReadImage(str(phantom.reference))
    half = phantom.truth.copy()
    half[half == 300] = 0
    guess = sitk.GetImageFromArray(half)
    guess.CopyInformation(truth)
    sitk.WriteImage(guess, str(tmp_path / "guess.nrrd"))
    words = ["score", phantom.reference, tmp_path / "guess.nrrd", "--classes", *WORDS, "stomach=9"]
    said = promptseg(*words).splitlines()
    assert said[2].split()[:3] == ["liver", "1.000", "1.000"]
    assert said[3].split()[:3] == ["spleen", "0.000", "0.000"]
    assert "stomach" in said[-1]
    content = json.loads(promptseg(*words, "--json"))
    assert content["classes"]["liver"]["dice"] == 1
    assert content["classes"]["liver"]["reference_ml"] == pytest.approx((phantom.truth == 6).sum() * 0.027)
    assert content["classes"]["spleen"]["dice"] == 0
    assert content["mean"]["dice"] == 0.5
    assert content["absent"] == ["stomach"]


# As a program


def program(*words: object, **more) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
    command = [sys.executable, "-m", "PromptSegLib", *map(str, words)]
    return subprocess.run(command, env=environment, timeout=900, **{"capture_output": True, **more})


def test_the_module_runs(tmp_path):
    done = program("models", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ct-body: ")


def test_letters_that_the_terminal_lacks(tuned, tmp_path):
    prompts = Prompts.load(tuned)
    info = replace(prompts.classes[0].info, name="Läsion 肝")
    prompts = replace(prompts, classes=(replace(prompts.classes[0], info=info), *prompts.classes[1:]))
    prompts.save(tmp_path / "p.safetensors")
    done = program("info", tmp_path / "p.safetensors", env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"L\\xe4sion \\u809d = 6" in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("buffered", [{"PYTHONUNBUFFERED": ""}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "at once"])
def test_output_that_nobody_takes(buffered):
    with open("/dev/full", "wb") as full:
        done = program("models", capture_output=False, stdout=full, stderr=subprocess.PIPE, env=buffered)
    assert done.returncode == 2
    assert done.stderr.startswith(b"promptseg: ")
    assert done.stderr.endswith(b".\n")
    assert len(done.stderr.splitlines()) == 1
    reader, writer = os.pipe()
    os.close(reader)
    done = program("models", capture_output=False, stdout=writer, stderr=subprocess.PIPE, env=buffered)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_interrupting(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "entries", interrupted)
    assert main(["models"]) == 130
    assert "Interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("launched", [False, True])
@pytest.mark.parametrize("words, code", [(["models"], 0), (["info", "none.safetensors"], 2)])
def test_a_rank_of_several_ends_without_pythons_clean_up(launched, words, code):
    launcher = {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"} if launched else {}
    script = "import atexit; atexit.register(print, 'cleaned up'); from PromptSegLib.__main__ import run; run()"
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        env={**os.environ, "WORLD_SIZE": "2", **launcher},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == code and ("ct-body" in done.stdout or "none.safetensors" in done.stderr)
    assert ("cleaned up" in done.stdout) != launched


def test_results_go_where_a_link_points(phantom, tuned, promptseg, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "out.nrrd").symlink_to(tmp_path / "data" / "real.nrrd")
    promptseg("segment", tuned, phantom.image, "-o", tmp_path / "out.nrrd", "--no-grow", "--device", "cpu")
    assert (tmp_path / "out.nrrd").is_symlink()
    assert on_grid_of(tmp_path / "data" / "real.nrrd", phantom.image)


@pytest.mark.parametrize("name", ["results.v2", "2024.01.31", "patient.7/CT.2", ".hidden", "out.nii.gz/"])
def test_a_folder_with_a_dot_in_its_name(phantom, tuned, promptseg, tmp_path, name):
    promptseg("segment", tuned, phantom.image, "-o", f"{tmp_path}/{name}", "--no-grow", "--device", "cpu")
    assert (tmp_path / name / "scan.seg.nrrd").is_file()


# A model of its own


def test_specialize_share_add_delete(promptseg, phantom, tmp_path, monkeypatch, capsys):
    from harness.tiny_model import tiny_backbone

    tiny_backbone(tmp_path)
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "models"))
    words = ["specialize", "--classes", *WORDS, "--name", "mine", "--model", tmp_path / "tiny0.safetensors"]
    words += ["--steps", "2", "--device", "cpu"]
    examples = ["--example", phantom.image, phantom.reference] * 3
    assert main([str(word) for word in [*words, *examples[:6]]]) == 2
    assert "needs 3 annotated volumes or more, and here are 2" in capsys.readouterr().err
    assert main([str(word) for word in [*words, *examples]]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("mine  ") and "held out" in said.err
    assert "mine" in [each["name"] for each in json.loads(promptseg("models", "--json"))]
    out = tmp_path / "out.nii.gz"
    promptseg("segment", "mine", phantom.image, "-o", out, "--device", "cpu")
    assert on_grid_of(out, phantom.image)
    promptseg("models", "--share", "mine", tmp_path / "mine.zip")
    promptseg("models", "--delete", "mine")
    assert not list((tmp_path / "models").iterdir())
    assert promptseg("models", "--add", tmp_path / "mine.zip").startswith("mine  ")
    assert main(["models", "--add", str(tmp_path / "mine.zip")]) == 2
    assert "already" in capsys.readouterr().err
    assert main(["models", "--add", str(phantom.image)]) == 2
    assert "is not a shared model" in capsys.readouterr().err

"""Bad input on the command line: one sentence, exit code 2, and what was there stays as it is."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from harness.catalogue_fixtures import remote, set_up
from harness.tiny_model import tiny_backbone
from PromptSegLib.annotation.classes import describe
from PromptSegLib.cli.main import main
from PromptSegLib.files import replacing
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.inference.writing import write_image, write_segmentation
from PromptSegLib.models import catalogue
from PromptSegLib.prompts.store import Prompts

ROOT = Path(__file__).parents[2]
CLASSES = ("--classes", "liver=6", "spleen=300", "--background", "255")
OLD = b"what the user had before"
SHIPPED = "ct-body"
GRID = Grid((12, 11, 10), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sentence(text: str) -> str:
    """``text`` is what a refusal puts on standard error."""
    assert text.endswith(".\n")
    assert text.count("\n") == 1
    assert text[:-1].isprintable()
    assert text.startswith("promptseg")
    assert len(text) < 500
    for unwanted in ("Traceback", "Error:", "Errno", "ITK", "0x", "Exception"):
        assert unwanted not in text
    return text


@pytest.fixture
def refuse(tmp_path, capfd):
    """Run a command that must be refused, in a folder in which nothing may change; returns the sentence."""

    def run(*words: object) -> str:
        capfd.readouterr()
        before = contents(tmp_path)
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:  # argparse
            code = stopped.code
        said = capfd.readouterr()
        assert code == 2
        assert said.out == ""
        assert contents(tmp_path) == before
        return sentence(said.err)

    return run


@pytest.fixture
def out(tmp_path) -> Path:
    """A prompts file to be replaced."""
    path = tmp_path / "out.safetensors"
    path.write_bytes(OLD)
    return path


@pytest.fixture
def labels(tmp_path) -> Path:
    """A segmentation to be replaced."""
    path = tmp_path / "out.nii.gz"
    path.write_bytes(OLD)
    return path


def tune(image: Path, annotation: Path, out: Path, *more: object) -> list[object]:
    return ["tune", "--example", image, annotation, *(CLASSES if "--classes" not in more else ()), *more, "-o", out]


def write(path: Path, array: np.ndarray, grid: Grid = GRID, **options) -> Path:
    image = sitk.GetImageFromArray(array, **options)
    if image.GetDimension() == 3:
        image = grid.image(array) if not options else image
    sitk.WriteImage(image, str(path))
    return path


# Images


def nifti_without_spacing(path: Path, image: Path) -> Path:
    """The image with a voxel size of 0 in its NIfTI header, and no sform."""
    sitk.WriteImage(sitk.ReadImage(str(image)), str(path))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[80:92], content[254:256] = bytes(12), bytes(2)  # pixdim[1..3]; no sform, which says it once more
    path.write_bytes(gzip.compress(content))
    return path


def nrrd_without_spacing(path: Path, image: Path) -> Path:
    sitk.WriteImage(sitk.ReadImage(str(image)), str(path), False)
    content = path.read_bytes()
    (line,) = [line for line in content.split(b"\n") if line.startswith(b"space directions:")]
    path.write_bytes(content.replace(line, b"space directions: (0,0,0) (0,3,0) (0,0,3)"))
    return path


def cut(path: Path, image: Path, share: float) -> Path:
    sitk.WriteImage(sitk.ReadImage(str(image)), str(path), True)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def text(path: Path) -> Path:
    path.write_text("This is no image.\n" * 100)
    return path


def with_value(value: float) -> np.ndarray:
    array = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    array[3, 4, 5] = value
    return array


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


IMAGES = {
    "is missing": (lambda folder, image: folder / "none.nrrd", "does not exist"),
    "is a folder": (lambda folder, image: made(folder / "empty"), "folder"),
    "is empty": (lambda folder, image: (folder / "e.nrrd").write_bytes(b"") or folder / "e.nrrd", "is empty"),
    "is text": (lambda folder, image: text(folder / "t.txt"), "format"),
    "is text by another name": (lambda folder, image: text(folder / "t.nii.gz"), "damaged"),
    "has 4 dimensions": (lambda f, i: write(f / "4.nrrd", np.zeros((3, 4, 5, 6), np.int16), isVector=False), "4 dim"),
    "is RGB": (lambda f, i: write(f / "c.nrrd", np.zeros((4, 5, 6, 3), np.uint8), isVector=True), "3 values per voxel"),
    "is a picture": (lambda f, i: write(f / "p.png", np.zeros((40, 50), np.uint8)), "single slice"),
    "is a slice": (lambda f, i: write(f / "s.nrrd", np.zeros((1, 40, 50), np.int16)), "single slice"),
    "holds NaN": (lambda f, i: write(f / "n.nrrd", with_value(np.nan)), "NaN"),
    "holds an infinity": (lambda f, i: write(f / "n.nrrd", with_value(np.inf)), "infinite"),
    "is constant": (lambda f, i: write(f / "z.nrrd", np.full(GRID.shape, 7, np.int16)), "same intensity"),
    "is NIfTI without spacing": (lambda f, i: nifti_without_spacing(f / "z.nii.gz", i), "spacing"),
    "is NRRD without spacing": (lambda f, i: nrrd_without_spacing(f / "z.nrrd", i), "spacing"),
    "is half a NIfTI file": (lambda folder, image: cut(folder / "h.nii.gz", image, 0.5), "truncated"),
    "is half a NRRD file": (lambda folder, image: cut(folder / "h.nrrd", image, 0.5), "truncated"),
    "is half a MetaImage file": (lambda folder, image: cut(folder / "h.mha", image, 0.5), "truncated"),
    "is the start of a header": (lambda folder, image: cut(folder / "h.nrrd", image, 0.001), "h.nrrd"),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that(kind, phantom, tmp_path, refuse, out, labels):
    make, word = IMAGES[kind]
    image = make(tmp_path, phantom.image)
    assert word in refuse(*tune(image, phantom.annotation, out))
    assert word in refuse("segment", SHIPPED, image, "-o", labels)
    assert labels.read_bytes() == out.read_bytes() == OLD


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such names")
def test_names_that_are_not_utf_8(phantom, tmp_path, refuse, out, labels):
    """As old archives have them; on one, SimpleITK ends the process."""
    bad = tmp_path / os.fsdecode(b"bad\xff.nrrd")
    for image, word in ((bad.with_suffix(".mha"), "not UTF-8"), (bad, r"bad\udcff.nrrd' is not UTF-8")):
        bad.write_bytes(phantom.image.read_bytes())
        assert word in refuse(*tune(image, phantom.annotation, out))
        assert word in refuse(*tune(phantom.image, image, out))
        assert word in refuse("segment", SHIPPED, image, "-o", labels)
        assert word in refuse("segment", SHIPPED, phantom.image, "-o", labels, "--strokes", image)
    assert "not UTF-8" in refuse("segment", SHIPPED, phantom.image, "-o", bad)
    assert "not UTF-8" in refuse("segment", SHIPPED, phantom.image, "-o", labels, "--uncertainty", bad)
    with pytest.raises(ValueError, match="not UTF-8"):
        write_image(sitk.ReadImage(str(phantom.image)), bad)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b"])
@pytest.mark.parametrize("place", range(8))
def test_names_that_no_file_can_have(place, name, phantom, refuse, out, labels):
    """A program's arguments hold no NUL and no half of a letter; those of a caller in Python may."""
    commands = (
        [
            "tune",
            "--example",
            f"{name}.nrrd",
            phantom.annotation,
            "--classes",
            "liver=1",
            "--background",
            "3",
            "-o",
            out,
        ],
        ["tune", "--example", phantom.image, f"{name}.nrrd", "--classes", "liver=1", "--background", "3", "-o", out],
        ["segment", SHIPPED, f"{name}.nrrd", "-o", labels],
        ["segment", SHIPPED, phantom.image, "-o", f"{name}.nrrd"],
        ["segment", SHIPPED, phantom.image, "-o", labels, "--strokes", f"{name}.nrrd"],
        ["segment", f"{name}.safetensors", phantom.image, "-o", labels],
        ["segment", SHIPPED, phantom.image, "-o", labels, "--uncertainty", f"{name}.nrrd"],
        ["score", f"{name}.nrrd", phantom.annotation, "--classes", "liver=1"],
    )
    assert ascii(name)[1:-1] in refuse(*commands[place])


@pytest.mark.parametrize("name", ["a\033[2Jb.nrrd", "a\u202eb.nrrd", "a\rb.nrrd", "a\x9bb.nrrd"])
def test_names_that_a_terminal_would_obey(name, refuse, phantom, labels):
    """They are shown, not obeyed, also where several images are named in turn."""
    assert "not exist" in refuse("segment", SHIPPED, name, "-o", labels)
    assert "not exist" in refuse("segment", SHIPPED, phantom.image, "-o", labels, "--strokes", name)


def test_a_batch_names_its_images_in_one_line_each(phantom, tmp_path, capfd):
    (tmp_path / "a\n\033[2Jb.nrrd").write_bytes(phantom.image.read_bytes())
    names = [str(tmp_path / "a\n\033[2Jb.nrrd"), str(tmp_path / "none.nrrd")]
    assert main(["segment", SHIPPED, *names, "-o", str(tmp_path / "out"), "--device", "cpu"]) == 2
    first, second, last = capfd.readouterr().err.strip().split("\n")
    assert first.startswith("1 of 2: ") and first.endswith(r"a\n\x1b[2Jb.nrrd") and second.startswith("2 of 2: ")
    assert "not exist" in last


def test_one_bad_image_of_two(phantom, tmp_path, refuse, out):
    bad = write(tmp_path / "n.nrrd", with_value(np.nan))
    words = tune(phantom.image, phantom.annotation, out, *CLASSES, "--example", bad, phantom.annotation)
    assert "n.nrrd" in refuse(*words)


# Annotations


def annotated(*values: int, grid: Grid | None = None):
    """Makes an annotation that has one row of each value."""

    def make(folder: Path, phantom) -> Path:
        image = sitk.ReadImage(str(phantom.image))
        own = grid or Grid.of(image)
        array = np.zeros(own.shape, np.uint16)
        for row, value in enumerate(values):
            array[4, row, 3:9] = value
        return write(folder / "a.nrrd", array, own)

    return make


ELSEWHERE = Grid((64, 64, 48), (3.0, 3.0, 3.0), (900.0, 900.0, 900.0))
ANNOTATIONS = {
    "is missing": (lambda folder, phantom: folder / "none.nrrd", "does not exist"),
    "is empty": (annotated(), "is empty"),
    "has one class of two": (annotated(6, 255), "spleen is not painted"),
    "has background only": (annotated(255), "holds none of the classes"),
    "has other values": (annotated(7, 8), "7, 8"),
    "lies elsewhere": (annotated(6, 300, 255, grid=ELSEWHERE), "different patients"),
    "is the image": (lambda folder, phantom: phantom.image, "is the image itself"),
    "has fractions": (lambda f, p: write(f / "a.nrrd", with_value(0.5)), "whole numbers"),
    "is RGB": (lambda f, p: write(f / "a.nrrd", np.zeros((4, 5, 6, 3), np.uint8), isVector=True), "3 values per voxel"),
    "is a picture": (lambda f, p: write(f / "a.png", np.ones((40, 50), np.uint8)), "single slice"),
    "has 4 dimensions": (lambda f, p: write(f / "a.nrrd", np.ones((3, 4, 5, 6), np.uint8), isVector=False), "4 dim"),
    "is truncated": (lambda folder, phantom: cut(folder / "a.nii.gz", phantom.annotation, 0.6), "truncated"),
}


@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_an_annotation_that(kind, phantom, tmp_path, refuse, out):
    make, word = ANNOTATIONS[kind]
    assert word in refuse(*tune(phantom.image, make(tmp_path, phantom), out))
    assert out.read_bytes() == OLD


def test_a_background_that_no_annotation_has(phantom, refuse, out):
    assert "No annotation holds the value 25 of" in refuse(
        *tune(phantom.image, phantom.annotation, out, "--background", "25")
    )


STROKES = {
    "lie elsewhere": ((6, 300), ELSEWHERE, (), "different patients"),
    "are of other classes": ((77, 78), None, (), "holds none of the classes"),
    "have a background that is a class": ((6, 300), None, ("--background", "6"), "both the background"),
    "have a background of 0": ((6, 300), None, ("--background", "0"), "unannotated"),
}


@pytest.mark.parametrize("kind", STROKES)
def test_strokes_that(kind, phantom, tmp_path, refuse, labels):
    values, grid, more, word = STROKES[kind]
    path = annotated(*values, **({"grid": grid} if grid else {}))(tmp_path, phantom)
    assert word in refuse("segment", SHIPPED, phantom.image, "--strokes", path, *more, "-o", labels)


@pytest.mark.parametrize("way", ["itself", "a link", "a hard link", "a copy"])
def test_strokes_that_are_the_image(phantom, tmp_path, refuse, labels, out, way):
    other = phantom.image if way == "itself" else tmp_path / "strokes.nrrd"
    if way == "a link":
        other.symlink_to(phantom.image)
    elif way == "a hard link":
        os.link(phantom.image, other)
    elif way == "a copy":
        other.write_bytes(phantom.image.read_bytes())
    for words in (["segment", SHIPPED, phantom.image], ["grow", phantom.image, "--classes", "liver=6"]):
        assert "itself" in refuse(*words, "--strokes", other, "-o", labels)
    assert "itself" in refuse(*tune(phantom.image, other, out))


def test_one_class_alone(phantom, tmp_path, refuse, out):
    annotation = annotated(6)(tmp_path, phantom)
    assert "Only liver" in refuse(*tune(phantom.image, annotation, out, "--classes", "liver=6"))


def test_grids_of_different_patients(phantom, tmp_path, refuse, out, labels):
    """A scan of other size and place than the annotation; and two label volumes that cannot be compared."""
    other = write(tmp_path / "other.nrrd", with_value(1), Grid((12, 11, 10), (1.0, 1.0, 1.0), (900.0, 0.0, 0.0)))
    assert "different patients" in refuse(*tune(other, phantom.annotation, out))
    guess = write(tmp_path / "guess.nrrd", np.ones(GRID.shape, np.uint8))
    assert "another grid" in refuse("score", phantom.reference, guess, "--classes", "liver=6")


# Words


@pytest.mark.parametrize(
    "more, word",
    [
        (["--classes", "liver"], "NAME=VALUE"),
        (["--classes", "liver=x"], "NAME=VALUE"),
        (["--classes", "liver=²"], "NAME=VALUE"),
        (["--classes", "liver=0"], "1 to 65535"),
        (["--classes", "liver=70000"], "1 to 65535"),
        (["--classes", "a\nb=3"], "NAME=VALUE"),
        (["--classes", "liver=6", "liver=7"], "repeats"),
        (["--classes", "liver=6", "spleen=6"], "repeats"),
        (["--classes", "liver=6", "--background", "6"], "both the background"),
        (["--classes", "liver=6", "--background", "0"], "0"),
        (["--classes", "liver=6", "--background", "a few"], "--background"),
        ([*CLASSES, "--mode", "all"], "invalid choice"),
        ([*CLASSES, "--method", "lora"], "invalid choice"),
        ([*CLASSES, "--steps", "-1"], "-1 steps"),
        ([*CLASSES, "--steps", "2.5"], "--steps"),
        ([*CLASSES, "--seconds", "0"], "more than 0"),
        ([*CLASSES, "--seconds", "nan"], "more than 0"),
        ([*CLASSES, "--seconds", "1", "--steps", "1"], "not allowed"),
        ([*CLASSES, "--steps", "1", "--seed", "-1"], "seed"),
        ([*CLASSES, "--steps", "1", "--seed", "9" * 30], "seed"),
        ([*CLASSES, "--steps", "1", "--device", "abacus"], "abacus"),
        ([*CLASSES, "--steps", "1", "--device", "cpu:x"], "cpu:x"),
        ([*CLASSES, "--steps", "1", "--model", "mr-knee"], "mr-knee"),
        ([*CLASSES, "--steps", "1", "--model", "x" * 300], "name"),
        ([*CLASSES, "--start", "none.safetensors"], "none.safetensors"),
        ([*CLASSES, "--wibble"], "--wibble"),
    ],
)
def test_words_of_tune(more, word, phantom, refuse, out):
    assert word in refuse(*tune(phantom.image, phantom.annotation, out, *more))


def test_words_of_all_commands(refuse, phantom, labels):
    assert "COMMAND" in refuse()
    assert "invalid choice" in refuse("wibble")
    assert "required" in refuse("tune", "-o", "x.safetensors", "--classes", "liver=6")
    assert "required" in refuse("segment", SHIPPED, "-o", labels)
    assert "--example" in refuse("tune", "--example", phantom.image, "--classes", "liver=6", "-o", "x.safetensors")
    assert "NAME=VALUE" in refuse("score", phantom.reference, phantom.reference, "--classes", "liver")
    assert "does not exist" in refuse("score", phantom.reference, "none.nrrd", "--classes", "liver=6")


def test_an_unknown_class(phantom, refuse, labels):
    said = refuse("segment", SHIPPED, phantom.image, "-o", labels, "--classes", "spleen", "left wing")
    assert "left wing" in said
    assert "gallbladder" in said


@pytest.mark.parametrize("region", [[0, 65, 0, 64, 0, 48], [-1, 64, 0, 64, 0, 48], [5, 5, 0, 64, 0, 48]])
def test_a_region_outside_the_image(region, phantom, refuse, labels):
    assert "region" in refuse("segment", SHIPPED, phantom.image, "-o", labels, "--region", *region)


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


# Places to write to


def test_places_that_take_no_file(phantom, tmp_path, refuse):
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "folder.nii.gz").mkdir()
    places = [("none/p", "no folder"), ("file/p", "folder"), ("folder", "is a folder"), ("x" * 300, "long")]
    if Path("/proc/version").exists():
        places.append(("/proc/p", "/proc/p"))
    if hasattr(os, "mkfifo"):
        for suffix in (".safetensors", ".nii.gz"):
            os.mkfifo(tmp_path / f"pipe{suffix}")
        places.append(("pipe", "pipe"))
    for place, word in places:
        assert word in refuse(*tune(phantom.image, phantom.annotation, tmp_path / f"{place}.safetensors"))
        path = tmp_path / f"{place}.nii.gz"
        assert word in refuse("segment", SHIPPED, phantom.image, "-o", path)
        assert word in refuse("segment", SHIPPED, phantom.image, "-o", tmp_path / "o.nrrd", "--uncertainty", path)
    assert not (tmp_path / "o.nrrd").exists()


def test_names_that_are_no_results(phantom, tmp_path, refuse, labels):
    assert ".safetensors" in refuse(*tune(phantom.image, phantom.annotation, tmp_path / "p.pt"))
    assert "is empty" in refuse(*tune(phantom.image, phantom.annotation, ""))
    assert "o.mhd" in refuse("segment", SHIPPED, phantom.image, "-o", tmp_path / "o.mhd")
    for nothing in ("", " "):  # as of a variable that is not set
        assert "empty" in refuse("segment", SHIPPED, phantom.image, "-o", nothing)
    words = ["segment", SHIPPED, phantom.image, "-o", labels]
    assert "u.txt" in refuse(*words, "--uncertainty", tmp_path / "u.txt")
    assert "one file" in refuse("segment", SHIPPED, phantom.image, phantom.annotation, "-o", labels)
    assert "same name" in refuse("segment", SHIPPED, phantom.image, phantom.image, "-o", tmp_path / "new")
    (tmp_path / "file").write_bytes(OLD)
    assert "folder" in refuse(*words, "--probabilities", tmp_path / "file")
    assert "folder" in refuse("segment", SHIPPED, phantom.image, "-o", tmp_path / "file")
    two = [phantom.image, phantom.annotation]
    assert "one image" in refuse("segment", SHIPPED, *two, "-o", tmp_path, "--uncertainty", tmp_path / "u.nrrd")


def test_results_in_the_place_of_what_they_are_made_from(phantom, tmp_path, refuse, labels):
    scan, strokes = tmp_path / "scan.nrrd", tmp_path / "strokes.seg.nrrd"
    scan.write_bytes(phantom.image.read_bytes())
    strokes.write_bytes(phantom.annotation.read_bytes())
    other_name = tmp_path / ".." / tmp_path.name / "scan.nrrd"
    assert "another name" in refuse("segment", SHIPPED, scan, "-o", other_name)
    assert "another name" in refuse("segment", SHIPPED, scan, "-o", strokes, "--strokes", strokes)
    assert "another name" in refuse("segment", SHIPPED, scan, "-o", labels, "--uncertainty", scan)
    assert "another name" in refuse("segment", SHIPPED, scan, "-o", labels, "--uncertainty", labels)
    (tmp_path / "liver.nii.gz").write_bytes(phantom.image.read_bytes())
    words = ["--probabilities", tmp_path, "--classes", "liver"]
    assert "another name" in refuse("segment", SHIPPED, tmp_path / "liver.nii.gz", "-o", labels, *words)
    model = tmp_path / "model.safetensors"
    model.write_bytes(catalogue.entries()[0].path.read_bytes())
    words = tune(scan, strokes, model, *CLASSES, "--model", model)
    assert "another name" in refuse(*words)


# No space left


def result() -> Segmentation:
    labels = np.random.default_rng(0).integers(0, 200, (40, 64, 64)).astype(np.uint8)  # does not compress
    return Segmentation(sitk.GetImageFromArray(labels), (describe("liver", 1),))


def test_no_space_is_left_and_itk_does_not_say_so(phantom, tmp_path, refuse, monkeypatch):
    """ITK's NIfTI writer returns as if nothing had happened when the disk is full."""
    written = sitk.WriteImage

    def full(image, name, **options):
        written(image, name, **options)
        os.truncate(name, os.path.getsize(name) * 2 // 3)

    monkeypatch.setattr(sitk, "WriteImage", full)
    for suffix in (".nii.gz", ".nii", ".nrrd", ".seg.nrrd"):
        path = tmp_path / f"o{suffix}"
        path.write_bytes(OLD)
        with pytest.raises(ValueError, match="disk space"):
            write_segmentation(result(), path)
        assert path.read_bytes() == OLD
    words = ["--classes", "liver", "--device", "cpu"]
    assert "disk space" in refuse("segment", SHIPPED, phantom.image, "-o", tmp_path / "o.nii.gz", *words)
    assert (tmp_path / "o.nii.gz").read_bytes() == OLD


def test_no_space_is_left_for_prompts(phantom, refuse, out, monkeypatch):
    def full(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    words = tune(phantom.image, phantom.annotation, out, *CLASSES, "--steps", 0, "--mode", "end", "--device", "cpu")
    assert "No space left on device" in refuse(*words)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 kB of its own; skips where that cannot be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid():
        pytest.skip("only root mounts a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk, phantom, refuse, capfd):
    for name in ("o.nii.gz", "o.nii", "o.nrrd", "o.seg.nrrd"):
        path = small_disk / name
        path.write_bytes(OLD)
        with pytest.raises(Exception, match="disk space|No space left") as caught:
            write_segmentation(result(), path)
        sentence(f"promptseg: {caught.value}\n")
        assert path.read_bytes() == OLD
        assert [each.name for each in small_disk.iterdir()] == [name]
        path.unlink()
    assert capfd.readouterr().err == ""
    # Also where the last few bytes are all that is missing.
    small = sitk.GetImageFromArray(sitk.GetArrayFromImage(result().labels)[:2])
    for fill in range(40, 64, 4):
        (small_disk / "fill").write_bytes(bytes(fill * 1024))
        for name in ("s.nii.gz", "s.nrrd"):
            path = small_disk / name
            try:
                write_image(small, path)
            except ValueError:
                assert not path.exists()
            else:
                read = sitk.ReadImage(str(path))
                assert np.array_equal(sitk.GetArrayFromImage(read), sitk.GetArrayFromImage(small))
                path.unlink()
        (small_disk / "fill").unlink()
    path = small_disk / "p.safetensors"
    path.write_bytes(OLD)
    prompts = Prompts.load(catalogue.entries()[0].prompts)
    with pytest.raises(ValueError, match="No space left") as caught:
        prompts.save(path)
    sentence(f"promptseg: {caught.value}\n")
    assert contents(small_disk) == {str(path): OLD}
    path.unlink()
    # And as the user meets it.
    for name in ("o.nii.gz", "p.safetensors"):
        (small_disk / name).write_bytes(OLD)
    with open(small_disk / "fill", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    words = ["--classes", "liver", "--device", "cpu"]
    assert "disk space" in refuse("segment", SHIPPED, phantom.image, "-o", small_disk / "o.nii.gz", *words)
    words = [*CLASSES, "--steps", 0, "--mode", "end", "--device", "cpu"]
    assert "No space left" in refuse(*tune(phantom.image, phantom.annotation, small_disk / "p.safetensors", *words))


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(OLD)
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_bytes(b"new")
        (temporary.parent / "leftover").write_bytes(b"more")
        assert path.read_bytes() == OLD
        raise KeyError
    assert contents(tmp_path) == {str(path): OLD}
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(ValueError, match="Cannot write"), replacing(path):
        pass  # nothing was written
    assert contents(tmp_path) == {str(path): OLD}
    with replacing(path) as temporary:
        assert temporary.suffix == ".txt"
        temporary.write_bytes(b"new")
        (temporary.parent / "leftover").write_bytes(b"more")
    assert contents(tmp_path) == {str(path): b"new"}
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "error, word",
    [
        (MemoryError(), "memory is used up"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore lines"), "memory is used up"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
            "memory is used up",
        ),
        (OSError(errno.EIO, "Input/output error", "scan.nrrd"), "scan.nrrd"),
    ],
)
def test_what_the_machine_refuses(error, word, refuse, monkeypatch):
    def refused():
        raise error

    monkeypatch.setattr(catalogue, "entries", refused)
    assert word in refuse("models")


def test_a_bug_is_not_called_bad_input(monkeypatch):
    def buggy():
        raise RuntimeError("a bug")

    monkeypatch.setattr(catalogue, "entries", buggy)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["models"])


# As a program


def test_as_a_program(tmp_path):
    """Code and streams; the sentences are those of the tests above."""
    (tmp_path / "n.nrrd").write_bytes(OLD)
    for words, word in (
        (["info", tmp_path / "n.nrrd"], "not a PromptSeg prompts file"),
        (["segment", SHIPPED], "required"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "PromptSegLib", *map(str, words)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert word in sentence(done.stderr)

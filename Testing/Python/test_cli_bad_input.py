"""Bad images, annotations and words on the command line: one sentence, exit code 2, and what was there stays."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from harness.cli_fixtures import CLASSES, OLD, SHIPPED, text, tune
from PromptSegLib.cli.main import main
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.writing import write_image

pytest_plugins = ["harness.cli_fixtures"]
GRID = Grid((12, 11, 10), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


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

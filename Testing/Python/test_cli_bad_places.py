"""Places that cannot be written to, disks without room, and what the machine refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from harness.cli_fixtures import CLASSES, OLD, SHIPPED, contents, sentence, tune
from PromptSegLib.annotation.classes import describe
from PromptSegLib.cli.main import main
from PromptSegLib.cli.outputs import keep_apart
from PromptSegLib.files import atomic_write
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.inference.writing import write_image, write_segmentation
from PromptSegLib.models import catalogue
from PromptSegLib.prompts.store import Prompts

pytest_plugins = ["harness.cli_fixtures"]

ROOT = Path(__file__).parents[2]


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


def test_results_that_capitals_alone_tell_apart(phantom, tmp_path, refuse):
    """They are one file on the disks of macOS and Windows."""
    images = [tmp_path / "x" / "Scan.nii.gz", tmp_path / "y" / "scan.nrrd"]
    for image in images:
        image.parent.mkdir()
        image.write_bytes(phantom.image.read_bytes())
    assert "same name" in refuse("segment", SHIPPED, *images, "-o", tmp_path / "new")
    words = ["segment", SHIPPED, phantom.image, "-o", tmp_path / "Labels.nrrd"]
    assert "another name" in refuse(*words, "--uncertainty", tmp_path / "labels.nrrd")
    assert "another name" in refuse(*words, "--report", tmp_path / "LABELS.nrrd")
    keep_apart([tmp_path / "x" / "new" / "o.nrrd", tmp_path / "y" / "new" / "O.nrrd"], images)


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
    with pytest.raises(KeyError), atomic_write(path) as temporary:
        temporary.write_bytes(b"new")
        (temporary.parent / "leftover").write_bytes(b"more")
        assert path.read_bytes() == OLD
        raise KeyError
    assert contents(tmp_path) == {str(path): OLD}
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(ValueError, match="Cannot write"), atomic_write(path):
        pass  # nothing was written
    assert contents(tmp_path) == {str(path): OLD}
    with atomic_write(path) as temporary:
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

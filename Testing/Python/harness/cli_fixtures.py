"""The command line, refusing: one sentence, exit code 2, and what was there stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from PromptSegLib.cli.main import main

CLASSES = ("--classes", "liver=6", "spleen=300", "--background", "255")
OLD = b"what the user had before"
SHIPPED = "ct-body"


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


def text(path: Path) -> Path:
    path.write_text("This is no image.\n" * 100)
    return path

"""The checkpoint of a run: a full disk, damage, another run, validations that are made up for."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from harness.pretraining_fixtures import loaded, never, quiet, trained
from PromptSegLib import files
from PromptSegLib.errors import PromptSegError
from PromptSegLib.pretraining import checkpoint
from PromptSegLib.pretraining import publish as publishing
from PromptSegLib.pretraining import run as running
from PromptSegLib.pretraining.publish import publish
from PromptSegLib.pretraining.run import Pretraining

pytest_plugins = ["harness.pretraining_fixtures"]


@pytest.mark.training
def test_stopping_loses_no_validation(values, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = loaded(values, tmp_path, validations=3)
    trained(recipe, tmp_path / "run", stops=(2, 4))  # asked to end in the very steps after which one is due
    events = EventAccumulator(str(tmp_path / "run" / "curves")).Reload()
    assert [each.step for each in events.Scalars("validation/mean")] == [2, 4, 6]
    longer: list[str] = []
    Pretraining(replace(recipe, steps=8, validations=1), tmp_path / "run", log=longer.append).run()
    assert any("step 8  validation" in text for text in longer)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_full_disk_stops_before_any_image_is_read(recipe, tmp_path, monkeypatch, resumed):
    if resumed:
        trained(replace(recipe, steps=1), tmp_path / "run")
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    monkeypatch.setattr(running, "check_cases", never)
    with pytest.raises(PromptSegError, match="free space or choose another"):
        Pretraining(recipe, tmp_path / "run", log=quiet)


def test_a_folder_that_cannot_be_written_stops_before_any_image_is_read(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "check_cases", never)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(PromptSegError, match="Cannot make the folder"):
        Pretraining(recipe, tmp_path / "file" / "run", log=quiet)

    def refused(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)  # root may write where others may not
    with pytest.raises(PromptSegError, match="Cannot write .*Permission denied"):
        Pretraining(recipe, tmp_path / "run", log=quiet)


def test_what_a_killed_save_left_is_removed(recipe, tmp_path):
    left, strange = tmp_path / "run" / ".promptseg-left", tmp_path / "run" / ".promptseg-strange"
    for folder, name in ((left, "checkpoint.safetensors"), (strange, "prompts.safetensors")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(b"half")
    Pretraining(recipe, tmp_path / "run", log=quiet)
    assert strange.exists() and not left.exists()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(recipe, tmp_path, monkeypatch):
    run = Pretraining(replace(recipe, steps=2), tmp_path / "run", log=quiet)
    run.run()
    kept = run.checkpoint.read_bytes()

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(PromptSegError, match="No space left"):
        Pretraining(replace(recipe, steps=3), tmp_path / "run", log=quiet).run()
    assert run.checkpoint.read_bytes() == kept


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_checkpoint_gets_a_sentence(recipe, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(PromptSegError, match="not a checkpoint"):
        Pretraining(recipe, tmp_path / "run", log=quiet)


@pytest.mark.parametrize("state", ["{}", "[]", "3"])
def test_a_file_with_another_state_is_no_checkpoint(recipe, tmp_path, state):
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, str(path), {"state": state})
    with pytest.raises(PromptSegError, match="not a checkpoint"):
        checkpoint.read_state(path)
    with pytest.raises(PromptSegError, match="not a PromptSeg backbone"):
        Pretraining(replace(recipe, start=str(path)), tmp_path / "run", log=quiet)


def test_a_checkpoint_of_another_run_gets_a_sentence(values, recipe, tmp_path):
    trained(replace(recipe, steps=1), tmp_path / "run")
    wider = loaded(values, tmp_path, network={"channels": [16, 32, 32], "head_channels": 8, "tokens": 4})
    with pytest.raises(PromptSegError, match=r"other settings \(network.channels\)"):
        Pretraining(wider, tmp_path / "run", log=quiet)
    with pytest.raises(PromptSegError, match="another architecture"):
        Pretraining(replace(wider, start=str(tmp_path / "run" / "checkpoint.safetensors")), tmp_path / "new", log=quiet)


@pytest.mark.training
def test_the_card_says_how_and_with_which_code_the_run_began(recipe, tmp_path, monkeypatch):
    for now, command, steps in (("aa-dirty", "first", 1), ("bb", "second", 2), ("bb", "third", 3)):
        monkeypatch.setattr(running, "commit", lambda now=now: now)
        run = Pretraining(replace(recipe, steps=steps), tmp_path / "run", log=quiet, command=command)
        run.run()
    publish(recipe, run.checkpoint, tmp_path, [], "cpu", quiet)
    assert "- `first`, commit aa-dirty, bb\n" in (tmp_path / "tiny.md").read_text()


def test_the_commit_is_that_of_this_code(tmp_path, monkeypatch):
    def git(*words: str) -> None:
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=tmp_path, check=True)

    code = tmp_path / "code" / "PromptSegLib" / "pretraining" / "publish.py"
    monkeypatch.setattr(publishing, "__file__", str(code))
    code.parent.mkdir(parents=True)
    code.write_text("")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "another project")
    assert publishing.commit() == ""  # it is installed inside it
    monkeypatch.setattr(publishing, "__file__", str(tmp_path / "PromptSegLib" / "pretraining" / "publish.py"))
    clean = publishing.commit()
    assert len(clean) == 40
    code.write_text("changed")
    (tmp_path / "PromptSegLib").mkdir()
    assert publishing.commit() == f"{clean}-dirty"


@pytest.mark.training
def test_an_older_torch_will_do(recipe, tmp_path, monkeypatch):
    class Old(torch.optim.AdamW):
        def __init__(self, *arguments, fused=False, **settings):
            if fused:
                raise RuntimeError("`fused=True` requires all the params to be floating point Tensors on CUDA")
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(torch.optim, "AdamW", Old)
    monkeypatch.delattr(torch.amp, "GradScaler")
    recipe = replace(recipe, steps=2)
    assert trained(recipe, tmp_path / "run", stops=(1,))

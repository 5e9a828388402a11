"""Pretraining: a killed run resumes with the same curve, ranks agree, bad data is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from harness.pretraining_fixtures import loaded, never, quiet, trained
from harness.tiny_model import CLASSES
from PromptSegLib.cli.main import main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models.backbone import load_model
from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.pretraining import checkpoint
from PromptSegLib.pretraining import run as running
from PromptSegLib.pretraining.learner import Learner
from PromptSegLib.pretraining.publish import publish
from PromptSegLib.pretraining.recipe import VARIANTS
from PromptSegLib.pretraining.run import Pretraining

pytest_plugins = ["harness.pretraining_fixtures"]

RECIPES = Path(__file__).parents[2] / "PromptSegLib" / "pretraining" / "recipes"


@pytest.mark.training
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("instructed", [True, False])
def test_every_variant_trains_what_it_says(values, tmp_path, variant, instructed):
    recipe = loaded(values, tmp_path, variant=variant, instructed=instructed, steps=3, all_classes=1.0)
    recipe = replace(recipe, encoder_prompts=1.0)
    before = {name: tensor.detach().clone() for name, tensor in Learner(recipe).named_parameters()}
    after = trained(recipe, tmp_path / "run")
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[f"now.{name}"])}
    assert "net.stem.weight" in moved
    assert any("tokens" in name for name in moved) == instructed
    # Without labels nothing says what a class is: its output tokens stay as they were.
    assert any("output" in name for name in moved) == (variant != "self")


def test_a_stopped_run_resumes_with_the_same_curve(recipe, tmp_path):
    straight = trained(recipe, tmp_path / "straight")
    resumed = trained(recipe, tmp_path / "resumed", stops=(2, 5))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    moved = [name for name in straight if name.startswith("now.") and "stem" in name]
    assert moved and not torch.equal(straight[moved[0]], straight[moved[0].replace("now.", "average.")])


@pytest.mark.training
def test_a_run_that_is_killed_goes_on_from_its_checkpoint(recipe, tmp_path):
    straight = trained(replace(recipe, steps=12), tmp_path / "straight")
    script = (
        "import sys, torch\nfrom dataclasses import replace\nfrom pathlib import Path\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"  # sums over other numbers of threads differ in their last bits
        "from PromptSegLib.pretraining.recipe import Recipe\nfrom PromptSegLib.pretraining.run import Pretraining\n"
        "recipe = replace(Recipe.load(Path(sys.argv[1])), steps=12)\n"
        "run = Pretraining(recipe, Path(sys.argv[2]), log=lambda line: None)\n"
        "def told():\n    print('step', run.step, flush=True)\n    return False\n"
        "run.run(stop=told, save_every=0.0)\n"
    )
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-c", script, str(tmp_path / "tiny.json"), str(tmp_path / "killed"), threads]
    for number, at in ((signal.SIGKILL, "step 3"), (signal.SIGTERM, "step 7")):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=RECIPES.parents[2]) as process:
            for text in process.stdout:
                if text.strip() == at:
                    process.send_signal(number)
                    break
            process.stdout.read()
        # A cluster's SIGTERM lets the step end and saves; SIGKILL does not ask.
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    resumed = trained(replace(recipe, steps=12), tmp_path / "killed")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


@pytest.mark.training
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_a_signal_to_the_whole_group_saves(values, tmp_path, number=signal.SIGTERM):
    """As clusters, torchrun and a terminal send it: the processes that prepare views get it as well."""
    loaded(values, tmp_path, steps=100_000)
    root, folder = str(RECIPES.parents[2]), tmp_path / "run"
    arguments = [str(tmp_path / "tiny.json"), "-o", str(folder), "--device", "cpu", "--workers", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "PromptSegLib", "pretrain", *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list(folder.glob("curves/*")):
            time.sleep(0.1)
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=900)
    assert process.returncode == 0 and "the same command goes on" in out and "Traceback" not in err, err
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        os.killpg(process.pid, 0)
    state = checkpoint.read_state(folder / "checkpoint.safetensors")
    resumed = Pretraining(loaded(values, tmp_path, steps=100_000), folder, log=quiet)
    assert resumed.step == state["step"] > 0


@pytest.mark.training
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
def test_the_sentence_of_a_process_that_prepares_views(values, tmp_path):
    recipe = loaded(values, tmp_path, cache_gib=1e-9)
    run = Pretraining(recipe, tmp_path / "run", log=quiet, workers=1)
    for path in tmp_path.glob("*_ct.nii.gz"):
        path.write_bytes(b"broken")
    with pytest.raises(PromptSegError, match=r"^None of the 3 cases can be read; the first: .*\.$"):
        run.run()


def command_line(*arguments: str, ranks: int = 1) -> subprocess.CompletedProcess:
    """``promptseg ARGUMENTS``, under torchrun where there are several ranks."""
    root = str(RECIPES.parents[2])
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *torchrun, "-m", "PromptSegLib", *arguments],
        cwd=root,
        # gloo looks for an address by the host's name, which not every machine can resolve at every time.
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.training
def test_two_gloo_ranks_take_the_single_process_steps(values, tmp_path):
    # In bfloat16 a batch of two is not, to the last bit, two batches of one.
    loaded(values, tmp_path, steps=2, mixed_precision=False)
    found = []
    for ranks in (1, 2):
        folder = tmp_path / f"ranks{ranks}"
        done = command_line("pretrain", str(tmp_path / "tiny.json"), "-o", str(folder), "--device", "cpu", ranks=ranks)
        assert done.returncode == 0, done.stderr
        assert "validation: mean Dice" in done.stdout and (folder / "tiny.prompts.safetensors").is_file()
        found.append(load_file(str(folder / "checkpoint.safetensors")))
    single, double = found
    assert single.keys() == double.keys() and any(name.startswith("exp_avg.") for name in single)
    for name, tensor in single.items():
        if name.startswith("exp_avg."):  # a sum of the gradients of both steps
            assert torch.allclose(tensor, double[name], rtol=1e-3, atol=1e-6), name
        if name.startswith("now."):  # the first steps divide gradients by their own size, rounding errors too
            assert torch.allclose(tensor, double[name], atol=2e-4), name


@pytest.mark.parametrize(
    "break_it, said",
    [
        (lambda folder: (folder / "case0_ct.nii.gz").write_bytes(b"broken"), None),
        (lambda folder: [path.unlink() for path in folder.glob("*.nii.gz")], "holds no image"),
        (lambda folder: (folder / "tiny.json").write_text("{"), "Cannot read the pretraining recipe"),
        (lambda folder: sitk.WriteImage(sitk.Image(8, 8, sitk.sitkUInt8), str(folder / "flat_ct.nii.gz")), "2D"),
        (
            lambda folder: sitk.WriteImage(
                sitk.ReadImage(str(folder / "case1_label.nii.gz")) + 50, str(folder / "case1_label.nii.gz")
            ),
            "unused_values",
        ),
    ],
)
def test_bad_data_gets_a_sentence_before_training_or_is_skipped(values, tmp_path, capsys, break_it, said):
    loaded(values, tmp_path, steps=1)
    break_it(tmp_path)
    code = main(["pretrain", str(tmp_path / "tiny.json"), "-o", str(tmp_path / "run"), "--device", "cpu"])
    out, err = capsys.readouterr()
    if said is None:
        assert code == 0 and "case0" in out and "1 of" in out
        assert "phantoms/case0" in json.loads(out[out.index("{\n") :])["card"]["skipped"]
    else:
        assert code == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "run" / "curves").exists()


def spoil(path: Path, value: float) -> None:
    """Give a volume, or one voxel of it, a value that no image can have."""
    image = sitk.ReadImage(str(path))
    if np.isnan(value):
        image[3, 3, 3] = value
    else:
        image = image * 0 + value
    path.unlink()
    sitk.WriteImage(image, str(path.with_suffix("").with_suffix(".nrrd")))


@pytest.mark.training
@pytest.mark.parametrize("value", [7.0, float("nan")])
@pytest.mark.parametrize("workers", [0, 1])
def test_images_found_unusable_when_they_are_read_are_counted(values, tmp_path, value, workers):
    for index in range(4):
        path = tmp_path / f"case{index}_ct.nii.gz"
        if index in (0, 2):  # one to train on, one to validate on
            spoil(path, value)
        else:
            sitk.WriteImage(sitk.ReadImage(str(path)), str(tmp_path / f"case{index}_ct.nrrd"))
    values["sources"][0]["image"] = "{case}_ct.nrrd"
    recipe = loaded(values, tmp_path, steps=4, cache_gib=1e-9)  # each process finds them for itself
    said: list[str] = []
    run = Pretraining(recipe, tmp_path / "run", log=said.append, workers=workers)
    run.run()
    state = checkpoint.read_state(run.checkpoint)
    assert set(state["skipped"]) == {"phantoms/case0", "phantoms/case2"}
    assert "case2_ct.nrrd" in state["skipped"]["phantoms/case2"]
    assert state["training"] == {"phantoms": ["case1", "case3"]}
    assert "1 of 1 validation cases are skipped" in said
    card = publish(recipe, run.checkpoint, tmp_path, run.validation, "cpu", quiet)["card"]
    assert card["skipped"] == state["skipped"]
    assert "2 files could not be used" in (tmp_path / "tiny.md").read_text()


def test_a_validation_image_that_breaks_at_the_end_is_named(recipe, tmp_path):
    run = Pretraining(replace(recipe, steps=1), tmp_path / "run", log=quiet)
    run.run()
    (tmp_path / "case2_ct.nii.gz").unlink()
    said: list[str] = []
    card = publish(recipe, run.checkpoint, tmp_path, run.validation, "cpu", said.append)["card"]
    assert list(card["skipped"]) == ["phantoms/case2"] and "phantoms/case2 is skipped" in said[0]


def test_no_usable_labeled_image_stops_before_the_first_step(values, tmp_path):
    for index in range(2):
        image = sitk.ReadImage(str(tmp_path / f"case{index}_ct.nii.gz"))
        sitk.WriteImage(image * 0, str(tmp_path / f"case{index}_ct.nii.gz"))
    run = Pretraining(loaded(values, tmp_path), tmp_path / "run", log=quiet)
    with pytest.raises(PromptSegError, match="No usable image has labels"):
        run.run()
    assert run.step == 0


def test_nothing_is_lost_to_a_validation_that_fails(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "validate", never)
    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    with pytest.raises(AssertionError):
        run.run()
    monkeypatch.undo()
    said: list[str] = []
    run = Pretraining(recipe, tmp_path / "run", log=said.append)
    run.run()
    assert said[0] == "resumed at step 6" and "validation: mean Dice" in said[1]
    said.clear()
    Pretraining(recipe, tmp_path / "run", log=said.append).run()
    assert said == ["resumed at step 6"]


def test_publishing_gives_a_backbone_with_shipped_prompts(recipe, tmp_path):
    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    run.run()
    entry = publish(recipe, run.checkpoint, tmp_path, run.validation, "cpu", quiet)
    backbone = load_model(str(tmp_path / "tiny.safetensors"), "cpu")
    assert backbone.sha256 == entry["sha256"] and backbone.shipped.names == list(CLASSES)
    assert set(entry["card"]["validation_dice"]) == set(CLASSES)
    assert backbone.config == NetworkConfig(channels=(16, 16, 32), head_channels=8, tokens=4)
    assert all(size % step == 0 for size, step in zip(backbone.tile, backbone.config.stride))
    text = (tmp_path / "tiny.md").read_text()
    assert "A phantom." in text and "phantoms: 3 volumes (CT; ball, rod). none." in text and entry["sha256"] in text


def test_a_class_that_no_validation_case_shows(values, tmp_path):
    """As when every labeled case was trained on."""
    values["sources"][0]["classes"] = {"cone": 77, **CLASSES}
    run = Pretraining(loaded(values, tmp_path, steps=1), tmp_path / "run", log=quiet)
    run.run()
    entry = publish(run.recipe, run.checkpoint, tmp_path, run.validation, "cpu", quiet)
    scores = entry["card"]["validation_dice"]
    assert scores["cone"] is None
    text = (tmp_path / "tiny.md").read_text()
    assert "| cone |" not in text and "No validation case has labels of: cone.\n" in text
    assert f"| mean | {(scores['ball'] + scores['rod']) / 2:.3f} |" in text


def test_a_run_without_labels_ships_no_prompts(values, tmp_path):
    recipe = loaded(values, tmp_path, variant="self", steps=2)
    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    run.run()
    entry = publish(recipe, run.checkpoint, tmp_path, run.validation, "cpu", quiet)
    assert entry["classes"] == [] and "prompts" not in entry
    assert load_model(str(tmp_path / "tiny.safetensors"), "cpu").shipped is None


@pytest.mark.training
def test_a_run_begins_with_a_backbone_or_another_run(values, recipe, tmp_path):
    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    run.run()
    publish(recipe, run.checkpoint, tmp_path, run.validation, "cpu", quiet)
    earlier = []
    more = json.loads(json.dumps(values))
    more["sources"][0]["classes"] = {"cone": 77, **CLASSES}
    fresh = Learner(loaded(more, tmp_path))
    for start, exact in ((run.checkpoint, True), (tmp_path / "tiny.safetensors", False)):
        recipe2 = loaded(more, tmp_path, start=str(start))
        begun = Pretraining(recipe2, tmp_path / f"begun{exact}", log=quiet)
        earlier.append(begun.earlier)
        begun = begun.learner
        tolerance = 0 if exact else 2e-3
        average = checkpoint.averages(run.checkpoint)[0]
        assert torch.allclose(begun.net.stem.weight, average["net.stem.weight"], atol=tolerance)
        for index, name in enumerate(recipe2.class_names):
            for key, tensor in begun.prompts.items():
                known = average[f"prompts.{key}"]
                wanted = fresh.prompts[key][index] if name == "cone" else known[list(CLASSES).index(name)]
                assert torch.allclose(tensor[index], wanted, atol=tolerance), (name, key)
    assert "6 steps" in earlier[0][0]
    assert earlier[1][0].startswith("the backbone tiny (SHA-256 ") and ": 6 steps of batch 2, 0" in earlier[1][0]


def test_a_step_without_a_finite_gradient_is_left_out(recipe, tmp_path, monkeypatch):
    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    before = {name: tensor.detach().clone() for name, tensor in run.learner.named_parameters()}
    forward = Learner.forward

    def broken(self, batch, taught=None):
        found = forward(self, batch, taught)
        return {**found, "loss": found["loss"] * float("nan")}

    monkeypatch.setattr(Learner, "forward", broken)
    monkeypatch.setattr(running, "MOST_UNUSABLE", 3)
    run.run(stop=lambda: run.step >= 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.learner.named_parameters())
    with pytest.raises(PromptSegError, match="diverged"):
        Pretraining(replace(recipe, steps=100), tmp_path / "run", log=quiet).run()


@pytest.mark.training
def test_validation_is_written_to_tensorboard(recipe, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said = []
    Pretraining(recipe, tmp_path / "run", log=said.append).run()
    assert any("validation: mean Dice" in text and "rod" in text for text in said)
    events = EventAccumulator(str(tmp_path / "run" / "curves")).Reload()
    assert {"validation/ball", "validation/rod", "validation/mean"} <= set(events.Tags()["scalars"])
    assert [each.step for each in events.Scalars("validation/mean")] == [recipe.steps]

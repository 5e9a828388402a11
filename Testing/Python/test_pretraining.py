"""Pretraining: views are a function of seed and step, a killed run resumes with the same curve, ranks agree."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file, save_file

from harness.tiny_model import CLASSES, phantom, recipe_values
from PromptSegLib import files
from PromptSegLib.cli import pretraining
from PromptSegLib.cli.main import _parser, main
from PromptSegLib.errors import PromptSegError
from PromptSegLib.models.backbone import load_model
from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.pretraining import checkpoint, process
from PromptSegLib.pretraining import publish as publishing
from PromptSegLib.pretraining import run as running
from PromptSegLib.pretraining.cases import Case, Cases
from PromptSegLib.pretraining.finding import find_cases
from PromptSegLib.pretraining.learner import Learner
from PromptSegLib.pretraining.objective import segmentation_loss
from PromptSegLib.pretraining.process import asked_to_end
from PromptSegLib.pretraining.publish import publish
from PromptSegLib.pretraining.recipe import VARIANTS, Recipe
from PromptSegLib.pretraining.run import Pretraining
from PromptSegLib.pretraining.views import Views, collate

RECIPES = Path(__file__).parents[2] / "PromptSegLib" / "pretraining" / "recipes"


@pytest.fixture
def values(tmp_path) -> dict:
    """A tiny recipe: two labeled cases, one to validate on, and one without labels."""
    for index in range(4):
        image, reference = phantom(seed=index)
        sitk.WriteImage(image, str(tmp_path / f"case{index}_ct.nii.gz"))
        if index < 3:
            sitk.WriteImage(reference, str(tmp_path / f"case{index}_label.nii.gz"))
    return {
        **recipe_values(tmp_path),
        "network": {"channels": [16, 16, 32], "head_channels": 8, "tokens": 4},
        "preprocessing": {"spacing": [3, 2, 2], "intensity": [-100, 200]},
        "assignment": {"fwhm": 16, "max_distance": 6.5},
        "crop": [8, 16, 16],
        "small_crop": [4, 16, 16],
        "batch": 2,
        "steps": 6,
        "validations": 1,
    }


def loaded(values: dict, folder: Path, **changes) -> Recipe:
    path = folder / "tiny.json"
    path.write_text(json.dumps({**values, **changes}))
    return Recipe.load(path)


@pytest.fixture
def recipe(values, tmp_path) -> Recipe:
    return loaded(values, tmp_path)


def quiet(_: str) -> None:
    pass


def never(*_, **__) -> None:
    raise AssertionError("this must not be reached")


def views_of(recipe: Recipe) -> Views:
    return Views(recipe, Cases(recipe, find_cases(recipe)[0], quiet))


def trained(recipe: Recipe, folder: Path, stops: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """The checkpoint of a run that was stopped at each of ``stops`` and resumed."""
    for stop in (*stops, None):
        run = Pretraining(recipe, folder, log=quiet)
        run.run(stop=(lambda run=run, stop=stop: run.step >= stop - 1) if stop else None)
    return load_file(str(folder / "checkpoint.safetensors"))


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


def test_views_are_a_function_of_seed_and_number(recipe):
    views = views_of(recipe)
    first = views[7]
    for other in range(3):
        views[other]
    again = views[7]
    assert first.keys() == again.keys()
    for key, value in first.items():
        assert torch.equal(value, again[key]) if isinstance(value, torch.Tensor) else value == again[key]
    assert not torch.equal(first["large"], views[8]["large"])
    seeds = [views_of(replace(recipe, seed=seed))[7]["large"] for seed in (0, 1)]
    assert not torch.equal(*seeds)


def test_views_hold_the_active_classes_alone(recipe):
    views = views_of(recipe)
    counts, known = set(), set()
    for index in range(0, 80, 2):
        pair = [views[index], views[index + 1]]
        assert torch.equal(pair[0]["active"], pair[1]["active"]), "the samples of a step ask for the same classes"
        batch = collate(pair)
        assert batch["large"].shape == (2, 1, 8, 16, 16) and batch["teacher"].shape == (2, 1, 8, 16, 16)
        assert batch["small"].shape == (2, 1, 4, 16, 16) and batch["small_label"].shape == (2, 4, 16, 16)
        assert int(batch["large_label"].max()) <= len(batch["active"])
        counts.add(len(batch["active"]))
        known |= {bool(each) for each in batch["known"].flatten()}
    assert counts == {1, 2} and known == {True, False}


def test_the_affine_of_a_view_says_where_its_voxels_are(values, tmp_path):
    """A volume of ramps whose intensity is the position: what a view shows must be where its affine says."""
    recipe = loaded(values, tmp_path, contrast=0.0)
    shape = (30, 50, 60)
    grid = np.stack(np.meshgrid(*(np.arange(extent) for extent in shape), indexing="ij"))
    known = np.zeros(2, bool)
    for axis in range(3):
        ramp = (grid[axis] / shape[axis]).astype(np.float16)
        case = Case("", 0, ramp, np.zeros(shape, np.uint8), known, {})
        views = Views(recipe, SimpleNamespace(draw=lambda rng, labeled, case=case: case, skipped={}))
        turned = 0
        for index in range(12):
            sample = views[index]
            affine = sample["teacher_affine"]
            image = sample["teacher"][0] * shape[axis]
            inner = [extent // 2 + np.arange(-2, 3) for extent in image.shape]
            for z, y, x in zip(*inner):
                place = affine @ torch.tensor([z, y, x, 1.0])
                assert float(image[z, y, x]) == pytest.approx(float(place[axis]), abs=0.12)
            turned += not torch.allclose(affine[:3, :3].abs(), torch.eye(3), atol=1e-3)
        assert turned, "no view was turned or stretched"


def complete(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return segmentation_loss(logits, label, torch.ones(len(label), logits.shape[1] - 1, dtype=torch.bool))


def test_the_loss_does_not_average_over_absent_classes():
    label = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    logits = torch.zeros(1, 4, 4, 4, 4)
    logits[:, 1, :2] = 20
    logits[:, 0, 2:] = 20
    assert float(complete(logits, label)) < 1e-2
    assert torch.isfinite(complete(logits, torch.zeros_like(label)))


def test_a_class_that_is_not_labeled_is_masked_not_background():
    label = torch.zeros(2, 4, 4, 4, dtype=torch.long)
    label[:, :2] = 1
    logits = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([[True, False], [True, True]])
    loss = segmentation_loss(logits, label, known)
    claimed = logits.clone()
    claimed[:, 2, 2:] += 5  # the second class where nothing is labeled
    claimed[:, 0, 2:] -= 5
    after = segmentation_loss(claimed, label, known)
    assert float(after[0]) < float(loss[0]) + 0.3 and float(after[1]) > float(loss[1]) + 1
    blind = segmentation_loss(logits, torch.zeros_like(label), torch.zeros(2, 2, dtype=torch.bool))
    assert torch.allclose(blind, torch.zeros(2), atol=1e-5)
    together = segmentation_loss(logits[:1], label[:1], known[:1])
    assert torch.allclose(together, loss[:1]), "an image's loss depends on what else is in the batch"


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


@pytest.mark.parametrize(
    "settings, said", [({"device": "mps"}, "does not run on mps"), ({"workers": 1}, "cannot fork")]
)
def test_what_cannot_train_is_refused(recipe, tmp_path, monkeypatch, settings, said):
    monkeypatch.setattr(running.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(PromptSegError, match=said):
        Pretraining(recipe, tmp_path / "run", log=quiet, **settings)


@pytest.mark.parametrize("other", [{}, {"step": "x"}, {"recipe": "x", "cases": "x"}])
def test_processes_that_differ_are_stopped(recipe, tmp_path, monkeypatch, other):
    def gather(everyone: list, mine: dict) -> None:
        everyone[:] = [mine, {**mine, **other}]

    run = Pretraining(recipe, tmp_path / "run", log=quiet)
    run.ranks.count = 2
    monkeypatch.setattr(process.distributed, "all_gather_object", gather)
    if not other:
        run._check_processes()
        return
    with pytest.raises(PromptSegError, match=f"differ in {' and '.join(other)};"):
        run._check_processes()


@pytest.mark.parametrize(
    "words, environment, said",
    [
        (["--workers", "-1"], {}, "--workers: '-1' is not a whole number from 0"),
        (["--threads", "many"], {}, "--threads: 'many' is not a whole number from 0"),
        ([], {"WORLD_SIZE": "abc", "RANK": "0"}, "WORLD_SIZE is 'abc', not a number"),
        ([], {"WORLD_SIZE": "2", "RANK": "2"}, "RANK 2 is not below WORLD_SIZE 2"),
        (["--device", "cuda:0"], {"WORLD_SIZE": "2", "RANK": "0"}, "give --device cuda"),
    ],
)
def test_a_launch_that_is_wrong_gets_a_sentence(values, tmp_path, monkeypatch, capsys, words, environment, said):
    loaded(values, tmp_path)
    for name, value in {**environment, **({"MASTER_ADDR": "here", "MASTER_PORT": "1"} if environment else {})}.items():
        monkeypatch.setenv(name, value)
    try:
        code = main(["pretrain", str(tmp_path / "tiny.json"), "-o", str(tmp_path / "run"), *words])
    except SystemExit as stopped:  # argparse
        code = stopped.code
    err = capsys.readouterr().err
    assert code == 2 and said in err and err.count("\n") == 1


@pytest.mark.parametrize("size", ["abc", "2"])
def test_a_world_size_without_a_launcher_means_nothing(values, tmp_path, monkeypatch, capsys, size):
    loaded(values, tmp_path, steps=1)
    monkeypatch.setenv("WORLD_SIZE", size)
    words = [str(tmp_path / "tiny.json"), "--output", str(tmp_path / "my run"), "--device", "cpu"]
    assert main(["pretrain", *words]) == 0
    out = capsys.readouterr().out
    card = json.loads(out[out.index("{\n") :])["card"]
    assert card["command"] == f"python -m PromptSegLib pretrain {shlex.join(words)}" and card["processes"] == 1


def test_processes_that_do_not_find_each_other(values, tmp_path, monkeypatch, capsys):
    loaded(values, tmp_path)
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)

    def lost(_: str) -> None:
        raise torch.distributed.DistError("The client socket has timed out\nand more")

    monkeypatch.setattr(torch.distributed, "init_process_group", lost)
    assert main(["pretrain", str(tmp_path / "tiny.json"), "-o", str(tmp_path / "run"), "--device", "cpu"]) == 2
    assert "do not find each other (The client socket has timed out); start them with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "ranks, here, launcher",
    [
        (1, None, "python -m PromptSegLib"),
        (4, "4", "torchrun --nproc-per-node 4 -m PromptSegLib"),
        (8, "4", "torchrun --nnodes 2 --nproc-per-node 4 -m PromptSegLib"),
    ],
)
def test_the_command_on_the_card(monkeypatch, ranks, here, launcher):
    if here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    options = _parser().parse_args(["pretrain", "my recipe.json", "-o", "run", "--workers", "3", "--bundle"])
    wanted = f"{launcher} pretrain 'my recipe.json' --output run --workers 3 --bundle"
    assert pretraining._pretrain_command(options, ranks) == wanted


def test_a_launcher_may_pass_on_what_the_group_was_sent(request):
    # Tests that run side by side ignore Ctrl+C; a user's terminal does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    for number in (signal.SIGTERM, signal.SIGINT):
        with asked_to_end(alone=False) as ended:
            for _ in range(2):
                signal.raise_signal(number)
                assert ended()
    with pytest.raises(KeyboardInterrupt), asked_to_end(alone=True):
        for _ in range(2):  # a user who does not want to wait
            signal.raise_signal(signal.SIGINT)

"""Training the growing network: simulated users, views, and a run that can be killed and goes on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from PromptSegLib.errors import PromptSegError
from PromptSegLib.growing.inputs import CHANNELS
from PromptSegLib.growing.model import load_growing
from PromptSegLib.growing.network import GrowingNet
from PromptSegLib.pretraining.growing.contrast import redrawn, synthesized
from PromptSegLib.pretraining.growing.phantoms import phantom
from PromptSegLib.pretraining.growing.recipe import Recipe
from PromptSegLib.pretraining.growing.run import Training
from PromptSegLib.pretraining.growing.users import corrected, painted, simulated_evidence
from PromptSegLib.pretraining.growing.views import IGNORED, Views
from PromptSegLib.pretraining.growing.volumes import LabeledVolume, load_source
from PromptSegLib.pretraining.synthesis import spoiled


def truth() -> np.ndarray:
    labels = np.zeros((14, 30, 34), np.int16)
    labels[3:11, 5:25, 4:16] = 1
    labels[4:12, 8:22, 18:30] = 2
    return labels


@pytest.fixture
def data(tmp_path):
    """Two cases with images and labels, and one map without an image."""
    folder = tmp_path / "data"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in "ab":
        labels = truth()
        image = sitk.GetImageFromArray((labels * 100 + rng.normal(0, 8, labels.shape)).astype(np.float32))
        for kind, each in (("image", image), ("label", sitk.GetImageFromArray(labels))):
            each.SetSpacing((1.5, 1.5, 4.0))
            sitk.WriteImage(each, str(folder / f"{name}_{kind}.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(truth()), str(folder / "map.nii.gz"))
    return folder


def recipe(data, **changes) -> dict:
    values = {
        "name": "small",
        "title": "a test",
        "card": "Made by a test.",
        "steps": 2,
        "voxels": 6000,
        "sources": [
            {
                "name": "images",
                "folder": str(data),
                "image": "{case}_image.nii.gz",
                "label": "{case}_label.nii.gz",
                "license": "none",
            },
            {"name": "maps", "folder": str(data), "label": "{case}.nii.gz", "license": "none", "training": ["map"]},
        ],
    }
    return {**values, **changes}


def loaded(data, tmp_path, **changes) -> Recipe:
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(data, **changes)))
    return Recipe.load(path)


@pytest.mark.parametrize("seed", range(12))
def test_users_paint_only_what_is_true(seed):
    strokes = painted(truth(), 2, np.random.default_rng(seed))
    known = strokes >= 0
    assert (strokes[known] == truth()[known]).all() and {1, 2} <= set(np.unique(strokes))


@pytest.mark.parametrize("seed", range(6))
def test_a_correction_is_painted_where_the_answer_is_wrong(seed):
    answer = truth()
    answer[4:10, 8:20, 6:14] = 2
    before = np.full(answer.shape, -1, np.int16)
    after = corrected(truth(), before, answer, np.random.default_rng(seed))
    new = after != before
    assert new.any() and (answer[new] != truth()[new]).all() and (after[new] == truth()[new]).all()


def test_nothing_is_corrected_where_nothing_is_wrong():
    before = np.full(truth().shape, -1, np.int16)
    assert np.array_equal(corrected(truth(), before, truth(), np.random.default_rng(0)), before)


@pytest.mark.parametrize("seed", range(8))
def test_phantoms_contrasts_and_evidence_are_usable(seed):
    rng = np.random.default_rng(seed)
    tissues, structures = phantom((20, 24, 28), rng)
    assert tissues.shape == structures.shape == (20, 24, 28) and structures.max() > 0
    assert ((tissues > 0) == (structures > 0)).all()  # a tissue belongs to one structure
    assert all(len(np.unique(structures[tissues == each])) == 1 for each in np.unique(tissues[tissues > 0]))
    for image in (synthesized(tissues, rng), redrawn(synthesized(truth(), rng), rng), spoiled(truth() * 1.0, rng)):
        assert np.isfinite(image).all() and image.max() > image.min()
    noise = [rng.standard_normal(truth().shape) for _ in range(2)]
    evidence = simulated_evidence(truth(), 1, 2, rng, noise)
    assert evidence.min() >= 0 and evidence.max() <= 1


def test_a_view_at_the_full_resolution_is_the_volume_itself():
    rng = np.random.default_rng(0)
    image, labels = rng.random((12, 20, 24)).astype(np.float32), truth()[:12, :20, :24]
    volume = LabeledVolume.of("x", sitk.GetImageFromArray(image), sitk.GetImageFromArray(labels))
    part, found = volume.cut(np.array([2.0, 3.0, 4.0]), volume.spacing, (6, 10, 12))
    assert np.array_equal(found, labels[2:8, 3:13, 4:16])
    assert np.allclose(part, image[2:8, 3:13, 4:16], atol=1e-3)


def test_a_coarser_view_lies_where_the_finer_one_does():
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32), (40, 40, 40))
    volume = LabeledVolume.of("x", sitk.GetImageFromArray(ramp), sitk.GetImageFromArray((ramp > 9).astype(np.uint8)))
    part, _ = volume.cut(np.zeros(3), volume.spacing * 2, (20, 20, 20))
    assert np.allclose(part[10, 10], np.arange(20) * 2 + 0.5, atol=0.05)  # the mean of two voxels, at their middle


def test_views_are_questions_with_their_answers(data, tmp_path):
    made = loaded(data, tmp_path)
    views = Views(made, [load_source(source) for source in made.sources])
    rng = np.random.default_rng(0)
    for _ in range(12):
        asked, targets, steps = views.draw(rng)
        assert asked.shape[1] == CHANNELS and asked.shape[2:] == targets.shape[1:] and len(steps) == 4
        assert torch.isfinite(asked).all() and set(targets.unique().tolist()) <= {0, 1, IGNORED}
        assert ((targets == 1).sum((1, 2, 3)) > 0).all()
        own = asked[:, 3] == 1  # a stroke of the class lies in the class
        assert (targets[own] != 0).all()


def test_a_view_takes_its_turns_mirrored_anew(data, tmp_path):
    made = loaded(data, tmp_path, turns=2)
    views = iter(Views(made, [load_source(source) for source in made.sources]))
    seen = [next(views)[1] for _ in range(40)]
    sizes = [int((targets == 1).sum()) for targets in seen]  # mirroring keeps the number of voxels
    assert len(set(sizes)) < len(sizes) and max(sizes.count(size) for size in sizes) <= 4


@pytest.mark.training
def test_an_answer_on_coarser_voxels_is_evidence(data, tmp_path):
    """As at use: the network that learns is asked on coarser voxels first, and what it says is shown."""
    made = loaded(data, tmp_path, coarse=1.0, evidence=0.0)
    net = GrowingNet()
    torch.nn.init.constant_(net.answer.bias, 3.0)
    groups = [load_source(source) for source in made.sources]
    asked, _, _ = Views(made, groups, net).draw(np.random.default_rng(1))
    assert (asked[:, 10] == 1).all() and torch.allclose(asked[:, 9], torch.tensor(0.905).half(), atol=0.01)
    alone, _, _ = Views(made, groups).draw(np.random.default_rng(1))
    assert (alone[:, 10] == 0).all()


@pytest.mark.training
def test_a_run_begins_with_a_network_that_is_there(data, tmp_path):
    run = Training(loaded(data, tmp_path, start="bundled"), tmp_path / "run", lambda _: None, workers=0)
    own, bundled = run.net.state_dict(), load_growing().state_dict()
    assert all(torch.equal(own[name], bundled[name]) for name in bundled)
    with pytest.raises(PromptSegError, match="not a growing network"):
        Training(loaded(data, tmp_path, start="nowhere"), tmp_path / "other", lambda _: None, workers=0)


@pytest.mark.training
def test_what_is_written_may_keep_a_share_of_the_start(data, tmp_path):
    run = Training(loaded(data, tmp_path, start="bundled", keep=0.25), tmp_path / "run", lambda _: None, workers=0)
    for tensor in run.average.parameters():
        tensor.data.add_(1.0)
    written = load_growing(run.publish()).state_dict()
    for name, tensor in load_growing().state_dict().items():
        assert torch.allclose(written[name], (tensor + 0.75).half().float(), atol=1e-2)


def test_a_run_goes_on_where_it_was_killed_and_writes_network_and_card(data, tmp_path):
    said: list[str] = []
    Training(loaded(data, tmp_path), tmp_path / "run", said.append, workers=0).run()
    longer = loaded(data, tmp_path, steps=4)
    again = Training(longer, tmp_path / "run", said.append, workers=0)
    assert again.step == 2 and any("goes on at step 2" in line for line in said)
    again.run()
    load_growing(tmp_path / "run" / "small.safetensors")
    card = (tmp_path / "run" / "small.md").read_text()
    assert "4 steps" in card and "| images | 2 | none |" in card


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minutes": 3.0}, "either steps or minutes"),
        ({"steps": 0}, "either steps or minutes"),
        ({"evidence": 1.5}, "between 0 and 1"),
        ({"sources": []}, "no source"),
        ({"voxels": "many"}, "voxels"),
        ({"color": 1}, "unknown settings"),
    ],
)
def test_odd_recipes_are_refused(data, tmp_path, changes, words):
    with pytest.raises(PromptSegError, match=words):
        loaded(data, tmp_path, **changes)


def test_a_folder_without_cases_and_a_damaged_case_are_told(data, tmp_path):
    said: list[str] = []
    (data / "b_image.nii.gz").write_bytes(b"nothing")
    made = loaded(data, tmp_path)
    assert len(load_source(made.sources[0], said.append)) == 1 and "images/b is skipped" in said[0]
    with pytest.raises(PromptSegError, match="holds no"):
        load_source(loaded(tmp_path, tmp_path).sources[0])

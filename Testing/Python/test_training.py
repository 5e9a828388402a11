"""Tuning as training: which crops are seen, what is held out, on which grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

import PromptSegLib as ps
from harness.tiny_model import CLASSES, PREPROCESSING, phantom, tiny_backbone
from harness.tiny_model import example as stroked
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.labels import UNKNOWN, excluded_label, painted_on_grid
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.imaging.preprocessing import Preprocessing
from PromptSegLib.network.methods.registry import offered
from PromptSegLib.tuning import working_grid
from PromptSegLib.tuning.reading import covering_crops
from PromptSegLib.tuning.training import APART, Annotated, RandomCrops, Trainer, hold_out
from PromptSegLib.tuning.working_grid import (
    FEWEST,
    MOST_VOXELS,
    TOGETHER,
    said_of,
    upright_spacing,
    working_preprocessing,
)

pytestmark = pytest.mark.usefixtures("brisk_growing")

BRIEF = ps.Settings(steps=3, token_steps=3, seed=3)
SIZE = (8, 16, 16)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"), shipped=True)


def complete(**keywords) -> Example:
    image, reference = phantom(**keywords)
    return Example(image, reference, complete=True)


def volumes(count: int = 2) -> list[Annotated]:
    """Bright boxes of class 1 and 2 on darkness, class 2 in the first volume alone."""
    made = []
    for index in range(count):
        labels = np.zeros((20, 40, 36), np.int16)
        labels[4:9, 10:20, 8:16] = 1
        if index == 0:
            labels[15:17, 30:33, 28:31] = 2
        made.append(Annotated((0.5 * labels - 0.5).astype(np.float32), labels))
    return made


def test_of_very_many_volumes_the_start_looks_at_some_and_at_every_class():
    many = volumes(40)
    many[1], many[0] = many[0], many[1]  # the only one with class 2 is not among those that are evenly spread
    crops = covering_crops(many, 2, (8, 40, 36), 3, np.random.default_rng(0), training=True)
    assert len(crops) < 20 and any((each.labels == 2).any() for each in crops)
    assert len(covering_crops(many, 2, (20, 40, 36), 3, np.random.default_rng(0))) == 40  # strokes are never dropped
    few = covering_crops(many[:4], 2, (20, 40, 36), 3, np.random.default_rng(0), training=True)
    assert len(few) == 4


def test_every_class_is_centered_on_equally_often_whatever_its_size():
    crops = RandomCrops(volumes(), 2, SIZE, 0)
    drawn = [crops.crop(number).labels for number in range(60)]
    seen = [sum(bool((labels == value).any()) for labels in drawn) for value in (1, 2)]
    assert min(seen) > 15  # the second has 18 voxels of 2 x 28800


def test_crops_are_changed_alike_in_image_and_labels():
    crops = RandomCrops(volumes(), 2, SIZE, 0)
    agreed = []
    for number in range(30):
        crop = crops.crop(number)
        assert crop.image.shape == (1, 1, *SIZE) and crop.labels.shape == SIZE
        assert float(crop.image.min()) >= -1 and float(crop.image.max()) <= 1
        assert set(crop.labels.unique().tolist()) <= {UNKNOWN, 0, 1, 2}
        inside, outside = crop.image[0, 0][crop.labels == 1], crop.image[0, 0][crop.labels == 0]
        if len(inside) > 20 and len(outside) > 20:
            agreed.append(float(inside.median()) > float(outside.median()))
    assert len(agreed) > 8 and all(agreed)


def test_crops_are_a_function_of_the_seed_and_their_number():
    first, again, other = (RandomCrops(volumes(), 2, SIZE, seed) for seed in (1, 1, 2))
    ahead = [next(first) for _ in range(4)]
    first.close()
    assert all(torch.equal(each.image, again.crop(number).image) for number, each in enumerate(ahead))
    assert not torch.equal(ahead[0].image, other.crop(0).image)


def test_what_is_held_out_is_not_learned_from():
    given = volumes(3)
    rest, held = hold_out(given, SIZE, np.random.default_rng(0))
    assert len(held) == 3
    for before, after, crop in zip(given, rest, held):
        gone = (before.labels >= 0) & (after.labels == UNKNOWN)
        assert 0 < gone.sum() < 0.15 * before.labels.size
        assert int((crop.labels >= 0).sum()) == gone.sum() and (crop.labels > 0).any()
        assert np.array_equal(before.labels[~gone], after.labels[~gone])
    assert hold_out(given[:1], SIZE, np.random.default_rng(0)) == (given[:1], [])


def test_nothing_is_held_out_of_which_nothing_would_be_left():
    """A class that one volume shows, in a corner that a box can hold whole."""
    first, second = volumes(2)
    lonely = np.where(first.labels > 0, 0, first.labels)
    lonely[1:3, 1:3, 1:3] = 3
    given = [replace(first, labels=lonely), second]
    assert all((hold_out(given, SIZE, np.random.default_rng(seed))[0][0].labels == 3).any() for seed in range(5))


def test_a_class_alone():
    labels = np.array([[[0, 1, 2, 3, UNKNOWN, excluded_label(2), excluded_label(3)]]], np.int16)
    alone = Annotated(labels.astype(np.float32), labels).alone(2)
    assert alone.labels.ravel().tolist() == [0, 0, 1, 0, UNKNOWN, excluded_label(1), UNKNOWN]


@pytest.mark.training
@pytest.mark.parametrize(
    "method, passes", [*((name, "joint") for name in offered()), ("punet", "each"), ("side", "each")]
)
def test_complete_volumes_train_by_every_method(backbone, method, passes):
    settings = replace(BRIEF, method=method, passes=passes)
    before = {name: tensor.clone() for name, tensor in backbone.net.state_dict().items()}
    prompts = ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings)
    after = backbone.net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    for record in prompts.tuning.values():
        assert record["held_out"]  # the end is looked at, at least
    labels = ps.segment(prompts, phantom(seed=2)[0], backbone).labels
    assert labels.GetSize() == phantom()[0].GetSize()


@pytest.mark.training
def test_training_is_reproducible(backbone):
    settings = replace(BRIEF, method="linear")
    first, again = (ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings) for _ in range(2))
    assert all(
        np.array_equal(tensor, again.find("ball").tensors[key]) for key, tensor in first.find("ball").tensors.items()
    )


def test_strokes_are_not_trained_on_and_complete_annotations_need_not_be(backbone, monkeypatch):
    from PromptSegLib.tuning import group as module

    monkeypatch.setattr(module, "RandomCrops", None)  # called, it would fail
    ps.tune([stroked()], CLASSES, backbone, settings=BRIEF)
    ps.tune([complete()], CLASSES, backbone, settings=replace(BRIEF, training=False))
    with pytest.raises(TypeError):
        ps.tune([complete()], CLASSES, backbone, settings=BRIEF)


@pytest.mark.training
def test_training_learns_the_next_image(backbone):
    """Not only the images that taught: another phantom, from prompts that saw it never."""
    settings = ps.Settings(steps=30, token_steps=30, method="linear", seed=0)
    prompts = ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings)
    shown, reference = phantom(seed=5)
    found = sitk.GetArrayFromImage(ps.segment(prompts, shown, backbone).labels)
    truth = sitk.GetArrayFromImage(reference)
    for value in CLASSES.values():
        both = ((found == value) & (truth == value)).sum()
        assert 2 * both / ((found == value).sum() + (truth == value).sum()) > 0.6


@pytest.mark.parametrize(("method", "steps"), [("side", 0), ("linear", 0), ("punet", BRIEF.token_steps)])
def test_only_methods_with_output_tokens_spend_time_on_them(backbone, method, steps):
    prompts = ps.tune([complete()], CLASSES, backbone, settings=replace(BRIEF, method=method))
    assert prompts.tuning["0"]["token_steps"] == steps


def test_where_there_was_time_for_no_step_the_start_is_looked_at(backbone):
    prompts = ps.tune(
        [complete(), complete(seed=1)], CLASSES, backbone, settings=replace(BRIEF, method="side", steps=0)
    )
    record = prompts.tuning["0"]
    assert record["steps"] == 0 and len(record["held_out"]) == 1


@pytest.mark.parametrize("start, kept", [(0.95, True), (0.6, False)])
def test_the_start_is_gone_back_to_where_held_out_parts_agree_far_better(backbone, monkeypatch, start, kept):
    def on_held(trainer, prompts):
        return [start if prompts is trainer.warm.prompts else 0.5] * trainer.classes

    monkeypatch.setattr(Trainer, "_on_held", on_held)
    settings, examples = replace(BRIEF, method="linear"), [complete(), complete(seed=1)]
    first, tuned = (
        ps.tune(examples, CLASSES, backbone, settings=replace(settings, steps=steps)).find("ball") for steps in (0, 2)
    )
    assert all(np.array_equal(tensor, tuned.tensors[key]) for key, tensor in first.tensors.items()) == kept


# The working grid


@pytest.fixture
def narrow(monkeypatch) -> None:
    """Crops of tiny bodies never show all classes together."""
    monkeypatch.setattr(working_grid, "TOGETHER", 0.0)


def test_heads_work_on_the_examples_own_grid(backbone, narrow):
    fine = complete(spacing=(1.5, 1.5, 1.8))
    prompts = ps.tune([fine], CLASSES, backbone, settings=replace(BRIEF, method="linear"))
    assert prompts.preprocessing.spacing == (1.8, 1.8, 1.8)  # 1.5 along two axes, but crops are small here
    assert prompts.preprocessing.intensity == PREPROCESSING.intensity
    read = ps.Prompts.from_bytes(prompts.to_bytes())
    first, again = (ps.segment(each, fine.image, backbone).labels for each in (prompts, read))
    assert np.array_equal(sitk.GetArrayFromImage(first), sitk.GetArrayFromImage(again))
    # What goes on from them stays on their grid, and shipped classes, which know another, lend nothing.
    more = ps.tune(
        [complete()], {"rod": 9}, backbone, start=prompts, settings=replace(BRIEF, method="linear", training=False)
    )
    assert more.preprocessing == prompts.preprocessing
    tokens = ps.tune([fine], CLASSES, backbone, settings=replace(BRIEF, method="punet"))
    assert tokens.preprocessing == backbone.preprocessing


@pytest.mark.parametrize("method, new", [("side", APART + 4), ("punet", APART + 8)])
def test_crops_are_used_twice_where_prompts_leave_the_bodys_features_as_they_are(backbone, monkeypatch, method, new):
    drawn, draw = [], RandomCrops.__next__
    monkeypatch.setattr(RandomCrops, "__next__", lambda crops: drawn.append(draw(crops)) or drawn[-1])
    settings = replace(BRIEF, method=method, steps=APART + 8)
    prompts = ps.tune([complete(), complete(seed=1)], CLASSES, backbone, settings=settings)
    assert len(drawn) == new and prompts.tuning["0"]["steps"] == APART + 8


def test_maps_of_one_grid_are_not_taken_for_anothers(backbone):
    from PromptSegLib.models.feature_cache import FeatureCache

    feature_cache, shown = FeatureCache(), complete()
    strokes = Example(shown.image, shown.annotation)
    options = ps.TuningOptions(feature_cache=feature_cache)
    coarse, fine = (
        ps.tune([shown], CLASSES, backbone, settings=replace(BRIEF, method=method), options=options)
        for method in ("punet", "side")
    )
    for prompts in (coarse, fine, coarse):
        kept, alone = (
            ps.segment(
                prompts,
                shown.image,
                backbone,
                strokes=strokes,
                options=ps.SegmentationOptions(feature_cache=each, grow_strokes=False),
            )
            for each in (feature_cache, FeatureCache(0))
        )
        assert np.array_equal(sitk.GetArrayFromImage(kept.labels), sitk.GetArrayFromImage(alone.labels))


def test_the_working_grid_is_bounded(backbone):
    thick = complete(spacing=(1.0, 1.0, 7.7))
    assert working_preprocessing([thick], backbone).spacing == (2.0, 1.0, 1.0)
    large = sitk.Image(400, 400, 300, sitk.sitkInt16)
    steps = working_preprocessing([Example(large, large, complete=True)], backbone).spacing
    assert 400 * 400 * 300 / np.prod(steps) == pytest.approx(MOST_VOXELS, rel=0.01)
    odd = [complete(spacing=(s, s, s)) for s in (1.0, 1.2, 3.0)]
    assert working_preprocessing(odd, backbone).spacing == (1.2, 1.2, 1.2)


def test_finer_axes_give_way_where_a_crop_would_not_hold_what_is_around_a_large_structure(backbone):
    longer = replace(backbone, tile=(24, 48, 48))
    assert longer.crop == (16, 32, 32)
    image, reference = phantom(shape=(20, 40, 48), spacing=(1.0, 1.0, 2.0))
    one = Example(image, reference, complete=True)
    assert working_preprocessing([one], longer).spacing == (2.0, 1.0, 1.0)
    values = sitk.GetArrayFromImage(reference)
    ball = np.argwhere(values == CLASSES["ball"])
    reach = ball.max(0) - ball.min(0) + 1
    found = working_preprocessing([one], longer, {"ball": CLASSES["ball"]}).spacing
    assert found == (2.0, *(pytest.approx(min(2.0, max(1.0, 2 * n / 32)), abs=1e-3) for n in reach[1:]))
    assert 1.0 < found[1] < 2.0
    # What is turned is looked at along the patient's axes, and another image's structures count, too.
    turned = complete(shape=(20, 40, 48), spacing=(1.0, 1.0, 2.0), direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    x_is_thick = working_preprocessing([turned], longer, {"ball": CLASSES["ball"]}).spacing
    assert x_is_thick[2] == 2.0 and 1.0 < x_is_thick[1] < 2.0
    assert working_preprocessing([one, one], longer, {"nothing": 77}).spacing == (2.0, 1.0, 1.0)


def test_a_crop_shows_where_among_others_a_class_lies(backbone):
    """Several classes one above the other: coarser along them, while the least keeps some voxels."""
    longer = replace(backbone, tile=(24, 48, 48))
    shape, thickness = (80, 32, 32), 8
    values = np.zeros(shape, np.uint8)
    for index in range(4):
        values[10 + 15 * index :][:thickness, 8:24, 8:24] = index + 1
    image, reference = (sitk.GetImageFromArray(each) for each in (values.astype(np.float32), values))
    column = Example(image, reference, complete=True)
    four = {f"L{index}": index for index in range(1, 5)}
    least = thickness / FEWEST
    assert least < TOGETHER * (45 + thickness) / longer.crop[0]
    assert working_preprocessing([column], longer, four).spacing == pytest.approx((least, 1.0, 1.0), abs=1e-3)
    assert working_preprocessing([column], longer, {"L1": 1}).spacing == (1.0, 1.0, 1.0)
    near = {"L1": 1, "L2": 2}
    together = TOGETHER * (15 + thickness) / longer.crop[0]
    assert working_preprocessing([column], longer, near).spacing == pytest.approx((together, 1.0, 1.0), abs=1e-3)


def test_intensities_that_do_not_fit_the_window_make_percentiles_the_rule(backbone):
    fitting, other = complete(), complete()
    other = Example(sitk.Cast(other.image * 1000 + 5000, sitk.sitkFloat32), other.annotation, complete=True)
    assert working_preprocessing([fitting], backbone).rule == "window"
    mixed = working_preprocessing([fitting, other], backbone)
    assert (mixed.rule, mixed.intensity) == ("percentile", (0.5, 99.5))


def test_crops_are_no_longer_than_the_volumes_need(backbone):
    """Half of a crop is enough where it covers nearly all of a volume; prompts carry what they were trained on."""
    longer, wider = replace(backbone, tile=(24, 48, 48)), backbone.config.stride
    assert longer.crop == (16, 32, 32) and wider == (4, 8, 8)
    shown = complete(shape=(9, 40, 18), spacing=(2.0, 2.0, 2.0))
    found = working_preprocessing([shown], longer)
    assert found.crop == (8, 32, 16) and longer.working_at(found).tile == (8, 32, 16)
    assert Preprocessing.from_dict(found.to_dict()) == found and "crop" not in backbone.preprocessing.to_dict()
    assert working_preprocessing([complete(shape=(14, 40, 34))], longer).crop is None
    for bad in ([8, 32], [8, 32, 0], [8, 32, 5000], [8, 32, 1.5], 3):
        with pytest.raises((ValueError, TypeError)):
            Preprocessing.from_dict({**found.to_dict(), "crop": bad})


def test_where_the_user_painted_is_looked_at_more_often():
    plain = volumes(1)[0]
    painted = np.zeros(plain.labels.shape, bool)
    painted[18, 2:4, 2:4] = True  # a corner of the background
    shares = []
    for given in (plain, replace(plain, painted=painted)):
        crops = RandomCrops([given], 2, SIZE, 0)
        drawn = [crops._center(np.random.default_rng(number))[1] for number in range(300)]
        shares.append(np.mean([(np.abs(center - (18, 3, 3)) <= (2, 5, 5)).all() for center in drawn]))
    assert shares[0] < 0.05 and 0.15 < shares[1] < 0.35


def test_strokes_thinner_than_the_grid_are_still_marked():
    image, reference = phantom()
    marked = sitk.Image(reference.GetSize(), sitk.sitkUInt8)
    marked.CopyInformation(reference)
    marked[5, 6, 7] = 3
    given = Example(image, reference, complete=True, painted=marked)
    coarse = Grid((9, 9, 9), (20.0, 20.0, 20.0), image.GetOrigin(), image.GetDirection())
    found = painted_on_grid(given, coarse)
    assert found.sum() == 1 and painted_on_grid(replace(given, painted=None), coarse) is None


def test_examples_that_differ_are_said_to(backbone, narrow):
    same, coarse = complete(), complete(spacing=(4.0, 4.0, 3.0))
    other = Example(sitk.Cast(same.image * 1000 + 5000, sitk.sitkFloat32), same.annotation, complete=True, name="MR")
    settings = replace(BRIEF, method="linear")
    assert not ps.tune([same, complete(seed=1)], CLASSES, backbone, settings=settings).notes
    notes = ps.tune([same, coarse], CLASSES, backbone, settings=settings).notes
    assert notes == ["The examples' voxels differ, from 2 x 2 x 3 to 4 x 4 x 3 mm; all are read at 3 x 3 x 3 mm."]
    notes = ps.tune([same, other], CLASSES, backbone, settings=settings).notes
    assert len(notes) == 1 and "others are not (MR); all are read by the range" in notes[0]


def test_examples_of_both_kinds_are_said_to_a_body_for_images_without_a_unit_too():
    rng = np.random.default_rng(0)
    hu = np.full((24, 40, 40), -1000.0)
    hu[:, 4:-4, 4:-4], hu[:, 8:-8, 8:-8] = -94, 42
    arrays = (hu + rng.normal(0, 9, hu.shape), np.abs(hu) / 3 + rng.uniform(0, 99, hu.shape))
    images = [sitk.GetImageFromArray(each.astype(np.float32)) for each in arrays]
    ct, mr = (Example(each, each, complete=True, name=name) for each, name in zip(images, ("CT", "MR")))
    body = Preprocessing((1.0, 1.0, 1.0), (0.5, 99.5), "range")
    assert ["others are not (MR)" in each for each in said_of([ct, mr], body, body)] == [True]
    assert not said_of([ct, ct], body, body) and not said_of([mr, mr], body, body)


def test_what_is_new_and_complete_gets_a_network_and_all_else_the_default(backbone):
    brief = replace(BRIEF, steps=1, token_steps=1)
    assert BRIEF.method == "auto"
    # The tiny body's shipped classes are no structure at all, so that everything is new to it.
    new = ps.tune([complete()], CLASSES, backbone, settings=brief)
    assert new.method == "side"
    assert ps.tune([complete()], CLASSES, replace(backbone, shipped=None), settings=brief).method == "side"
    assert ps.tune([stroked()], CLASSES, backbone, settings=brief).method == "punet"
    assert ps.tune([complete(), stroked()], CLASSES, backbone, settings=brief).method == "punet"
    # Where prompts go on, theirs; and what is asked for is done.
    assert ps.tune([stroked()], {"rod": 9}, backbone, start=new, settings=brief).method == "side"
    chosen = ps.tune([complete()], CLASSES, backbone, settings=replace(brief, method="linear"))
    assert chosen.method == "linear"
    with pytest.raises(ps.PromptSegError, match="no method 'best'; choose one of auto, punet"):
        ps.tune([complete()], CLASSES, backbone, settings=replace(brief, method="best"))


@pytest.mark.parametrize("best", ["side", pytest.param("punet", marks=pytest.mark.training)])
def test_of_several_examples_one_is_left_out_to_say_which_method_carries(backbone, monkeypatch, best):
    from PromptSegLib.tuning import trying

    examples = [replace(complete(seed=seed), name=f"case {seed}") for seed in range(3)]
    seen = []

    def agreement_on(prompts, example, *_):
        seen.append((prompts.method, [each["name"] for each in prompts.tuning["0"]["examples"]], example.name))
        return 0.7 if prompts.method == best else 0.6

    monkeypatch.setattr(trying, "LEAST_STEPS", 12)
    monkeypatch.setattr(trying, "agreement_on", agreement_on)
    settings = replace(BRIEF, steps=12)
    prompts = ps.tune(examples, {"ball": CLASSES["ball"]}, backbone, settings=settings)
    assert seen == [(name, ["case 0", "case 1"], "case 2") for name in trying.CANDIDATES]
    assert prompts.method == best and prompts.names == ["ball"]
    record = prompts.tuning["0"]
    assert record["left_out"] == {name: 0.7 if name == best else 0.6 for name in trying.CANDIDATES}
    assert [each["name"] for each in record["examples"]] == ["case 0", "case 1", "case 2"]
    # The two trials and what follows share the budget.
    assert record["steps"] + 2 * record["earlier"][-1]["steps"] == 12
    # Nothing is tried where somebody said what to use, nothing can be left out, in no time, or of several classes.
    seen.clear()
    for given, chosen in ((examples, replace(settings, method="linear")), (examples[:1], settings), (examples, BRIEF)):
        ps.tune(given, {"ball": CLASSES["ball"]}, backbone, settings=chosen)
    assert ps.tune(examples, CLASSES, backbone, settings=settings).method == trying.CANDIDATES[0]
    assert not seen


def test_where_a_trial_would_make_hardly_a_step_none_is_made(backbone, monkeypatch):
    """Of a budget in seconds: with many classes, or on a slow machine, trials would cost it and say nothing."""
    from PromptSegLib.tuning import trying

    monkeypatch.setattr(trying, "LEAST_SECONDS", 0.5)
    monkeypatch.setattr(trying, "TELLING", 100_000)
    monkeypatch.setattr(trying, "agreement_on", None)  # called, it would fail
    examples = [replace(complete(seed=seed), name=f"case {seed}") for seed in range(2)]
    prompts = ps.tune(examples, {"ball": CLASSES["ball"]}, backbone, settings=replace(BRIEF, steps=None, seconds=1.0))
    record = prompts.tuning["0"]
    assert prompts.method == trying.CANDIDATES[0] and "left_out" not in record
    assert [each["name"] for each in record["examples"]] == ["case 0", "case 1"] and len(record["earlier"]) == 1


def test_what_an_example_left_out_says(backbone):
    from PromptSegLib.models.feature_cache import FeatureCache
    from PromptSegLib.tuning.trying import agreement_on

    example = complete()
    prompts = ps.tune([example], CLASSES, backbone, settings=replace(BRIEF, method="linear", steps=0))
    found = agreement_on(prompts, example, CLASSES, backbone, FeatureCache(0))
    labels = sitk.GetArrayFromImage(
        ps.segment(prompts, example.image, backbone, options=ps.SegmentationOptions(keep_islands=True)).labels
    )
    truth = sitk.GetArrayFromImage(example.annotation)
    dice = [2 * ((labels == v) & (truth == v)).sum() / ((labels == v).sum() + (truth == v).sum()) for v in (5, 9)]
    assert found == pytest.approx(np.mean(dice), abs=0.05)  # its own grid here, the task's there


def test_complete_annotations_of_what_the_backbone_ships_keep_its_prompts(backbone, monkeypatch):
    from PromptSegLib.tuning import choosing

    agreed = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    monkeypatch.setattr(choosing, "nearest_shipped", lambda encoded, classes, job: (agreed, [], []))
    assert ps.tune([complete()], CLASSES, backbone, settings=replace(BRIEF, steps=0)).method == "punet"
    agreed[1] = 0.2  # one of them is new
    assert ps.tune([complete()], CLASSES, backbone, settings=replace(BRIEF, steps=0)).method == "side"


def test_spacing_runs_along_the_patients_axes():
    sagittal = Grid((10, 11, 12), (3.0, 1.0, 2.0), (0, 0, 0), (0, 0, 1, 1, 0, 0, 0, 1, 0))
    # The first image axis runs along y, the second along z, the third along x.
    assert upright_spacing(sagittal) == (1.0, 3.0, 2.0)
    # Two of the patient's axes are nearest to the same one of the image.
    oblique = tuple(Rotation.from_euler("xyz", (20, 40, 30), degrees=True).as_matrix().ravel().tolist())
    assert sorted(upright_spacing(Grid((4, 5, 6), (1.0, 2.0, 3.0), (0.0, 0.0, 0.0), oblique))) == [1.0, 2.0, 3.0]

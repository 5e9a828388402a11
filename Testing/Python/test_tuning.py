"""Tuning: the body never changes, old classes stay bit-identical, strokes are all that is learned from."""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import BACKGROUND, CLASSES, LITTLE, PREPROCESSING, example, painted, phantom, tiny_backbone
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.strokes import Strokes
from PromptSegLib.imaging.intensity import MODALITY
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.inference.class_margins import class_margins
from PromptSegLib.models.feature_cache import FeatureCache
from PromptSegLib.network.config import MODES, OUTPUTS, outputs_of
from PromptSegLib.network.methods.registry import known
from PromptSegLib.network.tokens import new_prompts
from PromptSegLib.progress import ProgressHandle
from PromptSegLib.prompts.store import MAX_BYTES_PER_CLASS, Prompts
from PromptSegLib.tuning import optimization
from PromptSegLib.tuning.crops import cover
from PromptSegLib.tuning.encoded import EncodedCrops
from PromptSegLib.tuning.objective import agreement, annotated_loss, class_weights
from PromptSegLib.tuning.parts import tune_in_parts
from PromptSegLib.tuning.reading import read_examples
from PromptSegLib.tuning.warm_start import ClassInit, prototypes, warm_start

pytestmark = pytest.mark.usefixtures("brisk_growing")

BRIEF = ps.Settings(steps=4, token_steps=5, seed=3)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return tiny_backbone(tmp_path_factory.mktemp("tiny"), shipped=True)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Without prompts of its own, that a class could begin with."""
    return tiny_backbone(tmp_path_factory.mktemp("bare"))


def same(first: ps.Prompts, second: ps.Prompts, names=None) -> bool:
    names = names or first.names
    return all(
        np.array_equal(tensor, second.find(name).tensors[key])
        for name in names
        for key, tensor in first.find(name).tensors.items()
    )


WAYS = [(mode, "all") for mode in MODES] + [(MODES[0], outputs) for outputs in OUTPUTS if outputs != "all"]


@pytest.mark.parametrize("method", [name for name, each in known().items() if each.stored[1]])  # not mere parts
@pytest.mark.parametrize("mode, outputs", WAYS)
def test_every_mode_and_method_tunes_on_a_body_that_never_changes(bare, monkeypatch, mode, method, outputs):
    monkeypatch.setattr(optimization, "MIN_SEPARABILITY", 2.0)  # no map is ever enough
    before = {name: tensor.clone() for name, tensor in bare.net.state_dict().items()}
    settings = ps.Settings(mode=mode, method=method, outputs=outputs, steps=2, token_steps=2)
    prompts = ps.tune([example(shape=LITTLE)], CLASSES, bare, settings=settings)
    after = bare.net.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(parameter.grad is None for parameter in bare.net.parameters())
    assert prompts.values == CLASSES and (prompts.mode, prompts.method) == (mode, method)
    assert set(prompts.classes[0].tensors) == set(bare.config.prompt_shapes(mode, method, outputs))
    assert ps.Prompts.from_bytes(prompts.to_bytes()).names == prompts.names


def test_tuning_learns_what_was_painted(backbone):
    prompts = ps.tune([example()], CLASSES, backbone, settings=ps.Settings(steps=30, rate=5e-3))
    record = prompts.tuning["0"]["classes"]
    assert min(record[name]["agreement"] for name in CLASSES) > 0.8


def test_the_same_seed_gives_the_same_prompts_and_another_does_not(backbone):
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    again = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    other = ps.tune([example()], CLASSES, backbone, settings=replace(BRIEF, seed=4))
    assert same(first, again) and not same(first, other)


def test_a_new_class_leaves_the_old_ones_bit_identical(backbone):
    shown = example()
    first = ps.tune([shown], {"ball": 5}, backbone, settings=BRIEF)
    second = ps.tune([shown], {"rod": 9}, backbone, start=first, settings=BRIEF)
    assert second.values == {"ball": 5, "rod": 9}
    assert same(first, second, ["ball"])
    array = Volume.of(shown.image, backbone.preprocessing).array
    alone, beside = class_margins(backbone, first, array), class_margins(backbone, second, array)
    assert np.array_equal(alone[0], beside[0])
    reopened = ps.Prompts.from_bytes(second.to_bytes())
    assert np.array_equal(class_margins(backbone, reopened, array), beside)


def test_retuning_one_class_of_a_group_leaves_its_companions_bit_identical(backbone):
    shown = example()
    both = ps.tune([shown], CLASSES, backbone, settings=BRIEF)
    again = ps.tune([shown], {"rod": 9}, backbone, start=both, settings=BRIEF)
    assert sorted(again.names) == ["ball", "rod"] and not same(both, again, ["rod"])
    array = Volume.of(shown.image, backbone.preprocessing).array
    assert np.array_equal(
        class_margins(backbone, both, array)[0], class_margins(backbone, again, array)[again.names.index("ball")]
    )
    # Once every member is tuned anew the old group is gone: files do not grow with every correction.
    last = ps.tune([shown], {"ball": 5}, backbone, start=again, settings=BRIEF)
    assert len(last.classes) == 2


def test_resuming_starts_where_the_prompts_were(backbone):
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    same_again = ps.tune([example()], CLASSES, backbone, start=first, settings=ps.Settings(steps=0))
    assert same(first, same_again)
    assert same_again.tuning["0"]["classes"]["ball"]["start"] == "the given prompts"


def test_without_a_model_prompts_are_gone_on_with_on_their_own(tmp_path, monkeypatch):
    """As segmenting with them finds it, and not the catalogue's first, which refuses them."""
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path))
    first = ps.tune([example()], CLASSES, tiny_backbone(tmp_path, shipped=True), settings=BRIEF)
    again = ps.tune([example()], CLASSES, start=first, settings=ps.Settings(steps=0))
    assert again.backbone == first.backbone == "tiny0" and same(first, again)
    with pytest.raises(ps.PromptSegError, match="ct-body|tuned on"):
        ps.tune([example()], CLASSES, "ct-body", start=first, settings=ps.Settings(steps=0))


def test_a_retuning_remembers_the_tunings_it_went_on_from(backbone):
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    second = ps.tune([example()], CLASSES, backbone, start=first, settings=replace(BRIEF, steps=2))
    third = ps.tune([example()], {"rod": 9}, backbone, start=second, settings=replace(BRIEF, steps=1))
    assert [each["steps"] for each in third.tuning["1"]["earlier"]] == [4, 2]
    assert third.tuning["0"] == second.tuning["0"]


def test_colors_are_the_callers_then_the_starts_then_the_names(backbone):
    from PromptSegLib.annotation.classes import describe

    red = describe("ball", 5, color=(1.0, 0.0, 0.0))
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF, options=ps.TuningOptions(appearance={"ball": red}))
    again = ps.tune([example()], CLASSES, backbone, start=first, settings=BRIEF)
    assert first.find("ball").info.color == again.find("ball").info.color == (1.0, 0.0, 0.0)
    assert first.find("rod").info == again.find("rod").info


def test_a_new_class_keeps_the_strokes_of_the_old_ones(backbone):
    shown = example()
    first = ps.tune([shown], {"ball": 5}, backbone, settings=BRIEF)
    second = ps.tune([shown], {"rod": 9}, backbone, start=first, settings=BRIEF)
    (strokes,) = second.strokes
    painted_labels = sitk.GetArrayFromImage(shown.annotation)
    labels = strokes.unpack([5, 9])
    assert np.array_equal(labels == 1, painted_labels == 5) and np.array_equal(labels == 2, painted_labels == 9)
    assert np.array_equal(labels == 0, painted_labels == BACKGROUND)


@pytest.mark.parametrize("in_parts", [False, True])
def test_what_is_painted_of_other_classes_stays_theirs(backbone, in_parts):
    """It is background of the class that is tuned, in its tuning alone; also on an image that they never saw."""
    shown, further = example(), example(seed=4)
    first = ps.tune([shown], CLASSES, backbone, settings=BRIEF)
    labels = sitk.GetArrayFromImage(shown.annotation)
    labels[2:4, 30:34, 4:9] = 3
    options = ps.TuningOptions(others=list(CLASSES.values()))
    given = {"start": first, "settings": BRIEF, "options": options}
    both = [with_labels(shown, labels), further]
    if in_parts:
        second = tune_in_parts(both, [{"corner": 3}], backbone, **given)
    else:
        second = ps.tune(both, {"corner": 3}, backbone, **given)
    assert len(second.strokes) == 2
    for strokes, said in zip(second.strokes, (labels, sitk.GetArrayFromImage(further.annotation))):
        kept = strokes.unpack([5, 9, 3])
        for index, value in enumerate((BACKGROUND, 5, 9, 3)):
            assert np.array_equal(kept == index, said == value), value
    result = sitk.GetArrayFromImage(ps.segment(second, further.image, backbone).labels)
    assert (result[sitk.GetArrayFromImage(further.annotation) == 5] == 5).all()


def test_what_is_painted_on_one_image_in_two_annotations_is_kept_together(backbone):
    shown = example()
    labels = sitk.GetArrayFromImage(shown.annotation)
    apart = [with_labels(shown, np.where(np.isin(labels, each), labels, 0)) for each in ((5,), (9, BACKGROUND))]
    copy = replace(apart[1], image=sitk.Image(shown.image) + 0)  # read from the same file a second time
    prompts = ps.tune([apart[0], copy], CLASSES, backbone, settings=BRIEF)
    (strokes,) = prompts.strokes
    assert np.array_equal(strokes.unpack([7, 5, 9]) > 0, np.isin(labels, (5, 9)))
    # Files of earlier versions hold them apart.
    older = replace(prompts, strokes=(strokes.with_values({5: 5}), strokes.with_values({9: 9})))
    again = ps.tune([apart[1]], {"rod": 9}, backbone, start=older, settings=BRIEF)
    for each in (prompts, older, again):
        result = sitk.GetArrayFromImage(ps.segment(each, shown.image, backbone).labels)
        for value in CLASSES.values():
            assert (result[labels == value] == value).all()


def test_a_complete_annotation_leaves_the_strokes_of_other_classes(backbone):
    shown, (_, reference) = example(), phantom()
    first = ps.tune([shown], CLASSES, backbone, settings=BRIEF)
    labels = sitk.GetArrayFromImage(reference)
    labels[2:4, 30:34, 4:9] = 3
    complete = with_labels(shown, labels, complete=True, background=None)
    second = ps.tune(
        [complete], {"corner": 3}, backbone, start=first, settings=BRIEF, options=ps.TuningOptions(others=[5, 9])
    )
    (strokes,), painted = second.strokes, sitk.GetArrayFromImage(shown.annotation)
    kept = strokes.unpack([5, 9, 3])
    assert np.array_equal(kept == 1, painted == 5) and np.array_equal(kept == 2, painted == 9)


def test_strokes_that_were_erased_stay_erased(backbone):
    shown = example()
    first = ps.tune([shown], CLASSES, backbone, settings=BRIEF)
    fewer = sitk.GetArrayFromImage(shown.annotation)
    fewer[6] = 0
    erased = sitk.GetImageFromArray(fewer)
    erased.CopyInformation(shown.annotation)
    second = ps.tune([replace(shown, annotation=erased)], CLASSES, backbone, start=first, settings=BRIEF)
    assert (second.strokes[0].unpack(list(CLASSES.values()))[6] == -1).all()


def with_labels(shown: Example, labels: np.ndarray, **changes) -> Example:
    annotation = sitk.GetImageFromArray(labels)
    annotation.CopyInformation(shown.annotation)
    return replace(shown, annotation=annotation, **changes)


def test_an_annotation_that_is_no_strokes_replaces_those_of_its_classes(backbone):
    shown = example()
    reference = sitk.GetArrayFromImage(shown.annotation)
    wrong, right = reference.copy(), sitk.GetArrayFromImage(phantom()[1])
    wrong[2:4, 2:6, 40:44] = CLASSES["ball"]
    right = np.where(right == CLASSES["ball"], right, 0).astype(np.uint8)
    first = ps.tune([with_labels(shown, wrong)], CLASSES, backbone, settings=BRIEF)
    corrected = with_labels(shown, right, complete=True, background=None)
    second = ps.tune([corrected], {"ball": 5}, backbone, start=first, settings=BRIEF)
    assert not (sitk.GetArrayFromImage(ps.segment(second, shown.image, backbone).labels)[wrong != reference] == 5).all()
    (strokes,) = second.strokes  # those of the other class stay
    kept = strokes.unpack([5, 9])
    assert not (kept == 1).any() and np.array_equal(kept == 2, (wrong == CLASSES["rod"]) & (right != CLASSES["ball"]))


def test_strokes_that_disappear_on_the_models_grid_are_refused(backbone):
    shown = example()
    labels = np.full_like(sitk.GetArrayFromImage(shown.annotation), BACKGROUND)
    labels[10, 20, 20] = CLASSES["ball"]
    fine = sitk.GetImageFromArray(labels)
    fine.SetSpacing((0.7, 0.7, 0.7))
    image = sitk.Image(shown.image)
    image.CopyInformation(fine)
    with pytest.raises(ps.PromptSegError, match="of ball disappears .* 2 x 2 x 3 mm; paint more"):
        ps.tune([Example(image, fine, BACKGROUND)], {"ball": 5}, backbone, settings=BRIEF)


def test_strokes_can_be_left_out_with_those_of_the_start(backbone):
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    other = example(seed=1)
    assert (
        ps.tune([other], CLASSES, backbone, start=first, settings=BRIEF, options=ps.TuningOptions(keep_strokes=True))
        .strokes[0]
        .image
    )
    assert not ps.tune(
        [other], CLASSES, backbone, start=first, settings=BRIEF, options=ps.TuningOptions(keep_strokes=False)
    ).strokes


def test_strokes_follow_their_class_to_another_value(backbone):
    shown, other = example(), example(seed=1)
    first = ps.tune([shown], CLASSES, backbone, settings=BRIEF)
    swapped = sitk.ChangeLabel(other.annotation, {5: 9.0, 9: 5.0})
    second = ps.tune([replace(other, annotation=swapped)], {"ball": 9, "rod": 5}, backbone, start=first, settings=BRIEF)
    before = first.strokes[0].unpack([5, 9])
    assert np.array_equal(second.strokes[0].unpack([9, 5]), before)
    result = sitk.GetArrayFromImage(ps.segment(second, shown.image, backbone).labels)
    assert (result[before == 1] == 9).all() and (result[before == 2] == 5).all()


def test_a_value_that_was_given_up_brings_no_strokes_to_its_next_class(backbone):
    ball = ps.tune([example()], {"ball": 5}, backbone, settings=BRIEF)
    both = ps.tune([example()], {"rod": 9}, backbone, start=ball, settings=BRIEF)
    second = ps.tune([example(seed=1)], {"tube": 9}, backbone, start=both.only(["ball"]), settings=BRIEF)
    old, new = (each.unpack([5, 9]) for each in second.strokes)
    assert (old == 1).any() and not (old == 2).any() and (new == 2).any()


@pytest.mark.parametrize("earlier", [5, [3, {"steps": 2}], "text"])
def test_a_strange_history_loses_no_tuning(backbone, earlier):
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    strange = {key: {**record, "earlier": earlier} for key, record in first.tuning.items()}
    second = ps.tune([example()], CLASSES, backbone, start=replace(first, tuning=strange), settings=BRIEF)
    (record,) = second.tuning.values()
    assert [each["steps"] for each in record["earlier"]] == ([2] if isinstance(earlier, list) else []) + [BRIEF.steps]


def test_strokes_never_push_a_file_over_its_size(backbone):
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    labels = np.full((100, 200, 200), -1, np.int16)
    labels.flat[np.random.default_rng(0).choice(labels.size, 38_000, replace=False)] = 1
    one = Strokes.pack("0" * 64, labels, [CLASSES["ball"]])
    assert len(one.data) > 40_000
    heavy = tuple(replace(one, image=f"{index:064d}") for index in range(6))
    again = ps.tune([example()], CLASSES, backbone, start=replace(first, strokes=heavy), settings=BRIEF)
    assert len(again.to_bytes()) <= 2 * MAX_BYTES_PER_CLASS
    assert len(again.strokes) == 7 and again.outside
    within = Prompts.from_bytes(again.to_bytes())
    assert within.strokes[-1].image == first.strokes[0].image  # the newest stay
    assert 1 < len(within.strokes) < 7 and len(within.strokes) + len(within.missing) == 7


def test_previews_come_before_the_first_step_and_on_the_way(backbone):
    previews = []
    tuned = ps.tune(
        [example()], CLASSES, backbone, settings=BRIEF, options=ps.TuningOptions(on_preview=previews.append)
    )
    assert len(previews) >= 2
    assert (previews[0].tuning["0"]["token_steps"], previews[0].tuning["0"]["steps"]) == (0, 0)
    assert previews[1].tuning["0"]["token_steps"] == BRIEF.token_steps
    steps = [each.tuning["0"]["steps"] for each in previews]
    assert steps == sorted(steps) and steps[-1] <= BRIEF.steps
    # Looking changes nothing.
    alone = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    for name in CLASSES:
        for key, array in tuned.find(name).tensors.items():
            assert np.array_equal(array, alone.find(name).tensors[key])
    assert ps.segment(previews[0], example().image, backbone).classes


def test_several_volumes_on_different_grids(backbone):
    turned = (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    examples = [example(), replace(example(spacing=(1.5, 2.5, 4.0), direction=turned, seed=1), name="turned")]
    prompts = ps.tune(examples, CLASSES, backbone, settings=BRIEF)
    assert [each["name"] for each in prompts.tuning["0"]["examples"]] == ["image", "turned"]
    assert len(prompts.strokes) == 2


def test_a_class_of_another_kind_of_image_leaves_how_the_others_are_read(backbone):
    """What a model ships says of no image that it was tuned on: every image is read by its own rule."""
    ct, mr = example(), replace(example(seed=1), name="MR")
    ct.image.SetMetaData(MODALITY, "CT")
    mr.image.SetMetaData(MODALITY, "MR")
    first = replace(ps.tune([ct], {"ball": 5}, backbone, settings=BRIEF), intensity=None)
    second = ps.tune([mr], {"rod": 9}, backbone, start=first, settings=BRIEF)
    arrays = [
        sitk.GetArrayFromImage(ps.segment(each, ct.image, backbone, classes=["ball"]).labels)
        for each in (replace(first, strokes=()), replace(second, strokes=()))
    ]
    assert np.array_equal(*arrays)
    # An image is read alike when it is learned from and when it is segmented.
    read = read_examples([mr, ct], {"rod": 9}, PREPROCESSING, first, FeatureCache(0), False, ProgressHandle())
    for each, volume in zip((mr, ct), read.volumes):
        assert np.array_equal(Volume.of(each.image, PREPROCESSING, second.intensity).array, volume.array)
    # Where no class is left, the new image decides, as in a first tuning.
    again = ps.tune([mr], {"ball": 5}, backbone, start=first, settings=BRIEF)
    assert again.intensity.kind == "percentile"


def test_cancelling_raises_and_reports_progress(backbone):
    seen = []

    def stop_when_tuning() -> bool:
        return bool(seen) and seen[-1].stage == "tuning"

    with pytest.raises(ps.Cancelled):
        ps.tune([example()], CLASSES, backbone, settings=BRIEF, job=ProgressHandle(seen.append, stop_when_tuning))
    shares = [report.share for report in seen]
    assert shares == sorted(shares) and "loss" in seen[-1].figures and "agreement" in seen[-1].figures


def test_a_budget_in_seconds_is_kept_in_steps(backbone, monkeypatch):
    monkeypatch.setattr(time, "monotonic", time.process_time)  # seconds that others have the processor do not count
    assert ps.tune([example()], CLASSES, backbone, settings=ps.Settings(seconds=2)).tuning["0"]["steps"] > 0


@pytest.mark.parametrize(
    "settings",
    [
        ps.Settings(mode="sideways"),
        ps.Settings(method="magic"),
        ps.Settings(seconds=0),
        ps.Settings(seconds=math.nan),
        ps.Settings(steps=-1),
        ps.Settings(seconds=1, steps=1),
    ],
)
def test_settings_that_make_no_sense_get_a_sentence(backbone, settings):
    with pytest.raises(ps.PromptSegError, match=r"\.$"):
        ps.tune([example()], CLASSES, backbone, settings=settings)


def test_prompts_of_another_backbone_are_refused(backbone, tmp_path):
    other = tiny_backbone(tmp_path, seed=1)
    prompts = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    with pytest.raises(ps.PromptSegError, match="tuned on the backbone 'tiny0'"):
        ps.tune([example()], CLASSES, other, start=prompts, settings=BRIEF)
    with pytest.raises(ps.PromptSegError, match="tuned on the backbone 'tiny0'"):
        ps.segment(prompts, example().image, other)


def test_unknown_voxels_teach_nothing(backbone):
    """Whatever lies under unpainted voxels of the annotation: the prompts are the same."""
    image, reference = phantom()
    strokes = painted(reference)
    ignored = sitk.GetArrayFromImage(strokes)
    ignored[0, 0, :10] = 77  # a value that is neither a class nor background
    other = sitk.GetImageFromArray(ignored)
    other.CopyInformation(strokes)
    first = ps.tune([Example(image, strokes, BACKGROUND)], CLASSES, backbone, settings=BRIEF)
    second = ps.tune([Example(image, other, BACKGROUND)], CLASSES, backbone, settings=BRIEF)
    assert same(first, second)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = class_weights(torch.bincount(labels))
    assert torch.isfinite(annotated_loss(logits, labels, weights))


def test_crops_cover_every_annotated_voxel():
    rng = np.random.default_rng(0)
    labels = np.full((60, 90, 100), -1, np.int16)
    spots = rng.integers(0, labels.shape, (40, 3))
    labels[tuple(spots.T)] = rng.integers(0, 3, len(spots))
    array = rng.normal(size=labels.shape).astype(np.float32)
    crops = cover(array, labels, (16, 32, 32), 100, rng)
    assert all(crop.image.shape == (1, 1, 16, 32, 32) for crop in crops)
    seen = sum(int((crop.labels >= 0).sum()) for crop in crops)
    assert seen >= int((labels >= 0).sum()) and len(crops) < 40
    assert len(cover(array, labels, (16, 32, 32), 5, rng)) == 5


def test_a_volume_smaller_than_a_tile_is_padded_with_unknown():
    labels = np.full((5, 9, 50), -1, np.int16)
    labels[2, 4, 25] = 1
    (crop,) = cover(np.zeros(labels.shape, np.float32), labels, (16, 32, 32), 3, np.random.default_rng(0))
    assert crop.labels.shape == (16, 32, 32) and int((crop.labels >= 0).sum()) == 1
    assert float(crop.image.min()) == -1.0


def test_a_complete_annotation_teaches_background_everywhere(backbone):
    image, reference = phantom(shape=LITTLE)
    prompts = ps.tune(
        [Example(image, reference, complete=True)], CLASSES, backbone, settings=ps.Settings(steps=30, rate=5e-3)
    )
    assert not prompts.strokes  # it is no stroke
    assert min(each["agreement"] for each in prompts.tuning["0"]["classes"].values()) > 0.7


def test_a_dense_annotation_is_thinned(backbone):
    volume = Volume.of(phantom()[0], backbone.preprocessing)
    labels = np.zeros(volume.array.shape, np.int16)
    labels[5, 5, 5] = 1
    crops = cover(volume.array, labels, backbone.tile, 4, np.random.default_rng(0))
    prompts = new_prompts(backbone.config, 1, "decoder", generator=torch.Generator().manual_seed(0))
    features, known = EncodedCrops(backbone, crops, True, ProgressHandle()).annotated_features(
        prompts, ProgressHandle()
    )
    assert len(features) == len(known) <= 4 * (2048 + 1) and int((known == 1).sum()) >= 1


def test_cached_and_recomputed_encodings_agree(backbone):
    shown = example()
    volume = Volume.of(shown.image, backbone.preprocessing)
    labels = np.full(volume.array.shape, -1, np.int16)
    labels[4:6, 10:20, 10:20] = 1
    labels[4:6, 22:26, 10:20] = 0
    crops = cover(volume.array, labels, backbone.tile, 2, np.random.default_rng(0))
    prompts = new_prompts(backbone.config, 1, "decoder", generator=torch.Generator().manual_seed(0))
    cached = EncodedCrops(backbone, crops, True, ProgressHandle()).logits(0, prompts)
    fresh = EncodedCrops(backbone, crops, False, ProgressHandle()).logits(0, prompts)
    assert torch.equal(cached, fresh)


def test_warm_start_takes_the_shipped_class_that_agrees(backbone):
    shown = example()
    volume = Volume.of(shown.image, backbone.preprocessing)
    labels = np.full(volume.array.shape, -1, np.int16)
    shipped = class_margins(backbone, replace(backbone.shipped, mode="full"), volume.array)
    labels[2:8, 8:24, 8:24] = 0
    crops = cover(volume.array, labels, backbone.tile, 2, np.random.default_rng(0))
    encoded = EncodedCrops(backbone, crops, True, ProgressHandle())
    from PromptSegLib.inference.class_margins import group_tensors
    from PromptSegLib.network.tokens import without_encoder

    group = without_encoder(group_tensors(backbone.shipped, backbone.device)[0])
    said = [encoded.logits(index, group).argmax(1) for index in range(len(encoded))]
    wanted = int(torch.bincount(torch.cat(said), minlength=4)[1:].argmax()) + 1
    encoded.labels = [(each == wanted).long() for each in said]
    assert shipped.shape[0] == 3 and int((encoded.labels[0] == 1).sum()) > 0
    warm = warm_start(
        encoded, [ClassInit()], ps.Settings(method="punet", outputs="last"), torch.Generator(), ProgressHandle()
    )
    prompts, origin = warm.prompts, warm.origin
    name = backbone.shipped.names[wanted - 1]
    assert origin == [f"the shipped class {name}"]
    lent = backbone.shipped.find(name).tensors
    assert all(np.array_equal(tensor[0].numpy(), lent[key]) for key, tensor in prompts.items())
    everywhere = warm_start(encoded, [ClassInit()], ps.Settings(method="punet"), torch.Generator(), ProgressHandle())
    assert everywhere.origin == origin
    assert everywhere.prompts.keys() == prompts.keys()  # what it knows is in the last map


@pytest.mark.parametrize("least, outputs", [(0.0, "last"), (2.0, "all")])
def test_a_new_class_gets_tokens_for_all_maps_where_the_last_does_not_tell_it_apart(
    backbone, monkeypatch, least, outputs
):
    monkeypatch.setattr(optimization, "MIN_SEPARABILITY", least)
    prompts = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    assert [outputs_of(each.tensors) for each in prompts.classes] == [outputs, outputs]
    silent = ps.tune([example()], CLASSES, backbone, settings=replace(BRIEF, token_steps=0))
    assert outputs_of(silent.classes[0].tensors) == "last"


def test_more_strokes_may_show_that_a_new_class_needs_tokens_for_all_maps(backbone, monkeypatch):
    monkeypatch.setattr(optimization, "MIN_SEPARABILITY", 0.0)
    first = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    monkeypatch.setattr(optimization, "MIN_SEPARABILITY", 2.0)
    second = ps.tune([example()], CLASSES, backbone, start=first, settings=BRIEF)
    for prompts, outputs in ((first, "last"), (second, "all")):
        assert [outputs_of(each.tensors) for each in prompts.active] == [outputs, outputs]
        assert all(each["new"] for each in prompts.tuning[str(prompts.find("ball").group)]["classes"].values())
    assert second.tuning[str(second.find("rod").group)]["classes"]["rod"]["start"] == "the given prompts"
    strange = replace(first, tuning={"0": {"classes": [1], "seed": 0}})  # a record is anybody's
    known = ps.tune([example()], CLASSES, backbone, start=strange, settings=BRIEF)
    assert [outputs_of(each.tensors) for each in known.active] == ["last", "last"]


def test_only_the_class_that_needs_them_gets_tokens_for_all_maps(backbone, monkeypatch):
    monkeypatch.setattr(optimization.Tuner, "agreement", lambda *_: [1.0, 0.5])
    prompts = ps.tune([example()], CLASSES, backbone, settings=BRIEF)
    places = [name for name in prompts.classes[0].tensors if outputs_of([name]) == "all"]
    ball, rod = (prompts.find(name).tensors for name in CLASSES)
    assert places and not any(ball[name].any() for name in places) and all(rod[name].any() for name in places)


def test_prompts_of_the_last_map_and_of_all_live_side_by_side(backbone, monkeypatch):
    monkeypatch.setattr(optimization, "MIN_SEPARABILITY", 2.0)
    first = ps.tune([example()], {"ball": 5}, backbone, settings=replace(BRIEF, outputs="last"))
    second = ps.tune([example()], {"rod": 9}, backbone, start=first, settings=BRIEF)
    assert same(first, second, ["ball"]) and len(second.groups()) == 2
    names = [set(second.find(name).tensors) for name in CLASSES]
    assert names[0] < names[1] and "output.encoder0.foreground" in names[1] - names[0]
    read = ps.Prompts.from_bytes(second.to_bytes())
    assert same(second, read)
    image, _ = phantom()
    alone = ps.segment(first, image, backbone, options=ps.SegmentationOptions(probabilities=True)).labels
    both = ps.segment(read, image, backbone, classes=["ball"]).labels
    assert np.array_equal(sitk.GetArrayFromImage(alone), sitk.GetArrayFromImage(both))
    again = ps.tune([example()], {"ball": 5}, backbone, start=read, settings=replace(BRIEF, steps=0))
    assert again.tuning[str(again.find("ball").group)]["classes"]["ball"]["start"] == "the given prompts"
    assert set(again.find("ball").tensors) == names[0]  # what it knows is in the last map
    again = ps.tune([example()], {"rod": 9}, backbone, start=again, settings=replace(BRIEF, steps=1))
    assert set(again.find("rod").tensors) == names[1]
    with pytest.raises(ps.PromptSegError, match="outputs 'some'; choose one of last, all"):
        ps.tune([example()], CLASSES, backbone, settings=ps.Settings(outputs="some"))


def test_prototypes_are_directions_of_the_features():
    generator = torch.Generator().manual_seed(0)
    centers = torch.eye(8)[:3]
    features = (centers[torch.arange(300) % 3] * 5 + 0.1 * torch.randn(300, 8, generator=generator)).contiguous()
    found = prototypes(features, 3, generator)
    assert torch.allclose(found.norm(dim=1), torch.ones(3), atol=1e-5)
    assert (found @ centers.t()).max(0).values.min() > 0.99
    assert prototypes(features[:2], 4, generator).shape == (4, 8)


def test_agreement_is_dice_on_annotated_voxels():
    labels = torch.tensor([1, 1, 1, 0, 0, 2])
    predicted = torch.tensor([1, 1, 0, 0, 1, 2])
    scores = agreement(predicted, labels, 3)
    assert scores[0] == pytest.approx(2 * 2 / (3 + 3)) and scores[1] == 1.0 and math.isnan(scores[2])

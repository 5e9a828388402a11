"""Recipes of a pretraining: what is refused and how, and which may go on with the checkpoint of another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.tiny_model import recipe_values
from PromptSegLib.errors import PromptSegError
from PromptSegLib.pretraining.recipe import Recipe

OPEN = {"case0?", *(f"case{index:02}" for index in (*range(16), 24, 25, 27, 28))}
RECIPES = Path(__file__).parents[2] / "PromptSegLib" / "pretraining" / "recipes"


@pytest.fixture
def values() -> dict:
    return {
        **recipe_values("data"),
        "network": {"channels": [16, 16, 32], "head_channels": 8},
        "preprocessing": {"spacing": [3, 2, 2], "intensity": [-100, 200]},
        "steps": 6,
    }


def loaded(values: dict, folder: Path) -> Recipe:
    path = folder / "tiny.json"
    path.write_text(json.dumps(values))
    return Recipe.load(path)


def test_bundled_recipes_load():
    benches = RECIPES.parents[2] / "Testing" / "Benchmark" / "recipes"
    assert list(RECIPES.glob("*.json")) and list(benches.glob("*.json"))
    for path in [*RECIPES.glob("*.json"), *benches.glob("*.json")]:
        recipe = Recipe.load(path)
        for source in recipe.sources:
            if "btcv" in source.folder:  # 16-19 are for tests
                named = {*(source.training or ()), *source.validation}
                assert source.training and named <= OPEN


def source_with(**changes):
    return lambda values: values["sources"][0].update(changes)


def recipe_with(**changes):
    return lambda values: values.update(changes)


@pytest.mark.parametrize(
    "change",
    [
        recipe_with(network={"widths": 3}),
        recipe_with(preprocessing={"spacing": [1, 1, 1]}),
        recipe_with(network=5),
        recipe_with(stepz=3),
        recipe_with(steps=0),
        recipe_with(minutes=3),
        recipe_with(sources=[]),
        recipe_with(sources=[3]),
        recipe_with(variant="mata"),
        recipe_with(name="a/b"),
        recipe_with(name=""),
        source_with(classes={" ": 3}),
        source_with(classes={f"class {value}": value for value in range(1, 300)}),
        recipe_with(crop=[8, 16]),
        recipe_with(small_crop=[8, 16, 0]),
        recipe_with(batch=0),
        recipe_with(foreground=1.5),
        recipe_with(clock="sun"),
        recipe_with(assignment={"temperature": 1}),
        recipe_with(assignment={"fwhm": -1}),
        source_with(image="ct.nii.gz"),
        source_with(label="{case}/{case}.nii.gz"),
        source_with(classes={"a": 1, "b": 1}),
        source_with(classes={"a": 0}),
        source_with(classes={}),
        source_with(unused_values=[5]),
        source_with(missing="maybe"),
        source_with(absent=["ball"]),
        source_with(absent=["nobody's"]),
        source_with(weight=0),
        source_with(training=["case2"]),
        source_with(folders="x"),
    ],
)
def test_a_recipe_that_is_wrong_gets_a_sentence(values, tmp_path, change):
    change(values)
    with pytest.raises(PromptSegError, match=r"\.$"):
        loaded(values, tmp_path)


@pytest.mark.parametrize("text", ["[]", "{", '{"name": "x"}'])
def test_what_is_no_recipe_gets_a_sentence(tmp_path, text):
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(PromptSegError, match=r"\.$"):
        Recipe.load(tmp_path / "recipe.json")


@pytest.mark.parametrize(
    "change, said",
    [
        (recipe_with(steps=-5), '"steps" must not be below 0'),
        (recipe_with(steps=0, minutes=-1), '"minutes" must not be below 0'),
        (recipe_with(steps="6"), '"steps" must be a whole number'),
        (recipe_with(steps=2.5), '"steps" must be a whole number'),
        (recipe_with(steps=True), '"steps" must be a whole number'),
        (recipe_with(seed=-1), '"seed" must not be below 0'),
        (recipe_with(seed=10**400), '"seed" must be a whole number'),
        (recipe_with(weight_decay=-1), '"weight_decay" must not be below 0'),
        (recipe_with(weight_decay=float("nan")), '"weight_decay" must be a finite number'),
        (recipe_with(body_rate=float("inf")), '"body_rate" must be a finite number'),
        (recipe_with(instructed="false"), '"instructed" must be true or false'),
        (recipe_with(start=3), '"start" must be a text'),
        (recipe_with(card=None), '"card" must be a text'),
        (recipe_with(name=None), '"name" must be a text'),
        (recipe_with(crop=[8.0, 16, 16]), '"crop" must be a list of 3 whole numbers'),
        (recipe_with(sources={"a": 1}), '"sources" must be a list of objects'),
        (recipe_with(preprocessing=None), 'settings of "preprocessing" must be an object'),
        (recipe_with(preprocessing={"spacing": [3, 2, 2]}), "'intensity' is missing"),
        (recipe_with(preprocessing={"spacing": [3, 2, 2], "intensity": [0, 1], "rules": "percentile"}), "rules"),
        (recipe_with(assignment={"fwhm": "wide"}), '"fwhm" of "assignment" must be a finite number'),
        (lambda values: values.pop("title"), '"title" is missing'),
        (source_with(folder=None), '"folder" of the source phantoms must be a text'),
        (source_with(image=3), '"image" of the source phantoms must be a text'),
        (source_with(image=None), "phantoms has label maps without images"),
        (source_with(licence=None), '"licence" of the source phantoms must be a text'),
        (source_with(modality=3), '"modality" of the source phantoms must be a text'),
        (source_with(name=None), '"name" of a source must be a text'),
        (source_with(name=" "), "name of a source is empty"),
        (source_with(validation=None), '"validation" of the source phantoms must be a list of texts'),
        (source_with(training=[0]), '"training" of the source phantoms must be a list of texts'),
        (source_with(training="case*"), '"training" of the source phantoms must be a list of texts'),
        (source_with(classes={"ball": 5.0}), '"classes" of the source phantoms must be an object of names and whole'),
        (source_with(weight=float("inf")), '"weight" of the source phantoms must be a finite number'),
        (source_with(unused_values=["77"]), '"unused_values" of the source phantoms must be a list of whole numbers'),
    ],
)
def test_a_setting_of_another_type_is_named(values, tmp_path, change, said):
    change(values)
    with pytest.raises(PromptSegError) as error:
        loaded(values, tmp_path)
    assert said in str(error.value) and "Traceback" not in str(error.value)


def test_a_recipe_may_begin_with_a_byte_order_mark(values, tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(values), encoding="utf-8-sig")
    assert Recipe.load(tmp_path / "tiny.json") == loaded(values, tmp_path)


@pytest.mark.parametrize(
    "change, names",
    [
        (recipe_with(steps=9, title="New", card="New.", name="new", validations=7, cache_gib=1), []),
        (source_with(folder="elsewhere", licence="ours", modality="MR"), []),
        (recipe_with(steps=0, minutes=3), ["steps", "minutes"]),
        (recipe_with(batch=4, seed=5), ["batch", "seed"]),
        (recipe_with(variant="self", instructed=False), ["variant", "instructed"]),
        (recipe_with(preprocessing={"spacing": [6, 4, 4], "intensity": [-100, 200]}), ["preprocessing.spacing"]),
        (recipe_with(network={"channels": [16, 16, 64], "head_channels": 8}), ["network.channels"]),
        (source_with(classes={"ball": 9, "rod": 5}), ["sources.phantoms.classes"]),
        (source_with(training=["case1"]), ["sources.phantoms.training"]),
        (source_with(name="other"), ["sources"]),
    ],
)
def test_a_resumed_run_keeps_its_settings(values, tmp_path, change, names):
    earlier = json.loads(json.dumps(loaded(values, tmp_path).to_dict()))
    for newer in ("contrast", "seed"):  # as if written by a version without them
        del earlier[newer]
    del earlier["network"]["window"], earlier["sources"][0]["weight"]
    change(values)
    assert sorted(loaded(values, tmp_path).differences(earlier)) == sorted(names)

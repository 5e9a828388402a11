"""The benchmark of novel structures: phantoms are what they claim, and every figure is what was counted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from harness.tiny_model import CLASSES, painted, phantom, tiny_backbone
from PromptSegLib import growing
from PromptSegLib.errors import PromptSegError
from PromptSegLib.pretraining.growing.recipe import Recipe
from PromptSegLib.pretraining.growing.volumes import find_files

pytestmark = pytest.mark.training

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
SETS = [
    ("vessel", (32, 64, 64)),
    ("sheet", (32, 48, 48)),
    ("joint", (48, 64, 64)),
    ("teeth", (104, 48, 176)),
    ("thirty", (48, 72, 72)),
    ("small_numbers", (24, 64, 64)),
    ("thick_slices", (12, 96, 96)),
]


def arrays(made) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, int]]:
    """Image, labels, spacing (z, y, x) and classes."""
    (image, labels), classes = made
    assert image.GetSpacing() == labels.GetSpacing() and image.GetSize() == labels.GetSize()
    spacing = np.asarray(image.GetSpacing()[::-1])
    return sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(labels), spacing, classes


@pytest.mark.parametrize("name,shape", SETS)
def test_phantoms(benchmark_module, name, shape):
    make = benchmark_module("phantoms").PHANTOMS[name]
    image, labels, _, classes = arrays(make(3, shape))
    again, same, _, _ = arrays(make(3, shape))
    other, _, _, _ = arrays(make(4, shape))
    assert (image == again).all() and (labels == same).all() and (image != other).any()
    assert np.isfinite(image).all() and set(np.unique(labels)) <= {0, *classes.values()}
    for value in classes.values():
        if name != "thirty" or (labels == value).any():  # in so small a body not every compartment has room
            inside = image[labels == value]
            assert 0 < len(inside) < 0.7 * labels.size
            assert inside.std() > 0 and (image[labels == 0] > np.percentile(inside, 2)).any()  # something is alike


def test_the_vessel_is_two_millimeters_wide(benchmark_module):
    _, labels, spacing, _ = arrays(benchmark_module("phantoms").vessel(0, (96, 80, 80)))
    assert spacing.tolist() == [0.5, 0.5, 0.5]
    middle = ndimage.distance_transform_edt(np.pad(labels, 1), sampling=spacing)
    per_slice = middle.max((1, 2))
    per_slice = per_slice[per_slice > 0][3:-3]  # not at its round ends
    # The middle of the tube is 1 mm from its wall; a voxel's middle lies up to half a voxel's diagonal from either.
    assert np.all(np.abs(per_slice - 1.0) < 0.45) and abs(np.median(per_slice) - 1.0) <= 0.26
    assert ndimage.label(labels, np.ones((3, 3, 3)))[1] == 1


def test_the_sheet_is_one_voxel_thick(benchmark_module):
    image, labels, spacing, _ = arrays(benchmark_module("phantoms").sheet(0, (64, 64, 64)))
    assert spacing.tolist() == [0.5, 0.5, 0.5]
    assert set(np.unique(labels.sum(2))) == {0, 1} and labels.sum() > 1000
    z, y, x = np.nonzero(labels)
    assert image[z, y, x].mean() > image[z, y, x - 3].mean() + 40  # it stands out from what lies before it


def test_the_joint_space_is_two_millimeters(benchmark_module):
    _, labels, spacing, _ = arrays(benchmark_module("phantoms").joint(0, (96, 96, 96)))
    away = ndimage.distance_transform_edt(labels != 1, sampling=spacing)
    facing = labels == 2
    nearest = away[facing].min()
    assert 1.5 <= nearest <= 2.6  # between voxel middles, so up to a voxel more than between the surfaces
    surface = facing & (np.roll(labels, -1, 0) == 0) & (away < 8)
    inner = surface[:, 40:56, 40:56]
    assert inner.any() and np.all(away[:, 40:56, 40:56][inner] < 3.3)  # and everywhere, not at one place


def test_thirty_compartments_touch(benchmark_module):
    _, labels, _, classes = arrays(benchmark_module("phantoms").thirty(0))
    assert len(classes) == 30 and set(np.unique(labels)) == set(range(31))
    borders = {tuple(sorted(pair)) for pair in zip(labels[:, :, 1:].ravel(), labels[:, :, :-1].ravel())}
    touching = {value for pair in borders if 0 not in pair and pair[0] != pair[1] for value in pair}
    assert touching == set(range(1, 31))


def test_odd_scales(benchmark_module):
    phantoms = benchmark_module("phantoms")
    image, _, _, _ = arrays(phantoms.small_numbers(0, (24, 64, 64)))
    assert image.min() == 0 and 60 < image.max() <= 100
    _, _, spacing, _ = arrays(phantoms.thick_slices(0, (12, 96, 96)))
    assert spacing[0] / spacing[1] == 12
    image, labels, spacing, classes = arrays(phantoms.teeth(0))
    assert spacing.tolist() == [0.25, 0.25, 0.25]
    means = [image[labels == classes[name]].mean() for name in ("pulp", "dentin", "enamel")]
    assert means[0] < 700 < means[1] < 2000 < means[2]
    assert ndimage.label(labels[:48] > 0)[1] == 6  # the roots: crowns may touch


def chest() -> tuple[sitk.Image, np.ndarray]:
    """A body with two lungs of -850 HU joined by a trachea, a bowel full of gas, and where the lungs are."""
    z, y, x = np.mgrid[:60, :120, :160]
    array = np.full(z.shape, -1000.0)
    array[((y - 60) / 50.0) ** 2 + ((x - 80) / 70.0) ** 2 < 1] = 40
    truth = np.zeros(z.shape, bool)
    for middle in (45, 115):
        truth |= ((y - 60) / 28.0) ** 2 + ((x - middle) / 20.0) ** 2 + ((z - 30) / 22.0) ** 2 < 1
    array[truth] = -850
    truth[20:40, 60, 40:44] = True
    array[20:40, 60, 40:42] = 30  # a vessel
    airway = ((y - 60) ** 2 + (x - 80) ** 2 < 25) & (z > 30)
    airway |= (np.abs(z - 32) < 2) & (np.abs(y - 60) < 3) & (np.abs(x - 80) < 20)
    array[airway & ~truth] = -1000
    array[((y - 92) ** 2 + (x - 80) ** 2 < 100) & (z < 12)] = -1000
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 3.0))
    return image, truth


def test_lungs_without_airways_and_bowel(benchmark_module):
    image, truth = chest()
    labels = benchmark_module("lungs").lungs(image)
    found = sitk.GetArrayFromImage(labels) > 0
    assert labels.GetSpacing() == image.GetSpacing()
    assert not found[45:, 55:66, 75:86].any() and not found[:12, 82:103, 70:91].any()  # trachea, bowel
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.98
    assert found[20:40, 60, 40:42].all()  # vessels belong to it


def test_random_walker_on_a_coarser_grid(benchmark_module):
    pytest.importorskip("skimage")
    baselines = benchmark_module("baselines")
    image, reference = phantom()
    strokes = painted(reference)
    truth, seeds = sitk.GetArrayFromImage(reference), sitk.GetArrayFromImage(strokes)
    for most in (10**6, 6000):
        labels = baselines.random_walker(image, strokes, most_voxels=most)
        found = sitk.GetArrayFromImage(labels)
        assert labels.GetSize() == image.GetSize() and (found[seeds > 0] == seeds[seeds > 0]).all()
        for value in CLASSES.values():
            both = ((found == value) & (truth == value)).sum()
            assert 2 * both / ((found == value).sum() + (truth == value).sum()) > 0.75
    factors = baselines._thinning((20, 40, 48), np.array([3.0, 2.0, 2.0]), 6000)
    assert np.prod(-(-np.array([20, 40, 48]) // factors)) <= 6000 and factors[0] <= min(factors[1:])
    with pytest.raises(PromptSegError, match="fewer than two"):
        baselines.random_walker(image, strokes * 0)


@pytest.fixture
def novel(benchmark_module, monkeypatch):
    """The benchmark with two sets of phantoms, and methods whose result is known."""
    module, cases = benchmark_module("novel"), benchmark_module("novel_cases")
    made = []

    def case(group: str, seed: int, kind: str):
        def load():
            made.append((group, seed))
            return *phantom(seed=seed), dict(CLASSES)

        return cases.Case(group, f"seed {seed}", kind, load)

    def found(group: str):
        return lambda data: [case(group, seed, "test" if seed == 9 else "development") for seed in (0, 1, 9)]

    sets = (cases.CaseSet("near", "near set", found("near"), known=True), cases.CaseSet("far", "far set", found("far")))
    monkeypatch.setattr(cases, "SETS", sets)
    monkeypatch.setattr(module, "SETS", sets)
    seen = []

    def perfect(task, options):
        seen.append(task)
        return phantom(seed=0)[1]

    def refuses(task, options):
        raise PromptSegError("No.")

    methods = {"Grow from seeds": perfect, "shifted": lambda task, _: _shifted(phantom()[1]), "refuses": refuses}
    monkeypatch.setattr(module, "METHODS", methods)
    module.made, module.seen = made, seen
    return module


def _shifted(labels: sitk.Image) -> sitk.Image:
    moved = sitk.GetImageFromArray(np.roll(sitk.GetArrayFromImage(labels), 2, 2))
    moved.CopyInformation(labels)
    return moved


def test_rows_are_kept_and_not_computed_again(novel, tmp_path, capsys):
    path = tmp_path / "rows.json"
    ask = ["--json", str(path), "--seeds", "0", "1", "--methods", "Grow from seeds", "shifted", "--threads", "1"]
    assert novel.main([*ask, "--sets", "near"]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert len(rows) == 2 * 2 * 2 and {row["case"] for row in rows} == {"seed 0", "seed 1"}  # no case of the test set
    assert all(row["dice"] == {"ball": 1.0, "rod": 1.0} for row in rows if row["method"] == "Grow from seeds")
    moved = [row["dice"] for row in rows if row["method"] == "shifted"]
    assert all(0.3 < dice[name] < 0.95 for dice in moved for name in CLASSES)
    assert all(0 <= value <= 1 for row in rows for value in row["surface_dice"].values())

    del novel.made[:]
    assert novel.main(ask) == 0
    assert {group for group, _ in novel.made} == {"far"}  # what is there isn't even read
    assert json.loads(path.read_text())["rows"][:8] == rows
    del novel.made[:]
    assert novel.main([*ask[:-4], "Grow from seeds", "--again", "--sets", "far"]) == 0
    assert {group for group, _ in novel.made} == {"far"}  # only what was said to have changed
    assert len(json.loads(path.read_text())["rows"]) == 16
    said = capsys.readouterr().out
    assert "| near set | 1.000 |" in said and "| far set | 1.000 |" in said


def test_every_method_gets_the_same_strokes(novel, tmp_path):
    novel.METHODS["second"] = novel.METHODS["Grow from seeds"]
    assert novel.main(["--sets", "near", "--seeds", "0", "1", "--methods", "Grow from seeds", "second"]) == 0
    strokes = [sitk.GetArrayFromImage(task.strokes) for task in novel.seen]
    assert all((strokes[n] == strokes[n + 1]).all() for n in range(0, 8, 2))
    assert (strokes[0] != strokes[2]).any()  # another seed
    assert all(set(task.classes) == {"structure 5", "structure 9"} and task.hide for task in novel.seen)


def test_the_test_set_is_opened_on_request_only(novel):
    assert novel.main(["--sets", "far", "--seeds", "0", "--methods", "shifted", "--test"]) == 0
    assert novel.made == [("far", 9)]


def test_corrections_follow_the_result(novel, tmp_path):
    path = tmp_path / "rows.json"
    ask = ["--sets", "near", "--cases-per-set", "1", "--seeds", "0", "--methods", "seen", "--json", str(path)]
    reference = phantom()[1]

    def seen(task, options):
        novel.seen.append(task)
        return _shifted(reference)

    novel.METHODS["seen"] = seen
    assert novel.main([*ask, "--rounds", "2"]) == 0
    counts = [int((sitk.GetArrayFromImage(task.strokes) > 0).sum()) for task in novel.seen]
    assert counts[0] < counts[1] < counts[2]
    last = sitk.GetArrayFromImage(novel.seen[2].strokes)
    added = (last > 0) & (sitk.GetArrayFromImage(novel.seen[0].strokes) == 0)
    truth = sitk.GetArrayFromImage(reference)
    assert (np.where(truth > 0, truth, novel.BACKGROUND)[added] == last[added]).all()
    assert [row["round"] for row in json.loads(path.read_text())["rows"]] == [0, 1, 2]


def test_paintings(novel):
    reference = phantom()[1]
    count = {}
    for painting in novel.PAINTINGS:
        array = sitk.GetArrayFromImage(novel.paint(reference, CLASSES, painting, 0))
        assert (array == novel.BACKGROUND).any()
        count[painting] = [len(np.unique(np.nonzero(array == value)[0])) for value in CLASSES.values()]
        if painting == "one voxel":
            assert all((array == value).sum() == 1 for value in CLASSES.values())
    assert count == {"three slices": [3, 3], "one slice": [1, 1], "one voxel": [1, 1]}


def test_refusals_count_as_nothing_found(novel, tmp_path, capsys):
    path = tmp_path / "rows.json"
    ask = ["--sets", "near", "--seeds", "0", "--methods", "Grow from seeds", "refuses", "--json", str(path)]
    assert novel.main(ask) == 0
    rows = [row for row in json.loads(path.read_text())["rows"] if row["method"] == "refuses"]
    assert all(row["refused"] == "No." and row["dice"] == {"ball": 0.0, "rod": 0.0} for row in rows)
    assert "2 refusals" in capsys.readouterr().out
    assert novel.main(["--sets", "nothing"]) == 2
    assert "There is no set 'nothing'" in capsys.readouterr().out


def test_table(benchmark_module):
    module = benchmark_module("novel_table")

    def row(group, case, method, *dice):
        same = {"painting": "three slices", "round": 0, "seed": 0, "budget": None, "seconds": 2.0}
        return {**same, "set": group, "case": case, "method": method, "dice": dict(zip("ab", dice))}

    rows = [
        row("one", "x", "Grow from seeds", 0.5, 0.7),
        row("one", "y", "Grow from seeds", 0.8, None),
        row("two", "z", "Grow from seeds", 0.4),
        row("one", "x", "other", 0.9, 0.9),
        row("one", "y", "other", 0.6, None),
        row("one", "not by the other", "Grow from seeds", 0.0, 0.0),
    ]
    lines = module.table(rows, {"two": "Two", "one": "One", "three": "Three"}).splitlines()
    assert lines[0] == "| set | Grow from seeds | other |"
    assert lines[2:6] == [
        "| Two | 0.400 | - |",
        "| One | 0.700 | 0.750 |",
        "| **mean over sets** | **0.550** | **0.750** (1 of 2) |",
        "| worst set against Grow from seeds | - | +0.050 (one) |",
    ]
    assert lines[6] == "| worst case against Grow from seeds | - | -0.200 (one y) |"
    tuned = {**row("one", "x", "tuned", 0.2), "budget": 30.0}
    both = module.table([tuned, {**tuned, "budget": 60.0}], {"one": "One"})
    assert both.startswith("| set | tuned, 30 s | tuned, 60 s |") and "tuning 30 s; tuning 60 s" in both
    assert module.table([], {}) == "Nothing has been computed yet."


def test_halves_of_the_reserved_cases(benchmark_module, tmp_path):
    """What is trained on, developed on and tested on are three things."""
    cases = benchmark_module("novel_cases")
    (tmp_path / "spine").mkdir()
    (tmp_path / "torso").mkdir()
    for number in range(1, 9):
        (tmp_path / "spine" / f"t1_{number:02d}_mr.nii.gz").touch()
    for name in "abcd":
        (tmp_path / "torso" / f"{name}_ct.nii.gz").touch()
    spine, torso = cases.chosen(["lungs", "spine_t1"])
    assert [case.name for case in spine.cases(tmp_path)] == ["t1_04_mr", "t1_05_mr", "t1_06_mr"]
    assert [case.name for case in spine.cases(tmp_path, test=True)] == ["t1_07_mr", "t1_08_mr"]
    assert [case.name for case in torso.cases(tmp_path)] == ["a_ct", "c_ct"]
    names = {path.name.partition(".")[0] for path in cases.reserved(tmp_path)}
    assert names == {"t1_04_mr", "t1_05_mr", "t1_06_mr", "t1_07_mr", "t1_08_mr", "a_ct", "b_ct", "c_ct", "d_ct"}


def test_other_guises_of_a_case(benchmark_module):
    cases = benchmark_module("novel_cases")
    image, reference = phantom()
    mouse, small, _ = cases._as_mouse((sitk.Image(image), sitk.Image(reference), CLASSES))
    assert np.allclose(np.array(mouse.GetSpacing()) * 10, image.GetSpacing())
    assert mouse.GetSpacing() == small.GetSpacing() and mouse.GetOrigin() == small.GetOrigin()
    hundred = sitk.GetArrayFromImage(cases._to_hundred((image, reference, CLASSES))[0])
    assert hundred.min() == 0 and hundred.max() == 100 and (hundred == hundred.round()).all()


@pytest.mark.parametrize("hide", [False, True])
def test_promptseg_is_tuned_once_for_its_parts(benchmark_module, tmp_path, monkeypatch, hide):
    """And without the prompts that the backbone ships, where it was taught the structures."""
    import PromptSegLib as ps

    novel = benchmark_module("novel")
    tiny_backbone(tmp_path, shipped=True)
    image, reference = phantom()
    asked, tune = [], ps.tune

    def counted(examples, classes, backbone, settings):
        asked.append(backbone)
        return tune(examples, classes, backbone, settings=ps.Settings(steps=1, token_steps=1))

    monkeypatch.setattr(ps, "tune", counted)
    options = novel.Options(model=str(tmp_path / "tiny0.safetensors"))
    task = novel.Task(image, painted(reference), {"structure 5": 5, "structure 9": 9}, hide)
    found = {}
    for name in novel.TUNING:
        found[name] = sitk.GetArrayFromImage(novel.METHODS[name](task, options))
        assert found[name].shape == sitk.GetArrayFromImage(image).shape and set(np.unique(found[name])) <= {0, 5, 9}
    assert len(asked) == 1 and (asked[0].shipped is None) == hide
    assert (found[novel.TUNING[0]] != found[novel.TUNING[1]]).any()  # only the second one is grown from the strokes
    assert task.kept["seconds"] > 0


@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs real volumes in {DATA}")
def test_real_sets(benchmark_module):
    """Every set has cases of either kind, none of them of both, and what is loaded can be painted."""
    cases = benchmark_module("novel_cases")
    for each in cases.SETS:
        ours, theirs = ({case.name for case in each.cases(DATA, test)} for test in (False, True))
        assert ours and (theirs or each.name == "abdomen_mr") and not ours & theirs
    taught = {path.name for path in cases.reserved(DATA)}
    assert not taught & {f"case{number:02d}_ct.nii.gz" for number in range(12)} and "case12_ct.nii.gz" in taught
    assert len([name for name in taught if name.startswith("hippocampus")]) == 20
    image, reference, classes = cases.chosen(["hippocampus"])[0].cases(DATA)[0].load()
    assert image.GetSize() == reference.GetSize() and classes == {"anterior": 1, "posterior": 2}


def test_a_network_is_left_without_all_that_shows_a_kind(benchmark_module):
    """Neither its sets nor label maps of the same structures: a brain's map shows a hippocampus."""
    unseen, whole = benchmark_module("unseen"), json.loads(benchmark_module("unseen").RECIPE.read_text())
    sets = {each.name for each in benchmark_module("novel_cases").SETS}
    for kind in unseen.KINDS:
        recipe = unseen.recipe_without(kind, 7)
        left = {source["name"] for source in recipe["sources"]}
        assert left == {source["name"] for source in whole["sources"]} - set(kind.sources) and set(kind.sets) <= sets
        assert len(left) == len(whole["sources"]) - len(kind.sources) and recipe["start"] is None
        maps = next(source for source in recipe["sources"] if source["name"] == "label maps")
        assert set(kind.maps) <= set(maps["held_out"]) and (recipe["steps"], recipe["minutes"]) == (7, 0)


def test_networks_are_trained_and_measured_on_the_kind_they_never_saw(benchmark_module, tmp_path, monkeypatch, capsys):
    """Each on its own sets, beside the shipped one; a network that is there is not trained again."""
    unseen, made = benchmark_module("unseen"), []

    def train(recipe, folder, log):
        assert json.loads(recipe.read_text())["steps"] == 3
        folder.mkdir()
        (folder / f"{recipe.stem}.safetensors").write_bytes(b"")
        made.append(recipe.stem)

    monkeypatch.setattr("PromptSegLib.pretraining.growing.run.train", train)
    monkeypatch.setattr(unseen, "load_growing", lambda path: path.stem)
    monkeypatch.setattr(unseen, "grown", lambda task, network: task.strokes * int(network == "sharp"))
    monkeypatch.setitem(unseen.METHODS, "learned growing", lambda task, options: task.strokes)
    monkeypatch.setattr(unseen, "KINDS", [unseen.Kind(name, (), (), ("joint",)) for name in ("sharp",)])
    words = [str(tmp_path), "--steps", "3", "--seeds", "0", "--cases-per-set", "1"]
    assert unseen.main(words) == 0 and unseen.main(words) == 0 and made == ["sharp"]
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["Grow from seeds", unseen.UNSEEN, "learned growing"]
    assert rows[1]["dice"] == rows[2]["dice"] != rows[0]["dice"]
    assert "kind left out" in capsys.readouterr().out
    monkeypatch.setattr(unseen, "KINDS", [unseen.Kind("none", (), (), ("no such set",))])
    assert unseen.main([str(tmp_path), "--steps", "3"]) == 2


def test_the_growing_network_learned_from_no_case_of_the_benchmark(benchmark_module):
    recipe = Recipe.load(Path(growing.__file__).parent / "recipes" / "growing.json")
    if not DATA.is_dir():
        pytest.skip(f"there is no folder {DATA}")
    kept_back = {path.name for path in benchmark_module("novel_cases").reserved(DATA)}
    learned = set()
    for source in recipe.sources:
        here = replace(source, folder=str(DATA / Path(source.folder).name))
        learned |= {image.name for _, image, _ in find_files(here) if image is not None}
    assert len(learned) > 200 and not learned & kept_back

"""Images of a pretraining: which files are cases, what is refused or skipped, what labels say, which case is drawn."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from torch.utils.data import DataLoader, Dataset

from harness.tiny_model import CLASSES, PREPROCESSING, phantom
from PromptSegLib.errors import PromptSegError
from PromptSegLib.pretraining.cases import Cases, read_case
from PromptSegLib.pretraining.checking import check_cases
from PromptSegLib.pretraining.finding import CaseFile, find_cases
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.source import Source

SMALL = {"shape": (8, 12, 12)}


def source(folder: Path, name: str = "ct", **settings) -> Source:
    values = {"image": "{case}_ct.nii.gz", "label": "{case}_label.nii.gz", "classes": dict(CLASSES), **settings}
    return Source.from_dict({"name": name, "folder": str(folder), "modality": "CT", "licence": "none", **values})


def recipe(*sources: Source, **settings) -> Recipe:
    return Recipe("tiny", "Tiny", "A phantom.", sources, steps=1, preprocessing=PREPROCESSING, **settings)


def write(folder: Path, *names: str, image="{}_ct.nii.gz", label="{}_label.nii.gz", **keywords) -> None:
    for seed, name in enumerate(names):
        pair = phantom(seed=seed, **keywords)
        for each, pattern in zip(pair, (image, label)):
            if pattern:
                path = folder / pattern.format(name)
                path.parent.mkdir(parents=True, exist_ok=True)
                sitk.WriteImage(each, str(path), True)


def relabel(path: Path, changes: dict[int, int]) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    changed = array.copy()
    for old, new in changes.items():
        changed[array == old] = new
    result = sitk.GetImageFromArray(changed)
    result.CopyInformation(image)
    sitk.WriteImage(result, str(path), True)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def names(files: list[CaseFile]) -> list[str]:
    return [file.name for file in files]


def never(message: str) -> None:
    raise AssertionError(f"nothing should be said, but: {message}")


def draws(cases: Cases, count: int = 40) -> list[tuple[int, str]]:
    found = [cases.draw(np.random.default_rng([7, step])) for step in range(count)]
    return [(case.source, case.name) for case in found]


def test_all_cases_or_those_named(tmp_path):
    write(tmp_path, "b", "a", "d", "c", **SMALL)
    training, validation = find_cases(recipe(source(tmp_path, validation=["c"])))
    assert (names(training), names(validation)) == (["a", "b", "d"], ["c"])
    assert training[0] == CaseFile(0, "a", tmp_path / "a_ct.nii.gz", tmp_path / "a_label.nii.gz")
    training, validation = find_cases(recipe(source(tmp_path, training=["d", "a"], validation=["c"])))
    assert (names(training), names(validation)) == (["d", "a"], ["c"])


@pytest.mark.parametrize(
    "image, label",
    [
        ("{}/ct.nii.gz", "{}/label.nii.gz"),
        ("images/{}.nii.gz", "labels/{}.nii.gz"),
        ("{}.nii.gz", "{}_label.nii.gz"),
        ("{}.nii.gz", "label_{}.nii.gz"),
        ("{}_ct.nii.gz", "{}.nii.gz"),
        ("[{}](1)+.nii.gz", "*{}?.nii.gz"),
    ],
)
def test_patterns_find_images_and_no_labels(tmp_path, image, label):
    write(tmp_path, "one", "two", image=image, label=label, **SMALL)
    (tmp_path / "notes.txt").write_text("")
    if "/" not in image:
        (tmp_path / "._one_ct.nii.gz").write_text("left by macOS")
    patterns = {"image": image.replace("{}", "{case}"), "label": label.replace("{}", "{case}")}
    training, _ = find_cases(recipe(source(tmp_path, **patterns)))
    assert names(training) == ["one", "two"]
    assert [file.label for file in training] == [tmp_path / label.format(name) for name in ("one", "two")]


def test_label_without_image_is_no_case(tmp_path):
    write(tmp_path, "one", image="{}.nii.gz", **SMALL)
    write(tmp_path, "two", image="", **SMALL)
    assert names(find_cases(recipe(source(tmp_path, image="{case}.nii.gz")))[0]) == ["one"]


def test_case_without_label_file_is_unlabeled(tmp_path):
    write(tmp_path, "a", **SMALL)
    write(tmp_path, "b", label="", **SMALL)
    training, _ = find_cases(recipe(source(tmp_path)))
    assert [file.label is None for file in training] == [False, True]


def test_refuses_what_cannot_be_found(tmp_path):
    def refused(*sources: Source) -> str:
        with pytest.raises(PromptSegError) as error:
            find_cases(recipe(*sources))
        return str(error.value)

    assert "no folder" in refused(source(tmp_path / "nowhere"))
    assert "holds no image '{case}_ct.nii.gz'" in refused(source(tmp_path))
    assert "relative" in refused(source(tmp_path, image="/tmp/{case}.nii"))
    write(tmp_path, "a", "b", **SMALL)
    assert "no image of z" in refused(source(tmp_path, training=["a", "z"]))
    assert "no image of y" in refused(source(tmp_path, validation=["y"]))
    assert "train on" in refused(source(tmp_path, validation=["a", "b"]))
    (tmp_path / "link").symlink_to(tmp_path)
    twice = refused(source(tmp_path, validation=["a"]), source(tmp_path / "link", "other"))
    assert "ct/a for validation and other/a for training" in twice


def test_classes_of_two_sources(tmp_path):
    write(tmp_path / "ct", "a")
    write(tmp_path / "mr", "a", image="{}_t1.nii.gz")
    relabel(tmp_path / "mr" / "a_label.nii.gz", {CLASSES["ball"]: 1, CLASSES["rod"]: 3})
    described = recipe(
        source(tmp_path / "ct"),
        source(tmp_path / "mr", "mr", image="{case}_t1.nii.gz", classes={"core": 1, "rod": 3}, absent=["ball"]),
    )
    assert described.class_names == ("ball", "rod", "core")
    files, _ = find_cases(described)
    assert [file.source for file in files] == [0, 1]
    assert check_cases(described, files, never) == (files, {})
    ct, mr = (read_case(described, file) for file in files)
    assert ct.known.tolist() == [True, True, False]
    assert mr.known.tolist() == [True, True, True]
    assert set(np.unique(ct.label)) == {0, 1, 2}
    assert set(np.unique(mr.label)) == {0, 2, 3}
    assert np.array_equal(mr.label, np.array([0, 3, 2])[ct.label])
    for case in (ct, mr):
        assert (case.image.dtype, case.label.dtype) == (np.float16, np.uint8)
        assert case.image.shape == case.label.shape
        assert -1 <= case.image.min() < case.image.max() <= 1
        for index, places in case.members.items():
            assert places.dtype == np.int16
            assert np.all(case.label[tuple(places.T)] == index)
            assert len(places) == (case.label == index).sum()


def test_members_are_bounded_and_reproducible(tmp_path):
    write(tmp_path, "a", shape=(40, 60, 60), spacing=(8.0, 8.0, 8.0))
    described = recipe(source(tmp_path))
    (file,), _ = find_cases(described)
    case, again = read_case(described, file), read_case(described, file)
    assert len(case.members[2]) == 20_000
    assert len(np.unique(case.members[2], axis=0)) == 20_000
    assert np.array_equal(case.members[2], again.members[2])


@pytest.mark.parametrize("missing, known", [("absent", [True, True]), ("unknown", [True, False])])
def test_class_without_a_voxel(tmp_path, missing, known):
    write(tmp_path, "a")
    relabel(tmp_path / "a_label.nii.gz", {CLASSES["rod"]: 0})
    described = recipe(source(tmp_path, missing=missing))
    case = read_case(described, find_cases(described)[0][0])
    assert case.known.tolist() == known
    assert set(case.members) == {1}


@pytest.mark.parametrize("pattern", [None, "{case}_seg.nii.gz"])
def test_unlabeled_source(tmp_path, pattern):
    write(tmp_path / "ct", "a")
    write(tmp_path / "head", "h")
    described = recipe(
        source(tmp_path / "ct"), source(tmp_path / "head", "head", label=pattern, classes={}, absent=["rod"])
    )
    files, _ = find_cases(described)
    assert check_cases(described, files, never) == (files, {})
    case = read_case(described, files[1])
    assert case.known.tolist() == [False, True]
    assert not case.label.any()
    assert not case.members


def test_undeclared_and_unused_values(tmp_path):
    write(tmp_path, "a", "b")
    relabel(tmp_path / "b_label.nii.gz", {CLASSES["rod"]: 77})
    described = recipe(source(tmp_path))
    files, _ = find_cases(described)
    with pytest.raises(PromptSegError, match=r'ct/b .*\(77\).*"classes".*"unused_values"'):
        check_cases(described, files, never)
    described = recipe(source(tmp_path, unused_values=[77], missing="unknown"))
    assert check_cases(described, files, never) == (files, {})
    assert read_case(described, files[1]).known.tolist() == [True, False]


def several(folder: Path, count: int) -> tuple[Recipe, list[CaseFile]]:
    write(folder, *(f"case{index:02}" for index in range(count)), **SMALL)
    described = recipe(source(folder))
    return described, find_cases(described)[0]


@pytest.mark.parametrize("which", ["ct", "label"])
def test_truncated_file_among_thirty_is_skipped(tmp_path, which):
    described, files = several(tmp_path, 30)
    truncate(tmp_path / f"case14_{which}.nii.gz")
    (tmp_path / f"case20_{which}.nii.gz").write_bytes(b"not at all what it should be")
    said: list[str] = []
    usable, skipped = check_cases(described, files, said.append)
    assert len(usable) == 28
    assert list(skipped) == ["ct/case14", "ct/case20"]
    assert "case14" in said[0] and "truncated" in said[0]
    assert said[-1] == "2 of 30 cases are skipped"
    cases = Cases(described, usable, never)
    assert len(cases) == 28
    assert {name for _, name in draws(cases, 300)} == {file.name for file in usable}


@pytest.mark.parametrize("gib", [8.0, 1e-9])
@pytest.mark.parametrize("which", ["ct", "label"])
def test_file_that_breaks_after_the_check_is_skipped(tmp_path, which, gib):
    described, files = several(tmp_path, 12)
    described = recipe(*described.sources, cache_gib=gib)
    usable, _ = check_cases(described, files, never)
    truncate(tmp_path / f"case04_{which}.nii.gz")
    said: list[str] = []
    cases = Cases(described, usable, said.append)
    drawn = {name for _, name in draws(cases, 60)}
    assert len(drawn) > 9 and "case04" not in drawn
    assert len(cases) == 11 and "case04" not in names(cases.files)
    assert list(cases.skipped) == ["ct/case04"]
    assert len(said) == 2 and "ct/case04 is skipped" in said[0] and said[1] == "1 of 12 cases are skipped"


def test_the_order_in_which_damage_is_found_changes_no_draw(tmp_path):
    described, files = several(tmp_path, 12)
    tight = recipe(*described.sources, cache_gib=1e-9)
    for index in (3, 4, 9):
        truncate(tmp_path / f"case{index:02}_ct.nii.gz")
    early, late = Cases(described, files, str), Cases(tight, files, str)
    assert (len(early), len(late)) == (9, 12)
    assert (early.cached, late.cached) == (12, 0)
    assert draws(early) == draws(late) == draws(late)


def test_nothing_is_left(tmp_path):
    write(tmp_path, "a", "b", **SMALL)
    described = recipe(source(tmp_path))
    files, _ = find_cases(described)
    truncate(tmp_path / "a_ct.nii.gz")
    late = Cases(recipe(*described.sources, cache_gib=1e-9), files, str)
    truncate(tmp_path / "b_ct.nii.gz")
    with pytest.raises(PromptSegError, match="None of the 2 cases can be read"):
        late.draw(np.random.default_rng(0))
    with pytest.raises(PromptSegError, match="None of the 2 cases can be read"):
        Cases(described, files, str)
    with pytest.raises(PromptSegError, match="None of the 2 cases can be used.*truncated"):
        check_cases(described, files, str)
    assert check_cases(described, [], never) == ([], {})


def test_images_of_other_dimensions_are_refused(tmp_path):
    write(tmp_path, "a", "b", label="", **SMALL)
    volume = phantom(**SMALL)[0]
    sitk.WriteImage(volume[:, :, 3], str(tmp_path / "flat_ct.nii.gz"))
    sitk.WriteImage(volume[:, :, 3:4], str(tmp_path / "slice_ct.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(tmp_path / "series_ct.nii.gz"))
    sitk.WriteImage(sitk.JoinSeries([volume]), str(tmp_path / "single_ct.nii.gz"))  # 4D, but one volume

    def refused(**settings) -> str:
        described = recipe(source(tmp_path, **settings))
        with pytest.raises(PromptSegError) as error:
            check_cases(described, find_cases(described)[0], never)
        return str(error.value)

    assert "3 of 6 images are not 3D volumes (ct/flat is 2D and ct/series is 4D), others such as ct/a are" in refused()
    assert "None of the 2 images is a 3D volume (ct/flat is 2D)" in refused(training=["flat", "slice"])
    described = recipe(source(tmp_path, training=["a", "single"]))
    files, _ = find_cases(described)
    assert check_cases(described, files, never) == (files, {})
    assert len(Cases(described, files, never)) == 2


def test_image_that_is_not_usable_is_skipped(tmp_path):
    write(tmp_path, "a", "b", "c", "d", **SMALL)
    image, label = phantom(**SMALL)
    sitk.WriteImage(sitk.Compose([image, image, image]), str(tmp_path / "b_ct.nii.gz"))
    image.SetSpacing((2e3, 2e3, 3e3))
    sitk.WriteImage(image, str(tmp_path / "c_ct.nii.gz"))
    label.SetOrigin((4000.0, 12.0, 100.0))
    sitk.WriteImage(label, str(tmp_path / "d_label.nii.gz"))
    described = recipe(source(tmp_path))
    usable, skipped = check_cases(described, find_cases(described)[0], str)
    assert names(usable) == ["a"]
    assert "values per voxel" in skipped["ct/b"]
    assert "24 m long" in skipped["ct/c"]
    assert "outside its image" in skipped["ct/d"]


def test_a_file_whose_format_is_not_known(tmp_path):
    write(tmp_path, "a", **SMALL)
    (tmp_path / "a_ct.nii.gz").rename(tmp_path / "a_ct")
    described = recipe(source(tmp_path, image="{case}_ct"))
    with pytest.raises(PromptSegError, match="format of .*a_ct is not known; save the volume as"):
        check_cases(described, find_cases(described)[0], str)


def test_little_memory_gives_the_same_draws(tmp_path):
    write(tmp_path / "one", "a", "b", "c", **SMALL)
    write(tmp_path / "two", "a", "b", **SMALL)
    sources = source(tmp_path / "one"), source(tmp_path / "two", "two", weight=3.0)
    caches = {gib: Cases(recipe(*sources, cache_gib=gib), find_cases(recipe(*sources))[0], never) for gib in (1, 1e-9)}
    size = next(iter(caches.values())).draw(np.random.default_rng(0)).image.size * 3
    gib = 2.5 * size / 2**30
    caches[gib] = Cases(recipe(*sources, cache_gib=gib), find_cases(recipe(*sources))[0], never)
    assert [cases.cached for cases in caches.values()] == [5, 0, 2]
    first, second, third = (draws(cases) for cases in caches.values())
    assert first == second == third
    one, other = (cases.draw(np.random.default_rng(5)) for cases in list(caches.values())[:2])
    assert np.array_equal(one.image, other.image) and np.array_equal(one.label, other.label)
    part = caches[gib]  # those that are drawn most are kept
    kept = [part.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert len({id(case) for case in kept if case.source == 1}) == 2


def test_draws_by_weight(tmp_path):
    write(tmp_path / "one", "a", "b", "c", **SMALL)
    write(tmp_path / "two", "z", **SMALL)
    described = recipe(source(tmp_path / "one"), source(tmp_path / "two", "two", weight=3.0))
    counts = Counter(draws(Cases(described, find_cases(described)[0], never), 1200))
    assert counts[1, "z"] == pytest.approx(900, abs=60)
    for name in "abc":
        assert counts[0, name] == pytest.approx(100, abs=40)
    only = Cases(described, find_cases(described)[0][:3], never)
    assert {source for source, _ in draws(only)} == {0}


class _Drawn(Dataset):
    def __init__(self, cases: Cases):
        self.cases = cases

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[str, float]:
        case = self.cases.draw(np.random.default_rng([7, index]))
        return case.name, float(case.image.astype(np.float64).mean())


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")
@pytest.mark.parametrize("gib", [8.0, 1e-9])
def test_forked_loader_processes_draw_the_same(tmp_path, gib):
    write(tmp_path, "a", "b", "c", **SMALL)
    described = recipe(source(tmp_path), cache_gib=gib)
    cases = Cases(described, find_cases(described)[0], never)
    loader = DataLoader(_Drawn(cases), batch_size=None, num_workers=2, multiprocessing_context="fork")
    there = [(name, mean) for name, mean in loader]
    assert there == [_Drawn(cases)[index] for index in range(12)]


def test_image_and_label_meet_on_the_model_grid(tmp_path):
    write(tmp_path, "plain", "turned", "finer")
    image, label = phantom()
    # The same places in the patient, stored back to front and with other axes.
    sitk.WriteImage(sitk.Flip(image, [True, True, False]), str(tmp_path / "turned_ct.nii.gz"), True)
    sitk.WriteImage(sitk.PermuteAxes(label, [2, 0, 1]), str(tmp_path / "turned_label.nii.gz"), True)
    finer = sitk.Expand(label, [2, 2, 2], sitk.sitkNearestNeighbor)[8:90, 8:72, :]
    sitk.WriteImage(image, str(tmp_path / "finer_ct.nii.gz"), True)
    sitk.WriteImage(finer, str(tmp_path / "finer_label.nii.gz"), True)
    sitk.WriteImage(image, str(tmp_path / "plain_ct.nii.gz"), True)
    assert sitk.ReadImage(str(tmp_path / "turned_ct.nii.gz")).GetDirection()[0] == -1
    described = recipe(source(tmp_path))
    files, _ = find_cases(described)
    assert check_cases(described, files, never) == (files, {})
    read = {file.name: read_case(described, file) for file in files}
    plain = read["plain"]
    for name in ("turned", "finer"):
        assert np.abs(read[name].image.astype(float) - plain.image).max() < 2e-3
        if name == "turned":
            assert np.array_equal(read[name].label, plain.label)
        else:
            assert (read[name].label != plain.label).mean() < 0.01
    for index, bright in ((1, True), (2, False)):
        for case in read.values():
            inside = case.image[case.label == index].astype(float).mean()
            assert inside > 0.3 if bright else inside < -0.5

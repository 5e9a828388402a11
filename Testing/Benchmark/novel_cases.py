"""What is painted in the benchmark of novel structures: real sets, and phantoms made by code.

A set is a handful of cases of one kind. Half of its cases are for development (choosing settings on them is fair), the
other half are a test set, to be opened once, when everything is decided. A method that is compared here must have been
trained on none of them: ``reserved`` names the files.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Callable, Optional

import numpy as np
import SimpleITK as sitk
from lungs import lungs
from phantoms import PHANTOMS
from stand_ins import as_t2

from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.reading import read_annotation, read_image

ROOT = Path(__file__).resolve().parents[2]
BACKGROUND = 255
Volumes = tuple[sitk.Image, sitk.Image, dict[str, int]]

VERTEBRAE = {f"vertebral body {value}": value for value in range(1, 8)}
ORGANS = {
    "liver": 6,
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "aorta": 8,
    "stomach": 7,
    "pancreas": 11,
}
MR_ORGANS = {"liver": 5, "spleen": 1, "right kidney": 2, "left kidney": 3}
HEAD = {
    "brainstem": 1,
    "spinal cord": 2,
    "right parotid": 3,
    "left parotid": 4,
    "esophagus": 5,
    "larynx": 6,
    "mandible": 7,
}


@dataclass(frozen=True)
class Case:
    """An image with the reference of what is painted on it.

    :param set: name of its set.
    :param name: name within the set.
    :param kind: ``development`` or ``test``.
    :param load: image, reference and the classes (name -> value) that the reference holds; reads or makes them.
    :param path: the image's file, if it has one.
    """

    set: str
    name: str
    kind: str
    load: Callable[[], Volumes]
    path: Optional[Path] = None


@dataclass(frozen=True)
class CaseSet:
    """Cases of one kind.

    :param title: for people.
    :param known: whether the bundled backbone was taught these structures; its shipped prompts are hidden then.
    :param find: all cases, given the folder of the real data (none where it isn't there).
    """

    name: str
    title: str
    find: Callable[[Path], list[Case]]
    known: bool = False

    def cases(self, data: Path, test: bool = False) -> list[Case]:
        return [case for case in self.find(data) if (case.kind == "test") == test]


def _read(image: Path, reference: Path, classes: dict[str, int]) -> Volumes:
    """The pair, and the classes that it has: a structure that nobody contoured is not scored."""
    labels = read_annotation(reference)
    held = set(np.unique(sitk.GetArrayViewFromImage(labels)).tolist())
    return read_image(image), labels, {name: value for name, value in classes.items() if value in held}


def _pairs(
    set_name: str, folder: str, images: str, labels: Callable[[str], str], classes: dict[str, int], reserved: int
) -> Callable[[Path], list[Case]]:
    """Cases of a folder: of the ``reserved`` last in sorted order the first half is development, the rest is test."""

    def find(data: Path) -> list[Case]:
        paths = sorted((data / folder).glob(images))[-reserved:]
        cases = []
        for index, path in enumerate(paths):
            reference = path.with_name(labels(path.name))
            kind = "development" if index < (len(paths) + 1) // 2 else "test"
            load = lambda path=path, reference=reference: _read(path, reference, classes)  # noqa: E731
            cases.append(Case(set_name, path.name.partition(".")[0], kind, load, path))
        return cases

    return find


def _lungs_of(path: Path) -> Volumes:
    image = read_image(path)
    return image, lungs(image), {"lungs": 1}


def _torso(data: Path) -> list[Case]:
    """In turns, so that both halves have an abdominal and a chest CT."""
    paths = sorted((data / "torso").glob("*_ct.nii.gz"))
    kinds = ("development", "test")
    return [
        Case("lungs", path.name.partition(".")[0], kinds[index % 2], partial(_lungs_of, path), path)
        for index, path in enumerate(paths)
    ]


def _abdominal_mr(data: Path) -> list[Case]:
    """One MR that pip brings, when it is loaded; its reference is TotalSegmentator's."""

    def load() -> Volumes:
        sys.path.append(str(ROOT / "Testing" / "Demo"))
        from fetch import demo_mr

        return _read(*demo_mr(ROOT / "demo" / "data"), MR_ORGANS)

    return [Case("abdomen_mr", "example_mr_sm", "development", load)]


def _every_second(volumes: Volumes) -> Volumes:
    """In plane every second voxel, as in the README's first table."""
    image, reference, classes = volumes
    return image[::2, ::2, :], reference[::2, ::2, :], classes


def _as_mouse(volumes: Volumes) -> Volumes:
    image, reference, classes = volumes
    for each in (image, reference):
        each.SetSpacing([step / 10 for step in each.GetSpacing()])
        each.SetOrigin([place / 10 for place in each.GetOrigin()])
    return image, reference, classes


def _to_hundred(volumes: Volumes) -> Volumes:
    """Values 0..100 in whole numbers, as from an export of a viewer."""
    image, reference, classes = volumes
    scaled = sitk.RescaleIntensity(sitk.Cast(image, sitk.sitkFloat32), 0.0, 100.0)
    return sitk.Cast(sitk.Round(scaled), sitk.sitkFloat32), reference, classes


def _as_mr(volumes: Volumes) -> Volumes:
    """T2 with fat dark, in slices of 7.7 mm, of the organs that such an MR is read for."""
    image, reference, classes = volumes
    return *as_t2(image, reference), {name: classes[name] for name in MR_ORGANS if name in classes}


def _changed(set_name: str, find: Callable[[Path], list[Case]], *changes) -> Callable[[Path], list[Case]]:
    """The same cases in another guise."""

    def loader(load: Callable[[], Volumes]) -> Callable[[], Volumes]:
        def changed() -> Volumes:
            volumes = load()
            for change in changes:
                volumes = change(volumes)
            return volumes

        return changed

    return lambda data: [replace(case, set=set_name, load=loader(case.load)) for case in find(data)]


def _phantoms(name: str, each: int = 5) -> Callable[[Path], list[Case]]:
    """Seeds 0.. are for development, seeds 100.. are the test set."""

    def load(seed: int) -> Volumes:
        (image, reference), classes = PHANTOMS[name](seed)
        return image, reference, classes

    seeds = [("development", n) for n in range(each)] + [("test", 100 + n) for n in range(each)]
    return lambda data: [Case(name, f"seed {seed}", kind, partial(load, seed)) for kind, seed in seeds]


def _labeled(name: str) -> str:
    return name.replace("_ct.nii.gz", "_label.nii.gz").replace("_t1.nii.gz", "_label.nii.gz").replace("_mr.", "_label.")


def _of_itself(name: str) -> str:
    return name.replace(".nii.gz", "_label.nii.gz")


_BTCV = _pairs("btcv", "btcv", "case1[2-9]_ct.nii.gz", _labeled, ORGANS, 8)

SETS: tuple[CaseSet, ...] = (
    CaseSet("sts_ct", "sarcoma CT", _pairs("sts_ct", "sts", "*_ct.nii.gz", _of_itself, {"tumor": 1}, 7)),
    CaseSet("sts_t1", "sarcoma T1", _pairs("sts_t1", "sts", "*_t1.nii.gz", _of_itself, {"tumor": 1}, 7)),
    CaseSet(
        "hippocampus",
        "hippocampus T1",
        _pairs("hippocampus", "hippocampus", "*_t1.nii.gz", _labeled, {"anterior": 1, "posterior": 2}, 20),
    ),
    CaseSet("spine_t1", "spine T1", _pairs("spine_t1", "spine", "t1_*_mr.nii.gz", _labeled, VERTEBRAE, 5)),
    CaseSet("spine_t2", "spine T2", _pairs("spine_t2", "spine", "t2_*_mr.nii.gz", _labeled, VERTEBRAE, 3)),
    CaseSet("abdomen_mr", "abdominal MR", _abdominal_mr),
    CaseSet("mr_stand_in", "abdominal T2, stand-in", _changed("mr_stand_in", _BTCV, _as_mr)),
    CaseSet("lungs", "lungs, chest CT", _torso),
    CaseSet("btcv", "organs, hidden", _changed("btcv", _BTCV, _every_second), known=True),
    CaseSet(
        "openkbp",
        "head and neck, hidden",
        _pairs("openkbp", "openkbp", "val_*_ct.nii.gz", _labeled, HEAD, 33),
        known=True,
    ),
    CaseSet("mouse", "organs, a tenth", _changed("mouse", _BTCV, _every_second, _as_mouse), known=True),
    CaseSet("hundred", "organs, 0..100", _changed("hundred", _BTCV, _every_second, _to_hundred), known=True),
    CaseSet("vessel", "vessel of 2 mm", _phantoms("vessel")),
    CaseSet("sheet", "sheet of one voxel", _phantoms("sheet")),
    CaseSet("joint", "joint of 2 mm", _phantoms("joint")),
    CaseSet("teeth", "teeth", _phantoms("teeth")),
    CaseSet("thirty", "30 classes", _phantoms("thirty")),
    CaseSet("small_numbers", "phantom, 0..100", _phantoms("small_numbers")),
    CaseSet("thick_slices", "voxels 1:12", _phantoms("thick_slices")),
)


def reserved(data: Path) -> set[Path]:
    """The images below ``data`` that nothing may be trained on, those for development and those of the test set."""
    return {case.path for each in SETS for case in each.find(data) if case.path is not None}


def chosen(names: list[str]) -> list[CaseSet]:
    """The sets of these names, in the order of ``SETS``; all of them for an empty list.

    :raises PromptSegError: there is no such set.
    """
    known = {each.name: each for each in SETS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise PromptSegError(f"There is no set {unknown[0]!r}; there are {', '.join(known)}.")
    return [each for each in SETS if not names or each.name in names]

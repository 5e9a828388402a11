"""The benchmark of structures that the backbone does not know: the same strokes for every method, on the same image.

Usage: ``make bench-novel`` or ``python Testing/Benchmark/novel.py --json FILE [--sets sts_ct ...] [--methods ...]``.

Every row goes to the JSON as soon as it is known, and rows that are there already are not computed again. Cases are
those for development; ``--test`` opens the test set instead, once everything is decided. A new method is one function
with ``@method``; one that has changed is computed anew with ``--again``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Callable, Iterator, Optional

import numpy as np
import SimpleITK as sitk
from baselines import grow_from_seeds, random_forest, random_walker
from novel_cases import BACKGROUND, SETS, Case, CaseSet, chosen
from novel_table import table

from PromptSegLib.annotation.classes import ClassInfo
from PromptSegLib.annotation.example import Example
from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scores import score
from PromptSegLib.evaluation.scribbles import correct, scribble
from PromptSegLib.files import atomic_write
from PromptSegLib.growing.guard import Verdict

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Task:
    """One image with its strokes: what a method gets.

    :param strokes: 0 unknown, a value per class, and ``BACKGROUND``.
    :param classes: name -> value; names that no model knows.
    :param hide: whether the shipped prompts are hidden, since the backbone was taught these structures.
    """

    image: sitk.Image
    strokes: sitk.Image
    classes: dict[str, int]
    hide: bool
    kept: dict = field(default_factory=dict)  # what methods of one task share


class Options:
    """What holds for all tasks; the backbone is loaded when the first method asks for it."""

    def __init__(self, seconds: float = 30.0, threads: int = 1, model: Optional[str] = None):
        self.seconds, self.threads, self.model = seconds, threads, model

    @cached_property
    def backbone(self):
        from PromptSegLib.models.backbone import load_model

        return load_model(self.model, "cpu")

    def backbone_for(self, task: Task):
        return replace(self.backbone, shipped=None) if task.hide else self.backbone


Method = Callable[[Task, Options], sitk.Image]
METHODS: dict[str, Method] = {}
TUNING: list[str] = []  # methods that take ``--seconds``


def method(name: str, tunes: bool = False) -> Callable[[Method], Method]:
    """Register a function (task, options) -> labels on the image's grid; what is no class counts as background.

    :param tunes: whether it depends on ``options.seconds``, which then is part of its rows; if it shares ``_tuned``,
        the time of the tuning is added to its own.
    """

    def register(function: Method) -> Method:
        METHODS[name] = function
        if tunes:
            TUNING.append(name)
        return function

    return register


@method("Grow from seeds")
def _grow(task: Task, options: Options) -> sitk.Image:
    return grow_from_seeds(task.image, task.strokes)


@method("plain growing")
def _plain(task: Task, options: Options) -> sitk.Image:
    return grown(task, [Verdict.PLAIN] * len(task.classes))


@method("learned growing, unguarded")
def _learned(task: Task, options: Options) -> sitk.Image:
    return grown(task, [Verdict.LEARNED] * len(task.classes))


@method("learned growing")
def _guarded(task: Task, options: Options) -> sitk.Image:
    return grown(task)


def grown(task: Task, verdicts: Optional[list] = None, network=None) -> sitk.Image:
    """Growing without tuning and without the backbone; by the network that comes along when None."""
    from PromptSegLib.inference.stroke_regions import segment_strokes

    example = Example(task.image, task.strokes, BACKGROUND)
    infos = [ClassInfo(name, value, (1.0, 0.0, 0.0)) for name, value in task.classes.items()]
    return segment_strokes(example, infos, verdicts=verdicts, network=network).labels


@method("random walker")
def _walk(task: Task, options: Options) -> sitk.Image:
    return random_walker(task.image, task.strokes)


@method("random forest")
def _forest(task: Task, options: Options) -> sitk.Image:
    return random_forest(task.image, task.strokes, threads=options.threads, coordinates=True)


def _tuned(task: Task, options: Options):
    """Prompts tuned on the task's strokes, and the seconds that it took; once for the methods that need them."""
    if "tuned" not in task.kept:
        import PromptSegLib as ps

        began = time.perf_counter()
        example = ps.Example(task.image, task.strokes, BACKGROUND)
        settings = ps.Settings(seconds=options.seconds)
        prompts = ps.tune([example], task.classes, options.backbone_for(task), settings=settings)
        task.kept["tuned"] = prompts
        task.kept["seconds"] = time.perf_counter() - began
    return task.kept["tuned"]


@method("PromptSeg, network alone", tunes=True)
def _network(task: Task, options: Options) -> sitk.Image:
    import PromptSegLib as ps

    backbone = options.backbone_for(task)
    return ps.segment(
        _tuned(task, options), task.image, backbone, options=ps.SegmentationOptions(grow_strokes=False)
    ).labels


@method("PromptSeg", tunes=True)
def _promptseg(task: Task, options: Options) -> sitk.Image:
    import PromptSegLib as ps

    return ps.segment(_tuned(task, options), task.image, options.backbone_for(task)).labels


PAINTINGS = ("three slices", "one slice", "one voxel")


def paint(reference: sitk.Image, classes: dict[str, int], painting: str, seed: int) -> sitk.Image:
    """Strokes of a simulated user. With "one voxel", each class is a click in its stroke's middle; background is as
    for one slice."""
    number = 3 if painting == "three slices" else 1
    strokes = scribble(reference, classes, BACKGROUND, slices_per_class=number, seed=seed)
    if painting != "one voxel":
        return strokes
    array = sitk.GetArrayFromImage(strokes)
    for value in classes.values():
        places = np.argwhere(array == value)
        array[array == value] = 0
        if len(places):
            middle = places[np.linalg.norm(places - places.mean(0), axis=1).argmin()]
            array[tuple(middle)] = value
    clicks = sitk.GetImageFromArray(array)
    clicks.CopyInformation(strokes)
    return clicks


class Rows:
    """Results, kept in a JSON file as they come."""

    def __init__(self, path: Optional[Path], about: dict):
        self.path, self.about, self.rows = path, about, []
        if path is not None and path.exists():
            self.rows = json.loads(path.read_text())["rows"]

    def has(self, key: dict) -> bool:
        return any(all(row.get(name) == value for name, value in key.items()) for row in self.rows)

    def forget(self, sets: list[str], methods: list[str], kind: str) -> None:
        """Drop what these methods gave, because they have changed since."""
        self.rows = [
            row for row in self.rows if not (row["set"] in sets and row["method"] in methods and row["kind"] == kind)
        ]

    def add(self, row: dict) -> None:
        self.rows.append(row)
        if self.path is not None:
            with atomic_write(self.path) as temporary:
                temporary.write_text(json.dumps({"about": self.about, "rows": self.rows}, indent=1))


class Bench:
    """Runs the methods and keeps a row per method, case, seed and round."""

    def __init__(self, rows: Rows, options: Options, painting: str = PAINTINGS[0], rounds: int = 0):
        self.rows, self.options, self.painting, self.rounds = rows, options, painting, rounds

    def run(self, group: CaseSet, case: Case, seeds: list[int], methods: list[str]) -> None:
        """Every method on one case with the same strokes; rounds of correction follow each method's own results."""
        keys = {(seed, name): self._key(case, seed, name) for seed in seeds for name in methods}
        missing = [(seed, name) for (seed, name), key in keys.items() if not self._done(key)]
        if not missing:
            return
        try:
            image, reference, classes = case.load()
        except PromptSegError as error:  # of a download, or a file that cannot be read
            print(f"{case.set} {case.name} left out: {error}", flush=True)
            return
        for seed in dict.fromkeys(seed for seed, _ in missing):
            strokes = paint(reference, classes, self.painting, seed)
            share = float((sitk.GetArrayViewFromImage(strokes) > 0).mean())
            print(f"{case.set} {case.name} seed {seed}: {share:.2%} of the voxels painted", flush=True)
            names = {f"structure {value}": value for value in classes.values()}
            first = Task(image, strokes, names, group.known)
            for name in methods:
                if (seed, name) in missing:
                    self._rounds(keys[seed, name], first, reference, classes, share)

    def _key(self, case: Case, seed: int, name: str) -> dict:
        key = {"set": case.set, "case": case.name, "kind": case.kind, "seed": seed, "method": name}
        key["painting"] = self.painting
        key["budget"] = self.options.seconds if name in TUNING else None
        return key

    def _done(self, key: dict) -> bool:
        return all(self.rows.has({**key, "round": n}) for n in range(self.rounds + 1))

    def _rounds(self, key: dict, task: Task, reference: sitk.Image, classes: dict[str, int], share: float) -> None:
        for number in range(self.rounds + 1):
            labels, seconds, said = self._timed(key["method"], task)
            row = {**key, "round": number, "seconds": round(seconds, 2), "painted": share, **said}
            tolerance = float(np.prod(reference.GetSpacing()) ** (1 / 3))  # a voxel's edge, were it a cube
            scores = score(reference, labels, classes, tolerance)
            row["dice"] = {name: each.dice for name, each in scores.items()}
            row["surface_dice"] = {name: each.surface_dice for name, each in scores.items()}
            if not self.rows.has({**key, "round": number}):
                self.rows.add(row)
            found = [value for value in row["dice"].values() if value is not None]
            print(f"  {key['method']:38s} round {number}  {np.mean(found):.3f}  {seconds:5.1f} s", flush=True)
            if number < self.rounds:
                strokes = correct(reference, task.strokes, labels, classes, BACKGROUND, seed=key["seed"] + number)
                task = Task(task.image, strokes, task.classes, task.hide)

    def _timed(self, name: str, task: Task) -> tuple[sitk.Image, float, dict]:
        """Labels on the image's grid and the seconds they took, tuning included for every method that uses it.

        A method that refuses gives a user nothing: empty labels, and what it said.
        """
        shared = task.kept.get("seconds", 0.0)
        said = {}
        began = time.perf_counter()
        try:
            labels = METHODS[name](task, self.options)
        except PromptSegError as error:
            labels, said = sitk.Cast(task.strokes, sitk.sitkUInt8) * 0, {"refused": str(error)}
            print(f"  {name}: {error}", flush=True)
        seconds = time.perf_counter() - began
        return labels, seconds + (shared if name in TUNING else 0.0), said


def runs(sets: list[CaseSet], data: Path, test: bool, most: Optional[int]) -> Iterator[tuple[CaseSet, Case]]:
    for group in sets:
        cases = group.cases(data, test)
        if not cases:
            print(f"{group.name}: no cases in {data}, left out")
        for case in cases[:most]:
            yield group, case


def parsed(arguments: Optional[list[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", default=[], metavar="SET", help=", ".join(each.name for each in SETS))
    parser.add_argument("--cases-per-set", type=int, metavar="N", help="the first N cases of each set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seconds", type=float, default=30.0, help="budget of tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model", help="name or file (default: the bundled one)")
    parser.add_argument("--painting", default=PAINTINGS[0], choices=PAINTINGS)
    parser.add_argument("--rounds", type=int, default=0, help="corrections of one stroke each, after each result")
    parser.add_argument("--json", type=Path, help="keep every row here, and compute none that is there")
    parser.add_argument("--again", action="store_true", help="compute rows that are there anew: --methods have changed")
    parser.add_argument("--test", action="store_true", help="open the test set: once, when everything is decided")
    parser.add_argument("--table", action="store_true", help="compute nothing, only print the tables of --json")
    return parser.parse_args(arguments)


def main(arguments: Optional[list[str]] = None) -> int:
    options = parsed(arguments)
    warnings.filterwarnings("ignore", module="skimage")  # of probabilities a hair outside 0..1
    try:
        sets = chosen(options.sets)
        rows = Rows(options.json, {"machine": platform.machine(), "cores": os.cpu_count(), "threads": options.threads})
        if options.again:
            rows.forget([each.name for each in sets], options.methods, "test" if options.test else "development")
        if not options.table:
            compute(rows, sets, options)
    except PromptSegError as error:
        print(error)
        return 2
    kind = "test" if options.test else "development"
    own = [row for row in rows.rows if row["kind"] == kind and row["set"] in {each.name for each in sets}]
    print()
    print(table(own, {each.name: each.title for each in SETS}))
    return 0


def compute(rows: Rows, sets: list[CaseSet], options: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(options.threads)
    bench = Bench(rows, Options(options.seconds, options.threads, options.model), options.painting, options.rounds)
    for group, case in runs(sets, options.data, options.test, options.cases_per_set):
        bench.run(group, case, options.seeds, options.methods)


if __name__ == "__main__":
    sys.exit(main())

"""Prompts that carry to the next patient: methods and comparators, on several sets, taught by 1, 3 or 5 volumes.

Usage: ``make study``, or ``python Testing/Benchmark/study.py [--methods ...] [--sets ...] [--volumes ...] [--seeds ...]
[--seconds 110]``, then ``--table``. Complete annotations of some volumes teach; others are segmented without any
annotation, and compared with theirs on their own grid. Every method gets the same time, ``--seconds`` of one
processor from the call on, with one thread, reading excluded; segmenting is not counted. (A specialized model is
trained that long, its start not counted; it takes three volumes.) What else the machine does takes nothing away but
what caches cost. 110 s are what two idle cores do in a minute. A study that was stopped goes on: what stands in
``--out`` is not done again.

All cases are those for development: choices may be made on these figures, and BTCV 16 to 19 are not among them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any, Callable, Iterator, Optional
from unittest import mock

import SimpleITK as sitk
import torch
from protocol import segment, trained_parameters
from stand_ins import as_t2

import PromptSegLib as ps
from PromptSegLib.annotation.labels import labels_on_grid
from PromptSegLib.evaluation.scores import score
from PromptSegLib.files import atomic_write
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.models.folders import FOLDERS_VARIABLE
from PromptSegLib.network.methods.registry import offered
from PromptSegLib.progress import ProgressHandle
from PromptSegLib.specializing.adaptations import adaptation
from PromptSegLib.specializing.specialize import FEWEST
from PromptSegLib.specializing.training import Training
from PromptSegLib.tuning.settings import AUTO
from PromptSegLib.tuning.training import Annotated, RandomCrops
from PromptSegLib.tuning.working_grid import working_preprocessing

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
METHODS = (AUTO, *offered())
SPECIALIZED = "specialized model"  # what `promptseg specialize` makes, from three volumes on
COMPARATORS = ("bias", "LoRA", "decoder fine-tuning", "full fine-tuning", "DynUNet", SPECIALIZED)
IDENTITY = ("model", "method", "set", "volumes", "seed", "seconds")


@dataclass(frozen=True)
class Set:
    """Where a set's files are; which cases may teach, the first of them first, and which are segmented.

    :param guise: (image, labels) as read -> as they are used.
    """

    folder: str
    image: str
    label: str
    classes: dict[str, int]
    teach: tuple[str, ...]
    test: tuple[str, ...]
    guise: Callable[[sitk.Image, sitk.Image], tuple[sitk.Image, sitk.Image]] = lambda image, labels: (image, labels)


def _numbers(*numbers: int, pattern: str = "{:03d}") -> tuple[str, ...]:
    return tuple(pattern.format(number) for number in numbers)


ORGANS = {"liver": 6, "spleen": 1, "right kidney": 2, "left kidney": 3, "aorta": 8, "stomach": 7, "pancreas": 11}
SETS = {
    "BTCV": Set("btcv", "case{}_ct", "case{}_label", ORGANS, ("08", "09", "10", "11", "07"), ("12", "13", "14", "15")),
    "OpenKBP": Set(
        "openkbp",
        "train_pt_{}_ct",
        "train_pt_{}_label",
        {"brainstem": 1, "spinal cord": 2, "right parotid": 3, "left parotid": 4, "mandible": 7},
        ("1", "2", "3", "4", "5"),
        ("6", "7", "9", "10"),
    ),
    "sarcoma CT": Set("sts", "sts{}_ct", "sts{}_ct_label", {"tumor": 1}, _numbers(1, 2, 3, 4, 5), _numbers(6, 7, 8, 9)),
    "sarcoma T1": Set("sts", "sts{}_t1", "sts{}_t1_label", {"tumor": 1}, _numbers(1, 2, 3, 4, 5), _numbers(6, 7, 8, 9)),
    "hippocampus": Set(
        "hippocampus",
        "hippocampus_{}_t1",
        "hippocampus_{}_label",
        {"anterior": 1, "posterior": 2},
        _numbers(1, 3, 4, 6, 7),
        _numbers(8, 11, 14, 15),
    ),
    "abdominal T2": Set(
        "btcv",
        "case{}_ct",
        "case{}_label",
        {name: ORGANS[name] for name in ("liver", "spleen", "right kidney", "left kidney")},
        ("08", "09", "10", "11", "07"),
        ("12", "13", "14", "15"),
        as_t2,  # a stand-in, as no set of abdominal MR is at hand
    ),
    "spine T1": Set(
        "spine",
        "t1_{}_mr",
        "t1_{}_label",
        {f"L{number}": number for number in range(1, 6)},
        ("01", "02", "03", "04", "05"),
        ("06", "07", "08", "09"),
    ),
}


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--model", help="name or path of the backbone (default: the catalogue's first)")
    parser.add_argument("--methods", nargs="+", default=[*METHODS, *COMPARATORS], choices=[*METHODS, *COMPARATORS])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--volumes", nargs="+", type=int, default=[1, 3, 5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=110.0, help="of one processor, not by the clock")
    parser.add_argument("--out", type=Path, default=Path("study.json"))
    parser.add_argument("--table", action="store_true", help="print what there is, do nothing")
    options = parser.parse_args(arguments)
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    if options.table:
        print(table(rows))
        return 0
    if not options.data.is_dir():
        print(f"There is no folder {options.data}; the study needs the sets as shared/data/README.md describes them.")
        return 2
    torch.set_num_threads(1)
    with processor_time():
        run(options, rows)
    print(table(rows))
    return 0


@contextlib.contextmanager
def processor_time() -> Iterator[None]:
    """Let tunings meanwhile count their seconds in processor time of this process, as the comparators do."""
    clock, time.monotonic = time.monotonic, time.process_time
    try:
        yield
    finally:
        time.monotonic = clock


def run(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Do what is missing in ``rows``, and write them after each."""
    backbone = ps.load_model(options.model, "cpu")
    for name, volumes, seed, method in product(options.sets, options.volumes, options.seeds, options.methods):
        values = (backbone.name, method, name, volumes, seed, options.seconds)
        key = dict(zip(IDENTITY, values))
        few = method == SPECIALIZED and volumes < FEWEST
        if few or any({each: row[each] for each in IDENTITY} == key for row in rows):
            continue
        print(f"{name}, {volumes} volumes, seed {seed}: {method}", flush=True)
        rows.append({**key, **measure(options.data, SETS[name], volumes, seed, method, backbone, options.seconds)})
        with atomic_write(options.out) as temporary:
            temporary.write_text(json.dumps(rows, indent=2))


def measure(
    data: Path, of: Set, volumes: int, seed: int, method: str, backbone: ps.Backbone, seconds: float
) -> dict[str, Any]:
    """Teach with the first ``volumes`` cases, segment the others; what came of it."""
    examples = [ps.Example(*_read(data, of, case), complete=True, name=case) for case in of.teach[:volumes]]
    began = time.monotonic()
    if method in METHODS:
        settings = ps.Settings(method=method, seconds=seconds, seed=seed)
        prompts = ps.tune(examples, of.classes, backbone, settings=settings)
        trained = sum(tensor.size for each in prompts.active for tensor in each.tensors.values())
        noted = {"steps": sum(each["steps"] for each in prompts.tuning.values()), "numbers": trained}

        def answer(image: sitk.Image) -> sitk.Image:
            return ps.segment(prompts, image, backbone).labels
    elif method == SPECIALIZED:
        own, learned, noted = specialized(examples, of.classes, backbone, seconds, seed)

        def answer(image: sitk.Image) -> sitk.Image:
            return ps.segment(learned, image, own).labels
    else:
        preprocessing = working_preprocessing(examples, backbone, of.classes)
        made, steps = fine_tuned(examples, of.classes, method, backbone.working_at(preprocessing), seconds, seed)
        noted = {"steps": steps, "numbers": trained_parameters(made)}

        def answer(image: sitk.Image) -> sitk.Image:
            return segment(made, preprocessing, image, of.classes)

    spent = time.monotonic() - began
    found = {}
    for case in of.test:
        image, reference = _read(data, of, case)
        labels = answer(image)
        found[case] = _scores(reference, labels, of.classes)
    return {**noted, "spent": round(spent, 1), "cases": found}


def specialized(
    examples: list[ps.Example], classes: dict[str, int], backbone: ps.Backbone, seconds: float, seed: int
) -> tuple[ps.Backbone, ps.Prompts, dict[str, Any]]:
    """The model that a user would get and its prompts, from a model folder that is gone then; what is noted of it."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {FOLDERS_VARIABLE: folder}):
        entry = ps.specialize(examples, classes, "study", backbone, effort=ps.Effort(seconds=seconds, seed=seed))
        own = ps.load_model("study", "cpu")
    assert own.shipped is not None
    trained = sum(parameter.numel() for parameter in own.net.parameters())
    trained += sum(tensor.size for each in own.shipped.active for tensor in each.tensors.values())
    return own, own.shipped, {"steps": entry.card["training"]["steps"], "numbers": trained}


def fine_tuned(
    examples: list[ps.Example], classes: dict[str, int], method: str, backbone: ps.Backbone, seconds: float, seed: int
):
    """A comparator, trained on the crops that prompts are trained on; with its number of steps."""
    began, generator = time.monotonic(), torch.Generator().manual_seed(seed)
    volumes = []
    for each in examples:
        volume = Volume.of(each.image, backbone.preprocessing)
        volumes.append(Annotated(volume.array, labels_on_grid(each, classes, volume.grid)))
    made = adaptation(method, backbone, len(classes), generator, backbone.crop, backbone.preprocessing.spacing, "all")
    made.tile = backbone.tile
    crops = RandomCrops(volumes, len(classes), backbone.crop, seed)
    training = Training(made, crops, seconds=max(seconds - (time.monotonic() - began), 0.1))
    training.run(ProgressHandle())
    return made.eval(), training.step


def _scores(reference: sitk.Image, labels: sitk.Image, classes: dict[str, int]) -> dict[str, Any]:
    measured = score(reference, labels, classes)
    return {name: {"dice": each.dice, "surface": each.surface_dice} for name, each in measured.items()}


def _read(data: Path, of: Set, case: str) -> tuple[sitk.Image, sitk.Image]:
    folder = data / of.folder
    image, label = (folder / f"{pattern.format(case)}.nii.gz" for pattern in (of.image, of.label))
    return of.guise(read_image(image), read_annotation(label))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line for a method and a number of volumes; Dice on each set (mean over cases, classes and seeds)."""
    sets = [name for name in SETS if any(row["set"] == name for row in rows)]
    lines = [f"| method | volumes | s | numbers | {' | '.join(sets)} | steps |", "|---" * (len(sets) + 5) + "|"]
    for kind in dict.fromkeys((row["method"], row["volumes"], row["seconds"]) for row in rows):
        own = [row for row in rows if (row["method"], row["volumes"], row["seconds"]) == kind]
        cells = [_cell([row for row in own if row["set"] == name]) for name in sets]
        steps = mean(row["steps"] for row in own)
        numbers = f"{max(row['numbers'] for row in own):,}"
        lines.append(f"| {kind[0]} | {kind[1]} | {kind[2]:g} | {numbers} | {' | '.join(cells)} | {steps:.0f} |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    found = []
    for key in ("dice", "surface"):
        values = [
            each[key]
            for row in rows
            for case in row["cases"].values()
            for each in case.values()
            if each[key] is not None
        ]
        found.append(f"{mean(values):.3f}" if values else "-")
    return " / ".join(found)


if __name__ == "__main__":
    sys.exit(main())

"""The loop at which one works, timed through the session on real MRML with the real worker process.

``make bench-loop`` or ``python Testing/Benchmark/loop.py --json FILE``. For CTs of three sizes and one MR, and for 1, 4
and 10 classes: from a stroke to its region, from the click on Tune prompts to the first preview, to 95 % of the final
Dice and to the result, a correction, a whole volume with the prompts; strokes and tuning cold (fresh worker) and warm.
Beside it, in the same run, Grow from seeds and full fine-tuning from the same strokes. Rows go to the JSON as they are
known, and are not computed again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np
import SimpleITK as sitk
from baselines import grow_from_seeds
from loop_table import plot, table
from novel_cases import BACKGROUND, ORGANS, VERTEBRAE
from replay import Desk

from harness.scene_nodes import image_from_volume, volume_from_image
from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scribbles import scribble
from PromptSegLib.files import atomic_write
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.scene import node_references
from PromptSegLib.session.engine import start_worker

ROOT = Path(__file__).resolve().parents[2]
CT = {**ORGANS, "inferior vena cava": 9, "portal and splenic vein": 10, "right adrenal": 12}
SIZES = ("half", "whole", "double")  # of the CT's own extent in plane
COUNTS = (1, 4, 10)
PAINTED = (3, 6, 12)  # slices a class
VOLUMES = (1, 2, 4)
_POLL = 0.01  # seconds between two polls; the panel's are 0.05
_PATIENCE = 1800.0
_NEAR = 0.95  # of the final Dice


@dataclass(frozen=True)
class Case:
    """What is painted: an image with its reference, and how much of it.

    :param volumes: how many copies of it are segmented in a batch.
    """

    image: str
    classes: int
    slices: int = 3
    volumes: int = 1

    @property
    def key(self) -> str:
        return f"{self.image}, {self.classes} classes, {self.slices} slices, {self.volumes} volumes"


def cases(images: list[str], counts: list[int], growth: bool = True) -> Iterator[Case]:
    """All combinations of image and number of classes, then what grows with painting and with volumes."""
    for image in images:
        for count in counts:
            yield Case(image, count)
    if growth and "whole" in images and 4 in counts:
        yield from (Case("whole", 4, slices=slices) for slices in PAINTED[1:])
        yield from (Case("whole", 4, volumes=volumes) for volumes in VOLUMES[1:])


def read(case: Case, data: Path) -> tuple[sitk.Image, sitk.Image, dict[str, int]]:
    """Image, reference and classes; development cases only."""
    if case.image == "mr":
        image = read_image(data / "spine" / "t1_21_mr.nii.gz")
        reference, known = read_annotation(data / "spine" / "t1_21_label.nii.gz"), VERTEBRAE
    else:
        image = read_image(data / "btcv" / "case13_ct.nii.gz")
        reference, known = read_annotation(data / "btcv" / "case13_label.nii.gz"), CT
        if case.image == "half":
            image, reference = image[::2, ::2], reference[::2, ::2]
        elif case.image == "double":
            image = sitk.Expand(image, [2, 2, 1], sitk.sitkLinear)
            reference = sitk.Expand(reference, [2, 2, 1], sitk.sitkNearestNeighbor)
    held = set(np.unique(sitk.GetArrayViewFromImage(reference)).tolist())
    classes = {name: value for name, value in known.items() if value in held}
    return image, reference, dict(list(classes.items())[: case.classes])


def memory(pid: Optional[int]) -> float:
    """Peak resident memory of a process so far, MB (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines() if pid else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def processor(pid: Optional[int]) -> float:
    """Processor seconds of a process so far (Linux): what a machine with other work does not change much."""
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Watch:
    """What came when after a click, and the longest the main thread was held meanwhile.

    :ivar shown: seconds, processor seconds of the worker, and the result that was shown then.
    """

    desk: Desk
    shown: list[tuple[float, float, Any]] = field(default_factory=list)
    gap: float = 0.0
    seconds: float = 0.0
    spent: float = 0.0

    def until_idle(self, act: Callable[[], None]) -> Watch:
        session = self.desk.session
        pid, before = self._pid(), session.results.shown
        at_first, began = processor(pid), time.perf_counter()
        last = time.perf_counter()
        act()
        while session.busy:
            session.poll()
            now = time.perf_counter()
            self.gap, last = max(self.gap, now - last), now
            result = session.results.shown
            if result is not None and result is not before:
                self.shown.append((now - began, self._spent(pid, at_first), result))
                before = result
            time.sleep(_POLL)
            last += _POLL  # asked for; what the machine makes of it is a gap
            if now - began > _PATIENCE:
                raise TimeoutError(str(session.view()))
        self.seconds, self.spent = time.perf_counter() - began, self._spent(pid, at_first)
        if session.view().notice.level == "error":
            raise PromptSegError(session.view().notice.text)
        return self

    def _pid(self) -> Optional[int]:
        worker = self.desk.session.engine.worker
        return worker.pid if worker is not None and not worker.gone else None

    def _spent(self, pid: Optional[int], at_first: float) -> float:
        now = self._pid()
        return processor(now) - (at_first if now == pid else 0.0)

    def row(self, name: str) -> dict[str, float]:
        """First preview, 95 % of the final Dice, result: seconds and the worker's processor seconds, and Dice."""
        found = {f"{name} s": self.seconds, f"{name} cpu s": self.spent, f"{name} gap s": self.gap}
        if self.shown:
            dice = [self.dice(result) for *_times, result in self.shown]
            near = next(at for at, each in enumerate(dice) if each >= _NEAR * dice[-1])
            for what, at in (("first", 0), ("95 %", near)):
                found[f"{name} {what} s"], found[f"{name} {what} cpu s"] = self.shown[at][:2]
            found[f"{name} first Dice"], found[f"{name} Dice"] = dice[0], dice[-1]
        return found

    def dice(self, result: Any) -> float:
        on = sitk.Resample(result.labels, self.desk.reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        mine, scores = sitk.GetArrayViewFromImage(on), []
        values = {info.name: info.value for info in result.classes}
        for name, value in self.desk.classes.items():
            own, said = self.desk.truth == value, mine == values.get(name, -1)
            scores.append(2 * (own & said).sum() / max(1, own.sum() + said.sum()))
        return float(np.mean(scores))


def strokes_on(desk: Desk, case: Case, seed: int) -> sitk.Image:
    return scribble(desk.reference, desk.classes, BACKGROUND, slices_per_class=case.slices, seed=seed)


def paint(desk: Desk, case: Case, seed: int) -> None:
    """Paint anew, as from a new user."""
    array = sitk.GetArrayFromImage(strokes_on(desk, case, seed))
    for name, value in {**desk.classes, "background": BACKGROUND}.items():
        desk.put(name, array == value)


def measure(case: Case, data: Path, seconds: float, threads: int, model: str = "") -> dict[str, Any]:
    """Everything of one case: two sessions with a worker of their own, one for growing, one for tuning."""
    image, reference, classes = read(case, data)
    row: dict[str, Any] = {"key": case.key, "image": case.image, "classes": len(classes), "volumes": case.volumes}
    row |= {"voxels": int(np.prod(image.GetSize())), "budget": seconds, "machine": platform.machine()}
    row["load"] = os.getloadavg()[0]

    def desk() -> Desk:
        return Desk(image, reference, classes, 0, start_worker, seconds=seconds, threads=threads, model=model)

    growing = desk()
    try:
        paint(growing, case, 0)
        row["painted"] = int((sitk.GetArrayViewFromImage(strokes_on(growing, case, 0)) > 0).sum())
        row |= Watch(growing).until_idle(growing.session.painted).row("stroke, cold")
        paint(growing, case, 1)
        row |= Watch(growing).until_idle(growing.session.painted).row("stroke, warm")
    finally:
        growing.close()
    tuning = desk()
    try:
        paint(tuning, case, 0)
        row |= Watch(tuning).until_idle(tuning.session.tune).row("tune, cold")
        tuning.session.discard()
        row |= Watch(tuning).until_idle(tuning.session.tune).row("tune, warm")
        row |= _corrected(tuning)
        row |= _whole(tuning, case)
        worker = tuning.session.engine.worker
        assert worker is not None
        row["worker MB"], row["main MB"] = memory(worker.pid), memory(os.getpid())
    finally:
        tuning.close()
    return {**row, **baselines(image, reference, classes, case, seconds, model)}


def _corrected(desk: Desk) -> dict[str, float]:
    """A stroke on the applied result, what grows of it at once, and the retuning."""
    Watch(desk).until_idle(desk.session.apply)
    for name, value in desk.classes.items():
        stroke = desk.stroke(name, value, "erase")
        if stroke.any():
            desk.put(name, desk.mask(name) & ~stroke)
            break
    found = Watch(desk).until_idle(desk.session.painted).row("correction")
    return found | Watch(desk).until_idle(desk.session.tune).row("retune")


def _whole(desk: Desk, case: Case) -> dict[str, float]:
    """The whole volume, or so many other volumes, with the prompts."""
    if desk.session.view().reasons["apply"] == "":
        Watch(desk).until_idle(desk.session.apply)
    key = next(row.key for row in desk.session.view().prompts if row.current)
    if case.volumes == 1:
        return Watch(desk).until_idle(lambda: desk.session.segment(key)).row("whole volume")
    own = image_from_volume(desk.volume)
    others = [volume_from_image(desk.scene, own, f"copy {n}") for n in range(case.volumes)]
    found = Watch(desk).until_idle(lambda: desk.session.segment(key, others)).row("volumes")
    assert all(node_references.remembered(each) is not None for each in others)
    return found


def baselines(
    image: sitk.Image, reference: sitk.Image, classes: dict[str, int], case: Case, seconds: float, model: str = ""
) -> dict[str, float]:
    """Grow from seeds and full fine-tuning from the same strokes, in this process."""
    from loop_baselines import fine_tuned

    strokes = scribble(reference, classes, BACKGROUND, slices_per_class=case.slices, seed=0)
    began, spent = time.perf_counter(), time.process_time()
    grown = grow_from_seeds(image, strokes)
    found = {"Grow from seeds s": time.perf_counter() - began, "Grow from seeds cpu s": time.process_time() - spent}
    found["Grow from seeds Dice"] = _mean_dice(reference, grown, classes)
    began, spent = time.perf_counter(), time.process_time()
    labels, steps = fine_tuned(image, strokes, classes, BACKGROUND, seconds, model)
    found |= {"fine-tuning s": time.perf_counter() - began, "fine-tuning cpu s": time.process_time() - spent}
    return found | {"fine-tuning Dice": _mean_dice(reference, labels, classes), "fine-tuning steps": float(steps)}


def _mean_dice(reference: sitk.Image, labels: sitk.Image, classes: dict[str, int]) -> float:
    true, mine, found = sitk.GetArrayViewFromImage(reference), sitk.GetArrayViewFromImage(labels), []
    for value in classes.values():
        own, said = true == value, mine == value
        found.append(2 * (own & said).sum() / max(1, own.sum() + said.sum()))
    return float(np.mean(found))


def in_a_process(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """The row of a case, from a process of its own: peaks of memory are of that case alone."""
    numbers = [str(each) for each in (case.classes, case.slices, case.volumes)]
    command = [sys.executable, __file__, "--case", case.image, *numbers, "--seconds", str(options.seconds)]
    command += ["--threads", str(options.threads), "--data", str(options.data)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--json", type=Path, default=ROOT / "bench-loop.json")
    parser.add_argument("--images", nargs="*", choices=(*SIZES, "mr"), default=(*SIZES, "mr"))
    parser.add_argument("--classes", nargs="*", type=int, default=COUNTS)
    parser.add_argument("--seconds", type=float, default=30.0, help="budget of a tuning")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", action="store_true", help="leave out what grows with painting and volumes")
    parser.add_argument("--table", action="store_true", help="compute nothing")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)  # the worker has its own number of threads
    if options.case:
        one = Case(options.case[0], *(int(each) for each in options.case[1:]))
        row = measure(one, options.data, options.seconds, options.threads)
        print(json.dumps({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}))
        return
    rows = json.loads(options.json.read_text()) if options.json.is_file() else []
    for case in () if options.table else cases(list(options.images), list(options.classes), not options.only):
        if not any(row["key"] == case.key for row in rows):
            rows.append(in_a_process(case, options))
            with atomic_write(options.json) as file:
                file.write_text(json.dumps(rows, indent=1))
            print(case.key, flush=True)
    print(table(rows))
    if rows:
        plot(rows, options.json.with_suffix(".png"))


if __name__ == "__main__":
    main()

"""Load: many rounds in one worker, many volumes in one command, many classes in one tuning.

    make load                                               # 1,000 rounds, 200 volumes, 50 classes
    python Testing/Reliability/load.py rounds --count 100   # one of them

``rounds``: correct and retune in one worker process (a tiny backbone); its memory, its open files and its children, and
those of the application's side. ``batch``: ``promptseg segment FOLDER --report CSV`` over volumes with bad files among
them, interrupted by Ctrl+C in the middle, and gone on with by ``--resume``. ``classes``: as many classes at once.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Python")]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402

import PromptSegLib as ps  # noqa: E402
from harness import worker_harness as driven_module  # noqa: E402
from harness.tiny_model import CLASSES, example, phantom, tiny_backbone  # noqa: E402
from harness.worker_harness import Driven, labels_of, tuning  # noqa: E402
from PromptSegLib.worker.launch import environment, local_command  # noqa: E402
from PromptSegLib.worker.packing import prompts_of  # noqa: E402

DEFAULTS = {"rounds": 1000, "batch": 200, "classes": 50}


def usage(pid: int) -> dict[str, float]:
    """Resident memory (MB), open files, children, threads of a process."""
    place = Path(f"/proc/{pid}")
    pages = int((place / "statm").read_text().split()[1])
    children = [kid for task in (place / "task").iterdir() for kid in (task / "children").read_text().split()]
    return {
        "MB": pages * resource.getpagesize() / 2**20,
        "files": len(list((place / "fd").iterdir())),
        "children": len(children),
        "threads": len(list((place / "task").iterdir())),
    }


# Rounds


def corrected(case: ps.Example, number: int, rng: random.Random) -> ps.Example:
    """The example with a stroke more, in another place each time, as a user corrects."""
    labels = sitk.GetArrayFromImage(case.annotation)
    z, y = rng.randrange(2, 18), rng.randrange(5, 35)
    if number % 2:
        labels[z, y, 14:17] = CLASSES["ball"] if (y - 14) ** 2 < 40 else case.background
    else:
        labels[z, 3:6, 5 : 9 + number % 5] = case.background
    annotation = sitk.GetImageFromArray(labels)
    annotation.CopyInformation(case.annotation)
    return replace(case, annotation=annotation)


def rounds(count: int, every: int = 0) -> dict[str, Any]:
    """Retune so many times in one worker; what both sides use on the way."""
    every = every or max(count // 20, 1)
    rng, table = random.Random(0), []
    with tempfile.TemporaryDirectory(prefix="promptseg-load-") as folder:
        tiny_backbone(Path(folder))
        model, case, start = Path(folder) / "tiny0.safetensors", example(), None
        driven = Driven(local_command, environment(1))
        try:
            for number in range(count + 1):
                now = corrected(case, number, rng)
                settings = {"steps": 1, "token_steps": 2, "seed": number}
                job = tuning(driven, model, now, "one", start=start, settings=settings, previews=False)
                event = driven.last("done", job)
                start = prompts_of(event.arrays["prompts"])
                assert start.names == list(CLASSES) and labels_of(event, case.image).any()
                if number % every == 0:
                    table.append(
                        {"round": number, "worker": usage(driven.worker.pid), "application": usage(os.getpid())}
                    )
            pid = driven.worker.pid
        finally:
            driven.worker.kill()
        assert driven.end() == "" and not Path(f"/proc/{pid}/fd").exists()
    return {"rounds": count, "table": table, "growth": growth(table)}


def growth(table: list[dict[str, Any]]) -> dict[str, float]:
    """MB, files, children and threads a thousand rounds, over the second half: the first fills caches."""
    half = table[len(table) // 2 :]
    steps = np.array([each["round"] for each in half], float)
    found = {}
    for side in ("worker", "application"):
        for what in ("MB", "files", "children", "threads"):
            values = np.array([each[side][what] for each in half], float)
            slope = np.polyfit(steps, values, 1)[0] if len(half) > 1 else 0.0
            found[f"{side} {what}"] = round(1000 * float(slope), 2)
    return found


# A batch


def volumes(folder: Path, count: int) -> list[str]:
    """Small volumes with bad files among them; gives the bad ones' names."""
    bad = []
    for number in range(count):
        path = folder / f"case{number:03d}.nrrd"
        if number % 20 == 10:
            kind = ["empty", "cut", "text", "flat", "nan"][number // 20 % 5]
            bad.append(path.name)
            _bad(path, kind)
            continue
        sitk.WriteImage(phantom(seed=number)[0], str(path), useCompression=True)
    return bad


def _bad(path: Path, kind: str) -> None:
    if kind in ("flat", "nan"):
        image = sitk.Image([20, 20, 20], sitk.sitkFloat32)
        if kind == "nan":
            image[3, 3, 3] = float("nan")
        sitk.WriteImage(image, str(path))
        return
    sitk.WriteImage(phantom()[0], str(path), useCompression=True)
    data = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "text": b"not an image\n" * 9}[kind])


def batch(count: int) -> dict[str, Any]:
    """Segment a folder, interrupt it in the middle, go on, and look at the table."""
    with tempfile.TemporaryDirectory(prefix="promptseg-load-") as place:
        folder = Path(place)
        (folder / "in").mkdir()
        tiny_backbone(folder, shipped=True)
        bad = volumes(folder / "in", count)
        prompts, out, report = folder / "tiny0.prompts.safetensors", folder / "out", folder / "volumes.csv"
        command = [sys.executable, "-m", "PromptSegLib", "segment", str(prompts), str(folder / "in"), "-o", str(out)]
        command += ["--model", str(folder / "tiny0.safetensors"), "--device", "cpu", "--report", str(report)]
        first = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while first.poll() is None and len(list(out.glob("*.seg.nrrd")) if out.exists() else []) < count // 2:
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        said = first.communicate()[1]
        assert first.returncode == 130, (first.returncode, said[-500:])
        done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.seg.nrrd")}
        assert not list(out.glob(".promptseg-*")) and count // 2 <= len(done) < count - len(bad)
        second = subprocess.run([*command, "--resume"], cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2 and f"{len(bad)} of {count} images were not segmented" in second.stderr
        assert all((out / name).stat().st_mtime_ns == when for name, when in done.items()), "done again"
        rows = list(csv.DictReader(report.open(encoding="utf-8")))
        found = _checked(rows, bad, out)
        return {"volumes": count, "bad": len(bad), "done before Ctrl+C": len(done), **found}


def _checked(rows: list[dict[str, str]], bad: list[str], out: Path) -> dict[str, Any]:
    """The table against the results; raises AssertionError where they differ."""
    states: dict[str, int] = {}
    for row in rows:
        states[row["state"]] = states.get(row["state"], 0) + 1
        name = Path(row["image"]).name
        assert (row["state"] == "failed") == (name in bad) == bool(row["reason"]), row
        if row["state"] == "failed":
            assert row["reason"].endswith(".") and name in row["reason"], row
            continue
        labels = sitk.ReadImage(row["result"])
        voxels = sitk.GetArrayViewFromImage(labels)
        for value, organ in enumerate(("liver", "spleen", "aorta"), start=1):
            milliliters = float((voxels == value).sum() * np.prod(labels.GetSpacing()) / 1000)
            assert abs(float(row[f"{organ} (ml)"]) - milliliters) < 1e-3, row
    assert len(list(out.iterdir())) == len(rows) - len(bad)
    return {"states": states}


# Classes


def many_classes(count: int) -> dict[str, Any]:
    """Tune so many classes at once, each a small cube, and segment with them."""
    image, _ = phantom(shape=(20, 64, 64))
    labels = np.zeros((20, 64, 64), np.uint8)
    places = [(z, y, x) for z in (3, 9, 15) for y in range(4, 60, 12) for x in range(4, 60, 12)][:count]
    for value, (z, y, x) in enumerate(places, start=1):
        labels[z : z + 2, y : y + 5, x : x + 5] = value
    labels[0, :, 0] = 255
    annotation = sitk.GetImageFromArray(labels)
    annotation.CopyInformation(image)
    classes = {f"class {value}": value for value in range(1, len(places) + 1)}
    with tempfile.TemporaryDirectory(prefix="promptseg-load-") as folder:
        backbone = tiny_backbone(Path(folder))
        case, began = ps.Example(image, annotation, 255), time.monotonic()
        prompts = ps.tune([case], classes, backbone, settings=ps.Settings(steps=2, token_steps=2))
        path = Path(folder) / "many.safetensors"
        prompts.save(path)
        result = sitk.GetArrayFromImage(ps.segment(ps.Prompts.load(path), image, backbone, strokes=case).labels)
    assert prompts.names == list(classes)
    for value in classes.values():
        assert (result[labels == value] == value).all()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"classes": len(classes), "seconds": round(time.monotonic() - began, 1), "peak MB": round(peak)}


def printed_rounds(found: dict[str, Any]) -> None:
    print("| round | worker MB | files | children | threads | application MB | files |\n|---|---|---|---|---|---|---|")
    for row in found["table"]:
        worker, own = row["worker"], row["application"]
        print(
            f"| {row['round']} | {worker['MB']:.0f} | {worker['files']} | {worker['children']} | {worker['threads']} "
            f"| {own['MB']:.0f} | {own['files']} |"
        )
    print(f"growth a thousand rounds, over the second half: {found['growth']}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=DEFAULTS)
    parser.add_argument("--count", type=int, help="rounds, volumes or classes")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    driven_module.SECONDS = 1800.0  # machines may be busy
    for what in [options.what] if options.what else DEFAULTS:
        count = options.count if options.what and options.count else DEFAULTS[what]
        if what == "rounds":
            printed_rounds(rounds(count))
        else:
            print({"batch": batch, "classes": many_classes}[what](count), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

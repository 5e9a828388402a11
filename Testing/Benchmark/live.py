"""How long from a stroke to its region: the session's live preview on real MRML, with the real worker.

Gives seconds from the end of a stroke to the first region and to the one that stays, and the processor seconds that
the worker spends on it: on a machine with other work, only these can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from interactive import BACKGROUND, CLASSES, paint

from harness.scene_files import new_scene
from harness.scene_nodes import volume_from_image
from PromptSegLib.evaluation.scribbles import scribble
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.session.inputs import Parameters
from PromptSegLib.session.session import Session


def processor_seconds(pid: int) -> float:
    """Of a process and its threads so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _worker_seconds(session: Session) -> float:
    worker = session.engine.worker
    return processor_seconds(worker.pid) if worker is not None and worker.pid else 0.0


def stroke(session: Session) -> dict[str, float]:
    """What follows on a stroke that was just painted: seconds, and the worker's processor seconds."""
    began, spent = time.perf_counter(), _worker_seconds(session)
    before, found = session.results.shown, {}
    session.painted()
    while session.busy:
        session.poll()
        result = session.results.shown
        if "first" not in found and result is not None and result is not before:
            found["first"] = time.perf_counter() - began
            found["first processor"] = _worker_seconds(session) - spent
        time.sleep(0.01)
    found["last"] = time.perf_counter() - began
    found["last processor"] = _worker_seconds(session) - spent
    return found


def dice(session: Session, reference: sitk.Image) -> float:
    result, scores = session.results.shown, []
    assert result is not None
    on = sitk.Resample(result.labels, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    mine, true = sitk.GetArrayViewFromImage(on), sitk.GetArrayViewFromImage(reference)
    for info in result.classes:
        own, said = true == CLASSES[info.name], mine == info.value
        scores.append(2 * (own & said).sum() / max(1, own.sum() + said.sum()))
    return float(np.mean(scores))


def measure(case: str, folder: Path, every: int, names: list[str], repeats: int, threads: int) -> dict:
    image = read_image(folder / f"case{case}_ct.nii.gz")[::every, ::every]
    reference = read_annotation(folder / f"case{case}_label.nii.gz")[::every, ::every]
    classes = {name: CLASSES[name] for name in names}
    scene = new_scene()
    volume = volume_from_image(scene, image, f"case {case}")
    session = Session(scene, Parameters(model="none", threads=threads))  # no model is prepared beside it
    session.inputs.choose_volume(volume)
    segmentation = session.inputs.ensure_segmentation()
    found: dict = {"case": case, "classes": len(names), "voxels": list(image.GetSize())}
    runs = []
    for seed in range(repeats + 1):  # other strokes each time; the first starts the worker and sends the volume
        strokes = scribble(reference, classes, BACKGROUND, seed=seed)
        paint(segmentation, volume, strokes, {**classes, "background": BACKGROUND})
        passed = stroke(session)
        if seed:
            runs.append(passed)
        else:
            found["cold first s"] = passed["first"]
    found.update({f"{key} s": statistics.median(run[key] for run in runs) for key in runs[0]})
    found["Dice"] = dice(session, reference)
    session.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/btcv"))
    parser.add_argument("--case", default="12")
    parser.add_argument("--every", type=int, default=1, help="take every so many voxels in plane")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    for names in (["liver"], list(CLASSES)):
        row = measure(options.case, options.data, options.every, names, options.repeats, options.threads)
        print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}))
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

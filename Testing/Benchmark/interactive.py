"""How long a user waits: from a click to the first preview and to the result, and from a correction to its preview.

Drives the module's own session (no Qt) in a real MRML scene with a real worker process, on whole CTs at their own
resolution, and measures the longest gap of the event loop meanwhile: how long the window would not answer.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import SimpleITK as sitk
from PySide6 import QtCore

sys.path.append(str(Path(__file__).resolve().parents[1] / "Python"))

from harness.scene_files import new_scene
from harness.scene_nodes import segments_by_name, volume_from_image
from PromptSegLib.annotation.classes import describe
from PromptSegLib.evaluation.scribbles import correct, scribble
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene import segment_snapshot
from PromptSegLib.scene.segmentations import apply_result
from PromptSegLib.session.inputs import Parameters
from PromptSegLib.session.session import Session

CLASSES = {"liver": 6, "spleen": 1, "right kidney": 2, "left kidney": 3, "aorta": 8, "stomach": 7, "pancreas": 11}
BACKGROUND = 255


class Waiting:
    """A Qt event loop with the panel's timer and a heartbeat; notes what came when, and the longest gap."""

    def __init__(self, session: Session, reference: sitk.Image):
        self.session, self.reference = session, reference
        self.application = QtCore.QCoreApplication.instance() or QtCore.QCoreApplication([])
        self.longest = 0.0

    def until_idle(self, act: Callable[[], None]) -> dict[str, tuple[float, float]]:
        """Do what a click does, then let the loop run; seconds since the click and mean Dice of what was shown."""
        session = self.session
        shown: list[tuple[float, Segmentation]] = []
        loop, poll, heart = QtCore.QEventLoop(), QtCore.QTimer(), QtCore.QTimer()
        beats = [time.perf_counter()]

        def beat() -> None:
            self.longest = max(self.longest, time.perf_counter() - beats[0])
            beats[0] = time.perf_counter()

        def tick() -> None:
            session.poll()
            result = session.results.shown
            if result is not None and (not shown or shown[-1][1] is not result):
                shown.append((time.perf_counter() - began, result))
            if not session.busy:
                loop.quit()

        poll.timeout.connect(tick)
        heart.timeout.connect(beat)
        began = time.perf_counter()
        act()
        poll.start(50)
        heart.start(1)
        loop.exec()
        assert session.view().notice.level == "info", session.view().notice
        # Scored afterwards: that would hold the loop.
        return {
            name: (shown[index][0], self.dice(shown[index][1]))
            for name, index in (("first preview", 0), ("result", -1))
            if shown
        }

    def dice(self, result: Segmentation) -> float:
        values = {info.name: info.value for info in result.classes}
        on = sitk.Resample(result.labels, self.reference, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
        mine, true = sitk.GetArrayViewFromImage(on), sitk.GetArrayViewFromImage(self.reference)
        scores = []
        for name, value in values.items():
            own, said = true == CLASSES[name], mine == value
            scores.append(2 * (own & said).sum() / max(1, own.sum() + said.sum()))
        return float(np.mean(scores))


def paint(segmentation, volume, labels: sitk.Image, values: dict[str, int]) -> None:
    known = segments_by_name(segmentation)
    infos = tuple(describe(name, value) for name, value in values.items())
    ids = {name: known[name] for name in values if name in known}
    apply_result(segmentation, volume, Segmentation(labels, infos), segment_ids=ids)


def measure(case: str, folder: Path, seconds: float, seed: int) -> dict:
    image = read_image(folder / f"case{case}_ct.nii.gz")
    reference = read_annotation(folder / f"case{case}_label.nii.gz")
    scene = new_scene()
    volume = volume_from_image(scene, image, f"case {case}")
    session = Session(scene, Parameters(device="cpu", seconds=seconds))
    session.inputs.choose_volume(volume)
    segmentation = session.inputs.ensure_segmentation()
    strokes = scribble(reference, CLASSES, BACKGROUND, seed=seed)
    paint(segmentation, volume, strokes, {**CLASSES, "background": BACKGROUND})
    waiting = Waiting(session, reference)
    found: dict = {"case": case, "seed": seed, "voxels": list(image.GetSize())}
    for name in ("cold", "warm"):  # with and without starting the worker, loading the model and encoding the volume
        for key, (passed, dice) in waiting.until_idle(session.tune).items():
            found[f"{name} {key} s"], found[f"{name} {key} Dice"] = passed, dice
    waiting.until_idle(session.apply)
    # A correction, as the simulator paints it where the result is most wrong.
    ids = segments_by_name(segmentation)
    taken = segment_snapshot.snapshot(segmentation, volume, [ids[name] for name in CLASSES])
    now = Grid.of(image).image(np.zeros(Grid.of(image).shape, np.uint8))
    array = sitk.GetArrayFromImage(now)
    for name, mask in taken.masks([ids[name] for name in CLASSES], Grid.of(image)).items():
        value = next(CLASSES[each] for each, other in ids.items() if other == name)
        array[mask] = value
    more = correct(reference, strokes, Grid.of(image).image(array), CLASSES, BACKGROUND, seed=seed)
    added = sitk.GetArrayFromImage(more)
    added[sitk.GetArrayViewFromImage(strokes) > 0] = 0
    array[(added > 0) & (added != BACKGROUND)] = added[(added > 0) & (added != BACKGROUND)]
    array[added == BACKGROUND] = 0
    paint(segmentation, volume, Grid.of(image).image(array), CLASSES)
    for key, (passed, dice) in waiting.until_idle(session.tune).items():
        found[f"correction {key} s"], found[f"correction {key} Dice"] = passed, dice
    found["longest gap s"] = waiting.longest
    session.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/btcv"))
    parser.add_argument("--cases", nargs="+", default=["14", "15"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    runs = [measure(case, options.data, options.seconds, options.seed) for case in options.cases]
    for run in runs:
        print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in run.items()}))
    print(f"medians of {len(runs)}, {platform.machine()}")
    for key, value in runs[0].items():
        if isinstance(value, float):
            print(f"{key:32s} {statistics.median(run[key] for run in runs):.3f}")


if __name__ == "__main__":
    main()

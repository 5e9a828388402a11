"""Rounds of correction as a user makes them, replayed through the session on real MRML: does any round make it worse?

A structure that nobody taught is painted, grown (or tuned) and applied. Then, round after round, one stroke a structure
is painted where something is missing, erased where something is too much, or both; what follows is applied, and every
structure's Dice is compared with what it was before the round. The worker computes in this very process.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import SimpleITK as sitk

sys.path.append(str(Path(__file__).resolve().parents[1] / "Python"))

from harness.scene_files import new_scene
from harness.scene_nodes import image_from_volume, segments_by_name, volume_from_image
from PromptSegLib.annotation.classes import describe
from PromptSegLib.evaluation.scribbles import correct, scribble
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene import segment_snapshot
from PromptSegLib.scene.segmentations import RESULT_TAG, apply_result
from PromptSegLib.session.inputs import Parameters
from PromptSegLib.session.session import Session
from PromptSegLib.worker.in_process import InProcess

BACKGROUND = 255
KINDS = ("paint", "erase", "mixed")
WAYS = ("live", "retune")
WORST = 0.01  # by which a round may lower a Dice
_PATIENCE = 1200.0  # seconds until a session that does not come to its end is given up


class Desk:
    """A scene with one volume and a session on it, whose user knows the truth.

    :param reference: labels on the image's grid; ``classes``: name -> label.
    """

    def __init__(
        self,
        image: sitk.Image,
        reference: sitk.Image,
        classes: dict[str, int],
        seed: int = 0,
        make_worker: Callable[[Any], Any] = lambda parameters: InProcess(),
        **choices: Any,
    ):
        self.reference, self.classes, self.seed = reference, classes, seed
        self.scene = new_scene()
        self.volume = volume_from_image(self.scene, image, "replay")
        self.session = Session(self.scene, Parameters(**{"device": "cpu", **choices}), make_worker=make_worker)
        self.session.inputs.choose_volume(self.volume)
        self.segmentation = self.session.inputs.ensure_segmentation()
        self.grid = Grid.of(image_from_volume(self.volume))
        self.truth = sitk.GetArrayFromImage(reference)
        self._said = sitk.GetArrayFromImage(scribble(reference, classes, BACKGROUND, seed=seed))
        for name, value in {**classes, "background": BACKGROUND}.items():
            self.put(name, self._said == value)

    def close(self) -> None:
        self.session.close()

    def until_idle(self) -> None:
        limit = time.monotonic() + _PATIENCE
        while self.session.busy:
            self.session.poll()
            time.sleep(0.01)
            if time.monotonic() > limit:
                raise TimeoutError(str(self.session.view()))

    # What the user does

    def put(self, name: str, mask: np.ndarray) -> None:
        """Let a segment be a mask (z, y, x); other segments lose what it takes."""
        known = segments_by_name(self.segmentation)
        info = describe(name, 1)
        others = [each for other, each in known.items() if other != name]
        result = Segmentation(self.grid.image(mask.astype(np.uint8)), (info,))
        ids = {name: known[name]} if name in known else {}
        made = apply_result(self.segmentation, self.volume, result, segment_ids=ids, overwrite=others)
        if not ids:
            self.segmentation.GetSegmentation().GetSegment(made[name]).RemoveTag(RESULT_TAG)

    def begin(self, way: str) -> None:
        """From the first strokes to what is applied."""
        self._work(way)

    def round(self, kind: str, way: str) -> None:
        """One correction of every structure that needs it, and what follows from it."""
        for wanted in ("paint", "erase") if kind == "mixed" else (kind,):
            for name, value in self.classes.items():
                stroke = self.stroke(name, value, wanted)
                if stroke.any():
                    now = self.mask(name)
                    self.put(name, now | stroke if wanted == "paint" else now & ~stroke)
        self._work(way)

    def _work(self, way: str) -> None:
        """Grow or tune, and apply what comes of it, if anything."""
        if way == "live":
            self.session.painted()
        else:
            self.session.tune()
        self.until_idle()
        if not self.session.view().reasons["apply"]:
            self.session.apply()
            self.until_idle()
        if self.session.view().notice.level == "error":
            raise RuntimeError(self.session.view().notice.text)

    def stroke(self, name: str, value: int, wanted: str) -> np.ndarray:
        """Where one more stroke belongs, bool (z, y, x): in the largest part that is missing, or too much."""
        own, now = self.truth == value, self.mask(name)
        wrong = own & ~now if wanted == "paint" else now & ~own
        guess = np.where(wrong, ~own, own)
        reference, said, result = (self.grid.image(each.astype(np.uint8)) for each in (own, self._said > 0, guess))
        more = sitk.GetArrayFromImage(correct(reference, said, result, {name: 1}, BACKGROUND, seed=self.seed))
        before = sitk.GetArrayFromImage(said)
        stroke = (more != before) & (more == (1 if wanted == "paint" else BACKGROUND))
        self._said[stroke] = value if wanted == "paint" else BACKGROUND
        return stroke

    # What there is

    def mask(self, name: str) -> np.ndarray:
        segment_id = segments_by_name(self.segmentation)[name]
        return segment_snapshot.snapshot(self.segmentation, self.volume, [segment_id]).masks([segment_id], self.grid)[
            segment_id
        ]

    def dice(self) -> dict[str, float]:
        found = {}
        for name, value in self.classes.items():
            own, mine = self.truth == value, self.mask(name)
            found[name] = float(2 * (own & mine).sum() / max(1, own.sum() + mine.sum()))
        return found


def replay(desk: Desk, kinds: list[str], way: str, first: str = "") -> Iterator[dict[str, Any]]:
    """A row for the beginning and each round: Dice of each structure, and how much it changed.

    :param first: the way of the beginning, where it is another.
    """
    desk.begin(first or way)
    before = desk.dice()
    yield {"round": 0, "kind": "begin", "dice": before, "change": {}}
    for number, kind in enumerate(kinds, 1):
        desk.round(kind, way)
        now = desk.dice()
        yield {"round": number, "kind": kind, "dice": now, "change": {name: now[name] - before[name] for name in now}}
        before = now


def main() -> None:
    from novel_cases import ROOT, SETS, chosen

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="*", default=["hippocampus", "sts_t1", "small_numbers", "vessel", "teeth"])
    parser.add_argument("--cases", type=int, default=1, help="of each set, development cases only")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--way", choices=WAYS, default="live")
    parser.add_argument("--seconds", type=float, default=30.0, help="budget of a tuning")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    options = parser.parse_args()
    worst = 0.0
    for each in chosen(options.sets) if options.sets else SETS:
        for case in each.cases(options.data)[: options.cases]:
            image, reference, classes = case.load()
            for kind in options.kinds:
                for seed in options.seeds:
                    desk = Desk(image, reference, classes, seed, seconds=options.seconds)
                    try:
                        for row in replay(desk, [kind] * options.rounds, options.way):
                            worst = min([worst, *row["change"].values()])
                            told = {"set": each.name, "case": case.name, "seed": seed, "kind": kind, **row}
                            print(json.dumps(_rounded(told)), flush=True)
                    finally:
                        desk.close()
    print(f"worst change of a structure in a round: {worst:+.4f} (goal: not below {-WORST})")


def _rounded(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {name: round(part, 4) for name, part in value.items()} if isinstance(value, dict) else value
        for key, value in row.items()
    }


if __name__ == "__main__":
    main()

"""PromptSeg from scribbles to a corrected result, on a real CT in a real MRML scene, without the application.

A simulated user paints a few strokes on seven structures of a CT, tunes prompts, segments, corrects
once where the result is most wrong, and tunes on. The reference segmentation is used for nothing
but the user's strokes and the scores. Everything that is made lies in ``demo/`` of the repository.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Mapping, Optional

import numpy as np
import SimpleITK as sitk

try:
    import slicer  # noqa: F401
    from matplotlib.colors import to_rgb
except ImportError as error:
    sys.exit(f"The demo needs {error.name}; install slicer-core and matplotlib (see the README).")

from fetch import demo_ct
from painting import labels_in, new_segmentation, paint, surfaces_of
from picture import draw
from surfaces import view_of

sys.path.append(str(Path(__file__).resolve().parents[1] / "Python"))

import PromptSegLib as ps
from harness.scene_files import new_scene, save_scene, save_segmentation
from harness.scene_nodes import example_from_nodes, volume_from_image
from PromptSegLib.annotation.classes import ClassInfo, describe
from PromptSegLib.errors import PromptSegError
from PromptSegLib.evaluation.scores import score
from PromptSegLib.evaluation.scribbles import correct, scribble
from PromptSegLib.models.backbone import Backbone
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.scene.segmentations import apply_result

OUTPUT = Path(__file__).resolve().parents[2] / "demo"
BACKGROUND = 255
# Label values are TotalSegmentator's. Colors are Okabe and Ito's: the usual ones of these organs are all reddish.
STRUCTURES = {
    "liver": (5, "#E69F00"),
    "spleen": (1, "#CC79A7"),
    "right kidney": (2, "#0072B2"),
    "left kidney": (3, "#56B4E9"),
    "stomach": (6, "#009E73"),
    "aorta": (52, "#D55E00"),
    "left erector spinae": (86, "#F0E442"),
}
CLASSES = {name: value for name, (value, _) in STRUCTURES.items()}
TRANSLUCENT = {"liver": 0.6}  # it lies before the rest, seen from the front


class Clock:
    """Says what is being done, and remembers how long it took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"{name} ...", end=" ", flush=True)
        began = time.perf_counter()
        try:
            yield
        except BaseException:
            print(flush=True)
            raise
        self.seconds[name] = time.perf_counter() - began
        print(f"{self.seconds[name]:.1f} s", flush=True)


def main(words: Optional[list[str]] = None) -> int:
    """Run the demo; returns the exit status."""
    arguments = _arguments(words)
    try:
        run(*_budgets(arguments))
    except PromptSegError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(budget: ps.Settings, second_budget: ps.Settings) -> None:
    """All of it: user, tuning, correction, files, table and picture."""
    clock = Clock()
    with clock.stage("Setup (CT, backbone, scene)"):
        ct_path, reference_path = demo_ct(OUTPUT / "data")
        reference = sitk.ReadImage(str(reference_path))
        scene = new_scene()
        volume = volume_from_image(scene, sitk.ReadImage(str(ct_path)), "CT")
        strokes, result = (new_segmentation(scene, name) for name in ("Scribbles", "Result"))
        backbone = ps.load_model()
    setup = clock.seconds.popitem()[1]

    with clock.stage("painting scribbles"):
        first = scribble(reference, CLASSES, BACKGROUND, background_share=0.005)
        segments = _segments()
        ids = paint(strokes, volume, first, segments)
    roles = {ids[info.name]: info.value for info in segments}
    looks = {info.name: info for info in segments if info.name in CLASSES}

    prompts: Optional[Prompts] = None
    found: list[sitk.Image] = []
    dice: list[Mapping[str, Optional[float]]] = []
    drawn, result_ids = first, dict[str, str]()
    for part, settings in (("", budget), (" on the correction", second_budget)):
        if part:
            with clock.stage("Correcting where it is most wrong"):
                drawn = correct(reference, first, found[-1], CLASSES, BACKGROUND)
                ids = paint(strokes, volume, drawn, segments, ids)
        example = example_from_nodes(volume, strokes, roles, BACKGROUND)
        with clock.stage(f"Tuning{part}"):
            prompts = ps.tune(
                [example],
                CLASSES,
                backbone,
                start=prompts,
                settings=settings,
                options=ps.TuningOptions(appearance=looks),
            )
        with clock.stage(f"Segmenting{' again' if part else ''}"):
            answer = ps.segment(prompts, example.image, backbone, strokes=example)
            result_ids = apply_result(result, volume, answer, segment_ids=result_ids)
        result_roles = {result_ids[name]: value for name, value in CLASSES.items()}
        found.append(labels_in(result, volume, result_roles, reference))
        dice.append({name: entry.dice for name, entry in score(reference, found[-1], CLASSES).items()})

    with clock.stage("Saving"):
        surfaces = surfaces_of(result, result_ids)
        save_segmentation(result, OUTPUT / "result.seg.nrrd")
        assert prompts is not None
        prompts.save(OUTPUT / "prompts.safetensors")
        save_scene(scene, OUTPUT / "scene.mrb")
    with clock.stage("Drawing"):
        paints = {name: (*to_rgb(color), TRANSLUCENT.get(name, 1.0)) for name, (_, color) in STRUCTURES.items()}
        view, drawn_by = view_of([(surface, paints[name]) for name, surface in surfaces.items()])
        notes = {name: (f"{value:.2f}", _known(name, backbone)) for name, value in dice[-1].items()}
        draw(OUTPUT / "demo.png", example.image, first, drawn, found[-1], reference, segments, notes, view)

    print(f"\n{_table(dice, backbone)}\n")
    print(f"Annotated voxels: {_share(first)} at first, {_share(drawn)} with the correction ({_added(first, drawn)}).")
    print("Seconds: " + ", ".join(f"{name.lower()} {taken:.1f}" for name, taken in clock.seconds.items()), end="")
    print(f"; {sum(clock.seconds.values()):.1f} in all, without {setup:.1f} of setup.")
    print(f"Prompts file: {(OUTPUT / 'prompts.safetensors').stat().st_size / 1024:.0f} KiB.")
    print(f"Written to {OUTPUT}: result.seg.nrrd, prompts.safetensors, scene.mrb, demo.png (3D view by {drawn_by}).")


def _arguments(words: Optional[list[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--seconds", type=float, default=60.0, help="first tuning budget (default 60)")
    budget.add_argument("--steps", type=int, help="first tuning budget in steps instead, reproducible")
    budget.add_argument("--quick", action="store_true", help="three steps: shows the flow, not the quality")
    return parser.parse_args(words)


def _budgets(arguments: argparse.Namespace) -> tuple[ps.Settings, ps.Settings]:
    """The settings of the first tuning, and those after the correction with a third of its budget."""
    steps = 3 if arguments.quick else arguments.steps
    if steps is not None:
        return ps.Settings(steps=steps), ps.Settings(steps=steps // 3)
    return ps.Settings(seconds=arguments.seconds), ps.Settings(seconds=arguments.seconds / 3)


def _segments() -> list[ClassInfo]:
    """What the user paints: the structures, and what is none of them."""
    infos: list[ClassInfo] = []
    for name, (value, color) in STRUCTURES.items():
        infos.append(describe(name, value, infos, to_rgb(color)))
    return [*infos, describe("Background", BACKGROUND, infos, (0.85, 0.85, 0.85))]


def _known(name: str, backbone: Backbone) -> str:
    return "known" if backbone.shipped is not None and name in backbone.shipped.names else "never seen"


def _table(dice: list[Mapping[str, Optional[float]]], backbone: Backbone) -> str:
    """Dice per structure, before and after the correction."""
    before, after = dice
    lines = [f"{'Structure':22}{'Backbone':14}{'Dice':>8}{'corrected':>12}"]
    lines.append("-" * len(lines[0]))
    for name in before:
        lines.append(f"{name:22}{_known(name, backbone):14}{before[name]:8.3f}{after[name]:12.3f}")
    lines.append(lines[1])
    lines.append(f"{'Mean':36}{np.mean(list(before.values())):8.3f}{np.mean(list(after.values())):12.3f}")
    return "\n".join(lines)


def _share(scribbles: sitk.Image) -> str:
    return f"{100 * np.count_nonzero(sitk.GetArrayViewFromImage(scribbles)) / scribbles.GetNumberOfPixels():.2f} %"


def _added(before: sitk.Image, after: sitk.Image) -> str:
    old, new = (sitk.GetArrayViewFromImage(each) for each in (before, after))
    names = {**{value: name for name, value in CLASSES.items()}, BACKGROUND: "background"}
    values, counts = np.unique(new[new != old], return_counts=True)
    parts = [f"{count} voxels of {names[int(value)]}" for value, count in zip(values, counts)]
    return ", ".join(parts) or "nothing was wrong"


if __name__ == "__main__":
    sys.exit(main())

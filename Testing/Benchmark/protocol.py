"""The paper's protocol in small: a body pretrained on some organs learns others, by several methods in equal time.

Usage: ``python Testing/Benchmark/protocol.py --backbone NAME=FILE [--backbone ...] [--methods ...] [--seconds 600]``,
then the same with ``--table``. docs/methods.md#its-protocol (Fischer et al., MedIA 91, 103024): the base classes of
the body (spleen, left kidney, gallbladder, liver) and the new classes of here (``CLASSES``) share patients but no
class.

Every method sees the same views in the same order and is given the same time: ``--seconds`` of this process's CPU time
(``time.process_time``), with one torch thread, so that other work on the machine favors no method. Reading the
volumes and segmenting the test cases is not counted; drawing the views and warm starts are. A bench that was stopped
goes on where it was: what stands in ``--out`` is not done again.

Choose learning rates (``--rate-factor``) on training cases: ``--training case00 ... case13 --test case14 case15``.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any, Callable, Iterable, Optional

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from monai.metrics import compute_dice
from torch import Tensor
from torch.nn import functional as F

from PromptSegLib.errors import PromptSegError
from PromptSegLib.files import atomic_write
from PromptSegLib.imaging.preprocessing import Preprocessing
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.imaging.volume import Volume
from PromptSegLib.inference.class_margins import ABSENT, FLAT
from PromptSegLib.inference.resample_to_image import labels_on_native
from PromptSegLib.inference.tiling import overlaps, steps
from PromptSegLib.models.backbone import Backbone, load_model
from PromptSegLib.network.precision import autocast
from PromptSegLib.pretraining.cases import Cases
from PromptSegLib.pretraining.finding import find_cases
from PromptSegLib.pretraining.objective import segmentation_loss
from PromptSegLib.pretraining.recipe import Recipe
from PromptSegLib.pretraining.source import Source
from PromptSegLib.pretraining.views import Views, collate, to_device
from PromptSegLib.specializing.adaptations import (
    CROP,
    METHODS,
    PROMPTED,
    SCRATCH,
    Adaptation,
    Prompted,
    adaptation,
)
from PromptSegLib.specializing.training import AVERAGE, rate_at
from PromptSegLib.tuning.warm_start import output_tokens

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"esophagus": 5, "stomach": 7, "aorta": 8, "inferior vena cava": 9, "pancreas": 11}
VALUES = range(1, 14)  # of BTCV's labels
IMAGE, LABEL = "{case}_ct.nii.gz", "{case}_label.nii.gz"
CPU = torch.device("cpu")
WARM_VIEWS = 8
SOME = 4096  # features that prototypes are made of
IDENTITY = ("backbone", "sha256", "method", "seed", "seconds", "outputs", "crop", "rate_factor", "training", "test")


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", action="append", default=[], metavar="[NAME=]FILE", help="may be repeated")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seconds", type=float, default=600.0, help="CPU seconds to train, each method")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "btcv")
    parser.add_argument("--out", type=Path, default=Path("results.json"))
    parser.add_argument("--training", nargs="+", default=[f"case{number:02d}" for number in range(16)])
    parser.add_argument("--test", nargs="+", default=[f"case{number:02d}" for number in range(16, 20)])
    parser.add_argument("--outputs", choices=("last", "all"), default="last", help="maps that prompts have tokens for")
    parser.add_argument("--crop", nargs=3, type=int, default=CROP, metavar=("Z", "Y", "X"), help="views, voxels")
    parser.add_argument("--rate-factor", type=float, default=1.0, help="multiplies every learning rate")
    parser.add_argument("--table", action="store_true", help="print what stands in --out, and do nothing else")
    options = parser.parse_args(arguments)
    if options.table:
        print(table(read(options.out)))
        return 0
    if not options.data.is_dir():
        print(f"There is no folder {options.data}; the benchmark needs BTCV as shared/data/README.md describes it.")
        return 2
    torch.set_num_threads(1)
    try:
        run(options)
    except PromptSegError as error:
        print(error)
        return 1
    print(table(read(options.out)))
    return 0


def run(options: argparse.Namespace) -> None:
    """Do what is missing in ``options.out``: the methods on a body with every backbone, those from scratch once."""
    backbones: dict[str, Backbone] = {}
    for text in options.backbone:
        name, _, file = text.rpartition("=")
        backbones[name or Path(file).stem] = load_model(file, "cpu")
    jobs: list[tuple[str, Optional[Backbone], str]] = []
    for name, given in backbones.items():
        jobs += [(name, given, method) for method in options.methods if method not in SCRATCH]
    jobs += [("none", None, method) for method in options.methods if method in SCRATCH]
    views: dict[tuple, Views] = {}
    usual = next((each.preprocessing for each in backbones.values()), Preprocessing())
    for name, backbone, method in jobs:
        row: dict[str, Any] = {
            "backbone": name,
            "sha256": backbone.sha256 if backbone else "",
            "method": method,
            "seed": options.seed,
            "seconds": options.seconds,
            "outputs": options.outputs if method in PROMPTED else "",
            "crop": list(options.crop),
            "rate_factor": options.rate_factor,
            "training": options.training,
            "test": options.test,
        }
        if any(all(done.get(key) == row[key] for key in IDENTITY) for done in read(options.out)):
            print(f"{name}, {method}: done before", flush=True)
            continue
        print(f"{name}, {method}", flush=True)
        preprocessing = backbone.preprocessing if backbone else usual
        generator = torch.Generator().manual_seed(options.seed)
        spacing = preprocessing.spacing
        made = adaptation(method, backbone, len(CLASSES), generator, options.crop, spacing, options.outputs)
        # SwinUNETR takes multiples of 32 only.
        crop = tuple(-(-size // 32) * 32 if method == "SwinUNETR" else size for size in options.crop)
        if (preprocessing, crop) not in views:  # the volumes stay in memory for the next method
            views[preprocessing, crop] = views_of(preprocessing, crop, options)
        row.update(train(made, views[preprocessing, crop], options.seconds, options.rate_factor, generator))
        row["dice"] = test(made, preprocessing, options.data, options.test)
        row.update(parameters=trained_parameters(made), share=trained_share(made))
        row.update(torch=torch.__version__, machine=platform.machine())
        # Read again: another bench may have written meanwhile.
        with atomic_write(options.out) as temporary:
            temporary.write_text(json.dumps([*read(options.out), row], indent=1), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def views_of(preprocessing: Preprocessing, crop: tuple[int, ...], options: argparse.Namespace) -> Views:
    """Views of the training cases, in which only ``CLASSES`` are labeled."""
    source = Source(
        "btcv",
        str(options.data),
        IMAGE,
        "CT",
        "see shared/data/README.md",
        LABEL,
        dict(CLASSES),
        unused_values=tuple(value for value in VALUES if value not in CLASSES.values()),
        training=tuple(options.training),
    )
    recipe = Recipe(
        "protocol",
        "New classes",
        "",
        (source,),
        variant="meta",
        preprocessing=preprocessing,
        crop=(crop[0], crop[1], crop[2]),
        all_classes=1.0,
        contrast=0.0,
        seed=options.seed,
    )
    return Views(recipe, Cases(recipe, find_cases(recipe)[0]))


def trained_parameters(adaptation: Adaptation) -> int:
    return sum(parameter.numel() for parameters, _ in adaptation.trained for parameter in parameters)


def trained_share(adaptation: Adaptation) -> float:
    """Trained parameters per class, as a share of the body's."""
    return trained_parameters(adaptation) / adaptation.classes / adaptation.body


def warm_output(adaptation: Adaptation, views: Iterable[dict[str, Any]], generator: torch.Generator) -> None:
    """Let output tokens begin as prototypes of the features in ``views`` (samples of ``Views``), as in the product.

    Foreground: of each class's voxels; background: of unlabeled voxels. A class that no view holds keeps its
    random tokens. Does nothing to adaptations without prompts.
    """
    if not isinstance(adaptation, Prompted):
        return
    found, known = [], []
    with torch.no_grad():
        for sample in views:
            with autocast(sample["large"].device):  # not around drawing a view: MONAI's changes fail in bfloat16
                maps = [each.float() for each in adaptation.features(sample["large"][None])]
            grid = maps[0].shape[2:]
            label = sample["large_label"][None, None].float()
            known.append(F.interpolate(label, grid, mode="nearest-exact").flatten().long())
            fine = [F.interpolate(each, grid, mode="trilinear", align_corners=False) for each in maps]
            # In half precision: these are the channels of all maps on the finest grid.
            found.append(torch.cat([F.normalize(each, dim=1) for each in fine], 1)[0].flatten(1).t().half())
        features, labels = torch.cat(found), torch.cat(known)
        prompts, config = adaptation.stacked(), adaptation.config
        rest = _some(features[labels == 0], generator)
        for index in range(adaptation.classes):
            output_tokens(config, prompts, index, _some(features[labels == index + 1], generator), rest, generator)


def _some(features: Tensor, generator: torch.Generator) -> Tensor:
    """At most ``SOME`` of the rows, in full precision."""
    return features[torch.randperm(len(features), generator=generator)[:SOME]].float()


def train(
    made: Adaptation,
    views: Views,
    seconds: float,
    rate_factor: float,
    generator: torch.Generator,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Any]:
    """Train for ``seconds`` of ``clock``, leaving in ``made`` the moving average of its weights; what to note of it."""
    began, wall = clock(), time.monotonic()
    warm_output(made, (views[index] for index in range(WARM_VIEWS)), generator)
    groups = [{"params": parameters, "lr": rate, "base": rate * rate_factor} for parameters, rate in made.trained]
    optimizer = torch.optim.AdamW(groups, weight_decay=made.decay, fused=True)
    weights = [parameter for parameters, _ in made.trained for parameter in parameters]
    average = [weight.detach().clone() for weight in weights]
    losses: list[float] = []
    told = 0.0
    for step in count():
        share = (clock() - began) / seconds
        if share >= 1.0:
            break
        if share >= told:
            recent = f"  loss {mean(losses[-50:]):.3f}" if losses else ""
            print(f"  {share:4.0%}  step {step}{recent}", flush=True)
            told = share + 0.1
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * rate_at(share)
        losses.append(one_step(made, optimizer, weights, to_device(collate([views[step]]), CPU)))
        with torch.no_grad():
            # The average forgets the start faster than it could in the long run, as there may be few steps.
            keep = min(AVERAGE, (1 + step) / (10 + step))
            for mean_weight, weight in zip(average, weights):
                mean_weight.lerp_(weight, 1 - keep)
    with torch.no_grad():
        for mean_weight, weight in zip(average, weights):
            weight.copy_(mean_weight)
    return {
        "steps": len(losses),
        "spent": clock() - began,
        "wall": time.monotonic() - wall,
        "loss": mean(losses[-50:]) if losses else None,
    }


def one_step(
    made: Adaptation, optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], batch: dict[str, Any]
) -> float:
    optimizer.zero_grad(set_to_none=True)
    with autocast(CPU):
        logits = made(batch["large"])
    loss = segmentation_loss(logits.float(), batch["large_label"], batch["known"]).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()
    return float(loss.detach())


def test(made: Adaptation, preprocessing: Preprocessing, folder: Path, names: list[str]) -> dict[str, dict]:
    """Case -> class -> Dice on the reference's own grid, None where neither has the class."""
    found = {}
    for name in names:
        labels = segment(made, preprocessing, read_image(folder / IMAGE.format(case=name)))
        guess = sitk.GetArrayFromImage(labels)
        truth = sitk.GetArrayFromImage(read_annotation(folder / LABEL.format(case=name)))
        found[name] = {key: dice(guess == value, truth == value) for key, value in CLASSES.items()}
        shown = "  ".join(f"{key} {value:.2f}" for key, value in found[name].items() if value is not None)
        print(f"  {name}  {shown}", flush=True)
    return found


def dice(guess: np.ndarray, truth: np.ndarray) -> Optional[float]:
    """Dice of two masks, None where both are empty."""
    masks = [torch.from_numpy(mask)[None, None] for mask in (guess, truth)]
    value = float(compute_dice(masks[0], masks[1], ignore_empty=True))
    return None if math.isnan(value) and not guess.any() else (0.0 if math.isnan(value) else value)


def segment(
    made: Adaptation, preprocessing: Preprocessing, image: sitk.Image, classes: dict[str, int] = CLASSES
) -> sitk.Image:
    """Label values of the classes on the image's grid, blended and brought back as the product does."""
    volume = Volume.of(image, preprocessing)

    def predict(tile: Tensor) -> Tensor:
        if float(tile.max() - tile.min()) < FLAT:
            return tile.new_full((tile.shape[0], len(classes), *tile.shape[2:]), ABSENT)
        with autocast(CPU):
            logits = made(tile).float()
        return logits[:, 1:] - logits[:, :1]

    # no_grad, not inference_mode: attention keeps tensors that the next training needs.
    with torch.no_grad():
        evidence = sliding_window_inference(
            torch.from_numpy(volume.array)[None, None],
            made.tile,
            1,
            predict,
            overlap=overlaps(steps(volume.array.shape, made.tile), made.tile),
            mode="gaussian",
            cval=-1.0,
        )
    lookup = np.array([0, *classes.values()], np.uint8)
    fields = [(each, volume.grid) for each in evidence[0].numpy()]
    return volume.native.image(labels_on_native(fields, volume.native, lookup))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: Dice of each class over cases and seeds, the mean over classes, and what it took."""
    titles = ["backbone", "method", "trained", "% of body per class", *CLASSES, "mean", "steps", "s", "seeds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]

    def kind(row: dict[str, Any]) -> tuple:
        return tuple(json.dumps(row.get(key)) for key in IDENTITY if key != "seed")

    for each in dict.fromkeys(map(kind, rows)):
        own = [row for row in rows if kind(row) == each]
        dice = []
        for name in CLASSES:
            values = [case[name] for row in own for case in row["dice"].values() if case[name] is not None]
            dice.append(mean(values) if values else math.nan)
        known = [value for value in dice if not math.isnan(value)]
        first, factor = own[0], own[0]["rate_factor"]
        cells = [
            first["backbone"],
            first["method"]
            + (", tokens for all maps" if first.get("outputs") == "all" else "")
            + (f" (rate x {factor:g})" if factor != 1 else ""),
            f"{first['parameters']:,}",
            f"{100 * first['share']:.2g}",
            *("-" if math.isnan(value) else f"{value:.3f}" for value in dice),
            f"**{mean(known) if known else math.nan:.3f}**",
            f"{mean(row['steps'] for row in own):.0f}",
            f"{first['seconds']:g}",
            str(len(own)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""What prompts do to the decoder's features and to probabilities: the EPT paper's own view, measured.

Usage: ``python Testing/Benchmark/features.py [--sets hippocampus BTCV] [--methods punet dvpt ept] [--steps 60]``. Sets
and cases are those of ``study.py``: complete annotations of ``--volumes`` cases teach, others are looked at. For the
frozen body and for each method's prompts, of features of the decoder's last map (each of length 1) at labeled voxels,
as many of every class: scatter within classes (mean squared distance from the class's mean), between them (that of the
classes' means from their own mean), and the Fisher ratio of the two. Of the probabilities of all voxels in the box
around what is labeled: expected calibration error (15 bins; Guo et al. 2017) and Brier score, for the prompts that the
tuning starts from and for the tuned ones. ``--picture FILE`` draws the features along their two main axes.

Cases are for development: choices may be made on these figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
from study import DATA, SETS, Set, _read

import PromptSegLib as ps
from PromptSegLib.annotation.labels import labels_on_grid
from PromptSegLib.imaging.geometry import bounding_box
from PromptSegLib.inference.class_margins import Probabilities, class_margins, group_tensors
from PromptSegLib.models.feature_cache import FeatureCache
from PromptSegLib.network.tokens import touches_encoder
from PromptSegLib.tuning.crops import cover

FROZEN = "frozen body"
SAMPLED = 400  # voxels of a class and case
AROUND = 8  # voxels around what is labeled, in whose box probabilities are looked at
BINS = 15


@dataclass
class Found:
    """Features (n, C) with labels (n,), and probabilities (n, 1 + classes) with labels (n,), of all cases."""

    features: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    truths: list[np.ndarray] = field(default_factory=list)


def scatters(features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scatter within and between classes, and their Fisher ratio; every class counts as much."""
    means = np.stack([features[labels == each].mean(0) for each in np.unique(labels)])
    within = [((features[labels == each] - mean) ** 2).sum(1).mean() for each, mean in zip(np.unique(labels), means)]
    between = ((means - means.mean(0)) ** 2).sum(1).mean()
    return {
        "within": float(np.mean(within)),
        "between": float(between),
        "Fisher ratio": float(between / np.mean(within)),
    }


def calibration(probabilities: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """Expected calibration error of the likeliest class, and the Brier score over all classes."""
    sure, said = probabilities.max(1), probabilities.argmax(1)
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    right = said == truths
    error = sum(
        abs(float(right[bins == each].mean() - sure[bins == each].mean())) * float((bins == each).mean())
        for each in np.unique(bins)
    )
    wanted = np.eye(probabilities.shape[1])[truths]
    return {"ECE": error, "Brier": float(((probabilities - wanted) ** 2).sum(1).mean())}


def look(found: Found, image, example: ps.Example, of: Set, backbone: ps.Backbone, prompts: Optional[ps.Prompts]):
    """Add what one case gives, with prompts or of the frozen body."""
    volume = FeatureCache(0).volume(image, backbone.preprocessing, prompts.intensity if prompts else None)
    labels = labels_on_grid(example, of.classes, volume.grid)
    rng = np.random.default_rng(0)
    tensors = group_tensors(prompts, backbone.device)[0] if prompts is not None else None
    for crop in cover(volume.array, labels, backbone.tile, len(of.classes) + 1, np.random.default_rng(0)):
        with torch.inference_mode():
            inside = tensors if tensors is not None and touches_encoder(tensors) else None
            maps = backbone.net.encode(crop.image, inside)
            features = backbone.net.decode(maps, tensors, "last")[0].float()
            features = torch.nn.functional.interpolate(features, size=crop.image.shape[2:], mode="nearest")[0]
        flat = torch.nn.functional.normalize(features.flatten(1), dim=0).T.numpy()
        own = crop.labels.flatten().numpy()
        for value in np.unique(own[own >= 0]):
            places = np.flatnonzero(own == value)
            places = rng.choice(places, min(SAMPLED, len(places)), replace=False)
            found.features.append(flat[places])
            found.labels.append(np.full(len(places), value))
    if prompts is None:
        return
    box = bounding_box(labels > 0)
    if box is None:
        return
    near = tuple(slice(max(side.start - AROUND, 0), side.stop + AROUND) for side in box)
    margins = class_margins(backbone, prompts, volume.array)
    shares = np.stack([Probabilities(margins)[k][near].ravel() for k in range(len(of.classes) + 1)], 1)
    found.probabilities.append(shares)
    found.truths.append(np.maximum(labels[near].ravel(), 0))


def measure(name: str, methods: list[str], options: argparse.Namespace, backbone: ps.Backbone) -> list[dict[str, Any]]:
    """A row for the frozen body, and two for each method: as it starts, and tuned."""
    of = SETS[name]
    examples = [ps.Example(*_read(options.data, of, case), complete=True, name=case) for case in of.teach]
    examples = examples[: options.volumes]
    tests = [_read(options.data, of, case) for case in of.test[: options.cases]]
    rows = []
    for method in [FROZEN, *methods]:
        for steps in (0, options.steps) if method != FROZEN else (0,):
            prompts, found = None, Found()
            if method != FROZEN:
                settings = ps.Settings(method=method, steps=steps, token_steps=60 if steps else 0, seed=options.seed)
                prompts = ps.tune(examples, of.classes, backbone, settings=settings)
            for image, reference in tests:
                look(found, image, ps.Example(image, reference, complete=True), of, backbone, prompts)
            features, labels = np.concatenate(found.features), np.concatenate(found.labels)
            row: dict[str, Any] = {"set": name, "method": method, "steps": steps, **scatters(features, labels)}
            if found.truths:
                row |= calibration(np.concatenate(found.probabilities), np.concatenate(found.truths))
            print(row, flush=True)
            rows.append({**row, "features": features, "labels": labels})
    return rows


def picture(rows: list[dict[str, Any]], names: list[str], path: Path) -> None:
    """Features along the two main axes of all of them, a panel for the body and for each tuned method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row["method"] == FROZEN or row["steps"]]
    figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.2), squeeze=False)
    for axis, row in zip(axes[0], shown):
        features, labels = row["features"], row["labels"]
        centered = features - features.mean(0)
        main = np.linalg.svd(centered, full_matrices=False)[2][:2]
        flat = centered @ main.T
        for value in np.unique(labels):
            own = flat[labels == value][:400]
            axis.plot(own[:, 0], own[:, 1], ".", markersize=2, label=["background", *names][int(value)])
        axis.set_title(f"{row['method']}, {row['Fisher ratio']:.2f}", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0][-1].legend(fontsize=6, markerscale=4, loc="upper right")
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main(arguments: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--sets", nargs="+", default=["hippocampus", "BTCV"], choices=list(SETS))
    parser.add_argument("--methods", nargs="+", default=["punet", "dvpt", "ept"])
    parser.add_argument("--volumes", type=int, default=3)
    parser.add_argument("--cases", type=int, default=2)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("features.json"))
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    backbone, kept = ps.load_model(device="cpu"), []
    for name in options.sets:
        rows = measure(name, options.methods, options, backbone)
        if options.picture:
            picture(rows, list(SETS[name].classes), options.picture.with_stem(f"{options.picture.stem}-{name}"))
        kept += [{key: value for key, value in row.items() if key not in ("features", "labels")} for row in rows]
        options.json.write_text(json.dumps(kept, indent=2))
    print(table(kept))
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    columns = ("within", "between", "Fisher ratio", "ECE", "Brier")
    lines = [f"| set | method | steps | {' | '.join(columns)} |", "|---" * (len(columns) + 3) + "|"]
    for row in rows:
        cells = [f"{row[each]:.3f}" if each in row else "-" for each in columns]
        lines.append(f"| {row['set']} | {row['method']} | {row['steps']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""Scores of a segmentation against a reference: overlap, surfaces and volumes.

Surface measures are MONAI's (``monai.metrics``; imported only when scores are computed):
the Hausdorff distance between the outermost voxel centers, and the normalized surface Dice
with surface areas in mm² (Nikolov et al., J Med Internet Res 2021;23(7):e26151), so that both
hold for anisotropic voxels.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Callable, Optional

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..imaging.geometry import bounding_box
from .labels import check_classes, check_same_grid, label_array


@dataclass(frozen=True)
class Score:
    """How well one class agrees; None where a measure is undefined.

    A class that neither volume has is absent: its ``dice``, ``surface_dice`` and
    ``hausdorff95`` are None. In a class that only one of them has, both Dice are 0 and
    ``hausdorff95`` is None.

    :param dice: overlap, 0..1.
    :param surface_dice: share of both surfaces (by area) within the tolerance of the other, 0..1.
    :param hausdorff95: 95th percentile of surface distances, the larger of both directions, mm.
    :param reference_ml: volume in the reference, ml.
    :param predicted_ml: volume in the prediction, ml.
    """

    dice: Optional[float]
    surface_dice: Optional[float]
    hausdorff95: Optional[float]
    reference_ml: Optional[float]
    predicted_ml: Optional[float]

    @property
    def absent(self) -> bool:
        return self.dice is None


def score(
    reference: sitk.Image, prediction: sitk.Image, classes: dict[str, int], tolerance_mm: float = 2.0
) -> dict[str, Score]:
    """Score every class of ``prediction`` against ``reference``.

    Label values that are not in ``classes`` are no errors by themselves: they count as "not
    this class".

    :param reference: 3D integer label volume.
    :param prediction: 3D integer label volume whose voxels lie where those of the reference lie.
    :param classes: name -> label value (1 or more), the same in both volumes.
    :param tolerance_mm: surface distance in mm that ``surface_dice`` accepts.
    :return: name -> :class:`Score`, in the order of ``classes``.
    :raises PromptSegError: a volume that is not a 3D integer label volume, other grids, no or
        unusable label values, or a negative tolerance.
    """
    check_classes(classes)
    if not (np.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise PromptSegError("The surface tolerance is {tolerance_mm} mm: use 0 or more.", tolerance_mm=tolerance_mm)
    truth, guess = label_array(reference, "reference"), label_array(prediction, "prediction")
    check_same_grid(reference, prediction, "prediction")
    spacing = tuple(float(s) for s in reference.GetSpacing()[::-1])  # z, y, x mm, as the arrays
    return {name: _score(truth == value, guess == value, spacing, tolerance_mm) for name, value in classes.items()}


def _score(truth: np.ndarray, guess: np.ndarray, spacing: tuple[float, ...], tolerance_mm: float) -> Score:
    """Score of two boolean masks (z, y, x) with ``spacing`` (z, y, x mm)."""
    millilitres = float(np.prod(spacing)) / 1000
    in_truth, in_guess = int(truth.sum()), int(guess.sum())
    volumes = in_truth * millilitres, in_guess * millilitres
    if not in_truth and not in_guess:
        return Score(None, None, None, *volumes)
    if not in_truth or not in_guess:
        return Score(0.0, 0.0, None, *volumes)
    box = bounding_box(truth | guess)
    assert box is not None
    truth, guess = (np.pad(mask[box], 2) for mask in (truth, guess))  # surfaces at the volume's end count too
    dice = 2 * int((truth & guess).sum()) / (in_truth + in_guess)

    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    pair = [torch.from_numpy(mask)[None, None] for mask in (guess, truth)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI calls its own deprecated arguments
        surface_dice = compute_surface_dice(
            pair[0],
            pair[1],
            class_thresholds=[tolerance_mm],
            include_background=True,
            spacing=spacing,
            use_subvoxels=True,
        )
        hausdorff95 = compute_hausdorff_distance(
            pair[0], pair[1], include_background=True, percentile=95, spacing=spacing
        )
    return Score(dice, float(surface_dice), float(hausdorff95), *volumes)


def mean_score(scores: dict[str, Score]) -> Score:
    """Each measure averaged over the classes in which it is defined, None where there is none.

    Classes that both volumes lack do not enter, not even with their volume of 0 ml. A class
    that one of them lacks enters the Dice with 0 but not the Hausdorff distance: compare
    ``hausdorff95`` only together with ``dice``.
    """
    present = [entry for entry in scores.values() if not entry.absent]
    columns = ([getattr(entry, field.name) for entry in present] for field in fields(Score))
    means = []
    for column in columns:
        known = [value for value in column if value is not None]
        means.append(float(np.mean(known)) if known else None)
    return Score(*means)


def volume_text(ml: float, places: int = 1) -> str:
    """A volume in ml with as many decimal places; below 1 ml with three digits that count: voxels may be tiny."""
    return f"{ml:.{max(places, 2 - math.floor(math.log10(ml))) if 0 < ml < 1 else places}f}"


_COLUMNS: tuple[tuple[str, str, Callable[..., str]], ...] = (
    ("dice", "Dice", "{:.3f}".format),
    ("surface_dice", "Surface Dice", "{:.3f}".format),
    ("hausdorff95", "HD95 (mm)", "{:.1f}".format),
    ("reference_ml", "Reference (ml)", volume_text),
    ("predicted_ml", "Predicted (ml)", volume_text),
)


def format_table(scores: dict[str, Score]) -> str:
    """An aligned text table: one row per class, then the mean; absent classes are named below it."""
    present = {name: entry for name, entry in scores.items() if not entry.absent}
    rows = [["Class", *(title for _, title, _ in _COLUMNS)]]
    for name, entry in [*present.items(), ("Mean", mean_score(scores))]:
        values = [(getattr(entry, key), form) for key, _, form in _COLUMNS]
        rows.append([name, *("-" if value is None else form(value) for value, form in values)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    lines[1:1] = [rule]
    lines[-1:-1] = [rule]
    absent = [name for name in scores if name not in present]
    if absent:
        lines.append(f"Absent from both: {', '.join(absent)}")
    return "\n".join(lines)


def to_json(scores: dict[str, Score]) -> dict:
    """``{"classes": {name: {measure: number or None}}, "mean": {...}, "absent": [names]}``, ready for ``json.dump``."""
    return {
        "classes": {name: asdict(entry) for name, entry in scores.items()},
        "mean": asdict(mean_score(scores)),
        "absent": [name for name, entry in scores.items() if entry.absent],
    }

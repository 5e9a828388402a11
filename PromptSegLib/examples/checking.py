"""What an image, an annotation and a set of examples must be before anything is tuned on them.

Every refusal is a :class:`PromptSegError` with one sentence: what is wrong, and what to do.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..prompts.classes import MAX_CLASSES, MAX_VALUE, check_names, is_name
from .annotation import UNKNOWN, label_blocks
from .example import Example
from .geometry import PERPENDICULAR, Grid, skew

# Sides in mm: a body is not larger than this in any direction, nor in two of them, and two sides of an image of
# anything are not smaller. What lies beyond is a wrong unit: micrometres or metres that are taken for millimetres.
_LONGEST, _WIDEST, _NARROWEST = 12_000, 1_200, 1
_MOST_UNEQUAL = 250  # the longest by the shortest edge of a voxel
_HIGHEST = 1e30  # intensities are computed with, and squared, in single precision
_COMPLEX = (sitk.sitkComplexFloat32, sitk.sitkComplexFloat64)
_INTEGER = (
    sitk.sitkUInt8,
    sitk.sitkInt8,
    sitk.sitkUInt16,
    sitk.sitkInt16,
    sitk.sitkUInt32,
    sitk.sitkInt32,
    sitk.sitkUInt64,
    sitk.sitkInt64,
)
_LARGEST, _SMALLEST = 1e30, 1e-30  # of intensities, and of their spread
# Enough voxels of one block of the annotation to tell what share of them lies outside the image.
_SAMPLE = 20_000


def is_integer(pixel_id: int) -> bool:
    """Whether a SimpleITK pixel type is a scalar integer."""
    return pixel_id in _INTEGER


def holds(annotation: sitk.Image, value: int) -> bool:
    """Whether any voxel of an annotation has this value."""
    return bool((sitk.GetArrayViewFromImage(annotation) == value).any())


def check_kind(
    name: str, size: Sequence[int], components: int = 1, pixel_id: int = sitk.sitkInt16, thin: bool = False
) -> None:
    """Refuse what is not a scalar 3D volume. ``size`` in (x, y, z) voxels; ``thin``: a single slice will do."""
    if any(extent == 0 for extent in size):
        raise PromptSegError(f"{name} has no voxels; export it again.")
    if len(size) > 3:
        raise PromptSegError(
            f"{name} has {len(size)} dimensions (a time series or several volumes in one file); "
            "save the 3D volume you want to use as a file of its own."
        )
    if pixel_id in _COMPLEX:
        raise PromptSegError(f"{name} has complex values; save its magnitude as a scalar volume.")
    if components > 1:
        raise PromptSegError(
            f"{name} has {components} values per voxel (colour or vectors), not one; convert it to a scalar volume."
        )
    if len(size) < 3 or (min(size) < 2 and not thin):
        raise PromptSegError(f"{name} is a single slice, not a 3D volume; load the whole series as one volume.")


def check_grid(name: str, grid: Grid) -> None:
    """Refuse a grid whose voxels have no definite place in the patient (spacing, origin, direction)."""
    advice = "convert the original series again (in Slicer: load the DICOM series and save it as .nrrd)"
    if not all(np.isfinite(step) and step > 0 for step in grid.spacing):
        steps = ", ".join(f"{step:g}" for step in grid.spacing)
        raise PromptSegError(f"{name} has a voxel spacing of ({steps}) mm, which must be positive; {advice}.")
    if not np.all(np.isfinite(grid.origin)):
        raise PromptSegError(f"{name} has no valid origin; {advice}.")
    # Written so that NaN is refused too.
    if not skew(np.reshape(grid.direction, (3, 3))) < PERPENDICULAR:
        raise PromptSegError(
            f"{name} has axes that are not perpendicular (a tilted gantry, or damaged orientation information); "
            "resample it to a rectangular grid (in Slicer: harden its transform, or use a Resample Image module)."
        )


def check_image(image: sitk.Image, name: str) -> None:
    """Refuse an image that no model can work on.

    That is: not 3D or a single slice, several values per voxel, no voxels, a spacing that is not positive or in another
    unit than mm, axes that are not perpendicular, NaN or infinite intensities or some beyond what is computed with,
    the same intensity everywhere.
    Reads the voxels twice and copies nothing.
    """
    check_kind(name, image.GetSize(), image.GetNumberOfComponentsPerPixel(), image.GetPixelID())
    check_grid(name, Grid.of(image))
    check_size(name, Grid.of(image))
    voxels = sitk.GetArrayViewFromImage(image)
    low, high = voxels.min(), voxels.max()  # NaN if there is one anywhere
    if not (np.isfinite(low) and np.isfinite(high)):
        raise PromptSegError(
            f"{name} has voxels that are NaN or infinite; replace them, for example with the lowest value."
        )
    if max(abs(float(low)), abs(float(high))) > _HIGHEST:
        raise PromptSegError(
            f"{name} has values from {low:.3g} to {high:.3g}, which are no intensities; replace those that mark what "
            "was not measured, for example with the lowest value."
        )
    if np.float32(low) == np.float32(high):
        raise PromptSegError(
            f"All voxels of {name} have the same intensity ({low:g}); check that it is the right volume."
        )
    low, high = float(low), float(high)
    # Networks compute with single precision: what is lost in it, nobody can segment.
    if max(abs(low), abs(high)) > _LARGEST or not high - low > max(_SMALLEST, 1e-5 * max(abs(low), abs(high))):
        raise PromptSegError(
            f"{name} has intensities from {low:g} to {high:g}, which single precision cannot tell apart; check that "
            "the file is not damaged, or rescale it."
        )


def check_size(name: str, grid: Grid) -> None:
    """Refuse a grid that no patient or specimen fills, because its spacing is in another unit than mm."""
    _, middle, longest = sorted(_sides(grid))
    voxel = f"with voxels of {_by(grid.spacing)} mm"
    if longest > _LONGEST or middle > _WIDEST:
        raise PromptSegError(
            f"{name} measures {_by(_sides(grid))} mm, {voxel}; check the voxel spacing, which seems to be in another "
            "unit (micrometres for millimetres?)."
        )
    if middle < _NARROWEST:
        raise PromptSegError(
            f"{name} measures only {_by(_sides(grid))} mm, {voxel}; check the voxel spacing, which seems to be in "
            "another unit (metres for millimetres?)."
        )
    if max(grid.spacing) > _MOST_UNEQUAL * min(grid.spacing):
        raise PromptSegError(f"{name} has voxels of {_by(grid.spacing)} mm; check the voxel spacing along each axis.")


def check_extent(image: Grid, spacing: Sequence[float], name: str) -> None:
    """Refuse an image of less than two voxels on a model's grid of ``spacing`` (z, y, x) mm."""
    if max(side / step for side, step in zip(_sides(image), spacing[::-1])) < 2:
        raise PromptSegError(
            f"{name} measures only {_by(_sides(image))} mm, and a voxel of the model {_by(spacing[::-1])} mm; check "
            "the voxel spacing of the image, or, for a specimen as small as this, give it ten times its spacing."
        )


def _sides(grid: Grid) -> list[float]:
    return [size * step for size, step in zip(grid.size, grid.spacing)]


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{each:.4g}" for each in values)


def check_strokes(strokes: Example, classes: Mapping[str, int]) -> None:
    """Refuse strokes that cannot be meant for their image, or that say nothing of ``classes`` (name -> value)."""
    check_classes(classes, strokes.background)
    _check_annotation(strokes, classes, alone=False)


def check_classes(classes: Mapping[str, int], background: int | None = None) -> None:
    """Refuse label values that cannot be told apart. ``classes``: name -> value in the annotation."""
    if not classes:
        raise PromptSegError("No classes are given; name at least one class and its value in the annotation.")
    for name, value in classes.items():
        if not is_name(name):
            raise PromptSegError("A class name is empty, longer than a line, or unprintable; give it another name.")
        if value > MAX_VALUE:
            raise PromptSegError(f"The class {name} has the value {value}; give it a value of {MAX_VALUE} or less.")
        if value < 1:
            raise PromptSegError(
                f"The class {name} has the value {value}, but 0 means unannotated; give it a value of 1 or more."
            )
    if len(classes) > MAX_CLASSES:
        raise PromptSegError(f"There are {len(classes)} classes; give at most {MAX_CLASSES}.")
    check_names(classes)
    owner: dict[int, str] = {}
    for name, value in classes.items():
        if value in owner:
            raise PromptSegError(
                f"The classes {owner[value]} and {name} have the same value {value}; give each its own value."
            )
        owner[value] = name
    if background in owner:
        raise PromptSegError(
            f"The value {background} is both the background and the class {owner[background]}; "
            "paint the background with a value of its own."
        )
    if background == 0:
        raise PromptSegError(
            "The background value is 0, which means unannotated; paint the background with another value, "
            "or say that the annotation is complete."
        )


def check_example(example: Example, classes: Mapping[str, int]) -> None:
    """Refuse an example from which ``classes`` (name -> value) cannot be learned on its own."""
    check_examples([example], classes)


def check_examples(examples: Sequence[Example], classes: Mapping[str, int]) -> None:
    """Refuse a set of examples from which ``classes`` (name -> value) cannot be learned.

    Each image must pass :func:`check_image`; each annotation must be an integer 3D volume that lies on its
    image and holds something known; each class must be annotated in at least one of the examples; and the
    set must hold at least two kinds of voxels, because one kind alone teaches no boundary.
    """
    if not examples:
        raise PromptSegError("No examples are given; annotate at least one image.")
    for background in {example.background for example in examples}:
        check_classes(classes, background)
    known = np.zeros(len(classes) + 1, bool)
    for example in examples:
        check_image(example.image, example.name)
        known |= _check_annotation(example, classes, alone=len(examples) == 1)
    where = f"in the annotation of {examples[0].name}" if len(examples) == 1 else "in any of the annotations"
    missing = [name for name, found in zip(classes, known[1:]) if not found]
    if missing:
        named = f"The class {missing[0]} is" if len(missing) == 1 else f"The classes {', '.join(missing)} are"
        what = "it" if len(missing) == 1 else "them"
        raise PromptSegError(
            f"{named} not painted {where}; either paint {what} or leave {what} out of the classes (--classes)."
        )
    if known.sum() < 2:
        raise PromptSegError(
            f"Only {next(iter(classes))} is painted {where}; paint some background or another class as well, "
            "or say that the annotation is complete."
        )


def _check_annotation(example: Example, classes: Mapping[str, int], alone: bool) -> np.ndarray:
    """Whether background and each class occur, bool (1 + number of classes,); refuses an unusable annotation."""
    name = f"The annotation of {example.name}"
    annotation = example.annotation
    if annotation.GetNumberOfComponentsPerPixel() == 1 and not is_integer(annotation.GetPixelID()):
        kind = annotation.GetPixelIDTypeAsString()
        raise PromptSegError(f"{name} has {kind} voxels; save it as a label volume with whole numbers.")
    # A single annotated slice is a fine annotation.
    check_kind(name, annotation.GetSize(), annotation.GetNumberOfComponentsPerPixel(), thin=True)
    grid, image = Grid.of(annotation), Grid.of(example.image)
    check_grid(name, grid)

    aligned = grid.same_as(image)
    seen = np.zeros(len(classes) + 2, bool)  # background, the classes, and unknown at -1
    total, outside = 0, 0.0
    for start, block in label_blocks(example, classes):
        seen[np.maximum(block, UNKNOWN)] = True
        seen[0] |= bool((block < UNKNOWN).any())  # not this class: a boundary can be learned from it
        if aligned:
            continue
        # A complete annotation's background says nothing about where the patient is.
        places = np.flatnonzero(block > 0 if example.complete else block != UNKNOWN)
        if not places.size:
            continue
        sample = places[:: -(-places.size // _SAMPLE)]
        z, y, x = np.unravel_index(sample, block.shape)
        index = image.indices(grid.points(np.stack([x, y, z + start], -1)))
        beyond = ((index < -0.5) | (index > np.asarray(image.size) - 0.5)).any(-1)
        total += places.size
        outside += beyond.mean() * places.size
    known = seen[:-1]
    if not (known[1:].any() or (known[0] and not alone)):
        raise PromptSegError(f"{name} {_nothing(annotation, classes)}.")
    if total and outside > 0.5 * total:
        share = "All" if outside > 0.999 * total else f"{outside / total:.0%}"
        raise PromptSegError(
            f"{share} of the annotated voxels of {example.name} lie outside the image; "
            "the image and the annotation seem to belong to different patients or scans, so check the pair."
        )
    return known


def _nothing(annotation: sitk.Image, classes: Mapping[str, int]) -> str:
    """What to say of an annotation in which no class is painted."""
    values = np.unique(sitk.GetArrayViewFromImage(annotation))
    values = values[values != 0]
    if not values.size:
        return "is empty; paint the classes first"
    found = ", ".join(str(value) for value in values[:8]) + (", ..." if values.size > 8 else "")
    wanted = ", ".join(f"{name} = {value}" for name, value in classes.items())
    return f"holds none of the classes ({wanted}) but the values {found}; correct the values of the classes"

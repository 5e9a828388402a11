"""What an annotation and a set of examples must be before anything is tuned on them.

Every refusal is a :class:`PromptSegError` with one sentence: what is wrong, and what to do.
"""

from __future__ import annotations

from typing import Mapping, Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..imaging.checking import check_grid, check_image, check_kind, is_integer
from ..imaging.geometry import Grid
from .classes import MAX_CLASSES, MAX_VALUE, check_names, is_name
from .example import Example
from .labels import code_blocks
from .partial_labels import BACKGROUND, BLANK

# Enough voxels of one block of the annotation to tell what share of them lies outside the image.
_SAMPLE = 20_000


def holds(annotation: sitk.Image, value: int) -> bool:
    """Whether any voxel of an annotation has this value."""
    return bool((sitk.GetArrayViewFromImage(annotation) == value).any())


def check_strokes(strokes: Example, classes: Mapping[str, int], each: bool = False) -> None:
    """Refuse strokes that cannot be meant for their image, or that say nothing of ``classes`` (name -> value).

    :param each: or of any one of them.
    """
    check_classes(classes, strokes.background)
    known = _check_annotation(strokes, classes, alone=False)
    if each:
        _check_painted(classes, known, f"in the annotation of {strokes.name}")


def check_classes(classes: Mapping[str, int], background: int | None = None) -> None:
    """Refuse label values that cannot be told apart. ``classes``: name -> value in the annotation."""
    if not classes:
        raise PromptSegError("No classes are given; name at least one class and its value in the annotation.")
    for name, value in classes.items():
        if not is_name(name):
            raise PromptSegError("A class name is empty, longer than a line, or unprintable; give it another name.")
        if value > MAX_VALUE:
            raise PromptSegError(
                "The class {name} has the value {value}; give it a value of {max_value} or less.",
                name=name,
                value=value,
                max_value=MAX_VALUE,
            )
        if value < 1:
            raise PromptSegError(
                "The class {name} has the value {value}, but 0 means unannotated; give it a value of 1 or more.",
                name=name,
                value=value,
            )
    if len(classes) > MAX_CLASSES:
        raise PromptSegError(
            "There are {count} classes; give at most {max_classes}.", count=len(classes), max_classes=MAX_CLASSES
        )
    check_names(classes)
    owner: dict[int, str] = {}
    for name, value in classes.items():
        if value in owner:
            raise PromptSegError(
                "The classes {owner} and {name} have the same value {value}; give each its own value.",
                owner=owner[value],
                name=name,
                value=value,
            )
        owner[value] = name
    if background in owner:
        raise PromptSegError(
            "The value {background} is both the background and the class {owner}; paint the background "
            "with a value of its own.",
            background=background,
            owner=owner[background],
        )
    if background == 0:
        raise PromptSegError(
            "The background value is 0, which means unannotated; paint the background with another value, "
            "or say that the annotation is complete."
        )


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
    _check_painted(classes, known, where)
    if known.sum() < 2:
        raise PromptSegError(
            "Only {classes} is painted {where}; paint some background or another class as well, or say "
            "that the annotation is complete.",
            classes=next(iter(classes)),
            where=where,
        )


def _check_painted(classes: Mapping[str, int], known: np.ndarray, where: str) -> None:
    """Refuse classes of which nothing is known, as :func:`_check_annotation` gives it."""
    missing = [name for name, found in zip(classes, known[1:]) if not found]
    if missing:
        named = f"The class {missing[0]} is" if len(missing) == 1 else f"The classes {', '.join(missing)} are"
        what = "it" if len(missing) == 1 else "them"
        raise PromptSegError(
            "{named} not painted {where}; either paint {what} or leave {what} out of the classes (--classes).",
            named=named,
            where=where,
            what=what,
        )


def _check_annotation(example: Example, classes: Mapping[str, int], alone: bool) -> np.ndarray:
    """Whether background and each class occur, bool (1 + number of classes,); refuses an unusable annotation."""
    name = f"The annotation of {example.name}"
    annotation = example.annotation
    if annotation.GetNumberOfComponentsPerPixel() == 1 and not is_integer(annotation.GetPixelID()):
        kind = annotation.GetPixelIDTypeAsString()
        raise PromptSegError(
            "{name} has {kind} voxels; save it as a label volume with whole numbers.", name=name, kind=kind
        )
    # A single annotated slice is a fine annotation.
    check_kind(name, annotation.GetSize(), annotation.GetNumberOfComponentsPerPixel(), thin=True)
    grid, image = Grid.of(annotation), Grid.of(example.image)
    check_grid(name, grid)

    aligned = grid.same_as(image)
    seen = np.zeros(2 * len(classes) + 2, bool)  # by code
    total, outside = 0, 0.0
    for start, block in code_blocks(example, classes):
        seen[block] = True
        if aligned:
            continue
        # A complete annotation's background says nothing about where the patient is.
        of_class = (block > BACKGROUND) & (block % 2 == 0)
        places = np.flatnonzero(of_class if example.complete else block != BLANK)
        if not places.size:
            continue
        sample = places[:: -(-places.size // _SAMPLE)]
        z, y, x = np.unravel_index(sample, block.shape)
        index = image.indices(grid.points(np.stack([x, y, z + start], -1)))
        beyond = ((index < -0.5) | (index > np.asarray(image.size) - 0.5)).any(-1)
        total += places.size
        outside += beyond.mean() * places.size
    excluded = seen[3::2].any()  # not this class: a boundary can be learned from it
    known = np.array([seen[BACKGROUND] or excluded, *seen[2::2]])
    if not (known[1:].any() or (known[0] and not alone)):
        raise PromptSegError("{name} {nothing}.", name=name, nothing=_nothing(annotation, classes))
    if total and outside > 0.5 * total:
        share = "All" if outside > 0.999 * total else f"{outside / total:.0%}"
        raise PromptSegError(
            "{share} of the annotated voxels of {name} lie outside the image; the image and the "
            "annotation seem to belong to different patients or scans, so check the pair.",
            share=share,
            name=example.name,
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

"""The strokes that prompts carry after a tuning: those of its classes, and those of the classes that it left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..annotation.example import Example
from ..annotation.labels import UNKNOWN, strokes_on_image
from ..annotation.strokes import Strokes, unpacked
from ..errors import PromptSegError, Sentence
from ..models.feature_cache import FeatureCache
from ..prompts.store import Prompts


def without(example: Example, values: Sequence[int]) -> Example:
    """The example with what is painted of some values as known background, as it is anyway in a complete one."""
    if not values or (example.complete and example.background is None):
        return example
    background = int(values[0]) if example.background is None else example.background
    changed = sitk.ChangeLabel(example.annotation, {int(value): float(background) for value in values})
    return replace(example, annotation=changed, background=background)


def strokes_to_keep(
    examples: Sequence[Example],
    classes: Mapping[str, int],
    start: Optional[Prompts],
    feature_cache: FeatureCache,
    notes: Optional[list[str]] = None,
    others: Sequence[int] = (),
) -> list[Strokes]:
    """The strokes that prompts carry: those of the examples, and those of ``start`` that they do not replace.

    :param others: values in the annotations of classes that were not tuned now; where ``start`` has such a class, what
        is painted of it is kept as well.
    :param notes: a sentence is added for every example whose strokes cannot be kept.
    """
    carried = _carried(start, classes) if start is not None else []
    kept: list[Strokes] = []
    by_image: dict[str, list[Example]] = {}
    names: dict[str, set[str]] = {}
    for example in examples:
        if carried or not example.complete:
            image, *earlier = feature_cache.fingerprints(example.image)
            by_image.setdefault(image, []).append(example)
            names.setdefault(image, {image}).update(earlier)
    for image, together in by_image.items():
        painted = [each for each in together if not each.complete]
        before = [each for each in start.strokes if each.image in names[image]] if start else []
        strokes = _strokes(image, painted or together, classes, start, before, others)
        kept += [strokes] if strokes else []
        if strokes is None and painted and notes is not None:
            notes.append(
                Sentence(
                    "What is painted on {name} is too much to be kept with the prompts; give it again when that "
                    "image is segmented.",
                    name=painted[-1].name,
                )
            )
        # Even where nothing is kept of this annotation, it has replaced the strokes that there were.
        carried = [each for each in carried if each.image not in names[image]]
    return [*carried, *kept]


def _carried(start: Prompts, classes: Mapping[str, int]) -> list[Strokes]:
    """The strokes of ``start``, with the values that its classes have from now on."""
    if not start.strokes:
        return []
    changed = {value: classes.get(name, value) for name, value in start.values.items()}
    try:
        # Always, as a value that was given up may be given to another class.
        found = [each.with_values(changed) for each in start.strokes]
    except ValueError as error:
        raise _unusable(error) from error
    return [each for each in found if each]


def _strokes(
    image: str,
    examples: Sequence[Example],
    classes: Mapping[str, int],
    start: Optional[Prompts],
    before: Sequence[Strokes],
    others: Sequence[int],
) -> Optional[Strokes]:
    """The strokes to keep of an image, given by its fingerprint.

    These are what was painted on it, unless that is no strokes, and what ``start`` holds of its other classes there.

    :param examples: of that image, all complete or none; where they say different things, the last one holds.
    :param before: what ``start`` holds of that image.
    """
    complete = examples[0].complete
    left = {name: value for name, value in (start.values if start else {}).items() if name not in classes}
    painted = {} if complete else {name: value for name, value in left.items() if value in others}
    shown = {**classes, **painted}
    labels = strokes_on_image(examples[0], shown)
    for example in examples[1:]:
        more = strokes_on_image(example, shown)
        labels = np.where(more != UNKNOWN, more, labels)
    values = [*shown.values(), *(value for name, value in left.items() if name not in painted)]
    before = [each for each in before if each.shape == labels.shape]
    if not before:
        return None if complete else Strokes.pack(image, labels, values)
    try:
        earlier = unpacked(before, values[len(classes) :])
    except ValueError as error:
        raise _unusable(error) from error
    earlier[earlier > 0] += len(classes)
    if (labels == 0).any():
        earlier[earlier == 0] = UNKNOWN  # background was painted anew: what was erased stays erased
    others_alone = np.where(labels > 0, UNKNOWN, earlier)
    both = None if complete else Strokes.pack(image, np.where(labels >= 0, labels, earlier), values)
    # Where it is too much for all of it, what the other classes had is kept.
    return both or Strokes.pack(image, others_alone, values)


def _unusable(error: ValueError) -> PromptSegError:
    return PromptSegError("The strokes in the given prompts are unusable: {error}; start anew.", error=error)

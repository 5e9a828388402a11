"""A set of images of one kind, as a recipe describes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Union

from ..annotation.classes import is_name
from .settings import settings_of

PLACE = "{case}"
MISSING = ("absent", "unknown")


@dataclass(frozen=True)
class Source:
    """Where images lie, and what their labels say and do not say.

    :param folder: folder of the set; relative ones are taken from the working directory.
    :param image: pattern of the image files below ``folder``, with ``{case}`` for the case's name. None for label maps
        without images, which are synthesized: ``synthetic`` is 1.
    :param label: pattern of the label files; none for images without labels. A case without such a file is unlabeled.
    :param classes: class name -> its value in the labels, or the values that are all of that class. A name that two
        sources share is one class.
    :param unused_values: label values that are treated as not labeled.
    :param missing: what it means when a class of this set has no voxel in a labeled case: it is ``absent`` from
        the image, or it is ``unknown`` whether it is there (not contoured); the latter is masked in the loss.
    :param absent: classes of other sources that are certainly in none of these images (liver in a head CT).
    :param weight: how often its cases are drawn, against those of the other sources.
    :param training: names of the cases to train on, or patterns (``train_*``); all that are found where left out.
        Cases of ``validation`` are never trained on.
    :param validation: names of the cases to validate on, or patterns.
    :param partial: classes of this set of which some are not labeled (vertebrae beyond the labeled ones). Outside the
        slices between its first and its last label, such a class stays unknown.
    :param synthetic: share of the views of labeled cases whose image is drawn anew from labels and tissues.
    """

    name: str
    folder: str
    image: Optional[str]
    modality: str
    licence: str
    label: Optional[str] = None
    classes: dict[str, Union[int, tuple[int, ...]]] = field(default_factory=dict)
    unused_values: tuple[int, ...] = ()
    missing: str = "absent"
    absent: tuple[str, ...] = ()
    weight: float = 1.0
    training: Optional[tuple[str, ...]] = None
    validation: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()
    synthetic: float = 0.0

    @classmethod
    def from_dict(cls, values: dict) -> Source:
        """From a JSON object; raises ``ValueError`` for one that makes no sense."""
        name = values.get("name") if isinstance(values, dict) else None
        if isinstance(values, dict):
            values = {"image": None, **values}
        settings = settings_of(cls, values, f" of the source {name}" if is_name(name) else " of a source")
        if "classes" in settings:
            settings["classes"] = {
                each: tuple(value) if isinstance(value, list) else value for each, value in settings["classes"].items()
            }
        source = cls(**settings)
        source._check()
        return source

    def values_of(self, name: str) -> tuple[int, ...]:
        """The label values of a class."""
        values = self.classes[name]
        return values if isinstance(values, tuple) else (values,)

    @property
    def values(self) -> tuple[int, ...]:
        """The label values of all classes."""
        return tuple(value for name in self.classes for value in self.values_of(name))

    def _check(self) -> None:
        if not is_name(self.name):
            raise ValueError("the name of a source is empty, too long or unprintable")
        for pattern in (self.image, self.label):
            if pattern is not None and pattern.count(PLACE) != 1:
                raise ValueError(f"{self.name}: the pattern {pattern!r} must hold {PLACE} once")
        if self.missing not in MISSING:
            raise ValueError(f'{self.name}: "missing" is none of {", ".join(MISSING)}')
        if not 0 <= self.synthetic <= 1:
            raise ValueError(f'{self.name}: "synthetic" must lie between 0 and 1')
        if self.image is None and (self.label is None or self.synthetic < 1):
            raise ValueError(
                f'{self.name} has label maps without images; give it "image", or "label" and "synthetic": 1'
            )
        if self.image is None and self.validation:
            raise ValueError(f"{self.name}: label maps without images cannot be validated on")
        if not all(self.values_of(name) for name in self.classes):
            raise ValueError(f"{self.name}: a class has no value")
        values = self.values
        if not all(value > 0 for value in values) or len(set(values)) < len(values):
            raise ValueError(f"{self.name}: each class needs a whole number above 0 of its own")
        if not all(is_name(name) for name in self.classes):
            raise ValueError(f"{self.name}: a class name is empty, too long or unprintable")
        if set(values) & set(self.unused_values):
            raise ValueError(f"{self.name}: a value is both a class and unused")
        if set(self.classes) & set(self.absent):
            raise ValueError(f"{self.name}: a class is both labeled and absent")
        if set(self.partial) - set(self.classes):
            raise ValueError(f'{self.name}: "partial" names a class that the source does not have')
        if not self.weight > 0:
            raise ValueError(f"{self.name}: the weight must be above 0")
        if self.training is not None and set(self.training) & set(self.validation):
            raise ValueError(f"{self.name}: a case is both for training and for validation")

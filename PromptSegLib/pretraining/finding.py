"""The files of a run: found below the folders of its sources."""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from ..errors import PromptSegError
from .recipe import Recipe
from .source import PLACE, Source

_NAMED = 5  # how many cases or values one sentence names


@dataclass(frozen=True)
class CaseFile:
    """Files of one case of ``recipe.sources[source]``; ``image`` or ``label`` is None where there is none."""

    source: int
    name: str
    image: Optional[Path]
    label: Optional[Path]

    @property
    def base(self) -> Path:
        """The file that says where the case lies: the image, or a label map without one."""
        path = self.image or self.label
        assert path is not None
        return path


def find_cases(recipe: Recipe) -> tuple[list[CaseFile], list[CaseFile]]:
    """Files of the training and of the validation cases, without opening one.

    Raises :class:`PromptSegError` for a folder that is missing or holds no image, a named case that is not
    there, an image both of training and of validation, and a recipe without any training case.
    """
    training, validation = [], []
    for index, source in enumerate(recipe.sources):
        found = _find(index, source)
        names = _named(source, source.validation, found)
        chosen = _named(source, ("*",) if source.training is None else source.training, found)
        training += [found[name] for name in chosen if name not in names]
        validation += [found[name] for name in names]
    if not training:
        raise PromptSegError('No case is left to train on; name fewer cases under "validation".')
    kept = {file.base.resolve(): file for file in validation}
    for file in training:
        twin = kept.get(file.base.resolve())
        if twin:
            raise PromptSegError(
                "{image} is {validation} for validation and {training} for training; name its case under "
                '"validation" of both sources.',
                image=file.base,
                validation=case_key(recipe, twin),
                training=case_key(recipe, file),
            )
    return training, validation


def _named(source: Source, patterns: Sequence[str], found: dict[str, CaseFile]) -> list[str]:
    """The names that match any of the patterns (``train_*``), sorted per pattern; each must match at least one."""
    names: list[str] = []
    lost = []
    for pattern in patterns:
        matched = [pattern] if pattern in found else sorted(fnmatch.filter(found, pattern))
        names += matched
        lost += [] if matched else [pattern]
    if lost:
        raise PromptSegError(
            '{folder} holds no image of {listed}, which the source {name} names; correct "training" '
            'and "validation", or check the folder and the pattern {image}.',
            folder=source.folder,
            listed=listed(lost),
            name=source.name,
            image=repr(source.image or source.label),
        )
    return list(dict.fromkeys(names))


def _find(index: int, source: Source) -> dict[str, CaseFile]:
    """Case name -> files, of all images of a source."""
    folder = Path(source.folder)
    if not folder.is_dir():
        raise PromptSegError(
            'There is no folder {folder} for the source {name}; correct its "folder".', folder=folder, name=source.name
        )
    if any(Path(pattern).is_absolute() for pattern in (source.image or "", source.label or "")):
        raise PromptSegError(
            "The patterns of the source {name} must be relative to its folder {folder}.",
            name=source.name,
            folder=folder,
        )
    pattern = source.image or source.label or ""
    image, label = _expression(pattern), _expression(source.label) if source.image and source.label else None
    found = {}
    for path in folder.glob(re.sub(r"[*?[]", r"[\g<0>]", pattern).replace(PLACE, "*")):
        place = path.relative_to(folder).as_posix()
        match = image.fullmatch(place)
        if not match or not path.is_file():
            continue
        name = match.group(1)
        # "a_label.nii.gz" is the image of a case "a_label" and the label of a case "a": the shorter name is meant.
        other = label.fullmatch(place) if label else None
        if other and len(other.group(1)) < len(name):
            continue
        if source.image is None:
            found[name] = CaseFile(index, name, None, path)
            continue
        beside = folder / source.label.replace(PLACE, name) if source.label else None
        found[name] = CaseFile(index, name, path, beside if beside and beside.is_file() else None)
    if not found:
        raise PromptSegError(
            'The folder {folder} of the source {name} holds no image {image}; correct "folder" or the pattern "image".',
            folder=folder,
            name=source.name,
            image=repr(source.image or source.label),
        )
    return found


def _expression(pattern: str) -> re.Pattern:
    """Matches a path below the folder; a case's name is no path, and not that of a hidden file (macOS leaves "._x")."""
    before, after = (re.escape(part) for part in Path(pattern).as_posix().split(PLACE))
    return re.compile(f"{before}((?!\\.)[^/]+){after}")


def case_key(recipe: Recipe, file: CaseFile) -> str:
    """What a case is called in messages and on the model card, "source/case"."""
    return f"{recipe.sources[file.source].name}/{file.name}"


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

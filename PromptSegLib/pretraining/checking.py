"""Looking at every file of a run before training: what is no accident is refused, what is damaged is skipped."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Mapping, Sequence, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError, Sentence
from ..imaging.checking import check_grid, check_kind
from ..imaging.geometry import Grid, upright_grid
from ..imaging.intact import check_intact
from ..imaging.reading import quiet, read_annotation, unreadable
from .finding import CaseFile, case_key, listed
from .recipe import Recipe

_EXTENT = 4096  # voxels of the model's grid: no patient is that long, the spacing must be wrong
_SAMPLE = 20_000  # labeled voxels that tell whether a label lies on its image


def check_cases(
    recipe: Recipe, files: Sequence[CaseFile], log: Callable[[str], None] = print, workers: int = 4
) -> tuple[list[CaseFile], dict[str, str]]:
    """The usable of ``files``, and "source/case" -> one sentence for each that is damaged and will be skipped.

    Looks at every image's header and stream and at every label volume. Raises :class:`PromptSegError` for what
    is no accident: images that are not 3D volumes, label values that the source does not declare, and nothing
    that is usable.
    """
    with quiet(), ThreadPoolExecutor(workers) as pool:  # quiet once around all threads: it is not made for several
        answers = list(pool.map(lambda file: _look(recipe, file), files))
    usable: list[CaseFile] = []
    skipped: dict[str, str] = {}
    strange: dict[str, int] = {}
    undeclared: list[tuple[CaseFile, list[int]]] = []
    for file, answer in zip(files, answers):
        key = case_key(recipe, file)
        if isinstance(answer, str):
            skipped[key] = answer
        elif isinstance(answer, int):
            strange[key] = answer
        else:
            usable.append(file)
            if answer:
                undeclared.append((file, answer))
    if strange:
        raise _not_volumes(strange, len(files), case_key(recipe, usable[0]) if usable else "")
    if undeclared:
        file, values = undeclared[0]
        more = f", as do {len(undeclared) - 1} others" if len(undeclared) > 1 else ""
        raise PromptSegError(
            "The label of {case_key} holds values that its source does not declare ({listed}){more}; "
            'give each a name under "classes" or list it under "unused_values".',
            case_key=case_key(recipe, file),
            listed=listed([str(value) for value in values]),
            more=more,
        )
    for key, reason in skipped.items():
        log(f"{key} is skipped: {reason}")
    if skipped:
        log(f"{len(skipped)} of {len(files)} cases are skipped")
    if skipped and not usable:
        raise PromptSegError(
            "None of the {count} cases can be used; of the first: {values}",
            count=len(files),
            values=next(iter(skipped.values())),
        )
    return usable, skipped


def _not_volumes(strange: Mapping[str, int], count: int, usable: str) -> PromptSegError:
    """What to say of images that are no 3D volumes.

    :param strange: "source/case" -> dimensions.
    :param count: how many images there are.
    :param usable: "source/case" of one that is; "" where none is.
    """
    kinds = {dimensions: key for key, dimensions in reversed(list(strange.items()))}
    which = " and ".join(f"{key} is {dimensions}D" for dimensions, key in sorted(kinds.items()))
    if not usable:
        return PromptSegError(
            "None of the {count} images is a 3D volume ({which}); save each volume as a file of its own.",
            count=count,
            which=which,
        )
    return PromptSegError(
        "{count} of {all} images are not 3D volumes ({which}), others such as {case_key} are; "
        'move those away, or name the cases to use under "training" and "validation".',
        count=len(strange),
        all=count,
        which=which,
        case_key=usable,
    )


def _look(recipe: Recipe, file: CaseFile) -> Union[str, int, list[int]]:
    """The undeclared values of a usable case's label; dimensions of an image that is not 3D; why it is damaged."""
    source = recipe.sources[file.source]
    try:
        check_intact(file.base)
        reader = header(file.base)
        size = reader.GetSize()
        dimensions = len(size)
        while dimensions > 3 and size[dimensions - 1] == 1:  # a single volume of a series
            dimensions -= 1
        if dimensions != 3 or min(size[:3]) < 2:
            return 2 if dimensions == 3 else dimensions
        check_kind(file.base.name, size[:3], reader.GetNumberOfComponents(), reader.GetPixelID())
        grid = grid_of(reader)
        check_grid(file.base.name, grid)
        if max(upright_grid(grid, recipe.preprocessing.spacing).size) > _EXTENT:
            length = max(np.multiply(grid.size, grid.spacing)) / 1e3
            return Sentence(
                "{base} is {length:.0f} m long by its voxel spacing; convert the original series again.",
                base=file.base,
                length=length,
            )
        if file.label is None:
            return []
        label = read_annotation(file.label)
        if file.image is None:  # whatever else it holds is tissue
            return []
        own = Grid.of(label)
        check_grid(file.label.name, own)
        voxels = sitk.GetArrayViewFromImage(label)
        values: set[int] = set().union(*(np.unique(plane).tolist() for plane in voxels))
        if not own.same_as(grid) and not _covers(grid, own, voxels):
            return Sentence(
                "Most of {label} lies outside its image; check that both are of the same scan.", label=file.label
            )
        return sorted(values - {0, *source.values, *source.unused_values})
    except PromptSegError as error:
        return str(error)
    except OSError as error:
        return Sentence(
            "{base} or its label cannot be read ({reason}); check its permissions.",
            base=file.base,
            reason=error.strerror or error,
        )


def _covers(grid: Grid, own: Grid, voxels: np.ndarray) -> bool:
    """Whether most labeled voxels (z, y, x) of the grid ``own`` lie inside ``grid``; also if there is none."""
    places = np.flatnonzero(voxels)
    if not places.size:
        return True
    z, y, x = np.unravel_index(places[:: -(-places.size // _SAMPLE)], voxels.shape)
    index = grid.indices(own.points(np.stack([x, y, z], -1)))
    return bool(((index > -0.5) & (index < np.asarray(grid.size) - 0.5)).all(-1).mean() > 0.5)


def header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise PromptSegError(unreadable(path, str(error))) from error
    return reader


def grid_of(reader: sitk.ImageFileReader) -> Grid:
    """Grid of the first three dimensions."""
    count = len(reader.GetSize())
    direction = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    return Grid(
        reader.GetSize()[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.ravel().tolist())
    )

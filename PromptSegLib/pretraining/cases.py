"""The images of a run: found below their folders, checked before training, read, and kept in memory."""

from __future__ import annotations

import fnmatch
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional, Sequence, Union

import numpy as np
import SimpleITK as sitk
from monai.data import CacheDataset
from monai.transforms import Compose, Transform

from ..errors import PromptSegError, is_out_of_memory
from ..imaging.checking import check_grid, check_image, check_kind
from ..imaging.geometry import Grid, resample, upright_grid
from ..imaging.reading import check_intact, quiet, read_annotation, read_image, unreadable
from ..imaging.volume import Volume
from .recipe import Recipe
from .source import PLACE, Source

_MEMBERS = 20_000  # voxels of a class that are kept: enough places to centre a view on
_VOXEL_BYTES = 3  # of a case in memory: float16 image, uint8 label
_NAMED = 5  # how many cases or values one sentence names
_EXTENT = 4096  # voxels of the model's grid: no patient is that long, the spacing must be wrong
_SAMPLE = 20_000  # labelled voxels that tell whether a label lies on its image


@dataclass(frozen=True)
class CaseFile:
    """Files of one case of ``recipe.sources[source]``; ``label`` is None where there is none."""

    source: int
    name: str
    image: Path
    label: Optional[Path]


@dataclass
class Case:
    """One volume on the model's grid.

    :param image: (z, y, x) float16, normalised to [-1, 1].
    :param label: (z, y, x) uint8, k for the k-th of ``recipe.class_names`` (from 1), 0 for whatever else.
    :param known: (K,) bool, whether the class at k - 1 is labelled here, if only by its absence.
    :param members: class index -> voxels of that class, (n, 3) int16 as (z, y, x), at most 20000 at random.
    """

    name: str
    source: int
    image: np.ndarray
    label: np.ndarray
    known: np.ndarray
    members: dict[int, np.ndarray]


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
    kept = {file.image.resolve(): file for file in validation}
    for file in training:
        twin = kept.get(file.image.resolve())
        if twin:
            raise PromptSegError(
                "{image} is {validation} for validation and {training} for training; name its case under "
                '"validation" of both sources.',
                image=file.image,
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
            listed=_listed(lost),
            name=source.name,
            image=repr(source.image),
        )
    return list(dict.fromkeys(names))


def _find(index: int, source: Source) -> dict[str, CaseFile]:
    """Case name -> files, of all images of a source."""
    folder = Path(source.folder)
    if not folder.is_dir():
        raise PromptSegError(
            'There is no folder {folder} for the source {name}; correct its "folder".', folder=folder, name=source.name
        )
    if any(Path(pattern).is_absolute() for pattern in (source.image, source.label or "")):
        raise PromptSegError(
            "The patterns of the source {name} must be relative to its folder {folder}.",
            name=source.name,
            folder=folder,
        )
    image, label = _expression(source.image), _expression(source.label) if source.label else None
    found = {}
    for path in folder.glob(re.sub(r"[*?[]", r"[\g<0>]", source.image).replace(PLACE, "*")):
        place = path.relative_to(folder).as_posix()
        match = image.fullmatch(place)
        if not match or not path.is_file():
            continue
        name = match.group(1)
        # "a_label.nii.gz" is the image of a case "a_label" and the label of a case "a": the shorter name is meant.
        other = label.fullmatch(place) if label else None
        if other and len(other.group(1)) < len(name):
            continue
        beside = folder / source.label.replace(PLACE, name) if source.label else None
        found[name] = CaseFile(index, name, path, beside if beside and beside.is_file() else None)
    if not found:
        raise PromptSegError(
            'The folder {folder} of the source {name} holds no image {image}; correct "folder" or the pattern "image".',
            folder=folder,
            name=source.name,
            image=repr(source.image),
        )
    return found


def _expression(pattern: str) -> re.Pattern:
    """Matches a path below the folder; a case's name is no path, and not that of a hidden file (macOS leaves "._x")."""
    before, after = (re.escape(part) for part in Path(pattern).as_posix().split(PLACE))
    return re.compile(f"{before}((?!\\.)[^/]+){after}")


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
        kinds = {dimensions: key for key, dimensions in reversed(strange.items())}
        which = " and ".join(f"{key} is {dimensions}D" for dimensions, key in sorted(kinds.items()))
        if not usable:
            raise PromptSegError(
                "None of the {count} images is a 3D volume ({which}); save each volume as a file of its own.",
                count=len(files),
                which=which,
            )
        raise PromptSegError(
            "{count} of {all} images are not 3D volumes ({which}), others such as {case_key} are; "
            'move those away, or name the cases to use under "training" and "validation".',
            count=len(strange),
            all=len(files),
            which=which,
            case_key=case_key(recipe, usable[0]),
        )
    if undeclared:
        file, values = undeclared[0]
        more = f", as do {len(undeclared) - 1} others" if len(undeclared) > 1 else ""
        raise PromptSegError(
            "The label of {case_key} holds values that its source does not declare ({listed}){more}; "
            'give each a name under "classes" or list it under "unused_values".',
            case_key=case_key(recipe, file),
            listed=_listed([str(value) for value in values]),
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


def _look(recipe: Recipe, file: CaseFile) -> Union[str, int, list[int]]:
    """The undeclared values of a usable case's label; dimensions of an image that is not 3D; why it is damaged."""
    source = recipe.sources[file.source]
    try:
        check_intact(file.image)
        reader = _header(file.image)
        size = reader.GetSize()
        dimensions = len(size)
        while dimensions > 3 and size[dimensions - 1] == 1:  # a single volume of a series
            dimensions -= 1
        if dimensions != 3 or min(size[:3]) < 2:
            return 2 if dimensions == 3 else dimensions
        check_kind(file.image.name, size[:3], reader.GetNumberOfComponents(), reader.GetPixelID())
        grid = _grid(reader)
        check_grid(file.image.name, grid)
        if max(upright_grid(grid, recipe.preprocessing.spacing).size) > _EXTENT:
            length = max(np.multiply(grid.size, grid.spacing)) / 1e3
            return f"{file.image} is {length:.0f} m long by its voxel spacing; convert the original series again."
        if file.label is None:
            return []
        label = read_annotation(file.label)
        own = Grid.of(label)
        check_grid(file.label.name, own)
        voxels = sitk.GetArrayViewFromImage(label)
        values: set[int] = set().union(*(np.unique(plane).tolist() for plane in voxels))
        if not own.same_as(grid) and not _covers(grid, own, voxels):
            return f"Most of {file.label} lies outside its image; check that both are of the same scan."
        return sorted(values - {0, *source.classes.values(), *source.unused_values})
    except PromptSegError as error:
        return str(error)
    except OSError as error:
        return f"{file.image} or its label cannot be read ({error.strerror or error}); check its permissions."


def _covers(grid: Grid, own: Grid, voxels: np.ndarray) -> bool:
    """Whether most labelled voxels (z, y, x) of the grid ``own`` lie inside ``grid``; also if there is none."""
    places = np.flatnonzero(voxels)
    if not places.size:
        return True
    z, y, x = np.unravel_index(places[:: -(-places.size // _SAMPLE)], voxels.shape)
    index = grid.indices(own.points(np.stack([x, y, z], -1)))
    return bool(((index > -0.5) & (index < np.asarray(grid.size) - 0.5)).all(-1).mean() > 0.5)


def _header(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise PromptSegError(unreadable(path, str(error))) from error
    return reader


def _grid(reader: sitk.ImageFileReader) -> Grid:
    """Grid of the first three dimensions."""
    count = len(reader.GetSize())
    direction = np.reshape(reader.GetDirection(), (count, count))[:3, :3]
    return Grid(
        reader.GetSize()[:3], reader.GetSpacing()[:3], reader.GetOrigin()[:3], tuple(direction.ravel().tolist())
    )


def read_case(recipe: Recipe, file: CaseFile) -> Case:
    """A case on the model's grid; raises :class:`PromptSegError` for files that cannot be used."""
    source = recipe.sources[file.source]
    image = read_image(file.image)
    check_image(image, file.image.name)
    volume = Volume.of(image, recipe.preprocessing)
    index = {name: k for k, name in enumerate(recipe.class_names, start=1)}
    label = np.zeros(volume.array.shape, np.uint8)
    known = np.zeros(len(index), bool)
    known[[index[name] - 1 for name in source.absent]] = True
    members = {}
    if file.label is not None:
        nearest = resample(read_annotation(file.label), volume.grid, sitk.sitkNearestNeighbor, 0)
        voxels = sitk.GetArrayViewFromImage(nearest)
        chooser = np.random.default_rng(recipe.seed)
        for name, value in source.classes.items():
            places = np.flatnonzero(voxels == value)
            known[index[name] - 1] = bool(places.size) or source.missing == "absent"
            if not places.size:
                continue
            label.reshape(-1)[places] = index[name]
            if places.size > _MEMBERS:
                places = chooser.choice(places, _MEMBERS, replace=False)
            members[index[name]] = np.stack(np.unravel_index(places, voxels.shape), -1).astype(np.int16)
    return Case(file.name, file.source, volume.array.astype(np.float16), label, known, members)


class _Read(Transform):
    """A file -> its case, or why there is none: MONAI would wrap an exception and end the run."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe

    def __call__(self, file: CaseFile) -> Union[Case, str]:
        try:
            return read_case(self.recipe, file)
        except (PromptSegError, OSError) as error:
            return str(error)
        except RuntimeError as error:  # of an ITK filter
            if is_out_of_memory(error):
                raise
            return f"{file.image} cannot be brought to the model's grid ({' '.join(str(error).split())[-200:]})."


class Cases:
    """The training volumes, as many as ``recipe.cache_gib`` holds in memory; the others are read when drawn.

    Cases that are drawn most are kept. A case that cannot be read, now or later, is named by ``log``, noted in
    ``skipped`` ("source/case" -> why) and not drawn again. Worker processes that are forked share the memory;
    each notes for itself what breaks later.
    """

    def __init__(
        self, recipe: Recipe, files: Sequence[CaseFile], log: Callable[[str], None] = print, workers: int = 4
    ) -> None:
        """Read what fits; raises :class:`PromptSegError` if none of the cases that are read is usable."""
        if not files:
            raise PromptSegError("No case is left to train on; correct the sources of the recipe.")
        self.recipe, self.log = recipe, log
        self.skipped: dict[str, str] = {}
        sources = sorted({file.source for file in files})
        weights = np.asarray([recipe.sources[source].weight for source in sources], float)
        self._weights = weights / weights.sum()
        counts = [sum(file.source == source for file in files) for source in sources]
        often = {source: weight / count for source, weight, count in zip(sources, weights, counts)}
        self._files = sorted(files, key=lambda file: -often[file.source])
        self._groups = [[i for i, file in enumerate(self._files) if file.source == source] for source in sources]
        room = np.cumsum(self._bytes(workers)) <= recipe.cache_gib * 2**30
        with quiet():  # once around all threads: it is not made for several
            self._volumes = CacheDataset(
                self._files,
                Compose([_Read(recipe)]),
                cache_num=int(room.sum()),
                num_workers=workers,
                progress=False,
                copy_cache=False,
                as_contiguous=False,
            )
        for index in range(self.cached):
            self._case(index)
        self._still_some()

    @property
    def files(self) -> list[CaseFile]:
        """Files of the cases that can be drawn."""
        return [file for file in self._files if case_key(self.recipe, file) not in self.skipped]

    @property
    def cached(self) -> int:
        """How many cases are kept in memory."""
        return self._volumes.cache_num

    def __len__(self) -> int:
        return len(self._files) - len(self.skipped)

    def draw(self, rng: np.random.Generator, labelled: bool = False) -> Case:
        """A case of a source that is drawn by its weight; the same for the same ``rng``, in memory or not.

        ``labelled``: one with a label file. Raises :class:`PromptSegError` when no case is left.
        """
        while True:
            self._still_some(labelled)
            # Skipped cases are drawn and rejected, so that the order in which damage is found changes nothing.
            group = self._groups[rng.choice(len(self._groups), p=self._weights)]
            index = group[rng.integers(len(group))]
            if labelled and self._files[index].label is None:
                continue
            case = self._case(index)
            if case is not None:
                return case

    def _case(self, index: int) -> Optional[Case]:
        key = case_key(self.recipe, self._files[index])
        if key in self.skipped:
            return None
        case = self._volumes[index]
        if isinstance(case, Case):
            return case
        self.skipped[key] = case
        self.log(f"{key} is skipped: {case}")
        self.log(f"{len(self.skipped)} of {len(self._files)} cases are skipped")
        return None

    def _still_some(self, labelled: bool = False) -> None:
        if not len(self):
            first = next(iter(self.skipped.values()))
            raise PromptSegError(
                "None of the {count} cases can be read; the first: {first}", count=len(self._files), first=first
            )
        if labelled and not any(file.label for file in self.files):
            raise PromptSegError('No case with labels can be read; correct "label" of the sources, or train "self".')

    def _bytes(self, workers: int) -> list[int]:
        """Memory of each case, from its header."""

        def estimate(file: CaseFile) -> int:
            try:
                grid = upright_grid(_grid(_header(file.image)), self.recipe.preprocessing.spacing)
            except (PromptSegError, ValueError):
                return 0  # will be skipped when it is read
            return _VOXEL_BYTES * int(np.prod(grid.size, dtype=np.int64))

        with quiet(), ThreadPoolExecutor(workers) as pool:
            return list(pool.map(estimate, self._files))


def case_key(recipe: Recipe, file: CaseFile) -> str:
    """What a case is called in messages and on the model card, "source/case"."""
    return f"{recipe.sources[file.source].name}/{file.name}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

"""The volumes of a run: read onto the model's grid and kept in memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional, Sequence, Union

import numpy as np
import SimpleITK as sitk
from monai.data import CacheDataset
from monai.transforms import Compose, Transform

from ..errors import PromptSegError, Sentence, is_out_of_memory
from ..imaging.checking import check_image
from ..imaging.geometry import Grid, resample, to_model_grid, upright_grid
from ..imaging.intensity import decide
from ..imaging.preprocessing import RANGE, Preprocessing
from ..imaging.reading import quiet, read_annotation, read_image
from .checking import grid_of, header
from .finding import CaseFile, case_key
from .recipe import Recipe
from .source import Source
from .synthesis import regions_of

_MEMBERS = 20_000  # voxels of a class that are kept: enough places to center a view on
_VOXEL_BYTES = 3  # of a case in memory: float16 image, uint8 label; one more for regions
_WIDEST = 30.0  # limits of a CT with all of its window, in half widths of the model's


@dataclass
class Case:
    """One volume on the model's grid.

    :param image: (z, y, x) float16, -1 and 1 at the limits of the model's window; None for a label map. Within [-1, 1],
        but for a CT of which views with wider windows are wanted.
    :param label: (z, y, x) uint8, k for the k-th of ``recipe.class_names`` (from 1), 0 for whatever else.
    :param known: (K,) bool, whether the class at k - 1 is labeled here, if only by its absence.
    :param members: class index -> voxels of that class, (n, 3) int16 as (z, y, x), at most 20000 at random.
    :param slices: partly labeled class index -> first and last slice (z) between which it is labeled completely.
    :param regions: (z, y, x) uint8, of which images are synthesized, see :func:`~.synthesis.regions_of`.
    :param synthetic: share of views that are.
    :param alike: (256,) region -> the one that it mostly looks like: parts of one class (vertebrae, both sides).
    :param limits: lowest and highest value of ``image``.
    """

    name: str
    source: int
    image: Optional[np.ndarray]
    label: np.ndarray
    known: np.ndarray
    members: dict[int, np.ndarray]
    slices: dict[int, tuple[int, int]] = field(default_factory=dict)
    regions: Optional[np.ndarray] = None
    synthetic: float = 0.0
    alike: Optional[np.ndarray] = None
    limits: tuple[float, float] = (-1.0, 1.0)


def read_case(recipe: Recipe, file: CaseFile) -> Case:
    """A case on the model's grid; raises :class:`PromptSegError` for files that cannot be used."""
    source = recipe.sources[file.source]
    annotation = read_annotation(file.label) if file.label is not None else None
    array: Optional[np.ndarray] = None
    if file.image is not None:
        array, grid = _read_image(recipe, source, file.image)
    else:
        assert annotation is not None
        grid = upright_grid(Grid.of(annotation), recipe.preprocessing.spacing)
    index = {name: k for k, name in enumerate(recipe.class_names, start=1)}
    known = np.zeros(len(index), bool)
    known[[index[name] - 1 for name in source.absent]] = True
    case = Case(file.name, file.source, None, np.zeros(grid.shape, np.uint8), known, {})
    if annotation is not None:
        nearest = resample(annotation, grid, sitk.sitkNearestNeighbor, 0)
        voxels = sitk.GetArrayViewFromImage(nearest)
        _mark(case, voxels, source, index, np.random.default_rng(recipe.seed))
        if source.synthetic:
            clipped = None if array is None else np.clip(array, -1, 1)
            case.regions = regions_of(clipped, voxels, np.random.default_rng(recipe.seed))
            case.synthetic = source.synthetic
            several = [index[name] for name in source.classes if len(source.values_of(name)) > 1]
            case.alike = alike_of(case.regions, [case.label == k for k in several])
    if array is not None:
        case.image = array.astype(np.float16)
        case.limits = float(case.image.min()), float(case.image.max())
    return case


def alike_of(regions: np.ndarray, classes: Sequence[np.ndarray]) -> np.ndarray:
    """:attr:`Case.alike`, of regions uint8 (z, y, x) and of where the classes of several label values are, bool."""
    alike = np.arange(256)
    for where in classes:
        parts = np.unique(regions[where])
        alike[parts] = parts[:1]
    return alike


def _read_image(recipe: Recipe, source: Source, path: Path) -> tuple[np.ndarray, Grid]:
    """Intensities (z, y, x) float32 on the model's grid, by the rule by which the product would have them."""
    image = read_image(path)
    check_image(image, path.name)
    grid = upright_grid(Grid.of(image), recipe.preprocessing.spacing)
    kind = source.modality.strip().upper()
    preprocessing = recipe.preprocessing
    if preprocessing.rule == RANGE and kind == "CT":  # of which images without a unit are drawn, by its tissues
        preprocessing = Preprocessing(preprocessing.spacing)
    rule = decide(image, preprocessing, kind if kind in ("CT", "MR") else None)
    if not (recipe.windows and kind == "CT" and rule.fits_window):
        return rule.normalize(to_model_grid(image, grid, rule.low)), grid
    lowest = float(sitk.GetArrayViewFromImage(image).min())
    array = (to_model_grid(image, grid, min(lowest, rule.low)) - rule.low) * (2 / (rule.high - rule.low)) - 1
    return np.clip(array, -_WIDEST, _WIDEST), grid


def _mark(case: Case, voxels: np.ndarray, source: Source, index: dict[str, int], chooser: np.random.Generator) -> None:
    """Note in the case where the classes of its source lie among label values (z, y, x)."""
    for name in source.classes:
        k = index[name]
        values = source.values_of(name)
        places = np.flatnonzero(voxels == values[0] if len(values) == 1 else np.isin(voxels, values))
        case.known[k - 1] = (bool(places.size) or source.missing == "absent") and name not in source.partial
        if not places.size:
            continue
        case.label.reshape(-1)[places] = k
        if name in source.partial:
            slices = places // (voxels.shape[1] * voxels.shape[2])
            case.slices[k] = int(slices[0]), int(slices[-1])
        if places.size > _MEMBERS:
            places = chooser.choice(places, _MEMBERS, replace=False)
        case.members[k] = np.stack(np.unravel_index(places, voxels.shape), -1).astype(np.int16)


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
            return Sentence(
                "{base} cannot be brought to the model's grid ({reason}).",
                base=file.base,
                reason=" ".join(str(error).split())[-200:],
            )


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

    def draw(self, rng: np.random.Generator, labeled: bool = False) -> Case:
        """A case of a source that is drawn by its weight; the same for the same ``rng``, in memory or not.

        ``labeled``: one with a label file. Raises :class:`PromptSegError` when no case is left.
        """
        while True:
            self._still_some(labeled)
            # Skipped cases are drawn and rejected, so that the order in which damage is found changes nothing.
            group = self._groups[rng.choice(len(self._groups), p=self._weights)]
            index = group[rng.integers(len(group))]
            if labeled and self._files[index].label is None:
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

    def _still_some(self, labeled: bool = False) -> None:
        if not len(self):
            first = next(iter(self.skipped.values()))
            raise PromptSegError(
                "None of the {count} cases can be read; the first: {first}", count=len(self._files), first=first
            )
        if labeled and not any(file.label for file in self.files):
            raise PromptSegError('No case with labels can be read; correct "label" of the sources, or train "self".')

    def _bytes(self, workers: int) -> list[int]:
        """Memory of each case, from its header."""

        def estimate(file: CaseFile) -> int:
            try:
                grid = upright_grid(grid_of(header(file.base)), self.recipe.preprocessing.spacing)
            except (PromptSegError, ValueError):
                return 0  # will be skipped when it is read
            source = self.recipe.sources[file.source]
            size = (_VOXEL_BYTES if file.image else 1) + bool(file.label and source.synthetic)
            return size * int(np.prod(grid.size, dtype=np.int64))

        with quiet(), ThreadPoolExecutor(workers) as pool:
            return list(pool.map(estimate, self._files))

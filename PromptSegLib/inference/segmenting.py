"""Segmenting an image with prompts: evidence, growing where there are strokes, labels on the image's own grid."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..examples.annotation import UNKNOWN, labels_on_grid
from ..examples.checking import check_extent, check_image
from ..examples.example import Example
from ..examples.geometry import Grid
from ..examples.volume import Volume
from ..models.backbone import Backbone, load_model
from ..models.catalogue import find_sha256
from ..models.workspace import Workspace
from ..progress import Job
from ..prompts.classes import is_one_body
from ..prompts.store import Prompts
from .evidence import Probabilities, evidence
from .islands import islands_hidden
from .looking import entropy, places_to_look
from .native import labels_on_native, native_slabs
from .regions import SharedEvidence, grown_regions, notes_of, regions_before_scores
from .result import Segmentation
from .tiling import OVERLAP_ALONE, aligned, steps

Region = tuple[tuple[int, int, int], tuple[int, int, int]]


def backbone_for(prompts: Prompts, model: Union[Backbone, str, None] = None, device: str = "auto") -> Backbone:
    """The backbone that these prompts belong to; raises :class:`PromptSegError` when it is another or not here."""
    if not isinstance(model, Backbone):
        entry = find_sha256(prompts.sha256) if model is None else None
        model = load_model(entry.name if entry else model, device)
    prompts.check_backbone(model.name, model.sha256, model.config)
    return model


def segment(
    prompts: Union[Prompts, str, Path],
    image: sitk.Image,
    model: Union[Backbone, str, None] = None,
    *,
    classes: Optional[Sequence[str]] = None,
    strokes: Optional[Example] = None,
    grow_strokes: Optional[bool] = None,
    region: Optional[Region] = None,
    probabilities_wanted: bool = False,
    uncertainty_wanted: bool = False,
    around: Optional[float] = None,
    coarse_maps: bool = False,
    quick: bool = False,
    keep_islands: bool = False,
    device: str = "auto",
    job: Optional[Job] = None,
    name: str = "image",
    workspace: Optional[Workspace] = None,
) -> Segmentation:
    """Segment a 3D image; every grid, orientation and handedness is admitted.

    :param prompts: prompts, or the path of their file.
    :param image: 3D scalar image.
    :param model: backbone, its name or path; found by the prompts' SHA-256 when None.
    :param classes: names of the classes to output (all by default). The other classes of
        their groups still compete, so that a class never depends on what else is asked for.
    :param strokes: what the user painted on this very image, label values as the prompts'
        classes have them. By default: the strokes that the prompts were tuned on, if the image is the same.
    :param grow_strokes: grow strokes with the network's evidence; by default where a class has any.
        Strokes are honoured either way, those of the background and what was erased as well.
    :param region: first and last voxel index + 1, ((x, y, z), (x, y, z)), outside which nothing is labelled.
    :param probabilities_wanted: also give each class's probability (the network's, before growing).
    :param uncertainty_wanted: also give the normalised entropy of the probabilities, and where to look next.
    :param around: look no further than this many mm from the strokes of classes (a preview of a large
        image); the result then covers that part of the image's grid.
    :param coarse_maps: leave the uncertainty on the model's grid, which for a large image is much smaller.
    :param quick: leave out what finer voxels and painted slices that predict each other would add, for a preview.
    :param keep_islands: leave organs that are one body (those of ``prompts.classes.is_one_body``) in as many parts as
        the network found; by default their small parts go, where there are no strokes to say what belongs to them.
    :param workspace: what is kept from one call to the next on the same image.
    :raises PromptSegError: bad image, unknown class, prompts of another backbone.
    """
    job, clock, seconds = job or Job(), time.perf_counter(), {}
    workspace = workspace or Workspace(0)  # nobody comes back for the maps
    if not isinstance(prompts, Prompts):
        prompts = Prompts.load(Path(prompts))
    check_image(image, name)
    chosen = [prompts.find(each).info.name for each in classes] if classes is not None else prompts.names
    kept = prompts.only(chosen)
    backbone = backbone_for(prompts, model, device)
    infos = [each.info for each in kept.active]
    values = [info.value for info in infos]
    native = Grid.of(image)
    check_extent(native, backbone.preprocessing.spacing, name)
    if region is not None:
        _check_region(region, native, name)

    whole = workspace.volume(image, backbone.preprocessing, prompts.intensity)
    painted = everything = _strokes(kept, image, native, strokes, values, workspace)
    coarse = None
    if painted is not None and (painted > 0).any():  # background alone says nothing of where a class is
        coarse = on_model_grid(painted, image, native, whole.grid, len(values))
    volume, offset = whole, (0, 0, 0)
    if around is not None and painted is not None and coarse is not None and (coarse > 0).any():
        box = box_around(coarse > 0, around, whole, backbone.tile)
        volume, part = whole.part(box)
        coarse, offset = coarse[box], tuple(each.start for each in box)
        painted, native = painted[part], volume.native
    seconds["resampling"] = time.perf_counter() - clock
    sweep = job.part(0.0, 0.75)
    if coarse is None:
        scores = evidence(backbone, kept, volume.array, sweep, overlap=OVERLAP_ALONE)
    else:  # the tiles that were encoded while the user painted
        maps = workspace.maps(image, backbone)
        step = None if volume is whole else steps(whole.array.shape, backbone.tile)
        scores = evidence(backbone, kept, volume.array, sweep, maps=maps, offset=offset, step=step)
    seconds["network"] = time.perf_counter() - clock - sum(seconds.values())

    grown = None
    if coarse is not None and grow_strokes is not False and everything is not None:
        known = SharedEvidence(Probabilities(scores), volume.grid, {index: index for index in range(1, len(infos) + 1)})
        grown = grown_regions(image, everything, len(infos), known, quick, job=job.part(0.75, 0.9))
        seconds["growing"] = time.perf_counter() - clock - sum(seconds.values())

    kind = np.uint8 if max(values) < 256 else np.uint16
    lookup = np.array([0] + [info.value if info.name in chosen else 0 for info in infos], kind)
    bodies = [] if keep_islands or coarse is not None else [i for i, each in enumerate(infos) if is_one_body(each.name)]
    with islands_hidden(scores, bodies):
        fields = [(value, volume.grid) for value in scores]
        if grown is not None and everything is not None:
            fields = regions_before_scores(grown, fields, np.unique(everything))
        labels = labels_on_native(fields, native, lookup, lambda _: job.check())
    if painted is not None:
        honour(labels, painted, lookup)
    if region is not None:
        outside = np.ones(Grid.of(image).shape, bool)
        outside[_slices(region)] = False
        labels[outside if volume is whole else outside[part]] = 0
    shown, notes = tuple(info for info in infos if info.name in chosen), [whole.rule.sentence]
    notes += notes_of([info.name for info in infos], grown.verdicts) if grown is not None else []
    if painted is None and strokes is None and any(own == workspace.fingerprint(image) for own, _ in kept.missing):
        notes.append(
            "What was painted on this image is not beside the prompts any more, so the result is the network's alone."
        )
    result = Segmentation(native.image(labels), shown, seconds=seconds, notes=tuple(each for each in notes if each))
    if uncertainty_wanted:
        unsure = entropy(Probabilities(scores))
        annotated = coarse != UNKNOWN if coarse is not None else np.zeros(unsure.shape, bool)
        places = tuple(places_to_look(unsure, annotated, volume.grid))
        result = replace(
            result,
            uncertainty=volume.grid.image(unsure) if coarse_maps else _map_on_native(unsure, volume.grid, native, job),
            places=places,
        )
    if probabilities_wanted:
        result = replace(result, probabilities=_probabilities(scores, volume.grid, native, infos, chosen, job))
    seconds["labels"] = time.perf_counter() - clock - sum(seconds.values())
    job.report("done", 1.0)
    return result


def _strokes(
    prompts: Prompts,
    image: sitk.Image,
    native: Grid,
    strokes: Optional[Example],
    values: list[int],
    workspace: Workspace,
) -> Optional[np.ndarray]:
    """Strokes on the image's grid, labels as in ``examples.annotation``; None where there are none."""
    if strokes is not None:
        classes = {f"class {value}": value for value in values}
        labels = labels_on_grid(replace(strokes, image=image), classes, native)
        return labels if (labels != UNKNOWN).any() else None
    if not prompts.strokes:
        return None
    own = workspace.fingerprint(image)
    packed = [each for each in prompts.strokes if each.image == own and each.shape == native.shape]
    if not packed:
        return None
    try:
        labels = packed[-1].unpack(values)
    except ValueError as error:
        raise PromptSegError(f"The strokes in these prompts cannot be used: {error}; tune again.") from error
    return labels if (labels > 0).any() else None


def on_model_grid(painted: np.ndarray, image: sitk.Image, native: Grid, grid: Grid, count: int) -> np.ndarray:
    """Labels on the image's grid -> labels on the model's, thin strokes kept."""
    # As an annotation: 0 unknown, 1 background, 1 + k the k-th class, 1 + count + k not the k-th class.
    annotation = np.where(painted >= 0, painted + 1, np.where(painted == UNKNOWN, 0, count - painted))
    barred = {1 + count + index: 1 + index for index in range(1, count + 1)}
    example = Example(image, native.image(annotation.astype(np.int16)), background=1, barred=barred)
    return labels_on_grid(example, {f"class {index}": 1 + index for index in range(1, count + 1)}, grid)


def honour(labels: np.ndarray, painted: np.ndarray, lookup: np.ndarray) -> None:
    """Make what the user painted, and what they erased, part of the result, in place."""
    known = painted >= 0
    labels[known] = lookup[painted[known]]
    erased = painted < UNKNOWN
    if erased.any():
        numbers = UNKNOWN - painted[erased]
        labels[erased] = np.where(labels[erased] == lookup[numbers], lookup[0], labels[erased])


def box_around(where: np.ndarray, margin: float, volume: Volume, tile: Sequence[int]) -> tuple[slice, ...]:
    """Whole tiles around a mask (z, y, x) with ``margin`` mm."""
    far = np.ceil(margin / np.asarray(volume.grid.spacing[::-1])).astype(int)
    ends = [np.flatnonzero(where.any(tuple(other for other in range(3) if other != axis))) for axis in range(3)]
    low = [max(int(line[0] - more), 0) for line, more in zip(ends, far)]
    high = [min(int(line[-1] + 1 + more), extent) for line, more, extent in zip(ends, far, where.shape)]
    return aligned(low, high, where.shape, tile, steps(where.shape, tile))


def _map_on_native(values: np.ndarray, grid: Grid, native: Grid, job: Job) -> sitk.Image:
    """A map (z, y, x) on ``grid`` as a float32 image on ``native``."""
    result = np.zeros(native.shape, np.float32)
    for where, slab in native_slabs(values[None], grid, native):
        job.check()
        result[where] = slab[0]
    return native.image(result)


def _probabilities(scores, grid: Grid, native: Grid, infos, chosen: list[str], job: Job) -> dict[str, sitk.Image]:
    """The network's probability of every chosen class on the native grid."""
    each = {name: np.zeros(native.shape, np.float32) for name in chosen}
    for where, slab in native_slabs(scores, grid, native):
        job.check()
        shares = Probabilities(slab)
        for index, info in enumerate(infos, start=1):
            if info.name in each:
                each[info.name][where] = shares[index]
    return {name: native.image(values) for name, values in each.items()}


def _check_region(region: Region, native: Grid, name: str) -> None:
    for low, high, extent in zip(*region, native.size):
        if not 0 <= low < high <= extent:
            raise PromptSegError(
                f"The region {region} does not lie inside {name} of size {native.size}; give voxel indices (x, y, z)."
            )


def _slices(region: Region) -> tuple[slice, slice, slice]:
    x, y, z = (slice(low, high) for low, high in zip(*region))
    return z, y, x

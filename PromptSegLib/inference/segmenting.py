"""Segmenting an image with prompts: evidence, growing where there are strokes, labels on the image's own grid."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import ClassInfo, is_one_body
from ..annotation.example import Example
from ..annotation.labels import UNKNOWN, labels_on_grid
from ..errors import PromptSegError
from ..growing.grow import Grown
from ..imaging.checking import check_extent, check_image
from ..imaging.geometry import Grid, bounding_box
from ..imaging.volume import Volume
from ..models.backbone import Backbone, load_model
from ..models.catalogue import find_sha256
from ..models.workspace import Workspace
from ..progress import Job
from ..prompts.store import Prompts
from .evidence import Probabilities, evidence
from .islands import islands_hidden
from .looking import body_of, classes_at, entropy, places_to_look
from .native import labels_on_native, native_slabs
from .regions import SharedEvidence, grown_regions, notes_of, regions_before_scores
from .result import Segmentation
from .tiling import OVERLAP_ALONE, aligned, steps

_NETWORK, _ALONE = 0.6, 0.92  # shares of the time after the network, where strokes are grown, and where none are

Region = tuple[tuple[int, int, int], tuple[int, int, int]]


def backbone_for(prompts: Prompts, model: Union[Backbone, str, None] = None, device: str = "auto") -> Backbone:
    """The backbone that these prompts belong to, on their grid; raises :class:`PromptSegError` when it is another or
    not here."""
    if not isinstance(model, Backbone):
        entry = find_sha256(prompts.sha256) if model is None else None
        model = load_model(entry.name if entry else model, device)
    prompts.check_backbone(model.name, model.sha256, model.config)
    return model.working_at(prompts.preprocessing)


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
    job, clock = job or Job(), _Clock()
    workspace = workspace or Workspace(0)  # nobody comes back for the maps
    if not isinstance(prompts, Prompts):
        prompts = Prompts.load(Path(prompts))
    check_image(image, name)
    chosen = [prompts.find(each).info.name for each in classes] if classes is not None else prompts.names
    kept = prompts.only(chosen)
    backbone = backbone_for(prompts, model, device)
    infos = [each.info for each in kept.active]
    native = Grid.of(image)
    check_extent(native, backbone.preprocessing.spacing, name)
    if region is not None:
        _check_region(region, native, name)

    whole = workspace.volume(image, backbone.preprocessing, prompts.intensity)
    painted = _strokes(kept, image, native, strokes, [info.value for info in infos], workspace)
    look = _look(image, painted, whole, len(infos), backbone.tile, around)
    clock.note("resampling")
    growing = painted is not None and look.coarse is not None and grow_strokes is not False
    share = _NETWORK if growing else _ALONE
    scores = _scores(backbone, kept, look, image, whole, workspace, job.part(0.0, share))
    clock.note("network")
    grown = None
    if painted is not None and growing:
        rows = {index: index for index in range(1, len(infos) + 1)}
        known = SharedEvidence(Probabilities(scores), look.volume.grid, rows, _known_classes(kept))
        part = job.part(share, _ALONE)
        grown = grown_regions(image, painted, len(infos), known, quick, job=part.part(0.0, 0.8))
        grown = grown.checked(part.part(0.8, 1.0)) if grown is not None else None
        clock.note("growing")

    labels = _labels(scores, grown, look, infos, chosen, keep_islands, job)
    if region is not None:
        outside = np.ones(native.shape, bool)
        outside[_slices(region)] = False
        labels[outside[look.part]] = 0
    notes = [whole.rule.sentence, *(notes_of([info.name for info in infos], grown) if grown else ())]
    if painted is None and strokes is None and any(own == workspace.fingerprint(image) for own, _ in kept.missing):
        notes.append(
            "What was painted on this image is not beside the prompts any more, so the result is the network's alone."
        )
    shown = tuple(info for info in infos if info.name in chosen)
    result = Segmentation(look.native.image(labels), shown, seconds=clock.seconds, notes=tuple(filter(None, notes)))
    if uncertainty_wanted:
        result = _with_uncertainty(result, scores, look, [info.name for info in infos], coarse_maps, job)
    if probabilities_wanted:
        maps = _probabilities(scores, look.volume.grid, look.native, infos, chosen, job)
        result = replace(result, probabilities=maps)
    clock.note("labels")
    job.report("done", 1.0)
    return result


def _known_classes(prompts: Prompts) -> set[int]:
    """Classes (from 1, as ``prompts.active`` has them) that the backbone was taught, as the tuning's record says."""
    known = set()
    for index, each in enumerate(prompts.active, 1):
        record: Any = prompts.tuning.get(str(each.group))
        for key in ("classes", each.info.name):
            record = record.get(key) if isinstance(record, dict) else None
        if not isinstance(record, dict) or record.get("new") is not True:
            known.add(index)
    return known


class _Clock:
    """Seconds from one note to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what], self._last = now - self._last, now


@dataclass(frozen=True)
class _Look:
    """What of an image is looked at.

    :param volume: the part on the model's grid, which begins at ``offset`` (z, y, x) of the whole.
    :param native: the part on the image's own grid, which is its box ``part`` (z, y, x).
    :param painted: labels on ``native``, or None.
    :param coarse: the same on the model's grid; None where no class is painted.
    """

    volume: Volume
    offset: tuple[int, int, int]
    native: Grid
    part: tuple[slice, ...]
    painted: Optional[np.ndarray]
    coarse: Optional[np.ndarray]


def _look(
    image: sitk.Image,
    painted: Optional[np.ndarray],
    whole: Volume,
    count: int,
    tile: Sequence[int],
    around: Optional[float],
) -> _Look:
    """All of an image, or what lies within ``around`` mm of its strokes."""
    native, everywhere = Grid.of(image), (slice(None),) * 3
    if painted is None or not (painted > 0).any():  # background alone says nothing of where a class is
        return _Look(whole, (0, 0, 0), native, everywhere, painted, None)
    coarse = on_model_grid(painted, image, native, whole.grid, count)
    if around is None or not (coarse > 0).any():
        return _Look(whole, (0, 0, 0), native, everywhere, painted, coarse)
    box = box_around(coarse > 0, around, whole, tile)
    volume, part = whole.part(box)
    offset = (box[0].start, box[1].start, box[2].start)
    return _Look(volume, offset, volume.native, part, painted[part], coarse[box])


def _scores(
    backbone: Backbone, prompts: Prompts, look: _Look, image: sitk.Image, whole: Volume, workspace: Workspace, job: Job
) -> np.ndarray:
    """Evidence (classes, z, y, x) of the prompts' classes over what is looked at."""
    array = look.volume.array
    if look.coarse is None:
        return evidence(backbone, prompts, array, job, overlap=OVERLAP_ALONE)
    maps = workspace.maps(image, backbone)  # the tiles that were encoded while the user painted
    step = None if look.volume is whole else steps(whole.array.shape, backbone.tile)
    return evidence(backbone, prompts, array, job, maps=maps, offset=look.offset, step=step)


def _labels(
    scores: np.ndarray,
    grown: Optional[Grown],
    look: _Look,
    infos: Sequence[ClassInfo],
    chosen: Sequence[str],
    keep_islands: bool,
    job: Job,
) -> np.ndarray:
    """Label values (z, y, x) on the native grid of what is looked at; strokes are honored."""
    kind = np.uint8 if max(info.value for info in infos) < 256 else np.uint16
    lookup = np.array([0] + [info.value if info.name in chosen else 0 for info in infos], kind)
    alone = look.coarse is None and not keep_islands
    with islands_hidden(scores, [row for row, info in enumerate(infos) if alone and is_one_body(info.name)]):
        fields = [(value, look.volume.grid) for value in scores]
        if grown is not None:
            fields = regions_before_scores(grown, fields)
        labels = labels_on_native(fields, look.native, lookup, lambda _: job.check())
    if look.painted is not None:
        honour(labels, look.painted, lookup)
    return labels


def _with_uncertainty(
    result: Segmentation, scores: np.ndarray, look: _Look, names: Sequence[str], coarse_maps: bool, job: Job
) -> Segmentation:
    """The result with the map of uncertainty, and where to look next.

    :param names: of the classes that ``scores`` are of.
    """
    shares, grid = Probabilities(scores), look.volume.grid
    unsure = entropy(shares)
    annotated = look.coarse != UNKNOWN if look.coarse is not None else np.zeros(unsure.shape, bool)
    uncertainty = grid.image(unsure) if coarse_maps else _map_on_native(unsure, grid, look.native, job)
    places = places_to_look(unsure, annotated, grid, body_of(look.volume.array))
    told = classes_at(shares, places, grid, names)
    return replace(result, uncertainty=uncertainty, places=tuple(places), place_classes=told)


def _strokes(
    prompts: Prompts,
    image: sitk.Image,
    native: Grid,
    strokes: Optional[Example],
    values: list[int],
    workspace: Workspace,
) -> Optional[np.ndarray]:
    """Strokes on the image's grid, labels as in ``annotation.labels``; None where there are none."""
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
        raise PromptSegError(
            "The strokes in these prompts cannot be used: {error}; tune again.", error=error
        ) from error
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
    box = bounding_box(where)
    assert box is not None
    low = [max(int(side.start - more), 0) for side, more in zip(box, far)]
    high = [min(int(side.stop + more), extent) for side, more, extent in zip(box, far, where.shape)]
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
                "The region {region} does not lie inside {name} of size {size}; give voxel indices (x, y, z).",
                region=region,
                name=name,
                size=native.size,
            )


def _slices(region: Region) -> tuple[slice, slice, slice]:
    x, y, z = (slice(low, high) for low, high in zip(*region))
    return z, y, x

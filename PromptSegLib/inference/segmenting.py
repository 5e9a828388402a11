"""Segmenting an image with prompts: evidence, growing where there are strokes, labels on the image's own grid."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np
import SimpleITK as sitk

from ..annotation.classes import is_one_body, label_values
from ..annotation.example import Example
from ..annotation.labels import UNKNOWN
from ..errors import PromptSegError
from ..growing.grow import Grown
from ..imaging.checking import check_extent, check_image
from ..imaging.geometry import Grid
from ..models.backbone import Backbone, load_model, name_of
from ..models.feature_cache import FeatureCache
from ..progress import ProgressHandle
from ..prompts.store import Prompts
from .class_margins import Probabilities
from .deciding import decided_for_dice, making_of, rows_for_dice
from .field_of_view import FieldOfView, strokes_on
from .islands import small_components_suppressed
from .options import Region, SegmentationOptions
from .regions import SharedEvidence, agrees_with_strokes, grown_regions, notes_of, regions_before_scores, unaided
from .resample_to_image import native_slabs
from .result import Segmentation
from .uncertainty import body_of, classes_at, entropy, places_to_look

_NETWORK, _ALONE = 0.6, 0.92  # shares of the time after the network, where strokes are grown, and where none are

_NOT_BESIDE = "What was painted on this image is not beside the prompts any more, so the result is the network's alone."


def backbone_for(prompts: Prompts, model: Union[Backbone, str, None] = None, device: str = "auto") -> Backbone:
    """The backbone that these prompts belong to, on their grid; raises :class:`PromptSegError` when it is another or
    not here."""
    if not isinstance(model, Backbone):
        model = load_model(model or name_of(prompts), device)
    prompts.check_backbone(model.name, model.sha256, model.config)
    return model.working_at(prompts.preprocessing)


def segment(
    prompts: Union[Prompts, str, Path],
    image: sitk.Image,
    model: Union[Backbone, str, None] = None,
    *,
    classes: Optional[Sequence[str]] = None,
    strokes: Optional[Example] = None,
    options: Optional[SegmentationOptions] = None,
    job: Optional[ProgressHandle] = None,
) -> Segmentation:
    """Segment a 3D image; every grid, orientation and handedness is admitted.

    :param prompts: prompts, or the path of their file.
    :param image: 3D scalar image.
    :param model: backbone, its name or path; found by the prompts' SHA-256 when None.
    :param classes: names of the classes to output (all by default). The other classes of
        their groups still compete, so that a class never depends on what else is asked for.
    :param strokes: what the user painted on this very image, label values as the prompts'
        classes have them. By default: the strokes that the prompts were tuned on, if the image is the same.
    :param options: all else.
    :raises PromptSegError: bad image, unknown class, prompts of another backbone.
    """
    job, clock, options = job or ProgressHandle(), _Clock(), options or SegmentationOptions()
    feature_cache = options.feature_cache or FeatureCache(0)  # nobody comes back for the maps
    if not isinstance(prompts, Prompts):
        prompts = Prompts.load(Path(prompts))
    check_image(image, options.name)
    chosen = [prompts.find(each).info.name for each in classes] if classes is not None else prompts.names
    kept = prompts.only(chosen)
    backbone = backbone_for(prompts, model, options.device)
    check_extent(Grid.of(image), backbone.preprocessing.spacing, options.name)
    if options.region is not None:
        _check_region(options.region, Grid.of(image), options.name)

    whole = feature_cache.volume(image, backbone.preprocessing, prompts.intensity)
    painted = strokes_on(image, prompts, kept, strokes, feature_cache)
    view = FieldOfView.of(image, whole, painted, len(kept.active), backbone.tile, options.around)
    clock.note("resampling")
    growing = view.coarse is not None and options.grow_strokes is not False
    share = _NETWORK if growing else _ALONE
    scores = view.margins(backbone, kept, feature_cache, job.part(0.0, share))
    clock.note("network")
    grown = None
    if painted is not None and growing:
        grown = _grown(view, painted, kept, scores, options.quick, job.part(share, _ALONE))
        clock.note("growing")
    result = _result(view, kept, chosen, scores, grown, options, job)
    if painted is None and strokes is None and any(own in feature_cache.fingerprints(image) for own, _ in kept.missing):
        result = replace(result, notes=(*result.notes, _NOT_BESIDE))
    clock.note("labels")
    job.report("done", 1.0)
    return replace(result, seconds=clock.seconds)


def _grown(
    view: FieldOfView, painted: np.ndarray, prompts: Prompts, scores: np.ndarray, quick: bool, job: ProgressHandle
) -> Optional[Grown]:
    """What was painted (on all of the image), grown with the network's evidence."""
    count, shares, known = len(prompts.active), Probabilities(scores), _known_classes(prompts)
    assert view.coarse is not None
    wrong = {index for index in known if not agrees_with_strokes(shares[index], view.coarse, index)}
    rows = {index: index for index in range(1, count + 1) if index not in wrong}
    evidence = SharedEvidence(shares, view.volume.grid, rows, known - wrong)
    grown = grown_regions(view.image, painted, count, evidence, quick, job=job.part(0.0, 0.8))
    return unaided(grown, wrong).checked(job.part(0.8, 1.0)) if grown is not None else None


def _result(
    view: FieldOfView,
    prompts: Prompts,
    chosen: Sequence[str],
    scores: np.ndarray,
    grown: Optional[Grown],
    options: SegmentationOptions,
    job: ProgressHandle,
) -> Segmentation:
    """All that was asked for, on the image's own grid; ``chosen`` names the classes that give output."""
    infos = [each.info for each in prompts.active]
    names = [info.name for info in infos]
    values = label_values(infos, chosen)
    alone = view.coarse is None
    one_body = [row for row, name in enumerate(names) if alone and not options.keep_islands and is_one_body(name)]
    with (
        decided_for_dice(scores, rows_for_dice(prompts) if alone else []),
        small_components_suppressed(scores, one_body),
    ):
        fields = [(value, view.volume.grid) for value in scores]
        labels = view.labels(regions_before_scores(grown, fields) if grown is not None else fields, values, job)
    if options.region is not None:
        outside = np.ones(Grid.of(view.image).shape, bool)
        outside[_slices(options.region)] = False
        labels[outside[view.part]] = 0
    notes = [view.whole.rule.sentence, *(notes_of(names, grown) if grown else ())]
    shown = tuple(info for info in infos if info.name in chosen)
    result = Segmentation(view.native.image(labels), shown, notes=tuple(filter(None, notes)))
    if options.uncertainty:
        result = _with_uncertainty(result, scores, view, names, options.coarse_maps, job)
    if options.probabilities:
        maps = _probabilities(scores, view.volume.grid, view.native, infos, chosen, job)
        result = replace(result, probabilities=maps)
    return result


def _known_classes(prompts: Prompts) -> set[int]:
    """Classes (from 1, as ``prompts.active`` has them) that the backbone was taught, as the tuning's record says."""
    return {index for index, each in enumerate(prompts.active, 1) if making_of(prompts, each).get("new") is not True}


class _Clock:
    """Seconds from one note to the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, what: str) -> None:
        now = time.perf_counter()
        self.seconds[what], self._last = now - self._last, now


def _with_uncertainty(
    result: Segmentation,
    scores: np.ndarray,
    view: FieldOfView,
    names: Sequence[str],
    coarse_maps: bool,
    job: ProgressHandle,
) -> Segmentation:
    """The result with the map of uncertainty, and where to look next.

    :param names: of the classes that ``scores`` are of.
    """
    shares, grid = Probabilities(scores), view.volume.grid
    unsure = entropy(shares)
    annotated = view.coarse != UNKNOWN if view.coarse is not None else np.zeros(unsure.shape, bool)
    uncertainty = grid.image(unsure) if coarse_maps else _map_on_native(unsure, grid, view.native, job)
    places = places_to_look(unsure, annotated, grid, body_of(view.volume.array))
    told = classes_at(shares, places, grid, names)
    return replace(result, uncertainty=uncertainty, places=tuple(places), place_classes=told)


def _map_on_native(values: np.ndarray, grid: Grid, native: Grid, job: ProgressHandle) -> sitk.Image:
    """A map (z, y, x) on ``grid`` as a float32 image on ``native``."""
    result = np.zeros(native.shape, np.float32)
    for where, slab in native_slabs(values[None], grid, native):
        job.check()
        result[where] = slab[0]
    return native.image(result)


def _probabilities(
    scores, grid: Grid, native: Grid, infos, chosen: Sequence[str], job: ProgressHandle
) -> dict[str, sitk.Image]:
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

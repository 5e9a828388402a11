"""Segmenting an image with prompts: evidence, growing where there are strokes, labels on the image's own grid."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Optional, Sequence, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..examples.annotation import labels_on_grid
from ..examples.checking import check_image
from ..examples.example import Example
from ..examples.geometry import Grid
from ..examples.volume import Volume
from ..models.backbone import Backbone, load_model
from ..models.catalogue import find_sha256
from ..progress import Job
from ..prompts.store import Prompts
from ..prompts.strokes import fingerprint
from .evidence import Probabilities, evidence
from .growing import grow
from .native import labels_on_native, native_slabs
from .result import Segmentation

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
    device: str = "auto",
    job: Optional[Job] = None,
    name: str = "image",
) -> Segmentation:
    """Segment a 3D image; every grid, orientation and handedness is admitted.

    :param prompts: prompts, or the path of their file.
    :param image: 3D scalar image.
    :param model: backbone, its name or path; found by the prompts' SHA-256 when None.
    :param classes: names of the classes to output (all by default). The other classes of
        their groups still compete, so that a class never depends on what else is asked for.
    :param strokes: what the user painted on this very image, label values as the prompts'
        classes have them. By default: the strokes that the prompts were tuned on, if the image is the same.
    :param grow_strokes: grow strokes over the network's evidence; by default where there are any.
        Strokes are honoured either way.
    :param region: first and last voxel index + 1, ((x, y, z), (x, y, z)), outside which nothing is labelled.
    :param probabilities_wanted: also give each class's probability (the network's, before growing).
    :param uncertainty_wanted: also give the normalised entropy of the probabilities.
    :raises PromptSegError: bad image, unknown class, prompts of another backbone.
    """
    job, clock, seconds = job or Job(), time.perf_counter(), {}
    if not isinstance(prompts, Prompts):
        prompts = Prompts.load(Path(prompts))
    check_image(image, name)
    chosen = list(classes) if classes is not None else prompts.names
    kept = prompts.only(chosen)
    backbone = backbone_for(prompts, model, device)
    infos = [each.info for each in kept.active]
    values = [info.value for info in infos]
    native = Grid.of(image)
    if region is not None:
        _check_region(region, native, name)

    volume = Volume.of(image, backbone.preprocessing)
    seconds["resampling"] = time.perf_counter() - clock
    scores = evidence(backbone, kept, volume.array, job.part(0.0, 0.75))
    seconds["network"] = time.perf_counter() - clock - sum(seconds.values())

    painted = _strokes(kept, image, native, strokes, values)
    fields = scores
    if painted is not None and grow_strokes is not False:
        example = Example(image, native.image(painted + 1), background=1)
        coarse = labels_on_grid(example, {info.name: index + 2 for index, info in enumerate(infos)}, volume.grid)
        fields = grow(volume.array, Probabilities(scores), coarse, backbone.preprocessing.spacing, job.part(0.75, 0.9))
        seconds["growing"] = time.perf_counter() - clock - sum(seconds.values())

    kind = np.uint8 if max(values) < 256 else np.uint16
    lookup = np.array([0] + [info.value if info.name in chosen else 0 for info in infos], kind)
    labels = labels_on_native(fields, volume.grid, native, lookup, lambda _: job.check())
    if painted is not None:
        known = painted >= 0
        labels[known] = lookup[painted[known]]
    if region is not None:
        outside = np.ones(labels.shape, bool)
        outside[_slices(region)] = False
        labels[outside] = 0
    maps = _maps(
        scores, volume.grid, native, [info.name for info in infos], probabilities_wanted, uncertainty_wanted, job
    )
    seconds["labels"] = time.perf_counter() - clock - sum(seconds.values())
    job.report("done", 1.0)
    result = Segmentation(native.image(labels), tuple(info for info in infos if info.name in chosen), seconds=seconds)
    if maps[0] is not None:
        result = replace(result, probabilities={key: native.image(maps[0][key]) for key in chosen})
    if maps[1] is not None:
        result = replace(result, uncertainty=native.image(maps[1]))
    return result


def _strokes(
    prompts: Prompts, image: sitk.Image, native: Grid, strokes: Optional[Example], values: list[int]
) -> Optional[np.ndarray]:
    """Strokes on the image's grid, -1 unknown, 0 background, k the k-th class; None where there are none."""
    if strokes is not None:
        classes = {f"class {value}": value for value in values}
        labels = labels_on_grid(
            Example(image, strokes.annotation, strokes.background, strokes.complete), classes, native
        )
    elif prompts.strokes:
        own = fingerprint(image)
        packed = [each for each in prompts.strokes if each.image == own and each.shape == native.shape]
        if not packed:
            return None
        try:
            labels = packed[-1].unpack(values)
        except ValueError as error:
            raise PromptSegError(f"The strokes in these prompts cannot be used: {error}; tune again.") from error
    else:
        return None
    return labels if (labels > 0).any() else None


def _maps(scores, grid: Grid, native: Grid, names: list[str], wanted: bool, entropy: bool, job: Job):
    """Probabilities per class and uncertainty on the native grid, float32; None where not wanted."""
    if not (wanted or entropy):
        return None, None
    each = {name: np.zeros(native.shape, np.float32) for name in names} if wanted else None
    unsure = np.zeros(native.shape, np.float32) if entropy else None
    for where, slab in native_slabs(scores, grid, native):
        job.check()
        shares = Probabilities(slab)
        for index in range(len(shares)):
            share = shares[index]
            if each is not None and index:
                each[names[index - 1]][where] = share
            if unsure is not None:
                unsure[where] -= share * np.log(np.clip(share, 1e-7, 1)) / np.log(len(shares))
    return each, unsure


def _check_region(region: Region, native: Grid, name: str) -> None:
    for low, high, extent in zip(*region, native.size):
        if not 0 <= low < high <= extent:
            raise PromptSegError(
                f"The region {region} does not lie inside {name} of size {native.size}; give voxel indices (x, y, z)."
            )


def _slices(region: Region) -> tuple[slice, slice, slice]:
    x, y, z = (slice(low, high) for low, high in zip(*region))
    return z, y, x

"""Training views: which classes are asked for, where the views lie, how they are changed.

The changes are of the paper's kinds (docs/methods.md#pretraining), by MONAI, with sizes in proportion to the view. The
place of every view in its volume is known exactly, because MONAI's MetaTensor carries an affine through each spatial
change.
"""

from __future__ import annotations

import warnings
from typing import Any, Optional, Sequence

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    OneOf,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandCoarseDropoutd,
    RandCoarseShuffled,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandHistogramShiftd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    Transform,
)
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ..imaging.intensity import decide
from ..imaging.preprocessing import Preprocessing
from .cases import Case, Cases
from .recipe import Recipe
from .synthesis import AIR, OUTSIDE, synthesized_from

MARGIN = 1.35  # the crop handed to the affine transform is this much larger, so that rotation brings in no border
ZOOM = (0.4, 1.6)  # voxels of zoomed views, in those of the model
_WITHIN = 0.7  # of views with a partly labeled class, those between the slices where all of it is labeled
_WINDOW = (-5.5, 8.0)  # how wide a window may get; -1 and 1 are the limits of the model's
STUDENTS = ("large", "small")


class Views(Dataset):
    """The samples of a run: number ``i`` belongs to step ``i // batch`` and is a function of the seed and ``i`` alone.

    So a killed run goes on as it would have, and the processes of a run share its samples without talking.
    A sample is a dictionary: ``active`` (n,) indices (from 0) of the step's classes, ``known`` (n,) bool, ``encoder``
    (whether prompts enter the encoder), and for the view ``large`` and, in a step with self-supervision, ``small`` and
    ``teacher``: ``NAME`` (1, D, H, W) float32, ``NAME_affine`` (4, 4), index in the view -> index in the volume, both
    (z, y, x), and, of the students, ``NAME_label`` (D, H, W) int64 with k for the k-th active class. ``skipped`` is
    what this process has noted in :attr:`Cases.skipped` so far.
    """

    def __init__(self, recipe: Recipe, cases: Cases):
        self.recipe, self.cases = recipe, cases
        sizes = dict(zip(STUDENTS, (recipe.crop, recipe.small_crop)))
        self.students = {name: (size, student_changes(size, True)) for name, size in sizes.items()}
        self.alone = {STUDENTS[0]: (recipe.crop, student_changes(recipe.crop, False))}
        self.teacher = teacher_changes(recipe.crop)
        self.contrast = contrast_changes()

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, index: int) -> dict[str, Any]:
        recipe = self.recipe
        active, encoder, taught = self.asked(index // recipe.batch)
        draw = np.random.default_rng([recipe.seed, 1, index])
        case = self.cases.draw(draw, labeled=not taught)
        center = self._center(case, active, draw)
        sample: dict[str, Any] = {"active": torch.from_numpy(active), "encoder": encoder}
        known = case.known.copy()
        known[[k - 1 for k in case.slices]] = True
        reach = np.asarray(recipe.crop) // 4 if taught else np.zeros(3, int)
        for name, (size, changes) in (self.students if taught else self.alone).items():
            place = center + draw.integers(-reach, reach + 1)
            zoomed = bool(recipe.zoom) and draw.random() < recipe.zoom
            drawn = case.regions is not None and (case.image is None or draw.random() < case.synthetic)
            wide = recipe.windows if case.limits[0] < -1.1 or case.limits[1] > 1.1 else 0.0
            window = _window(case, draw) if wide and draw.random() < wide else (-1.0, 1.0)
            image, label, affine = view(case, place, size, changes, draw, zoomed, drawn, window)
            if draw.random() < recipe.contrast and not drawn:
                image = apply_random(self.contrast, {"image": image}, draw)["image"]
            sample[name], sample[f"{name}_affine"] = as_tensor(image), affine
            known &= _complete(case, affine, size)
            sample[f"{name}_label"] = asked_label(label, active, len(case.known))
        if taught:
            drawn = case.image is None
            image, _, sample["teacher_affine"] = view(case, center, recipe.crop, self.teacher, draw, drawn=drawn)
            sample["teacher"] = as_tensor(image)
        sample["known"] = torch.from_numpy(known[active])
        sample["skipped"] = dict(self.cases.skipped)  # worker processes tell the run so
        return sample

    def asked(self, step: int) -> tuple[np.ndarray, bool, bool]:
        """Of a step: its classes (indices from 0), whether prompts enter the encoder, whether there is a teacher."""
        recipe = self.recipe
        draw = np.random.default_rng([recipe.seed, 0, step])
        count = len(recipe.class_names)
        if draw.random() < recipe.all_classes or count == 1:
            active = np.arange(count)
        else:
            active = np.sort(draw.permutation(count)[: draw.integers(1, count)])
        encoder, taught = draw.random() < recipe.encoder_prompts, draw.random() < recipe.taught_share
        return active, bool(encoder), bool(taught)

    def _center(self, case: Case, active: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        present = [index + 1 for index in active if index + 1 in case.members]
        crop = np.asarray(self.recipe.crop)
        if present and draw.random() < self.recipe.foreground:
            chosen = present[draw.integers(len(present))]
            members = case.members[chosen]
            place = members[draw.integers(len(members))] + draw.integers(-crop // 4, crop // 4 + 1)
            if chosen in case.slices and draw.random() < _WITHIN:
                first, last = case.slices[chosen]
                half = min(crop[0] // 2 + 1, (last - first) // 2)
                place[0] = np.clip(place[0], first + half, last - half)
            return place
        place = np.zeros(3, int)
        for _ in range(8):
            place = draw.integers(0, np.asarray(case.label.shape))
            if case.image[tuple(place)] > AIR if case.image is not None else self._inside(case, place):
                break
        return place

    @staticmethod
    def _inside(case: Case, place: np.ndarray) -> bool:
        return case.regions is not None and bool(case.regions[tuple(place)] != OUTSIDE)


def student_changes(size: Sequence[int], masked: bool) -> Compose:
    """Changes of a student's view; ``masked``: hide or shuffle parts of it, as self-supervision wants. Never mirrored
    left to right."""
    both, modes = ["image", "label"], ("bilinear", "nearest")
    small, wide = ([max(int(extent * share), 1) for extent in size] for share in (0.08, 0.25))
    hide: dict[str, Any] = {"holes": 1, "max_holes": 3, "spatial_size": small, "max_spatial_size": wide, "prob": 1.0}
    keep = {**hide, "holes": 6, "max_holes": 6, "spatial_size": [e // 4 for e in size]}
    keep["max_spatial_size"] = [e // 2 for e in size]
    masks = [
        OneOf(
            [
                Compose([]),
                RandCoarseDropoutd("image", fill_value=-1.0, **hide),
                RandCoarseDropoutd("image", fill_value=-1.0, dropout_holes=False, **keep),
                RandCoarseShuffled("image", **hide),
            ],
            weights=[0.7, 0.1, 0.1, 0.1],
        )
    ]
    return Compose(
        [
            # Some public releases store volumes mirrored front to back (BTCV as redistributed does):
            # the network must know organs in both, and left from right by the grid's x axis.
            RandFlipd(both, prob=0.5, spatial_axis=1),
            _sometimes(
                0.6,
                RandAffined(
                    both,
                    prob=1.0,
                    spatial_size=size,
                    rotate_range=(0.25, 0.08, 0.08),
                    shear_range=(0.03,) * 6,
                    scale_range=(0.15, 0.15, 0.15),
                    mode=modes,
                    padding_mode="border",
                ),
            ),
            RandScaleIntensityd("image", 0.15, prob=0.5),
            RandShiftIntensityd("image", 0.15, prob=0.5),
            RandAdjustContrastd("image", prob=0.2, gamma=(0.7, 1.5)),
            RandGaussianSmoothd("image", (0.25, 0.8), (0.25, 0.8), (0.25, 0.8), prob=0.1),
            RandGaussianNoised("image", prob=0.2, std=0.08),
            *(masks if masked else []),
        ]
    )


def teacher_changes(size: Sequence[int]) -> Compose:
    """The teacher sees its view almost as it is (docs/methods.md#pretraining)."""
    affine = RandAffined(
        ["image", "label"],
        prob=1.0,
        spatial_size=size,
        rotate_range=(0.1, 0.0, 0.0),
        scale_range=(0.1, 0.1, 0.1),
        mode=("bilinear", "nearest"),
        padding_mode="border",
    )
    return Compose([RandFlipd(["image", "label"], prob=0.5, spatial_axis=1), _sometimes(0.5, affine)])


def _sometimes(share: float, change: Transform) -> OneOf:
    """``change`` in ``share`` of the cases. (With a probability of its own, MONAI 1.6's RandAffined leaves the image
    alone in the other cases but not its affine.)"""
    return OneOf([Compose([]), change], weights=[1 - share, share])


def contrast_changes() -> Compose:
    """Another contrast: other windows, no contrast medium, inverted as in MR. Keeps the range of intensities."""
    return Compose(
        [
            RandHistogramShiftd("image", num_control_points=(3, 8), prob=0.8),
            RandAdjustContrastd("image", prob=0.5, gamma=(0.4, 2.5)),
            RandBiasFieldd("image", degree=2, coeff_range=(0.0, 0.15), prob=0.3),
            RandScaleIntensityd("image", factors=(-2.0, -2.0), prob=0.25),  # v -> v - 2 v
        ]
    )


def view(
    case: Case,
    center: np.ndarray,
    size: Sequence[int],
    changes: Compose,
    draw: np.random.Generator,
    zoomed: bool = False,
    drawn: bool = False,
    window: tuple[float, float] = (-1.0, 1.0),
) -> tuple[Tensor, Tensor, Tensor]:
    """Image and label (1, D, H, W) of a changed view around ``center`` (voxels), and its affine (4, 4).

    :param zoomed: with voxels of another size than the model's; ``drawn``: synthesized from the case's regions.
    :param window: intensities of the case that become -1 and 1.
    """
    extent = np.ceil(np.asarray(size) * MARGIN).astype(int)
    wanted = np.maximum(np.rint(extent * _zoom(draw)), 2).astype(int) if zoomed else extent
    arrays, start = cut(case, center, wanted, drawn)
    if zoomed:
        arrays = {key: resized(array, extent) for key, array in arrays.items()}
    if "image" in arrays:
        low, high = window
        arrays["image"] = np.clip((arrays["image"] - low) * np.float32(2 / (high - low)) - 1, -1, 1)
    if drawn:
        image = synthesized_from(arrays["regions"], arrays.get("image"), draw, case.alike)
        arrays["image"] = _normalized(image, arrays.get("inside"))
    factor = wanted / extent
    affine = torch.diag(torch.from_numpy(np.append(factor, 1.0)))
    affine[:3, 3] = torch.from_numpy(start + 0.5 * factor - 0.5)
    content = {
        key: MetaTensor(torch.from_numpy(arrays[key].astype(np.float32)[None]), affine=affine)
        for key in ("image", "label")
    }
    content = apply_random(changes, content, draw)
    # The crop is still larger where no affine was drawn: take the middle.
    (image_, first), (label_, _) = (center_crop(content[key], size) for key in ("image", "label"))
    shift = torch.eye(4, dtype=torch.float64)
    shift[:3, 3] = torch.as_tensor(first, dtype=torch.float64)
    return image_, label_, (content["image"].affine.to(torch.float64) @ shift).float()


def _normalized(image: np.ndarray, inside: Optional[np.ndarray]) -> np.ndarray:
    """As an image of unknown unit is read, from every other voxel; air where not ``inside``."""
    sample = image[::2, ::2, ::2]
    if inside is not None and inside[::2, ::2, ::2].any():
        sample = sample[inside[::2, ::2, ::2] > 0][:, None, None]
    image = decide(sample, Preprocessing(), "MR").normalize(image)
    return image if inside is None else np.where(inside > 0, image, np.float32(-1))


def _zoom(draw: np.random.Generator) -> np.ndarray:
    """Voxels of a view in those of the model, (z, y, x)."""
    low, high = np.log(ZOOM)
    return np.exp(draw.uniform(low, high, 3 if draw.random() < 0.5 else 1) * np.ones(3))


def _window(case: Case, draw: np.random.Generator) -> tuple[float, float]:
    """A window at least as wide as the model's, within what the case shows."""
    low, high = max(case.limits[0], _WINDOW[0]), min(case.limits[1], _WINDOW[1])
    return float(draw.uniform(min(low, -1.0), -1.0)), float(draw.uniform(1.0, max(high, 1.0)))


def _complete(case: Case, affine: Tensor, size: Sequence[int]) -> np.ndarray:
    """(K,) bool: False for partly labeled classes of which the view shows slices where they are not all labeled."""
    complete = np.ones(len(case.known), bool)
    spans = affine[0, :3] * (torch.as_tensor(size) - 1)  # of the view's axes, along z
    low, high = float(affine[0, 3] + spans.clamp(max=0).sum()), float(affine[0, 3] + spans.clamp(min=0).sum())
    for k, (first, last) in case.slices.items():
        complete[k - 1] = first - 1 <= low and high <= last + 1
    return complete


def apply_random(changes: Compose, content: dict[str, Any], draw: np.random.Generator) -> dict[str, Any]:
    """The content, changed as the next number of ``draw`` says."""
    changes.set_random_state(seed=int(draw.integers(2**31)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The image's intensity is a single value")  # air alone; it stays as it is
        return changes(content)


def as_tensor(image: Tensor) -> Tensor:
    return torch.as_tensor(image).as_subclass(torch.Tensor).float().contiguous()


def asked_label(label: Tensor, active: np.ndarray, count: int) -> Tensor:
    """Class indices 1..count, 0 none -> k for the k-th active class, 0 for all others; (D, H, W) int64."""
    lookup = torch.zeros(count + 1, dtype=torch.long)
    lookup[torch.from_numpy(active + 1)] = torch.arange(1, len(active) + 1)
    return lookup[as_tensor(label)[0].long()]


def cut(
    case: Case, center: np.ndarray, size: np.ndarray, drawn: bool = False
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Crop of ``size`` around ``center``, and its first voxel: "image" float32 (z, y, x) and "label"; where it is to be
    ``drawn``, "regions", and "inside" (1 in the volume) if it is larger than the volume.

    It is moved inside the volume where it fits, and padded with air where not, or as regions go on at the sides.
    """
    shape = np.asarray(case.label.shape)
    start = np.clip(center - size // 2, 0, np.maximum(shape - size, 0))
    stop = np.minimum(start + size, shape)
    box = tuple(slice(a, b) for a, b in zip(start, stop))
    missing = size - (stop - start)
    pad = [(int(m // 2), int(m - m // 2)) for m in missing]
    arrays = {"label": np.pad(case.label[box], pad)}
    if case.image is not None:
        more: dict[str, Any] = {"constant_values": min(case.limits[0], -1.0)} if not drawn else {"mode": "edge"}
        arrays["image"] = np.pad(case.image[box].astype(np.float32), pad, **more)
    if drawn and case.regions is not None:
        arrays["regions"] = np.pad(case.regions[box], pad, mode="edge")
        if missing.any():
            arrays["inside"] = np.pad(np.ones(stop - start, np.uint8), pad)
    return arrays, start - missing // 2


def resized(array: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Image (float32) or classes (uint8) (z, y, x) on ``size`` voxels over the same extent."""
    volume = torch.from_numpy(np.ascontiguousarray(array))[None, None]
    shape = tuple(int(extent) for extent in size)
    if array.dtype == np.uint8:
        return F.interpolate(volume, shape, mode="nearest-exact")[0, 0].numpy()
    return F.interpolate(volume, shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def center_crop(x: Tensor, size: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The middle of (1, D, H, W), and where it starts."""
    starts = [(extent - want) // 2 for extent, want in zip(x.shape[1:], size)]
    z, y, w = (slice(start, start + want) for start, want in zip(starts, size))
    return x[:, z, y, w], starts


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Samples of one step as a batch; classes and prompts' places are the step's, not the sample's."""
    first = samples[0]
    batch: dict[str, Any] = {"active": first["active"].tolist(), "encoder": first["encoder"], "skipped": {}}
    for sample in samples:
        batch["skipped"].update(sample.get("skipped", {}))
    for key in first.keys() - batch.keys():
        batch[key] = torch.stack([sample[key] for sample in samples])
    return batch


def to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on ``device``, images with channels last."""
    moved: dict[str, Any] = {}
    for key, value in batch.items():
        if isinstance(value, Tensor):
            value = value.to(device, non_blocking=True)
            if value.ndim == 5:
                value = value.contiguous(memory_format=torch.channels_last_3d)
        moved[key] = value
    return moved

"""Contrastive prototype assignment: overlapping views of one volume agree on what their voxels resemble.

Source: Fischer, Bartler, Yang, "Prompt tuning for parameter-efficient medical image segmentation", MedIA 91 (2024)
103024, arXiv 2211.09233 (docs/methods.md#pretraining), but measured in mm instead of voxels. A teacher view is
summarized by soft k-means prototypes of its own features; every student position is trained to be assigned to them as
the nearest teacher position is. Axis order is (z, y, x) everywhere.

N teacher positions, M student positions, P prototypes of C channels: the largest arrays hold B x N x P numbers, so
memory grows with the square of the view's volume.
"""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .settings import Assignment

_EPSILON = 1e-4  # features shorter than this have no direction; a smaller bound lets their gradient explode
_NO_MASS = 1e-12  # a prototype with less weight than this stays where it is


@torch.no_grad()
def positions(affine: Tensor, extents: Sequence[int], stride: Sequence[float], spacing: Sequence[float]) -> Tensor:
    """Centers (B, d*h*w, 3), in mm from the volume's voxel 0, of the cells of a feature map of ``extents``.

    ``affine`` (B, 4, 4) maps voxel indices of a view to those of the volume; cell i of the map covers the view's
    voxels [i * stride, (i + 1) * stride). ``spacing`` is mm per voxel of the volume.
    """
    return _to_mm(affine, [torch.arange(extent) for extent in extents], stride, spacing)


@torch.no_grad()
def prototypes(
    features: Tensor, where: Tensor, seeds: Tensor, seeds_where: Tensor, settings: Assignment
) -> tuple[Tensor, Tensor]:
    """Soft k-means from ``seeds``: prototypes (B, P, C) and their positions (B, P, 3) in mm.

    Features (B, N, C) at ``where`` (B, N, 3), seeds (B, P, C) at ``seeds_where`` (B, P, 3). Directions decide
    the assignment and the averages are of un-normalized features. The Gaussian weight keeps a prototype local.
    """
    with torch.autocast(features.device.type, enabled=False):
        features, where, centers, at = (each.float() for each in (features, where, seeds, seeds_where))
        variance = (settings.fwhm / (2 * math.sqrt(2 * math.log(2)))) ** 2
        for _ in range(settings.iterations):
            share = assign(features, centers, settings.teacher_temperature).exp_()
            share *= _distances(where, at).square_().mul_(-0.5 / variance).exp_()
            mass = share.sum(1).unsqueeze(-1)
            alive, share = mass > _NO_MASS, share.transpose(1, 2)
            mass = mass.clamp_min(_NO_MASS)
            centers = torch.where(alive, share @ features / mass, centers)
            at = torch.where(alive, share @ where / mass, at)
    return centers, at


def assign(features: Tensor, prototypes: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (B, N, P), float32, of features (B, N, C) belonging to prototypes (B, P, C)."""
    with torch.autocast(features.device.type, enabled=False):
        directions, towards = (F.normalize(each.float(), dim=-1, eps=_EPSILON) for each in (features, prototypes))
        return F.log_softmax(directions @ towards.transpose(1, 2) / temperature, -1)


@torch.no_grad()
def match(
    where: Tensor,
    affine: Tensor,
    extents: Sequence[int],
    stride: Sequence[float],
    spacing: Sequence[float],
    max_distance: float,
) -> tuple[Tensor, Tensor]:
    """For each position (B, M, 3) mm, the index (B, M) of the nearest cell of a feature map, and whether it is near.

    The map's ``extents``, ``affine``, ``stride`` and ``spacing`` are those of :func:`positions`. The nearest cell is
    looked up in the map's own coordinates: comparing all pairs costs as much as the network. Near: within
    ``max_distance`` mm.
    """
    mm = torch.tensor(list(spacing), dtype=torch.float32, device=where.device)
    back = torch.linalg.inv(affine.double())[:, None, :3]
    points = where.double() / mm
    in_view = (points[:, :, None] * back[..., :3]).sum(-1) + back[..., 3]
    steps = torch.tensor(list(stride), dtype=torch.float64, device=where.device)
    last = torch.tensor(list(extents), device=where.device) - 1
    cell = ((in_view + 0.5) / steps - 0.5).round().long().clamp_(min=0).minimum(last)
    index = (cell[..., 0] * extents[1] + cell[..., 1]) * extents[2] + cell[..., 2]
    found = positions(affine, extents, stride, spacing).gather(1, index[..., None].expand(-1, -1, 3))
    return index, (found - where).norm(dim=-1) <= max_distance


def assignment_loss(
    teacher: Tensor,
    teacher_affine: Tensor,
    students: Sequence[tuple[Tensor, Tensor]],
    stride: Sequence[int],
    spacing: Sequence[float],
    settings: Assignment,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of each image (B,), summed over the students, unweighted; and what to log, detached.

    ``teacher`` and every student are features F (B, C, d, h, w), of any extents, with the affine (B, 4, 4) of
    their view (see :func:`positions`); ``stride`` is view voxels per voxel of F, ``spacing`` mm per voxel of the
    volume. An image without a position to compare contributes 0. Only students receive gradients.

    Logged: ``kept``, the share of student positions that were compared; ``perplexity``, the effective number of
    prototypes that an image uses; ``position_perplexity``, the effective number that one position is shared
    among. Collapse shows as the second falling to 1 or the third rising to P (features all alike use all P).
    """
    with torch.autocast(teacher.device.type, enabled=False):
        with torch.no_grad():
            features, extents, steps = _reduced(teacher, stride, settings)
            where = positions(teacher_affine, extents, steps, spacing)
            seeds, seeds_where = _seeds(teacher, teacher_affine, stride, spacing, settings)
            centers, _ = prototypes(features, where, seeds, seeds_where, settings)
            log_target = assign(features, centers, settings.teacher_temperature)
            target = log_target.exp()
        images = torch.arange(len(teacher), device=teacher.device).unsqueeze(1)
        loss = torch.zeros(len(teacher), device=teacher.device)
        kept, compared = torch.zeros((), device=teacher.device), 0
        for student, affine in students:
            views, own_extents, own_steps = _reduced(student, stride, settings)
            student_where = positions(affine, own_extents, own_steps, spacing)
            nearest, keep = match(student_where, teacher_affine, extents, steps, spacing, settings.max_distance)
            entropy = -(target[images, nearest] * assign(views, centers, settings.student_temperature)).sum(-1)
            loss = loss + (entropy * keep).sum(1) / keep.sum(1).clamp_min(1)
            kept, compared = kept + keep.sum(), compared + keep.numel()
        log = {
            "kept": kept / max(compared, 1),
            "perplexity": torch.special.entr(target.mean(1)).sum(-1).mean().exp(),
            "position_perplexity": (target * log_target).sum(-1).mean().neg().exp(),
        }
    return loss, log


def _reduced(
    features: Tensor, stride: Sequence[int], settings: Assignment
) -> tuple[Tensor, tuple[int, ...], list[int]]:
    """F averaged to the coarser grid, (B, N, C) float32, the extents of that grid, and view voxels per cell of it.

    What is left over at the end of an axis is dropped; an axis shorter than a cell is one cell.
    """
    kernel = [min(settings.reduction, extent) for extent in features.shape[2:]]
    coarse = F.avg_pool3d(features.float(), kernel)
    steps = [step * size for step, size in zip(stride, kernel)]
    return coarse.flatten(2).transpose(1, 2), tuple(coarse.shape[2:]), steps


def _seeds(
    features: Tensor, affine: Tensor, stride: Sequence[int], spacing: Sequence[float], settings: Assignment
) -> tuple[Tensor, Tensor]:
    """F at every ``seed_stride``-th voxel, (B, P, C) float32, and where that is, (B, P, 3) mm."""
    extents, step = features.shape[2:], settings.seed_stride
    axes = []
    for extent in extents:
        count = max(extent // step, 1)
        # Middle of each cell, the cells together being in the middle of the map.
        axes.append((torch.arange(count) - (count - 1) / 2) * step + (extent - 1) / 2)
    # grid_sample wants (x, y, z), with -1 and 1 at the outer faces of the map.
    normalized = [(2 * axis + 1) / extent - 1 for axis, extent in zip(axes, extents)]
    grid = torch.stack(torch.meshgrid(normalized, indexing="ij")[::-1], -1).to(features.device)
    grid = grid.expand(len(features), *grid.shape)
    values = F.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
    return values.flatten(2).transpose(1, 2), _to_mm(affine, axes, stride, spacing)


def _to_mm(affine: Tensor, axes: Sequence[Tensor], stride: Sequence[float], spacing: Sequence[float]) -> Tensor:
    """Points (B, n, 3) in mm of the grid of ``axes``, which count cells of ``stride`` view voxels."""
    in_view = [(axis + 0.5) * step - 0.5 for axis, step in zip(axes, stride)]
    grid = torch.stack(torch.meshgrid(in_view, indexing="ij"), -1).reshape(-1, 3).to(affine.device)
    affine = affine.float().unsqueeze(1)
    # Not a matrix product: the reduced precision of one (TF32) would move points by a voxel.
    in_volume = (grid[:, None, :] * affine[..., :3, :3]).sum(-1) + affine[..., :3, 3]
    return in_volume * torch.tensor(list(spacing), dtype=torch.float32, device=affine.device)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, n, m) for points (B, n, 3) and (B, m, 3), exact: the matrix product that is the default cancels."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

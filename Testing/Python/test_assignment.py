"""Contrastive prototype assignment: geometry, clustering, matching, and where the gradient goes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from PromptSegLib.pretraining.assignment import (
    _seeds,
    assign,
    assignment_loss,
    match,
    positions,
    prototypes,
)
from PromptSegLib.pretraining.settings import Assignment

STRIDE = (2, 2, 2)
SPACING = (2.0, 1.5, 1.5)
SETTINGS = Assignment()


def affine(scale=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0), batch=1) -> torch.Tensor:
    matrix = torch.diag(torch.tensor([*scale, 1.0]))
    matrix[:3, 3] = torch.tensor(shift)
    return matrix.expand(batch, 4, 4)


def features(seed=0, batch=1, extents=(8, 8, 8), channels=16) -> torch.Tensor:
    return torch.randn(batch, channels, *extents, generator=torch.Generator().manual_seed(seed))


def loss_of(teacher, student, shift=(0.0, 0.0, 0.0), settings=SETTINGS):
    batch = len(teacher)
    views = [(student, affine(shift=shift, batch=batch))]
    return assignment_loss(teacher, affine(batch=batch), views, STRIDE, SPACING, settings)


def test_positions_are_the_centers_of_the_cells_in_mm():
    plain = positions(affine(), (2, 1, 3), (4, 1, 2), SPACING)
    assert plain.shape == (1, 6, 3)
    z, y, x = (1.5, 5.5), 0.0, (0.5, 2.5, 4.5)
    expected = torch.tensor([[a * 2.0, y * 1.5, b * 1.5] for a in z for b in x])
    torch.testing.assert_close(plain[0], expected)

    moved = positions(affine(shift=(10, -3, 7)), (2, 1, 3), (4, 1, 2), SPACING)
    torch.testing.assert_close(moved[0], expected + torch.tensor([20.0, -4.5, 10.5]))

    # x flipped about a view of 6 voxels: the same points, last first.
    flipped = positions(affine((1, 1, -1), (0, 0, 5)), (2, 1, 3), (4, 1, 2), SPACING)
    torch.testing.assert_close(flipped[0], expected.reshape(2, 3, 3).flip(1).reshape(6, 3))

    larger = positions(affine((1, 1, 1.5)), (2, 1, 3), (4, 1, 2), SPACING)
    torch.testing.assert_close(larger[0], expected * torch.tensor([1, 1, 1.5]))


def test_positions_follow_an_exchange_of_axes_and_the_image_of_the_batch():
    exchange = torch.tensor([[0.0, 1, 0, 2], [1, 0, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]])
    both = positions(torch.stack([torch.eye(4), exchange]), (1, 2, 1), (1, 1, 1), (1, 1, 1))
    assert both.tolist() == [[[0, 0, 0], [0, 1, 0]], [[2, 3, 4], [3, 3, 4]]]


@pytest.mark.parametrize("extents", [(8, 16, 4), (1, 5, 11), (3, 2, 6)])
def test_seeds_are_features_and_positions_of_the_same_points(extents):
    # Each voxel's feature is its own index, so that what is sampled says where.
    ramp = torch.stack(torch.meshgrid(*(torch.arange(float(extent)) for extent in extents), indexing="ij"))[None]
    seeds, where = _seeds(ramp, affine(), STRIDE, SPACING, SETTINGS)
    counts = [max(extent // 4, 1) for extent in extents]
    assert seeds.shape == where.shape == (1, math.prod(counts), 3)
    torch.testing.assert_close(where[0], (2 * seeds[0] + 0.5) * torch.tensor(SPACING))
    for axis, (extent, count) in enumerate(zip(extents, counts)):
        expected = [(extent - 4 * count) / 2 + 4 * index + 1.5 for index in range(count)]
        torch.testing.assert_close(seeds[0, :, axis].unique(), torch.tensor(expected))


def test_identical_views_match_themselves():
    where = positions(affine(), (4, 4, 4), (4, 4, 4), SPACING)
    nearest, keep = match(where, affine(), (4, 4, 4), (4, 4, 4), SPACING, SETTINGS.max_distance)
    assert keep.all() and nearest[0].tolist() == list(range(64))
    f = features()
    assert loss_of(f, f)[1]["kept"] == 1


def test_shifted_view_matches_the_shifted_positions():
    student = positions(affine(shift=(0, 4, 8)), (4, 4, 4), (4, 4, 4), SPACING)
    nearest, keep = match(student, affine(), (4, 4, 4), (4, 4, 4), SPACING, 0.1)
    expected = torch.full((4, 4, 4), -1)
    expected[:, :3, :2] = torch.arange(64).reshape(4, 4, 4)[:, 1:, 2:]
    expected = expected.flatten()
    assert torch.equal(keep[0], expected >= 0)
    assert torch.equal(nearest[0][keep[0]], expected[expected >= 0])


def test_a_position_is_kept_up_to_the_distance():
    student = torch.tensor([[[6.5, 0, 0], [0, 6.51, 0], [4, 4, 4]]])
    kept = match(student, torch.eye(4)[None], (1, 1, 1), (1, 1, 1), (1, 1, 1), 6.5)[1]
    assert kept.tolist() == [[True, False, False]]


def test_the_cell_that_is_matched_is_the_nearest_of_all():
    torch.manual_seed(0)
    turned = torch.eye(4)[None]
    turned[0, :3, :3] = torch.linalg.matrix_exp(torch.tensor([[0.1, 0.2, 0], [-0.2, -0.1, 0.05], [0, -0.05, 0.1]]))
    turned[0, :3, 3] = torch.tensor([3.0, -2.0, 5.0])
    extents, stride = (4, 5, 6), (2, 4, 4)
    cells = positions(turned, extents, stride, SPACING)
    points = cells.mean(1, keepdim=True) + torch.randn(1, 500, 3) * 12
    index, keep = match(points, turned, extents, stride, SPACING, 6.5)
    distances = torch.cdist(points, cells)
    found = distances.gather(2, index[..., None])[..., 0]
    assert 0.05 < float(keep.float().mean()) < 0.95
    # A turned and slightly stretched lattice: on its own axes the nearest cell is the nearest in mm, nearly always.
    near = distances.min(-1).values
    assert float((keep == (near <= 6.5)).float().mean()) > 0.99
    assert float((found[keep] <= near[keep] + 0.5).float().mean()) > 0.99


def test_positions_outside_the_teacher_change_nothing():
    settings = Assignment(max_distance=1.0)
    f = features()
    student = features(1)
    shift = (0, 8, 0)  # four of eight voxels of F
    before, log = loss_of(f, student, shift, settings)
    assert log["kept"] == 0.5
    student[:, :, :, 4:] = features(2)[:, :, :, 4:]
    torch.testing.assert_close(loss_of(f, student, shift, settings)[0], before, rtol=0, atol=0)
    student[:, :, :, :4] = features(2)[:, :, :, :4]
    assert loss_of(f, student, shift, settings)[0] != before


def test_soft_k_means_finds_two_clusters():
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([[5.0, 0, 0], [0, 3.0, 0]])
    belongs = torch.arange(200) % 2
    f = truth[belongs] + 0.2 * torch.randn(200, 3, generator=generator)
    where = 10 * torch.rand(200, 3, generator=generator)
    seeds = torch.tensor([[1.0, 0.5, 0.3], [0.5, 1.0, -0.3]])
    centers, at = prototypes(f[None], where[None], seeds[None], torch.full((1, 2, 3), 5.0), SETTINGS)
    torch.testing.assert_close(centers[0], truth, rtol=0, atol=0.1)  # averages are not normalized
    means = torch.stack([where[belongs == index].mean(0) for index in (0, 1)])
    torch.testing.assert_close(at[0], means, rtol=0, atol=0.2)
    assert torch.equal(assign(f[None], centers, 0.033).argmax(-1)[0], belongs)


def test_far_regions_with_one_feature_keep_their_prototypes():
    f = torch.ones(1, 20, 4)
    where = torch.zeros(1, 20, 3)
    where[:, 10:, 2] = 200
    seeds_where = torch.tensor([[[0.0, 0, 10], [0, 0, 190]]])
    at = prototypes(f, where, torch.ones(1, 2, 4), seeds_where, SETTINGS)[1]
    torch.testing.assert_close(at, torch.tensor([[[0.0, 0, 0], [0, 0, 200]]]), rtol=0, atol=0.1)
    everywhere = Assignment(fwhm=1e5)
    at = prototypes(f, where, torch.ones(1, 2, 4), seeds_where, everywhere)[1]
    torch.testing.assert_close(at[..., 2], torch.full((1, 2), 100.0), rtol=0, atol=1)


def test_half_of_the_spatial_weight_is_half_the_width_away():
    settings = Assignment(iterations=1, fwhm=20)
    where = torch.tensor([[[0.0, 0, 0], [10.0, 0, 0]]])
    at = prototypes(torch.ones(1, 2, 4), where, torch.ones(1, 1, 4), torch.zeros(1, 1, 3), settings)[1]
    torch.testing.assert_close(at, torch.tensor([[[10.0 / 3, 0, 0]]]))


def test_a_prototype_without_support_stays():
    f, where = torch.zeros(1, 5, 4), torch.zeros(1, 5, 3)
    seeds, far = torch.ones(1, 1, 4), torch.full((1, 1, 3), 1e4)
    centers, at = prototypes(f, where, seeds, far, SETTINGS)
    assert torch.equal(centers, seeds) and torch.equal(at, far)


def test_assignment_depends_on_directions_only():
    f, centers = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[7.0, 0.0], [0.0, 0.1]]])
    expected = torch.tensor([[[-math.log1p(math.exp(-2)), -math.log1p(math.exp(2))]]])
    torch.testing.assert_close(assign(f, centers, 0.5), expected)


def test_equal_features_cost_less_than_permuted_ones():
    f = features()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    equal, permuted = loss_of(f, f)[0], loss_of(f, f[:, :, order][:, :, :, order])[0]
    assert equal < 0.7 * permuted


def test_a_flipped_view_is_compared_in_place():
    f = features()
    back = affine((1, 1, -1), (0, 0, 15))
    in_place = assignment_loss(f, affine(), [(f.flip(-1), back)], STRIDE, SPACING, SETTINGS)[0]
    torch.testing.assert_close(in_place, loss_of(f, f)[0])
    assert loss_of(f, f.flip(-1))[0] > in_place + 0.5


def reference(teacher, student, shift, centers) -> tuple[float, float, float]:
    """Loss, entropy of the usage and mean entropy of one image, for maps of even extents, one position at a time."""

    def cells(f, offset):
        for index in np.ndindex(*(extent // 2 for extent in f.shape[1:])):
            z, y, x = (slice(2 * at, 2 * at + 2) for at in index)
            yield f[:, z, y, x].mean((1, 2, 3)), (np.array(index) * 4 + 1.5 + offset) * SPACING

    def assigned(f, temperature):
        cosine = centers @ f / np.linalg.norm(centers, axis=1) / np.linalg.norm(f)
        odds = np.exp((cosine - cosine.max()) / temperature)
        return odds / odds.sum()

    known = [(assigned(f, 0.033), at) for f, at in cells(teacher, 0)]
    costs = []
    for f, at in cells(student, shift):
        distance, target = min(((np.linalg.norm(at - other), q) for q, other in known), key=lambda each: each[0])
        if distance <= 6.5:
            costs.append(-target @ np.log(assigned(f, 0.066)))
    usage = np.mean([q for q, _ in known], 0)
    return np.mean(costs), -usage @ np.log(usage), np.mean([-q @ np.log(q) for q, _ in known])


def test_loss_is_that_of_a_plain_computation():
    teacher, student = features(batch=2, extents=(4, 12, 8)), features(1, batch=2, extents=(6, 8, 4))
    shifts = np.array([[1.0, 5, -3], [-2, 9, 3]])
    views = torch.cat([affine(shift=tuple(shift)) for shift in shifts])
    loss, log = assignment_loss(teacher, affine(batch=2), [(student, views)], STRIDE, SPACING, SETTINGS)
    coarse = torch.nn.functional.interpolate(teacher, scale_factor=0.5, mode="trilinear")
    where = positions(affine(batch=2), coarse.shape[2:], (4, 4, 4), SPACING)
    seeds = _seeds(teacher, affine(batch=2), STRIDE, SPACING, SETTINGS)
    centers = prototypes(coarse.flatten(2).transpose(1, 2), where, *seeds, SETTINGS)[0]
    arrays = (each.double().numpy() for each in (teacher, student))
    expected = [reference(*each) for each in zip(*arrays, shifts, centers.double().numpy())]
    costs, usage, entropy = np.transpose(expected)
    np.testing.assert_allclose(loss, costs, rtol=1e-4)
    assert log["perplexity"].item() == pytest.approx(np.exp(usage.mean()), rel=1e-4)
    assert log["position_perplexity"].item() == pytest.approx(np.exp(entropy.mean()), rel=1e-3)


def test_students_are_summed():
    f, a, b = features(), features(1), features(2, extents=(4, 8, 8))
    both = assignment_loss(f, affine(), [(a, affine()), (b, affine())], STRIDE, SPACING, SETTINGS)[0]
    torch.testing.assert_close(both, loss_of(f, a)[0] + loss_of(f, b)[0])


def test_gradient_reaches_students_only():
    teacher, student, where = features().requires_grad_(), features(1).requires_grad_(), affine().clone()
    where.requires_grad_()
    loss, log = assignment_loss(teacher, where, [(student, where)], STRIDE, SPACING, SETTINGS)
    loss.sum().backward()
    assert teacher.grad is None and where.grad is None
    assert student.grad is not None and (student.grad != 0).any(1).all()
    assert not any(value.requires_grad for value in log.values())


def test_an_image_does_not_depend_on_its_batch():
    teacher, student = features(batch=3), features(1, batch=3)
    shifts = torch.cat([affine(shift=(0, 2 * index, 0)) for index in range(3)])
    together = assignment_loss(teacher, affine(batch=3), [(student, shifts)], STRIDE, SPACING, SETTINGS)[0]
    assert together.shape == (3,) and len(set(together.tolist())) == 3
    for index in range(3):
        one = slice(index, index + 1)
        alone = assignment_loss(teacher[one], affine(), [(student[one], shifts[one])], STRIDE, SPACING, SETTINGS)[0]
        torch.testing.assert_close(alone[0], together[index], rtol=1e-5, atol=1e-5)


def test_no_overlap_costs_nothing():
    student = features(1).requires_grad_()
    loss, log = loss_of(features(), student, (500, 0, 0))
    loss.sum().backward()
    assert loss.tolist() == [0] and log["kept"] == 0
    assert student.grad is not None and not student.grad.any()


@pytest.mark.parametrize("extents", [(1, 8, 8), (1, 1, 1), (7, 9, 3), (2, 5, 16)])
def test_any_extents(extents):
    f = features(extents=extents).requires_grad_()
    loss, log = loss_of(f.detach(), f)
    loss.sum().backward()
    assert log["kept"] == 1 and loss.isfinite().all() and f.grad.isfinite().all()


def test_features_without_direction_are_finite():
    for constant in (torch.zeros(1, 16, 8, 8, 8), torch.ones(1, 16, 8, 8, 8)):
        student = constant.clone().requires_grad_()
        loss, log = loss_of(constant, student)
        loss.sum().backward()
        # Eight prototypes, all alike.
        assert loss.item() == pytest.approx(math.log(8), rel=1e-4) and student.grad.isfinite().all()
        assert log["position_perplexity"].item() == pytest.approx(8, rel=1e-3)


def test_perplexity_counts_the_prototypes_in_use():
    settings = Assignment(reduction=1, fwhm=1.0, iterations=1)
    f = torch.zeros(1, 8, 4, 4, 8)  # two seeds, each in a region of its own
    f[:, 0, ..., :4] = f[:, 1, ..., 4:] = 1
    log = loss_of(f, f, settings=settings)[1]
    assert log["perplexity"].item() == pytest.approx(2, rel=1e-3)
    assert log["position_perplexity"].item() == pytest.approx(1, rel=1e-3)


def test_bfloat16_in_float32_out():
    teacher, student = features().bfloat16(), features(1).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, log = loss_of(teacher, student)
    assert loss.dtype == torch.float32 and loss.isfinite().all()
    # All but the inputs is float32, so that the same values in float32 give the same loss.
    torch.testing.assert_close(loss, loss_of(teacher.float(), student.float())[0])
    loss.sum().backward()
    assert student.grad.isfinite().all()


def test_optimizing_the_student_lowers_the_loss():
    teacher, student = features(), features(1).requires_grad_()
    optimizer = torch.optim.Adam([student], 0.05)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = loss_of(teacher, student)[0].sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_settings_from_a_recipe():
    assert Assignment.from_dict({}) == SETTINGS
    settings = Assignment.from_dict({"weight": 0, "fwhm": 32, "iterations": 5})
    assert settings == Assignment(weight=0.0, fwhm=32.0, iterations=5) and type(settings.fwhm) is float


@pytest.mark.parametrize(
    "values",
    [
        [],
        {"speed": 1},
        {3: 1},
        {"weight": -0.1},
        {"weight": "0.1"},
        {"weight": None},
        {"fwhm": 0},
        {"fwhm": float("nan")},
        {"fwhm": float("inf")},
        {"max_distance": -1},
        {"teacher_temperature": 0.0},
        {"student_temperature": True},
        {"reduction": 2.0},
        {"reduction": 0},
        {"seed_stride": True},
        {"iterations": 0},
    ],
)
def test_bad_settings_are_refused(values):
    with pytest.raises(ValueError, match="prototype assignment"):
        Assignment.from_dict(values)

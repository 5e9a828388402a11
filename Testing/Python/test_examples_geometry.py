"""Grids: points and indices, the upright model grid, and volumes that go there and back."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from PromptSegLib.imaging.geometry import Grid, nonzero_extent, resample, to_model_grid, upright_grid

CENTER, RADIUS = np.array([12.0, -34.0, 56.0]), 22.0


def rotation(about_z: float, about_x: float) -> np.ndarray:
    c, s = np.cos(about_z), np.sin(about_z)
    d, t = np.cos(about_x), np.sin(about_x)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ np.array([[1.0, 0, 0], [0, d, -t], [0, t, d]])


def grid_around(point: np.ndarray, size, spacing, direction: np.ndarray) -> Grid:
    """A grid whose middle lies at ``point``."""
    matrix = direction * np.asarray(spacing)
    origin = point - matrix @ ((np.asarray(size) - 1) / 2)
    return Grid(tuple(size), tuple(spacing), tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def distances(grid: Grid, point: np.ndarray) -> np.ndarray:
    """Distance (mm) of every voxel of ``grid`` from ``point``, (z, y, x)."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1).reshape(-1, 3)[:, ::-1]
    return np.linalg.norm(grid.points(index) - point, axis=1).reshape(grid.shape)


LEFT_HANDED = rotation(0.4, -0.3) @ np.diag([1.0, 1.0, -1.0])
GRIDS = {
    "upright": ((70, 64, 40), (1.0, 1.1, 2.0), np.eye(3)),
    "oblique": ((70, 64, 40), (1.0, 1.1, 2.0), rotation(0.4, -0.3)),
    "left-handed": ((70, 64, 40), (1.0, 1.1, 2.0), LEFT_HANDED),
    "sagittal": ((64, 40, 30), (1.0, 1.7, 2.5), np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])),
    "coarse": ((20, 18, 12), (4.0, 4.5, 6.0), LEFT_HANDED),
}


@pytest.fixture(params=GRIDS)
def grid(request) -> Grid:
    return grid_around(CENTER + [3, -2, 4], *GRIDS[request.param])


def test_points_and_indices_agree_with_simpleitk(grid):
    image = grid.image(np.zeros(grid.shape, np.uint8))
    assert Grid.of(image).same_as(grid)
    index = np.array([[0, 0, 0], [3, 7, 2], [1, 5, 9]])
    points = grid.points(index)
    for one, point in zip(index, points):
        assert np.allclose(image.TransformIndexToPhysicalPoint(one.tolist()), point)
    assert np.allclose(grid.indices(points), index)


def test_same_as_is_measured_in_voxels():
    grid = Grid((512, 512, 300), (0.7, 0.7, 1.0), (0.0, 0.0, 0.0))
    rounded = Grid(grid.size, tuple(np.float32(grid.spacing).tolist()), (1e-4, 0.0, 0.0))
    shifted = Grid(grid.size, grid.spacing, (0.1, 0.0, 0.0))
    assert grid.same_as(rounded)
    assert not grid.same_as(shifted)
    assert not grid.same_as(Grid((512, 512, 299), grid.spacing, grid.origin))


def test_upright_grid_covers_the_image(grid):
    model = upright_grid(grid, (3.0, 2.0, 2.0))
    assert model.spacing == (2.0, 2.0, 3.0)
    # Up to the rounding to whole voxels, which both ends share.
    gap = model.indices(grid.corners())
    assert (gap > -0.5 - 0.25 - 1e-6).all()
    assert (gap < np.asarray(model.size) - 0.5 + 0.25 + 1e-6).all()


def test_a_ball_is_found_where_it_lies_and_comes_back(grid):
    ball = np.clip((RADIUS - distances(grid, CENTER)) / max(grid.spacing) + 0.5, 0, 1)
    image = grid.image((1000 * ball).astype(np.int16))
    model = upright_grid(grid, (3.0, 2.0, 2.0))
    array = to_model_grid(image, model, 0.0)
    assert array.dtype == np.float32
    assert array.shape == model.shape

    z, y, x = np.indices(array.shape)
    found = [np.average(axis, weights=array) for axis in (x, y, z)]
    assert np.abs(np.array(found) - model.indices(CENTER[None])[0]).max() < 0.3

    back = sitk.GetArrayFromImage(resample(model.image(array), grid, sitk.sitkLinear, 0.0)) > 500
    truth = ball > 0.5
    assert 2 * (back & truth).sum() / (back.sum() + truth.sum()) > 0.9


def test_turning_the_image_does_not_change_what_the_model_sees():
    model = Grid((20, 20, 20), (2.0, 2.0, 2.0), tuple((CENTER - 19).tolist()))
    seen = []
    for direction in (np.eye(3), rotation(np.pi / 4, 0.5)):
        fine = grid_around(CENTER, (90, 90, 90), (0.8, 0.8, 0.8), direction)
        pattern = 100 * np.cos(distances(fine, CENTER))  # fine enough to be damped by the smoothing
        seen.append(to_model_grid(fine.image(pattern.astype(np.float32)), model, 0.0))
    assert np.abs(seen[0]).max() < 80
    assert np.abs(seen[0] - seen[1]).mean() < 4


def test_outside_the_image_is_fill():
    image = Grid((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).image(np.full((8, 8, 8), 5, np.int16))
    array = to_model_grid(image, Grid((16, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), -1000.0)
    assert (array[..., :8] == 5).all()
    assert (array[..., 8:] == -1000).all()


def test_extent_of_voxels():
    array = np.zeros((5, 6, 7), bool)
    assert nonzero_extent(array) is None
    array[1, 2, 3] = array[4, 2, 5] = True
    assert nonzero_extent(array) == (3, 5, 2, 2, 1, 4)

"""Annotations brought to other grids: what is known, what is not, and that no stroke gets lost."""

from __future__ import annotations

import numpy as np
import pytest

import PromptSegLib.annotation.labels as annotation
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.labels import labels_on_grid, strokes_on_image
from PromptSegLib.imaging.geometry import Grid, upright_grid

CLASSES = {"liver": 5, "spleen": 2}  # liver is 1, spleen is 2
BACKGROUND, OTHER = 9, 7
IDENTITY = np.eye(3)
IMAGE = Grid((40, 36, 30), (1.0, 1.0, 1.5), (10.0, -20.0, 30.0))


def turned(about_z: float, mirrored: bool = False) -> np.ndarray:
    c, s = np.cos(about_z), np.sin(about_z)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, -1.0 if mirrored else 1.0]])
    return turn @ np.array([[1.0, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])


def grid_like(image: Grid, spacing, direction=IDENTITY, size=None) -> Grid:
    """A grid of another spacing and direction around the same middle."""
    middle = image.points((np.asarray(image.size)[None] - 1) / 2)[0]
    size = size or np.round(np.asarray(image.size) * image.spacing / np.asarray(spacing)).astype(int)
    origin = middle - direction * np.asarray(spacing) @ ((np.asarray(size) - 1) / 2)
    return Grid(tuple(int(n) for n in size), tuple(spacing), tuple(origin.tolist()), tuple(direction.ravel().tolist()))


def example(values: np.ndarray, grid: Grid = IMAGE, image: Grid = IMAGE, **options) -> Example:
    return Example(image.image(np.zeros(image.shape, np.int16)), grid.image(values), BACKGROUND, **options)


def painted(grid: Grid, dtype=np.uint8) -> np.ndarray:
    values = np.zeros(grid.shape, dtype)
    z, y, x = (n // 2 for n in grid.shape)
    values[:z, :y, :x] = 5
    values[z:, :y, :x] = 2
    values[:, y:, :x] = BACKGROUND
    values[:z, y:, x:] = OTHER
    return values


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64])
@pytest.mark.parametrize("complete", [False, True])
def test_same_grid_only_changes_values(dtype, complete, monkeypatch):
    monkeypatch.setattr(annotation, "_BLOCK", 5000)  # several blocks
    values = painted(IMAGE, dtype)
    labels = strokes_on_image(example(values, complete=complete), CLASSES)
    rest = 0 if complete else -1
    expected = np.select([values == 5, values == 2, values == BACKGROUND], [1, 2, 0], rest)
    assert labels.dtype == np.int16
    assert np.array_equal(labels, expected)


def test_values_that_do_not_fit_the_annotation_type_are_just_absent():
    values = painted(IMAGE)
    labels = strokes_on_image(example(values), {"liver": 5, "nodule": 256 + 2})
    assert set(np.unique(labels)) == {-1, 0, 1}


def test_negative_background_value():
    values = np.zeros(IMAGE.shape, np.int16)
    values[0], values[1] = -1, 5
    one = Example(IMAGE.image(values), IMAGE.image(values), background=-1)
    assert np.unique(strokes_on_image(one, CLASSES)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("complete", [False, True])
def test_general_path_agrees_with_the_direct_one(complete):
    values = painted(IMAGE)
    direct = labels_on_grid(example(values, complete=complete), CLASSES, IMAGE)
    moved = Grid(IMAGE.size, IMAGE.spacing, tuple(np.add(IMAGE.origin, 0.1)))  # same nearest voxels
    general = labels_on_grid(example(values, complete=complete), CLASSES, moved)
    assert not moved.same_as(IMAGE)
    assert np.array_equal(general, direct)


@pytest.mark.parametrize("angle, mirrored", [(0.0, False), (0.5, False), (0.5, True)])
@pytest.mark.parametrize("spacing", [(0.5, 0.5, 0.8), (2.0, 2.5, 3.0)])
def test_labels_lie_where_they_were_painted(angle, mirrored, spacing):
    direction = turned(angle, mirrored) if angle else IDENTITY
    source = grid_like(IMAGE, spacing, direction)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in source.shape), indexing="ij"), -1)[..., ::-1]
    points = source.points(index.reshape(-1, 3)).reshape(*source.shape, 3)
    middle = IMAGE.points((np.asarray(IMAGE.size)[None] - 1) / 2)[0]
    ball = np.linalg.norm(points - middle, axis=-1) < 12
    one = example(np.where(ball, 5, 0).astype(np.uint8), source, complete=True)
    model = upright_grid(IMAGE, (3.0, 2.0, 2.0))
    for grid, labels in ((IMAGE, strokes_on_image(one, CLASSES)), (model, labels_on_grid(one, CLASSES, model))):
        z, y, x = np.nonzero(labels == 1)
        center = grid.points(np.stack([x, y, z], -1)).mean(0)
        assert np.abs(center - middle).max() < 0.5
        volume = len(z) * np.prod(grid.spacing)
        assert abs(volume / (4 / 3 * np.pi * 12**3) - 1) < 0.1


@pytest.mark.parametrize("angle, mirrored", [(0.0, False), (0.7, True)])
def test_thin_diagonal_strokes_survive_on_a_coarser_grid(angle, mirrored):
    source = grid_like(IMAGE, (0.5, 0.5, 0.5), turned(angle, mirrored) if angle else IDENTITY, (60, 60, 60))
    values = np.zeros(source.shape, np.uint8)
    steps = np.arange(10, 50)
    values[steps, steps, steps] = 5
    model = upright_grid(IMAGE, (3.0, 2.0, 2.0))
    labels = labels_on_grid(example(values, source), CLASSES, model)
    expected = np.round(model.indices(source.points(np.stack([steps] * 3, -1)))).astype(int)
    x, y, z = expected.T
    assert (labels[z, y, x] == 1).all()
    assert (labels >= 0).sum() == len(np.unique(expected, axis=0))
    # Only the scribbles are drawn in: a complete annotation is sampled.
    complete = labels_on_grid(example(values, source, complete=True), CLASSES, model)
    assert (complete == 1).sum() < (labels == 1).sum()


def fine_in_coarse(marks: dict[tuple[int, int, int], int]) -> np.ndarray:
    """Labels on a grid of 4 mm of what is painted, by (x, y, z), on a grid of 1 mm."""
    fine = Grid((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    coarse = Grid((2, 2, 2), (4.0, 4.0, 4.0), (1.6, 1.6, 1.6))  # nearest to the voxels at 2 and 6
    values = np.zeros(fine.shape, np.uint8)
    for (x, y, z), value in marks.items():
        values[z, y, x] = value
    return labels_on_grid(example(values, fine, fine), CLASSES, coarse)


def test_the_most_frequent_label_wins_and_ties_go_to_a_class():
    assert fine_in_coarse({(0, 0, 0): 2, (1, 0, 0): 2, (0, 1, 0): 5})[0, 0, 0] == 2
    assert fine_in_coarse({(0, 0, 0): 9, (1, 0, 0): 9, (0, 1, 0): 5})[0, 0, 0] == 0
    assert fine_in_coarse({(0, 0, 0): 9, (0, 1, 0): 2})[0, 0, 0] == 2
    assert fine_in_coarse({(0, 0, 0): 2, (0, 1, 0): 5})[0, 0, 0] == 1
    # The voxel at the center decides alone.
    assert fine_in_coarse({(2, 2, 2): 9, (0, 1, 0): 5, (0, 0, 0): 5})[0, 0, 0] == 0
    assert (fine_in_coarse({(0, 0, 0): 5}) >= 0).sum() == 1
    assert (fine_in_coarse({(0, 0, 0): OTHER}) == -1).all()


def test_votes_are_counted_across_blocks(monkeypatch):
    marks = {(0, 0, 0): 9, (0, 0, 1): 5, (1, 0, 1): 5, (0, 0, 3): 9, (0, 1, 3): 9}
    whole = fine_in_coarse(marks)
    assert whole[0, 0, 0] == 0
    monkeypatch.setattr(annotation, "_BLOCK", 64)  # one slice at a time
    assert np.array_equal(fine_in_coarse(marks), whole)


def test_beyond_the_annotation_and_beyond_the_image_is_unknown():
    half = Grid((20, 36, 30), IMAGE.spacing, IMAGE.origin)  # the first half along x
    labels = strokes_on_image(example(np.full(half.shape, 5, np.uint8), half, complete=True), CLASSES)
    assert (labels[..., :20] == 1).all()
    assert (labels[..., 20:] == -1).all()

    wide = Grid((60, 36, 30), IMAGE.spacing, IMAGE.origin)
    for complete in (False, True):
        one = example(np.full(wide.shape, 5, np.uint8), wide, complete=complete)
        for grid in (wide, Grid(wide.size, wide.spacing, tuple(np.add(wide.origin, 0.1)))):
            labels = labels_on_grid(one, CLASSES, grid)
            assert (labels[..., :39] == 1)[:29, :35].all()
            assert (labels[..., 40:] == -1).all()

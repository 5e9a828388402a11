"""Snapshots of what is painted, with real MRML (slicer-core)."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402

from harness.mrml_segments import (  # noqa: E402
    CLASSES,
    DIRECTIONS,
    SURFACE,
    TRANSFORMS,
    add_segment,
    ijk_to_ras,
    labels_like,
    setup_nodes,
    user_segmentation,
    voxels_of,
)
from harness.mrml_volumes import ras, rotation  # noqa: E402
from harness.scene_nodes import annotation_from_segmentation, image_from_volume  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.imaging.geometry import Grid  # noqa: E402
from PromptSegLib.inference.result import Segmentation  # noqa: E402
from PromptSegLib.scene import labelmaps  # noqa: E402
from PromptSegLib.scene.lattices import cropped, on_lattice  # noqa: E402
from PromptSegLib.scene.segment_snapshot import snapshot  # noqa: E402
from PromptSegLib.scene.segmentations import apply_result  # noqa: E402


def test_later_changes_do_not_reach_a_snapshot():
    volume, node, first, second, third = user_segmentation()
    roles = {first: 1, second: 2, third: 3}
    expected = annotation_from_segmentation(node, volume, roles)
    painting = snapshot(node, volume, roles)
    for one in roles:
        labelmaps.voxels_of(node.GetSegmentation().GetSegment(one).GetRepresentation("Binary labelmap"))[:] = 0
    node.GetSegmentation().RemoveSegment(first)
    node.GetScene().RemoveNode(node)
    del node
    with ThreadPoolExecutor(1) as other_thread:
        image = other_thread.submit(painting.labels, roles).result()
    assert Grid.of(image).same_as(Grid.of(expected), 1e-9)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(expected))
    assert np.array_equal(np.unique(sitk.GetArrayFromImage(image)), [0, 1, 2, 3])


def test_a_layer_that_segments_share_is_taken_once():
    volume, node, first, second, third = user_segmentation()
    segments = snapshot(node, volume, [first, second, third, first]).segments
    assert list(segments) == [first, second, third]
    assert segments[first][0] is segments[second][0]
    assert segments[third][0] is not segments[first][0]


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_masks_on_the_painted_voxels_themselves_are_exact(transforms, direction):
    _, volume, node = setup_nodes(transforms, direction)
    labels = labels_like(image_from_volume(volume))
    ids = apply_result(node, volume, Segmentation(labels, CLASSES))
    painting = snapshot(node, volume, ids.values())
    array, grid = sitk.GetArrayFromImage(labels), Grid.of(labels)
    masks = painting.masks(ids.values(), grid)
    for info in CLASSES:
        assert masks[ids[info.name]].dtype == bool
        assert np.array_equal(masks[ids[info.name]], array == info.value)
    # A window that cuts through what is painted.
    low, high = (4, 4, 3), (10, 9, 7)
    part = painting.masks(ids.values(), grid.part(low, high))
    for info in CLASSES:
        assert np.array_equal(part[ids[info.name]], array[3:7, 4:9, 4:10] == info.value)


@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_masks_on_another_grid_take_the_nearest_voxel(transforms):
    volume, node, first, second, third = user_segmentation(transforms, aligned=True)
    painting = snapshot(node, volume, [first, second, third])
    image = image_from_volume(volume)
    turn = np.reshape(image.GetDirection(), (3, 3)) @ rotation(7, -11, 23)
    center = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    size, spacing = np.array((23, 25, 31)), np.array((0.71, 0.63, 0.83))
    # Not centered on the volume: a voxel center on the face between two voxels would have two nearest.
    origin = np.asarray(center) - turn @ (spacing * (size - 1) / 2) + (0.05, 0.03, -0.04)
    grid = Grid(tuple(size.tolist()), tuple(spacing.tolist()), tuple(origin.tolist()), tuple(turn.ravel().tolist()))
    masks = painting.masks([first, third], grid)
    assert list(masks) == [first, third]
    for one, mask in masks.items():
        reference = grid.image(np.zeros(grid.shape, np.uint8))
        expected = sitk.Resample(painting.labels({one: 1}), reference, sitk.Transform(), sitk.sitkNearestNeighbor)
        assert mask.sum() > 50
        assert np.array_equal(mask, sitk.GetArrayFromImage(expected) == 1)


def test_masks_beside_what_is_painted_are_blank():
    volume, node, first, *_ = user_segmentation()
    grid = Grid.of(image_from_volume(volume))
    for direction in (grid.direction, tuple(rotation(10).ravel().tolist())):
        for step in (-300.0, 300.0):
            aside = Grid(grid.size, grid.spacing, tuple(at + step for at in grid.origin), direction)
            (mask,) = snapshot(node, volume, [first]).masks([first], aside).values()
            assert mask.shape == grid.shape and not mask.any()


def test_empty_segments_add_nothing():
    volume, node, first, _, _ = user_segmentation()
    segmentation = node.GetSegmentation()
    new = segmentation.AddEmptySegment("new", "new")
    erased, _ = add_segment(node, np.zeros((30, 40, 50), np.uint8), "erased", matrix=ijk_to_ras(volume))
    bare = slicer.vtkSegment()
    segmentation.AddSegment(bare, "bare")
    painting = snapshot(node, volume, [first, new, erased, "bare"])
    assert [painting.empty(one) for one in (first, new, erased, "bare")] == [False, True, True, True]
    masks = painting.masks([new, erased, "bare"], Grid.of(image_from_volume(volume)))
    assert len(masks) == 3 and not any(mask.any() for mask in masks.values())
    alone, both = painting.labels({first: 1}), painting.labels({new: 3, first: 1, "bare": 4})
    assert np.array_equal(sitk.GetArrayFromImage(alone), sitk.GetArrayFromImage(both))
    for values in ({}, {new: 1}, {new: 1, erased: 2, "bare": 3}):
        with pytest.raises(PromptSegError, match="no voxels in the chosen segments"):
            painting.labels(values)


def test_segments_that_were_not_taken_are_refused():
    volume, node, first, second, _ = user_segmentation()
    with pytest.raises(PromptSegError, match="no segment with ID 'nobody'"):
        snapshot(node, volume, [first, "nobody"])
    painting = snapshot(node, volume, [first])
    for call in (
        lambda: painting.labels({second: 1}),
        lambda: painting.masks([second], Grid.of(image_from_volume(volume))),
        lambda: painting.empty(second),
    ):
        with pytest.raises(PromptSegError, match=f"no segment with ID '{second}'"):
            call()


@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_surfaces_are_taken_as_voxels_of_the_volume(transforms):
    _, volume, node = setup_nodes(transforms)
    labels = labels_like(image_from_volume(volume))
    ids = apply_result(node, volume, Segmentation(labels, CLASSES[:1]))
    segmentation = node.GetSegmentation()
    segmentation.SetConversionParameter("Smoothing factor", "0.0")
    assert segmentation.CreateRepresentation(SURFACE)
    segmentation.SetSourceRepresentationName(SURFACE)
    segmentation.RemoveRepresentation("Binary labelmap")
    painting = snapshot(node, volume, ids.values())
    assert segmentation.GetSegment(ids["liver"]).GetRepresentation("Binary labelmap") is None
    (mask,) = painting.masks(ids.values(), Grid.of(labels)).values()
    expected = sitk.GetArrayFromImage(labels) == 1
    assert (mask & expected).sum() * 2 / (mask.sum() + expected.sum()) > 0.9

    nothing = slicer.vtkSegment()
    nothing.AddRepresentation(SURFACE, vtk.vtkPolyData())
    segmentation.AddSegment(nothing, "nothing")
    assert snapshot(node, None, ["nothing"]).empty("nothing")
    with pytest.raises(PromptSegError, match="made of surfaces"):
        snapshot(node, None, ids.values())


def test_any_label_is_found_wherever_it_is():
    voxels = np.zeros((40, 128, 256), np.uint8)
    for label, place in enumerate([(0, 0, 0), (39, 127, 255), (20, 3, 4), (33, 64, 0)], start=1):
        voxels[place] = label
        assert labelmaps.holds(voxels, label)
    assert not labelmaps.holds(voxels, 9)
    assert not labelmaps.holds(np.zeros((0, 2, 3), np.uint8), 0)


def test_the_same_lattice_moves_numbers_and_another_takes_the_nearest():
    voxels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    start = np.array([5, 6, 7])
    moved, low = on_lattice(voxels, start, ras(offset=(2.004, -3, 0.997)))
    assert np.array_equal(moved, voxels) and np.shares_memory(moved, voxels)
    assert low.tolist() == [7, 3, 8]
    cut, low = on_lattice(voxels, start, ras(offset=(2, -3, 1)), (np.array([8, 0, 9]), np.array([10, 5, 40])))
    assert np.array_equal(cut, voxels[1:, :2, 1:3]) and low.tolist() == [8, 3, 9]

    finer, low = on_lattice(voxels, start, ras(np.eye(3) * 3))
    at = tuple((np.array([8, 7, 6]) * 3 - low[::-1]).tolist())  # index (6, 7, 8)
    near = finer[at[0] - 1 : at[0] + 2, at[1] - 1 : at[1] + 2, at[2] - 1 : at[2] + 2]
    assert (near == voxels[1, 1, 1]).all() and near.size == 27
    assert np.count_nonzero(finer) == 27 * 23  # all but the voxel whose number is 0
    none, _ = on_lattice(voxels, start, ras(np.eye(3) * 3), (np.array([90, 90, 90]), np.array([99, 99, 99])))
    assert none.size == 0


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("size", [1, 2])
def test_a_single_slice_is_as_thick_on_another_lattice_as_its_voxels_are(axis, size):
    shape, scale = [3, 3, 3], [1.0, 1.0, 1.0]
    shape[2 - axis], scale[axis] = size, 5.0
    thin, low = on_lattice(np.ones(shape, np.uint8), np.full(3, 4), ras(np.diag(scale)))
    found = np.argwhere(thin)[:, ::-1] + low
    assert found.min(0)[axis] == 18 and found.max(0)[axis] == 17 + 5 * size and len(found) == 9 * 5 * size
    assert on_lattice(np.ones(shape, np.uint8), np.full(3, 4), ras(offset=(1, 2, 3)))[0].shape == tuple(shape)


def test_labels_of_mixed_layers_keep_every_voxel():
    """What was painted on another lattice lies where it was, and what lies on the finest is not touched."""
    _, volume, node = setup_nodes()
    fine, _ = add_segment(node, np.ones((3, 3, 3), np.uint8), "fine", (2, 2, 2), ras(np.eye(3)))
    turned, _ = add_segment(node, np.ones((3, 3, 3), np.uint8), "turned", (2, 2, 2), ras(rotation(0, 0, 90) * 1.5))
    image = snapshot(node, volume, [fine, turned]).labels({turned: 2, fine: 1})
    assert np.count_nonzero(sitk.GetArrayFromImage(image) == 1) == voxels_of(node, fine)[0].sum() == 27
    points = np.argwhere(sitk.GetArrayFromImage(image) == 2)[:, ::-1] + 0.0
    world = np.array([image.TransformContinuousIndexToPhysicalPoint(point.tolist()) for point in points])
    expected = rotation(0, 0, 90) * 1.5 @ [3, 3, 3] * [-1, -1, 1]
    assert np.allclose(world.mean(0), expected, atol=0.5)


def test_cropped_images_stay_in_place():
    _, volume, _ = setup_nodes(direction=DIRECTIONS["oblique"])
    labels = labels_like(image_from_volume(volume))
    part = cropped(labels)
    assert part.GetSize() == (11, 9, 6)  # of 14, 12, 10
    back = sitk.Resample(part, labels, sitk.Transform(), sitk.sitkNearestNeighbor)
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(labels))
    assert cropped(labels * 0).GetSize() == (1, 1, 1)


def test_the_demo_paints_as_a_user_does(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "Demo")
    painting = importlib.import_module("painting")
    _, volume, node = setup_nodes()
    labels = labels_like(image_from_volume(volume))
    ids = painting.paint(node, volume, labels, CLASSES)
    assert sorted(ids) == sorted(info.name for info in CLASSES)
    assert painting.paint(node, volume, labels, CLASSES, ids) == ids
    back = painting.labels_in(node, volume, {ids[info.name]: info.value for info in CLASSES}, labels)
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(labels))

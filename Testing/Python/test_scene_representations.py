"""Segments of every kind of source are read alike (slicer-core)."""

from __future__ import annotations

import gc

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402

from harness.mrml_fixtures import add_volume, paint  # noqa: E402
from harness.mrml_segments import TRANSFORMS, add_segment, setup_nodes  # noqa: E402
from harness.mrml_volumes import put_under, ras, rotation  # noqa: E402
from harness.scene_files import new_scene  # noqa: E402
from harness.scene_nodes import image_from_volume, segments_by_name  # noqa: E402
from harness.tiny_model import CLASSES  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.imaging.geometry import Grid  # noqa: E402
from PromptSegLib.scene import node_references  # noqa: E402
from PromptSegLib.scene.segment_snapshot import snapshot  # noqa: E402
from PromptSegLib.scene.segmentations import check_writable, segments  # noqa: E402

BINARY, SURFACE, FRACTIONAL = "Binary labelmap", "Closed surface", "Fractional labelmap"


def balls(count=4):
    """A volume and a segmentation with some balls, as voxels; and their masks (z, y, x)."""
    scene = new_scene()
    volume, _ = add_volume(scene)
    node = node_references.new_segmentation(scene, volume, "S")
    node.GetSegmentation().SetConversionParameter("Smoothing factor", "0.0")
    z, y, x = np.ogrid[:20, :40, :48]
    masks = {}
    for n in range(count):
        mask = (z - 10) ** 2 + (y - 12 - 5 * (n % 2)) ** 2 + (x - 7 - 10 * n) ** 2 < (4 + n % 3) ** 2
        masks[f"ball {n}"] = mask
        paint(node, volume, mask.astype(np.uint8), {f"ball {n}": 1})
    return volume, node, masks


def made_of(node, source, also=()):
    segmentation = node.GetSegmentation()
    assert segmentation.CreateRepresentation(source)
    segmentation.SetSourceRepresentationName(source)
    for name in also:
        assert segmentation.CreateRepresentation(name)


def masks_of(volume, node):
    ids = segments_by_name(node)
    taken = snapshot(node, volume, ids.values())
    gc.collect()  # whatever the voxels were taken from is gone
    grid = Grid.of(image_from_volume(volume))
    return {name: taken.masks([each], grid)[each] for name, each in ids.items()}


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


SOURCES = {
    "voxels": (BINARY, ()),
    "voxels, surfaces": (BINARY, (SURFACE,)),
    "surfaces": (SURFACE, ()),
    "surfaces, voxels": (SURFACE, (BINARY,)),
    "fractional": (FRACTIONAL, ()),
    "fractional, surfaces": (FRACTIONAL, (SURFACE,)),
    "fractional, voxels": (FRACTIONAL, (BINARY,)),
}


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_all_segments_are_read_whatever_they_are_made_of(source, count):
    volume, node, masks = balls(count)
    made_of(node, *source)
    before = [node.GetSegmentation().ContainsRepresentation(name) for name in (BINARY, SURFACE, FRACTIONAL)]
    assert not any(each.is_empty for each in segments(node))
    found = masks_of(volume, node)
    assert list(found) == list(masks)
    for name, mask in masks.items():
        assert dice(found[name], mask) > 0.9, name
    assert [node.GetSegmentation().ContainsRepresentation(name) for name in (BINARY, SURFACE, FRACTIONAL)] == before


@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_overlapping_surfaces_keep_all_of_their_voxels(transforms):
    _, volume, node = setup_nodes(transforms)
    node.GetSegmentation().SetSourceRepresentationName(SURFACE)
    for n, (center, radius) in enumerate([((3, -4, 5), 6), ((3, -4, 5), 3), ((6, -4, 5), 5)]):
        sphere = vtk.vtkSphereSource()
        sphere.SetRadius(radius)
        sphere.SetCenter(center)
        sphere.SetThetaResolution(40)
        sphere.SetPhiResolution(40)
        sphere.Update()
        segment = slicer.vtkSegment()
        segment.SetName(str(n))
        segment.AddRepresentation(SURFACE, sphere.GetOutput())
        node.GetSegmentation().AddSegment(segment, str(n))
    taken = snapshot(node, volume, ["0", "1", "2"])
    gc.collect()
    voxel = np.prod(image_from_volume(volume).GetSpacing())
    chain = np.eye(4)
    for matrix in transforms[1]:
        chain = chain @ matrix
    scale = np.linalg.det(chain[:3, :3])
    for name, radius in (("0", 6), ("1", 3), ("2", 5)):
        count = sitk.GetArrayFromImage(taken.labels({name: 1})).sum()
        assert count * voxel == pytest.approx(4 / 3 * np.pi * radius**3 * scale, rel=0.15)


def test_several_layers_are_read_alike():
    volume, node, masks = balls(2)
    mask = (masks["ball 0"] | masks["ball 1"]).astype(np.uint8)
    whole = image_from_volume(volume)
    add_segment(node, mask, "both", matrix=ras_of(whole))
    found = masks_of(volume, node)
    assert np.array_equal(found["both"], mask > 0)
    made_of(node, SURFACE)
    found = masks_of(volume, node)
    assert dice(found["both"], mask > 0) > 0.9 and dice(found["ball 1"], masks["ball 1"]) > 0.9


def ras_of(image):
    from PromptSegLib.scene.placement import image_to_world

    return image_to_world(image)


def test_a_segment_whose_conversion_failed_is_read_from_its_source():
    volume, node, masks = balls(3)
    made_of(node, SURFACE, [BINARY])
    ids = segments_by_name(node)
    node.GetSegmentation().GetSegment(ids["ball 1"]).RemoveRepresentation(BINARY)
    blank = slicer.vtkOrientedImageData()
    node.GetSegmentation().GetSegment(ids["ball 2"]).AddRepresentation(BINARY, blank)
    found = masks_of(volume, node)
    assert all(dice(found[name], mask) > 0.9 for name, mask in masks.items())


def test_a_segment_with_a_surface_only_among_voxels():
    volume, node, masks = balls(2)
    node.GetSegmentation().CreateRepresentation(SURFACE)
    ids = segments_by_name(node)
    node.GetSegmentation().GetSegment(ids["ball 1"]).RemoveRepresentation(BINARY)
    assert not any(each.is_empty for each in segments(node))
    found = masks_of(volume, node)
    assert dice(found["ball 1"], masks["ball 1"]) > 0.9 and np.array_equal(found["ball 0"], masks["ball 0"])


def test_what_was_erased_does_not_come_back_from_an_old_surface():
    volume, node, masks = balls(2)
    node.GetSegmentation().CreateRepresentation(SURFACE)
    ids = segments_by_name(node)
    blank = slicer.vtkOrientedImageData()
    node.GetSegmentation().GetSegment(ids["ball 1"]).AddRepresentation(BINARY, blank)
    assert [each.is_empty for each in segments(node)] == [False, True]
    assert not masks_of(volume, node)["ball 1"].any()


def test_a_surface_without_a_voxel_is_named():
    volume, node, _ = balls(1)
    made_of(node, SURFACE)
    sphere = vtk.vtkSphereSource()
    sphere.SetRadius(0.01)
    sphere.SetCenter(30.5, -12.5, 100.5)
    sphere.Update()
    segment = slicer.vtkSegment()
    segment.SetName("dust")
    segment.AddRepresentation(SURFACE, sphere.GetOutput())
    node.GetSegmentation().AddSegment(segment, "dust")
    with pytest.raises(PromptSegError, match="Segment 'dust' of Segmentation 'S' has no voxel"):
        snapshot(node, volume, ["dust"])


@pytest.mark.parametrize("kind", ["Planar contour", "Ribbon model"])
def test_what_nothing_here_can_convert_is_refused(kind):
    volume, node, _ = balls(1)
    made_of(node, SURFACE)
    segmentation = node.GetSegmentation()
    segment = segmentation.GetSegment("lines") or slicer.vtkSegment()
    lines = vtk.vtkPolyData()
    lines.DeepCopy(segmentation.GetNthSegment(0).GetRepresentation(SURFACE))
    segment.AddRepresentation(kind, lines)
    other = slicer.vtkMRMLSegmentationNode()
    other.SetName("contours")
    other.GetSegmentation().SetSourceRepresentationName(kind)
    other.GetSegmentation().AddSegment(segment, "lines")
    assert not segments(other)[0].is_empty
    with pytest.raises(PromptSegError, match="cannot be converted to voxels"):
        snapshot(other, volume, ["lines"])


# What no result can be written to


@pytest.mark.parametrize(
    "source, message", [(SURFACE, "is made of surfaces"), (FRACTIONAL, "is made of another kind"), (BINARY, "")]
)
def test_what_cannot_be_written(source, message):
    volume, node, _ = balls(2)
    made_of(node, source, [BINARY] if source != BINARY else ())
    if message:
        with pytest.raises(PromptSegError, match=message):
            check_writable(node, volume)
    else:
        check_writable(node, volume)
        put_under(node.GetScene(), node, ras(rotation(20) @ np.diag([1, 1, 1.4]) @ rotation(30)))
        with pytest.raises(PromptSegError, match="shear"):
            check_writable(node, volume)


def test_surfaces_as_strokes_are_all_there():
    """As structure sets come: every class as a surface of its own."""
    scene = new_scene()
    volume, reference = add_volume(scene)
    node = node_references.new_segmentation(scene, volume, "RTSTRUCT")
    paint(node, volume, reference, CLASSES)
    made_of(node, SURFACE)
    found = masks_of(volume, node)
    assert set(found) == set(CLASSES) and all(mask.any() for mask in found.values())


@pytest.mark.parametrize("away, radius", [(5e3, 20.0), (0.0, 2e3), (0.0, 1e6), (float("nan"), 20.0)])
def test_a_surface_in_another_unit_or_place_is_refused_before_any_memory_is_taken(away, radius):
    """A labelmap around it and the volume would be many gigabytes."""
    volume, node, _ = balls(2)
    made_of(node, SURFACE)
    ball = vtk.vtkSphereSource()
    ball.SetRadius(radius)
    ball.Update()
    surface = ball.GetOutput()
    for n in range(surface.GetNumberOfPoints()):
        surface.GetPoints().SetPoint(n, np.array(surface.GetPoint(n)) + away)
    surface.GetPoints().Modified()
    segment = slicer.vtkSegment()
    segment.SetName("far")
    segment.AddRepresentation(SURFACE, surface)
    node.GetSegmentation().AddSegment(segment, "far")
    with pytest.raises(PromptSegError, match="'far' .* check its unit"):
        masks_of(volume, node)
    node.GetSegmentation().RemoveSegment("far")
    assert all(mask.any() for mask in masks_of(volume, node).values())


@pytest.mark.parametrize("at", [0, 1, 2], ids=["first", "between", "last"])
@pytest.mark.parametrize("source", [SURFACE, FRACTIONAL, BINARY])
@pytest.mark.parametrize("holds", ["no points", "nothing"])
def test_empty_segments_among_others_are_empty_and_the_others_whole(source, at, holds):
    volume, node, masks = balls(2)
    made_of(node, source)
    segmentation = node.GetSegmentation()
    empty = slicer.vtkSegment()
    empty.SetName("empty")
    if holds == "no points":
        empty.AddRepresentation(SURFACE, vtk.vtkPolyData())
    before = segmentation.GetNthSegmentID(at) if at < 2 else ""
    assert segmentation.AddSegment(empty, "e", before)
    assert [each.name for each in segments(node) if each.is_empty] == ["empty"]
    found = masks_of(volume, node)
    assert not found["empty"].any() and all(dice(found[name], mask) > 0.9 for name, mask in masks.items())

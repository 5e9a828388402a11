"""Jumping slice views and maps over volumes, with real MRML (slicer-core)."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")

import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402

from harness.mrml_segments import DIRECTIONS, TRANSFORMS, add_views, setup_nodes  # noqa: E402
from harness.mrml_volumes import put_under  # noqa: E402
from harness.scene_files import load_scene, new_scene, save_scene  # noqa: E402
from harness.scene_nodes import image_from_volume, volume_from_image  # noqa: E402
from harness.tiny_model import phantom  # noqa: E402
from PromptSegLib.errors import PromptSegError  # noqa: E402
from PromptSegLib.imaging.geometry import Grid  # noqa: E402
from PromptSegLib.scene.placement import image_to_world, to_array  # noqa: E402
from PromptSegLib.scene.slice_views import (  # noqa: E402
    bring_into_view,
    center_3d,
    hide_map,
    in_volume,
    in_world,
    keep_places,
    kept_map,
    kept_places,
    node_bounds,
    point_out,
    sequence_frame_name,
    show_map,
)


def holds(view, ras) -> bool:
    """Whether the slice of a view goes through a point."""
    return abs((np.linalg.inv(to_array(view.GetSliceToRAS())) @ [*ras, 1])[2]) < 1e-6


def test_a_place_is_pointed_out_and_a_view_that_shows_it_is_not_panned():
    scene, *_ = setup_nodes()
    views = [view for view, _ in add_views(scene)]
    for view in views:
        view.SetDimensions(200, 100, 1)
        view.SetFieldOfView(200.0, 100.0, 1.0)
        view.UpdateMatrices()
    point_out(scene, (12.0, -7.0, 30.0))
    for view in views:
        assert holds(view, (-12, 7, 30))
        assert sorted(np.abs(to_array(view.GetSliceToRAS())[:3, 3]))[:2] == [0, 0]  # moved along its normal only
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    assert crosshair.GetCrosshairRAS() == (-12.0, 7.0, 30.0)
    assert crosshair.GetCrosshairMode() == crosshair.ShowBasic

    crosshair.SetCrosshairMode(crosshair.ShowIntersection)  # the user's choice
    point_out(scene, (-97.0, 2.0, 48.0))  # beside what some of the views show
    assert crosshair.GetCrosshairMode() == crosshair.ShowIntersection
    axial = views[0]
    assert holds(axial, (97, -2, 48)) and to_array(axial.GetSliceToRAS())[:3, 3] == pytest.approx([97, -2, 48])
    assert all(holds(view, (97, -2, 48)) for view in views)
    point_out(new_scene(), (0, 0, 0))  # no view


def test_a_volume_that_is_not_seen_is_brought_into_the_views():
    """As when two volumes lie far from each other, and one turns to the one and back to the other."""
    scene, volume, _segmentation = setup_nodes()
    views = [view for view, _ in add_views(scene)]
    low, high = node_bounds(volume).reshape(3, 2).T
    for view in views:
        view.SetDimensions(200, 100, 1)
        view.SetFieldOfView(20.0, 10.0, 1.0)
        view.UpdateMatrices()
        view.JumpSliceByCentering(*(low + high) / 2 + 1.0)
    before = [to_array(view.GetXYToRAS()) for view in views]
    bring_into_view(scene, volume)  # it is seen: nothing moves
    assert all((to_array(view.GetXYToRAS()) == each).all() for view, each in zip(views, before))
    away = (900.0, -900.0, 900.0)
    for n, view in enumerate(views):
        view.JumpSliceByCentering(*(low if n % 2 else away))  # its corner, or nothing of it
    bring_into_view(scene, volume)
    for view in views:
        view.UpdateMatrices()
        into = np.linalg.inv(to_array(view.GetXYToRAS()))
        corners = np.array(
            [[x, y, z, 1.0] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])]
        )
        seen = corners @ into.T
        assert seen[:, 0].min() > -1 and seen[:, 0].max() < 201 and seen[:, 1].min() > -1 and seen[:, 1].max() < 101
        assert max(np.ptp(seen[:, 0]) / 200, np.ptp(seen[:, 1]) / 100) == pytest.approx(1.0, abs=0.02)  # fills the view
        assert holds(view, (low + high) / 2)
    bring_into_view(scene, scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))  # without voxels
    bring_into_view(new_scene(), volume)  # no view


def test_cameras_turn_to_what_is_shown_and_see_it_whole():
    scene, volume, segmentation = setup_nodes()
    camera = scene.AddNewNodeByClass("vtkMRMLCameraNode")
    camera.SetFocalPoint(0, 0, 0)
    camera.SetPosition(0, 300, 0)
    center_3d(scene, None)
    assert camera.GetFocalPoint() == (0, 0, 0)
    bounds = [0.0] * 6
    volume.GetRASBounds(bounds)
    center_3d(scene, segmentation, volume)  # the segmentation is empty
    low, high = np.array(bounds[::2]), np.array(bounds[1::2])
    middle = (low + high) / 2
    assert camera.GetFocalPoint() == pytest.approx(middle)
    away = np.array(camera.GetPosition()) - middle
    assert away[1] > 0 and away[[0, 2]] == pytest.approx([0, 0])  # from where it looked before
    assert away[1] * np.sin(np.radians(camera.GetViewAngle() / 2)) >= np.linalg.norm(high - low) / 2 - 1e-6


def a_map(volume, dtype=np.float32):
    image = image_from_volume(volume)
    values = np.linspace(0, 1, int(np.prod(image.GetSize()))).reshape(image.GetSize()[::-1])
    values = (values * 255).astype(np.uint8) if dtype == np.uint8 else values.astype(np.float32)
    return Grid.of(image).image(values)


@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("transforms", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_map_lies_on_the_volume(transforms, direction):
    scene, volume, _ = setup_nodes(transforms, direction)
    image = a_map(volume)
    back = image_from_volume(show_map(scene, volume, image, "uncertainty"))
    assert Grid.of(back).same_as(Grid.of(image), 1e-6)
    assert np.array_equal(sitk.GetArrayFromImage(back), sitk.GetArrayFromImage(image))


def test_a_map_is_shown_in_all_views_and_what_was_there_comes_back(tmp_path):
    scene, volume, _ = setup_nodes()
    (_, red), (_, green), (_, yellow) = add_views(scene)
    other = volume_from_image(scene, image_from_volume(volume), "PET")
    red.SetForegroundVolumeID(other.GetID())
    red.SetForegroundOpacity(0.125)
    save_scene(scene, tmp_path / "a.mrb")  # gives nodes their storage nodes
    before = scene.GetNumberOfNodes()
    node = show_map(scene, volume, a_map(volume), "uncertainty")
    assert node.GetName() == "CT uncertainty (PromptSeg)"
    for composite in (red, green, yellow):
        assert composite.GetForegroundVolumeID() == node.GetID() and composite.GetForegroundOpacity() == 0.5

    again = show_map(scene, other, a_map(volume, np.uint8), "disagreement")
    assert again is node and node.GetName() == "PET disagreement (PromptSeg)"
    assert np.array_equal(
        sitk.GetArrayFromImage(image_from_volume(node)), sitk.GetArrayFromImage(a_map(volume, np.uint8))
    )
    save_scene(scene, tmp_path / "a.mrb")
    yellow.SetForegroundVolumeID(other.GetID())  # the user's choice
    yellow.SetForegroundOpacity(0.75)
    hide_map(scene)
    assert (red.GetForegroundVolumeID(), red.GetForegroundOpacity()) == (other.GetID(), 0.125)
    assert (green.GetForegroundVolumeID(), green.GetForegroundOpacity()) == (None, 0.0)
    assert (yellow.GetForegroundVolumeID(), yellow.GetForegroundOpacity()) == (other.GetID(), 0.75)
    assert scene.GetNumberOfNodes() == before + 1  # the color table
    hide_map(scene)
    assert red.GetForegroundOpacity() == 0.125

    # A scene saved while a map was shown: the map is not in it, and the views can be put right.
    opened = load_scene(tmp_path / "a.mrb")
    names = [opened.GetNthNodeByClass(n, "vtkMRMLScalarVolumeNode").GetName() for n in range(2)]
    assert sorted(names) == ["CT", "PET"] and opened.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 2
    hide_map(opened)
    views = [opened.GetNthNodeByClass(n, "vtkMRMLSliceCompositeNode") for n in range(3)]
    shown = {view.GetLayoutName(): (view.GetForegroundVolumeID(), view.GetForegroundOpacity()) for view in views}
    pet = opened.GetFirstNodeByName("PET").GetID()
    assert shown == {"Red": (pet, 0.125), "Green": (None, 0.0), "Yellow": (None, 0.0)}


def test_a_deleted_map_is_made_again():
    scene, volume, _ = setup_nodes()
    (_, red), *_ = add_views(scene)
    red.SetForegroundVolumeID(volume.GetID())
    scene.RemoveNode(show_map(scene, volume, a_map(volume)))
    node = show_map(scene, volume, a_map(volume))
    assert red.GetForegroundVolumeID() == node.GetID()
    scene.RemoveNode(node)
    hide_map(scene)
    assert red.GetForegroundVolumeID() == volume.GetID() and red.GetForegroundOpacity() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_nothing_is_drawn_where_the_map_is_zero(dtype):
    scene, volume, _ = setup_nodes()
    node = show_map(scene, volume, a_map(volume, dtype))
    display = node.GetDisplayNode()
    assert not node.GetSaveWithScene() and not display.GetSaveWithScene() and not node.GetHideFromEditors()
    display.GetImageDataConnection().GetProducer().Update()
    drawn = display.GetImageDataConnection().GetProducer().GetOutputDataObject(0)
    rgba = vtk.util.numpy_support.vtk_to_numpy(drawn.GetPointData().GetScalars()).copy()
    flat = sitk.GetArrayFromImage(a_map(volume, dtype)).ravel()
    assert rgba.shape == (flat.size, 4)
    assert rgba[flat == 0, 3].max() == 0
    assert rgba[flat > 0.4 * flat.max(), 3].min() == 255
    assert rgba[flat < 0.3 * flat.max(), 3].max() == 0  # a little doubt is everywhere
    first, last = rgba[np.flatnonzero(rgba[:, 3])[0]], rgba[-1]
    assert first[1] > 130 and last[1] < 20 and first[0] > 200 and last[0] > 200  # from yellow to red


def test_images_that_are_no_map_are_refused():
    scene, volume, _ = setup_nodes()
    before = scene.GetNumberOfNodes()
    for image in (sitk.Image([4, 4], sitk.sitkFloat32), sitk.Image([4, 4, 4], sitk.sitkVectorFloat32, 2)):
        with pytest.raises(PromptSegError, match="not a 3D scalar image"):
            show_map(scene, volume, image)
    assert scene.GetNumberOfNodes() == before


def test_the_frame_of_a_sequence():
    scene, volume, _ = setup_nodes()
    assert sequence_frame_name(volume) == ""
    assert sequence_frame_name(slicer.vtkMRMLScalarVolumeNode()) == ""
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "series")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for n in range(3):
        sequence.SetDataNodeAtValue(volume, str(1.5 * n))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    for item in (0, 2):
        browser.SetSelectedItemNumber(item)
        logic.UpdateProxyNodesFromSequences(browser)
        frame = browser.GetProxyNode(sequence)
        assert sequence_frame_name(frame) == f"{item + 1} of 3 (time {1.5 * item} s)"
    assert sequence_frame_name(volume) == ""


def test_places_and_the_map_move_with_the_volume():
    scene = new_scene()
    volume = volume_from_image(scene, phantom()[0], "CT")
    points = [(1.0, 20.0, 110.0), (-3.0, 30.0, 120.0)]
    indices = in_volume(volume, points)
    assert np.allclose(in_world(volume, indices), points)
    node = show_map(scene, volume, phantom()[1])
    motion = np.array([[0.0, -1, 0, 12], [1, 0, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]])
    put_under(scene, volume, motion)
    ras = np.array([[-x, -y, z, 1] for x, y, z in points]) @ motion.T
    assert np.allclose(in_world(volume, indices), ras[:, :3] * (-1, -1, 1))
    # Shown again, the map lies where the volume lies now.
    assert show_map(scene, volume, phantom()[1]) is node
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    assert np.allclose(image_to_world(image_from_volume(node)), image_to_world(phantom()[1]))


def test_the_kept_map_lies_at_the_kept_places_also_after_a_hardened_move():
    scene = new_scene()
    volume = volume_from_image(scene, phantom()[0], "CT")
    keep_places(volume, np.array([[14.0, 12.0, 10.0]]), sitk.Cast(phantom()[1], sitk.sitkUInt8))
    for _ in range(2):
        put_under(scene, volume, np.array([[0.0, -1, 0, 12], [1, 0, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]]))
        volume.HardenTransform()
        there = kept_map(volume).TransformIndexToPhysicalPoint((14, 12, 10))
        assert np.allclose(in_world(volume, kept_places(volume))[0], there)

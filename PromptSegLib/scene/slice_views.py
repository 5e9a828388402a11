"""Where to look: slice views that jump to a point, and a map over the volume."""

from __future__ import annotations

import json
from typing import Iterator, Mapping, Optional, Sequence

import numpy as np
import SimpleITK as sitk
import slicer
import vtk

from ..errors import PromptSegError
from . import scene_nodes
from .labelmaps import scalars_of
from .placement import RAS_LPS, image_to_world, label_of, node_to_world, to_array, to_vtk, volume_to_world
from .stored_results import Place, decoded, encoded, moved

_MAP = "PromptSeg.Map"
_PLACES, _UNCERTAINTY = "PromptSeg.Places", "PromptSeg.Uncertainty"
_ABOUT, _SEGMENTS = "PromptSeg.PlaceClasses", "PromptSeg.PlaceSegments"
_BEFORE = "PromptSeg.Before"  # on a composite node: its foreground's opacity and ID before the map
_COLORS = "PromptSeg warm"
_OPACITY = 0.5
_RIM = 0.1  # of a view's width: what lies there is brought to the middle
_CORNER = 0.05  # of a volume's size: whose middle lies no further inside, shows a corner of it
_VISIBLE = 0.35  # of the largest value; below, the map is transparent: a little doubt is everywhere


def point_out(scene, point_lps: Sequence[float]) -> None:
    """Move all slice views to a world point (LPS mm), and mark it with the crosshair.

    A view in which the point can be seen is not panned: centered on the skin, half of it would show air.
    """
    x, y, z = (float(part) for part in point_lps)
    ras = (-x, -y, z)
    for view in _nodes(scene, "vtkMRMLSliceNode"):
        view.JumpSliceByOffsetting(*ras)
        column, row, *_ = np.linalg.solve(to_array(view.GetXYToRAS()), [*ras, 1.0])
        width, height = view.GetDimensions()[:2]
        if not (_RIM * width < column < (1 - _RIM) * width and _RIM * height < row < (1 - _RIM) * height):
            view.JumpSliceByCentering(*ras)
    crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is None:  # the application has one
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        crosshair = scene.AddNode(crosshair)
    if crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair:
        crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
    crosshair.SetCrosshairRAS(list(ras))


def bring_into_view(scene, volume_node) -> None:
    """Fit a volume into the slice views whose middle does not lie in it: they would show nothing of it, or a corner."""
    box = node_bounds(volume_node)
    low, high = box[::2], box[1::2]
    if (high <= low).any():
        return
    rim = _CORNER * (high - low)
    for view in _nodes(scene, "vtkMRMLSliceNode"):
        width, height = view.GetDimensions()[:2]
        middle = (to_array(view.GetXYToRAS()) @ [width / 2, height / 2, 0.0, 1.0])[:3]
        if (low + rim <= middle).all() and (middle <= high - rim).all():
            continue
        across, up = np.abs(to_array(view.GetSliceToRAS())[:3, :2]).T @ (high - low)
        wide = max(across, up * width / height)
        view.JumpSliceByCentering(*((low + high) / 2))
        view.SetFieldOfView(wide, wide * height / width, view.GetFieldOfView()[2])


def center_3d(scene, *segmentation_nodes) -> None:
    """Turn the cameras of all 3D views to what segmentations show there, from where they look at it now, and so far
    away that it can be seen as a whole."""
    boxes = [node_bounds(node) for node in segmentation_nodes if node is not None]
    boxes = [box for box in boxes if (box[1::2] >= box[::2]).all()]
    if not boxes:
        return
    low, high = np.min([box[::2] for box in boxes], 0), np.max([box[1::2] for box in boxes], 0)
    middle, radius = (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1.0)
    for camera in _nodes(scene, "vtkMRMLCameraNode"):
        away = np.asarray(camera.GetPosition()) - camera.GetFocalPoint()
        length = float(np.linalg.norm(away))
        direction = away / length if length > 0 else np.array([0.0, 1.0, 0.0])
        camera.SetFocalPoint(*middle)
        camera.SetPosition(*(middle + direction * radius / np.sin(np.radians(camera.GetViewAngle() / 2))))
        camera.SetParallelScale(radius)
        camera.ResetClippingRange()


def node_bounds(node) -> np.ndarray:
    """The box of a node in the world, RAS mm: (x, x, y, y, z, z), the larger after the smaller; else it is empty."""
    bounds = [1.0, -1.0] * 3
    node.GetRASBounds(bounds)
    return np.asarray(bounds)


def in_volume(volume_node, points_lps: Sequence[Sequence[float]]) -> np.ndarray:
    """World points (n, 3), LPS mm, as voxel indices (n, 3) of a volume, which stay true when it is moved."""
    points = np.asarray(points_lps, float).reshape(-1, 3)
    matrix = np.linalg.inv(RAS_LPS @ volume_to_world(volume_node))
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def in_world(volume_node, indices: Sequence[Sequence[float]]) -> np.ndarray:
    """Undo :func:`in_volume`, where the volume lies now."""
    matrix = RAS_LPS @ volume_to_world(volume_node)
    return np.asarray(indices, float).reshape(-1, 3) @ matrix[:3, :3].T + matrix[:3, 3]


def keep_places(
    volume_node,
    indices: np.ndarray,
    uncertainty: sitk.Image,
    classes: Sequence[str] = (),
    segment_ids: Sequence[str] = (),
) -> None:
    """Keep with a volume where to look, voxel indices (n, 3), at what, and the map (uint8): they are saved with the
    scene."""
    what = Place(node_to_world(volume_node), volume_to_world(volume_node))
    was_modifying = volume_node.StartModify()
    try:
        volume_node.SetAttribute(_PLACES, json.dumps(np.round(indices, 2).tolist()))
        volume_node.SetAttribute(_UNCERTAINTY, encoded(uncertainty, what))
        volume_node.SetAttribute(_ABOUT, json.dumps(list(classes)))
        volume_node.SetAttribute(_SEGMENTS, json.dumps(list(segment_ids)))
    finally:
        volume_node.EndModify(was_modifying)


def kept(volume_node) -> dict[str, Optional[str]]:
    """All that :func:`keep_places` kept, for :func:`put_back`."""
    return {name: volume_node.GetAttribute(name) for name in (_PLACES, _UNCERTAINTY, _ABOUT, _SEGMENTS)}


def put_back(volume_node, before: Mapping[str, Optional[str]]) -> None:
    """Keep again what was kept before."""
    was_modifying = volume_node.StartModify()
    try:
        for name, text in before.items():
            volume_node.SetAttribute(name, text)  # None removes it
    finally:
        volume_node.EndModify(was_modifying)


def kept_places(volume_node) -> np.ndarray:
    """What :func:`keep_places` kept of the places: voxel indices (n, 3); none where it is damaged."""
    try:
        found = np.asarray(json.loads(volume_node.GetAttribute(_PLACES) or "[]"), float)
    except (ValueError, TypeError, RecursionError):
        found = np.zeros((0, 3))
    return found if found.ndim == 2 and found.shape[1] == 3 and np.isfinite(found).all() else np.zeros((0, 3))


def kept_classes(volume_node) -> tuple[str, ...]:
    """What :func:`keep_places` kept of what the places are about; none where it is damaged."""
    return _texts(volume_node.GetAttribute(_ABOUT))


def kept_segments(volume_node) -> tuple[str, ...]:
    """The IDs of the segments of :func:`kept_classes`; none where they are not known."""
    return _texts(volume_node.GetAttribute(_SEGMENTS))


def _texts(kept_text: Optional[str]) -> tuple[str, ...]:
    try:
        found = json.loads(kept_text or "[]")
    except (ValueError, RecursionError):
        return ()
    return tuple(found) if isinstance(found, list) and all(isinstance(each, str) for each in found) else ()


def keeps_map(volume_node) -> bool:
    """Whether :func:`keep_places` kept a map with a volume."""
    return bool(volume_node.GetAttribute(_UNCERTAINTY))


def kept_map(volume_node) -> Optional[sitk.Image]:
    """The map that :func:`keep_places` kept, where the volume is now; None without one or where it is damaged.

    Raises :class:`PromptSegError` where the volume lies under a transform that no image can follow.
    """
    found = decoded(volume_node.GetAttribute(_UNCERTAINTY) or "", label_of(volume_node))
    if found is None:
        return None
    now = Place(node_to_world(volume_node), volume_to_world(volume_node))
    return moved(*found, now, label_of(volume_node))


def show_map(scene, volume_node, image: sitk.Image, name: str = "uncertainty"):
    """Show a map half transparent over the volumes in all slice views, and return its scalar volume node.

    There is one map in a scene; showing another replaces its voxels. It is not saved with the scene.
    Its node is called "<volume> <name> (PromptSeg)".

    :param image: world LPS; float in 0..1, or uint8 in 0..255, a quarter of the bytes. 0 is transparent.

    Raises :class:`PromptSegError` when the image is not 3D or not scalar.
    """
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise PromptSegError("The {name} map is not a 3D scalar image; compute it again.", name=name)
    voxels = sitk.GetArrayViewFromImage(image)
    data = vtk.vtkImageData()
    data.SetDimensions(image.GetSize())
    data.GetPointData().SetScalars(scalars_of(voxels))
    node = _map_node(scene)
    new = node is None
    if new:
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetAttribute(_MAP, "1")
        node.SetSaveWithScene(False)
    node.SetName(f"{volume_node.GetName()} {name} (PromptSeg)")
    # Under the volume's transform, so that it moves with the volume.
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    node.SetIJKToRASMatrix(to_vtk(np.linalg.inv(node_to_world(volume_node)) @ image_to_world(image)))
    if new:
        node = scene.AddNode(node)
    # The display comes before the voxels: by default it would look for a window in all of them.
    _color(scene, node, 255.0 if voxels.dtype.kind in "ui" else 1.0)
    node.SetAndObserveImageData(data)
    for composite in _nodes(scene, "vtkMRMLSliceCompositeNode"):
        if composite.GetForegroundVolumeID() != node.GetID():
            foreground = composite.GetForegroundVolumeID() or ""
            if foreground or composite.GetAttribute(_BEFORE) is None:  # else a map was here that somebody deleted
                composite.SetAttribute(_BEFORE, f"{composite.GetForegroundOpacity()!r} {foreground}")
            composite.SetForegroundVolumeID(node.GetID())
            composite.SetForegroundOpacity(_OPACITY)
    return node


def hide_map(scene) -> None:
    """Remove the map; views that still show it get the foreground back that they had before."""
    node = _map_node(scene)
    for composite in _nodes(scene, "vtkMRMLSliceCompositeNode"):
        before = composite.GetAttribute(_BEFORE)
        if before is None:
            continue
        composite.RemoveAttribute(_BEFORE)
        # A view in which somebody chose another foreground meanwhile keeps that.
        shown = composite.GetForegroundVolumeID()
        if not shown or scene.GetNodeByID(shown) in (None, node):
            opacity, _, foreground = before.partition(" ")
            composite.SetForegroundVolumeID(foreground if scene.GetNodeByID(foreground) else None)
            composite.SetForegroundOpacity(float(opacity))
    scene_nodes.remove(node)


def sequence_frame_name(volume_node) -> str:
    """Which frame a volume shows, as "3 of 10 (time 4.2 s)"; "" unless a sequence browser plays into it."""
    scene = volume_node.GetScene()
    for browser in _nodes(scene, "vtkMRMLSequenceBrowserNode") if scene is not None else ():
        sequence = browser.GetSequenceNode(volume_node)
        if sequence is None:
            continue
        item, count = browser.GetSelectedItemNumber(), sequence.GetNumberOfDataNodes()
        if not 0 <= item < count:
            continue
        index = " ".join(
            part for part in (sequence.GetIndexName(), sequence.GetNthIndexValue(item), sequence.GetIndexUnit()) if part
        )
        return f"{item + 1} of {count} ({index})"
    return ""


def _nodes(scene, class_name: str) -> Iterator:
    yield from [scene.GetNthNodeByClass(n, class_name) for n in range(scene.GetNumberOfNodesByClass(class_name))]


def _map_node(scene):
    return next((node for node in _nodes(scene, "vtkMRMLScalarVolumeNode") if node.GetAttribute(_MAP)), None)


def _color(scene, node, most: float) -> None:
    """Yellow to red from 0 to ``most``, nothing where the map is (almost) 0."""
    display = node.GetDisplayNode()
    if display is None:
        display = slicer.vtkMRMLScalarVolumeDisplayNode()
        display.SetSaveWithScene(False)
        display.AutoWindowLevelOff()
        display = scene.AddNode(display)
        node.SetAndObserveDisplayNodeID(display.GetID())
    was_modifying = display.StartModify()
    try:
        display.SetAndObserveColorNodeID(_colors(scene).GetID())
        display.AutoWindowLevelOff()
        display.SetWindowLevelMinMax(0.0, most)
        display.AutoThresholdOff()
        display.SetThreshold(_VISIBLE * most, most)
        display.ApplyThresholdOn()
    finally:
        display.EndModify(was_modifying)


def _colors(scene):
    """The application's own color table, or one like it where there is no application."""
    node = scene.GetNodeByID("vtkMRMLColorTableNodeWarm1") or scene.GetFirstNodeByName(_COLORS)
    if node is None:
        node = slicer.vtkMRMLColorTableNode()
        node.SetTypeToWarm1()
        node.SetName(_COLORS)
        node.HideFromEditorsOn()
        node.SetSaveWithScene(False)
        node = scene.AddNode(node)
    return node

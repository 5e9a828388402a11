"""A volume and painted segments as an example; scenes saved under relative paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from harness.scene_files import load_scene, new_scene, save_scene
from harness.scene_nodes import example_from_nodes, volume_from_image
from PromptSegLib.annotation.classes import describe
from PromptSegLib.annotation.labels import labels_on_grid
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene.segmentations import apply_result


def painted_scene():
    """A scene with a volume and a segmentation of one small painted box, far from the volume's borders."""
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(size=(12, 16, 20)).astype(np.float32))
    image.SetSpacing((2.0, 1.5, 3.0))
    image.SetOrigin((5.0, -7.0, 11.0))
    labels = np.zeros((12, 16, 20), np.uint8)
    labels[4:6, 7:9, 10:13] = 1
    painted = sitk.GetImageFromArray(labels)
    painted.CopyInformation(image)
    scene = new_scene()
    volume = volume_from_image(scene, image, "CT")
    segmentation = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Painted")
    ids = apply_result(segmentation, volume, Segmentation(painted, (describe("box", 1),)))
    return scene, volume, segmentation, ids["box"], labels


def test_strokes_leave_the_rest_unknown_and_complete_makes_it_background():
    _, volume, segmentation, box, labels = painted_scene()
    strokes = example_from_nodes(volume, segmentation, {box: 4})
    grid = Grid.of(strokes.image)
    assert strokes.name == "CT" and strokes.annotation.GetNumberOfPixels() < labels.size  # cropped to the paint
    known = labels_on_grid(strokes, {"box": 4}, grid)
    assert np.array_equal(known == 1, labels == 1) and (known[labels == 0] == -1).all()
    complete = example_from_nodes(volume, segmentation, {box: 4}, complete=True)
    assert np.array_equal(labels_on_grid(complete, {"box": 4}, grid), labels.astype(np.int16))


def test_a_scene_is_saved_and_opened_under_a_relative_path(tmp_path, monkeypatch):
    scene, *_ = painted_scene()
    monkeypatch.chdir(tmp_path)
    save_scene(scene, Path("scene.mrb"))
    again = load_scene(Path("scene.mrb"))
    assert again.GetFirstNodeByName("CT") is not None and again.GetFirstNodeByName("Painted") is not None

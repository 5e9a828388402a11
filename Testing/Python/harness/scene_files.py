"""Scenes without the application: new, saved and opened, and segmentations as files."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Iterator

import slicer

from PromptSegLib.errors import PromptSegError
from PromptSegLib.files import atomic_write
from PromptSegLib.scene.placement import in_xml, label_of
from PromptSegLib.scene.storage import spoils_scene


@cache
def _register_conversions() -> None:
    """Make conversions between labelmaps and surfaces available, as the application does when it starts."""
    if not hasattr(slicer, "app"):
        slicer.vtkSlicerSegmentationsModuleLogic().SetMRMLScene(slicer.vtkMRMLScene())


def new_scene():
    """An empty ``vtkMRMLScene``.

    Without the application it also becomes ``slicer.mrmlScene``, which functions of ``slicer.util`` need.
    """
    _register_conversions()
    scene = slicer.vtkMRMLScene()
    if not hasattr(slicer, "app"):
        slicer.mrmlScene = scene
    return scene


def save_segmentation(segmentation_node, path: Path) -> None:
    """Write a segmentation node to ``path`` (.seg.nrrd), replacing the file at once or not at all.

    As in Slicer, voxels are written in the node's own coordinates, without its parent transform.
    Raises :class:`PromptSegError` for another suffix, for a segmentation of surfaces, or when writing fails.
    """
    path = Path(path)
    if not path.name.endswith(".seg.nrrd"):
        raise PromptSegError(
            "Cannot save a segmentation as {name}; use a name that ends with .seg.nrrd.", name=path.name
        )
    if not segmentation_node.GetSegmentation().IsSourceRepresentationImageData():
        raise PromptSegError(
            "{label_of} is made of surfaces; convert it to a binary labelmap first (Segmentations).",
            label_of=label_of(segmentation_node),
        )
    with atomic_write(path) as temporary:
        # A storage node of our own: the file that the user's node is tied to stays as it is.
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(str(temporary))
        storage.UseCompressionOn()
        if not storage.WriteData(segmentation_node) or not temporary.exists():
            raise PromptSegError("Cannot write {path}; check the folder and the free disk space.", path=path)


def save_scene(scene, path: Path) -> None:
    """Write all nodes and their data to one ``.mrb`` file, replacing it at once or not at all.

    Raises :class:`PromptSegError` for another suffix or when writing fails.
    """
    path = Path(path).absolute()  # a scene takes no other
    if path.suffix != ".mrb":
        raise PromptSegError("Cannot save a scene as {name}; use a name that ends with .mrb.", name=path.name)
    with atomic_write(path) as temporary:
        try:
            with _staying_in_folder(), _readable_names(scene):
                written = scene.WriteToMRB(str(temporary))
            if not written or not temporary.exists():
                raise PromptSegError("Cannot write {path}; check the folder and the free disk space.", path=path)
        finally:
            for leftover in temporary.parent.iterdir():
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)


def load_scene(path: Path):
    """A new scene with everything in an ``.mrb`` file. Raises :class:`PromptSegError` when it cannot be read."""
    path = Path(path).absolute()  # a scene takes no other
    if not path.is_file():
        raise PromptSegError("{path} does not exist; choose a scene file (.mrb).", path=path)
    scene = new_scene()
    with tempfile.TemporaryDirectory(prefix="promptseg-") as folder:
        # A bundle is unpacked into the cache folder of the scene's input and output manager, which the application
        # sets up for its own scene only.
        cache, manager = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        cache.SetRemoteCacheDirectory(folder)
        manager.SetCacheManager(cache)
        scene.SetDataIOManager(manager)
        try:
            with _staying_in_folder():
                read = scene.ReadFromMRB(str(path), True)
        finally:
            scene.SetDataIOManager(None)
            manager.SetCacheManager(None)
    if not read:
        raise PromptSegError("Cannot read {path}; it is damaged or not a Slicer scene (.mrb).", path=path)
    return scene


@contextmanager
def _readable_names(scene) -> Iterator[None]:
    """For the time being, file names without "&" and names without control characters."""
    count = scene.GetNumberOfNodesByClass("vtkMRMLStorableNode")
    named, called = [], []
    for node in [scene.GetNthNodeByClass(n, "vtkMRMLStorableNode") for n in range(count)]:
        if not spoils_scene(node):
            continue
        name = node.GetName()
        if in_xml(name) != name:
            node.SetName(in_xml(name))
            called.append((node, name))
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        storage = node.GetStorageNode()
        if storage is not None and not storage.GetFileName():
            storage.SetFileName(node.GetName().replace("&", "and"))
            named.append(storage)
    try:
        yield
    finally:
        for storage in named:
            storage.SetFileName("")
        for node, name in called:
            node.SetName(name)


@contextmanager
def _staying_in_folder() -> Iterator[None]:
    """Keep the working folder: Slicer 5.12 leaves it in a folder that is gone when a bundle cannot be read."""
    folder = os.getcwd()
    try:
        yield
    finally:
        os.chdir(folder)

"""Nodes that come into a scene and go out of it."""

from __future__ import annotations

from typing import Callable

import slicer
import vtk


def alive(scene, node) -> bool:
    """Whether a node is (still) in a scene; False for None."""
    return node is not None and scene is not None and bool(scene.IsNodePresent(node))


def remove(node) -> None:
    """Take a node out of its scene, with its display and storage nodes; None or a node in no scene is passed over."""
    scene = node.GetScene() if node is not None else None
    if scene is None:
        return
    parts = []
    if node.IsA("vtkMRMLDisplayableNode"):
        parts += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    if node.IsA("vtkMRMLStorableNode"):
        parts += [node.GetNthStorageNode(n) for n in range(node.GetNumberOfStorageNodes())]
    scene.RemoveNode(node)
    for part in parts:
        if alive(scene, part):
            scene.RemoveNode(part)


def watch(
    scene,
    on_removed: Callable[[object], None],
    on_closing: Callable[[], None],
    on_closed: Callable[[], None],
    on_imported: Callable[[], None] = lambda: None,
) -> Callable[[], None]:
    """Call back when a node was removed from a scene, before and after the scene is closed, and when nodes were
    read into it.

    While a scene is being closed, nodes that go with it are not reported one by one.

    :param on_removed: gets the node; it is in no scene any more.
    :return: a function that ends the watching; it may be called more than once.
    """

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(_scene, _event, node) -> None:
        if node is not None and not scene.IsClosing():
            on_removed(node)

    tags = [
        scene.AddObserver(slicer.vtkMRMLScene.NodeRemovedEvent, removed),
        scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, lambda *_: on_closing()),
        scene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, lambda *_: on_closed()),
        scene.AddObserver(slicer.vtkMRMLScene.EndImportEvent, lambda *_: on_imported()),
    ]

    def unwatch() -> None:
        while tags:
            scene.RemoveObserver(tags.pop())

    return unwatch

"""What Slicer cannot store."""

from __future__ import annotations

from .placement import in_xml


def spoils_scene(node) -> bool:
    """Whether a scene that the application saves with this node can never be read again.

    Slicer writes names as they are into the XML of the scene, which has no room for control characters. And a node
    without a file gets one called as the node, in whose name Slicer does not escape "&".
    """
    name = node.GetName() or ""
    if not node.GetSaveWithScene():
        return False
    storage = node.GetStorageNode()
    has_file = storage is not None and bool(storage.GetFileName())
    return in_xml(name) != name or ("&" in name and not has_file)

"""MRML nodes to images and back; the only room that imports slicer or vtk."""

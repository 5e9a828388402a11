"""Render surfaces without a display: ``render.py FOLDER WIDTH HEIGHT`` reads FOLDER/*.vtp and writes FOLDER/view.png.

A program of its own, because a machine without a usable OpenGL can end the process that asks for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import vtk


def render(folder: Path, width: int, height: int) -> None:
    """The surfaces seen from the front, the patient upright, on transparent ground.

    Surfaces are in RAS mm and carry their color and opacity as a field array ``look`` (r, g, b, opacity).
    """
    renderer = vtk.vtkRenderer()
    renderer.SetBackground(1, 1, 1)
    for path in sorted(folder.glob("*.vtp")):
        renderer.AddActor(_actor(path))
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(True)
    window.SetAlphaBitPlanes(True)  # translucent surfaces are sorted per pixel, and the ground stays clear
    window.SetMultiSamples(0)
    window.SetSize(width, height)
    window.AddRenderer(renderer)
    renderer.SetUseDepthPeeling(True)
    renderer.SetMaximumNumberOfPeels(12)
    renderer.SetUseFXAA(True)

    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(0, 0, 0)
    camera.SetPosition(0, 1, 0)  # from anterior towards posterior
    camera.SetViewUp(0, 0, 1)
    camera.Azimuth(12)
    camera.Elevation(16)
    camera.SetViewAngle(24)
    renderer.ResetCamera()
    camera.Zoom(1.3)
    renderer.ResetCameraClippingRange()
    window.Render()

    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.SetInputBufferTypeToRGBA()
    grab.ReadFrontBufferOff()
    writer = vtk.vtkPNGWriter()
    writer.SetFileName(str(folder / "view.png"))
    writer.SetInputConnection(grab.GetOutputPort())
    writer.Write()


def _actor(path: Path) -> vtk.vtkActor:
    reader = vtk.vtkXMLPolyDataReader()
    reader.SetFileName(str(path))
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(reader.GetOutputPort())
    normals.SplittingOff()
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(normals.GetOutputPort())
    mapper.ScalarVisibilityOff()
    reader.Update()
    *color, opacity = reader.GetOutput().GetFieldData().GetArray("look").GetTuple(0)
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(color)
    actor.GetProperty().SetOpacity(opacity)
    actor.GetProperty().SetBackfaceCulling(opacity < 1)  # the far side, seen through, would only muddy the picture
    actor.GetProperty().SetAmbient(0.2)
    actor.GetProperty().SetDiffuse(0.8)
    actor.GetProperty().SetSpecular(0.15)
    actor.GetProperty().SetSpecularPower(20)
    return actor


if __name__ == "__main__":
    render(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

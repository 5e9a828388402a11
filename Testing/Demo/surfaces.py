"""A picture of surfaces: rendered by VTK where that works, otherwise drawn by matplotlib."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
import vtk
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from vtk.util.numpy_support import vtk_to_numpy

SIZE = 1600, 1000  # pixels
SECONDS = 120  # a software renderer needs two


def view_of(surfaces: Sequence[tuple]) -> tuple[np.ndarray, str]:
    """Surfaces seen from the front: picture (rows, columns, RGBA, 0..1), cropped to what is drawn, and who drew it.

    :param surfaces: (``vtkPolyData`` in RAS mm, (red, green, blue, opacity)) pairs.
    """
    picture, drawn_by = _rendered(surfaces), "VTK"
    if picture is None:
        picture, drawn_by = _plotted(surfaces), "matplotlib"
    return _cropped(picture), drawn_by


def _rendered(surfaces: Sequence[tuple]) -> Optional[np.ndarray]:
    """What render.py makes of the surfaces in a process of its own; None where it fails, crashes or hangs."""
    with tempfile.TemporaryDirectory(prefix="promptseg-") as folder:
        for index, (surface, look) in enumerate(surfaces):
            values = vtk.vtkFloatArray()
            values.SetName("look")
            values.SetNumberOfComponents(4)
            values.InsertNextTuple(look)
            copy = vtk.vtkPolyData()
            copy.ShallowCopy(surface)
            copy.SetFieldData(vtk.vtkFieldData())
            copy.GetFieldData().AddArray(values)
            writer = vtk.vtkXMLPolyDataWriter()
            writer.SetFileName(str(Path(folder) / f"{index:03}.vtp"))
            writer.SetInputData(copy)
            writer.Write()
        command = [sys.executable, str(Path(__file__).with_name("render.py")), folder, *map(str, SIZE)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            return None
        picture = Path(folder) / "view.png"
        if done.returncode or not picture.is_file():
            return None
        pixels = imread(picture)
    if pixels.ndim != 3 or not pixels[..., 3].any():
        return None
    pixels[..., 3] = pixels[..., 3] > 0  # the colors are blended with the white ground already
    return pixels


def _plotted(surfaces: Sequence[tuple]) -> np.ndarray:
    """The surfaces as triangles in a matplotlib plot, sorted by depth only roughly."""
    figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    figure.patch.set_alpha(0)
    axes: Any = figure.add_axes((0, 0, 1, 1), projection="3d", computed_zorder=True)
    everything = []
    for surface, look in surfaces:
        thinner = vtk.vtkQuadricDecimation()  # matplotlib sorts and draws every triangle in Python
        thinner.SetTargetReduction(max(0.0, 1 - 4000 / surface.GetNumberOfCells()))
        triangles = vtk.vtkTriangleFilter()
        triangles.SetInputData(surface)
        thinner.SetInputConnection(triangles.GetOutputPort())
        thinner.Update()
        points = vtk_to_numpy(thinner.GetOutput().GetPoints().GetData())
        corners = vtk_to_numpy(thinner.GetOutput().GetPolys().GetConnectivityArray()).reshape(-1, 3)
        axes.plot_trisurf(*points.T, triangles=corners, color=look[:3], alpha=look[3], linewidth=0, shade=True)
        everything.append(points)
    points = np.concatenate(everything)
    axes.set_box_aspect(np.ptp(points, 0), zoom=1.4)
    axes.view_init(elev=14, azim=90 + 12)  # from +A, so that patient right is on the left
    axes.set_axis_off()
    axes.patch.set_alpha(0)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba()) / 255.0


def _cropped(picture: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((picture[..., 3] > 0).any(axis)) for axis in (1, 0))
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

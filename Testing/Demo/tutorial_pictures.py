"""The pictures of docs/tutorial.md, taken in the running application.

Needs the demo's data (``make demo``) and what PromptSeg needs installed in Slicer. From the repository::

    Slicer --no-splash --additional-module-paths PromptSeg --python-script Testing/Demo/tutorial_pictures.py

A simulated user goes through the tutorial on the demo's CT; strokes come from its reference labels, which nothing else
sees. The pictures go to the folder given after the script, as ``PromptSeg/Resources/Pictures``, which is the default.
The last one needs a CT of another patient, given after the folder: that in the tutorial is
``tests/reference_files/aorta_report/example_ct.nii.gz`` of the archive that the demo's CT is from (see ``fetch.py``).
The screen must have room for a window of 1180 x 860 pixels.
"""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional, Sequence

import numpy as np
import qt
import SimpleITK as sitk
import slicer
import vtk
from scipy import ndimage

from PromptSegLib.evaluation.scribbles import scribble
from PromptSegLib.installation.requirements import GIVEN
from PromptSegLib.scene import node_references

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "demo" / "data"
PICTURES = ROOT / "PromptSeg" / "Resources" / "Pictures"
CT, REFERENCE = "example_ct_sm.nii.gz", "example_seg.nii.gz"
BACKGROUND = 255
CORRECTED = "spleen"
# TotalSegmentator's label values; Okabe and Ito's colors, as in the demo.
STRUCTURES = {"liver": (5, "#E69F00"), "spleen": (1, "#CC79A7")}
CLASSES = {name: value for name, (value, _) in STRUCTURES.items()}
COLORS = {**{name: color for name, (_, color) in STRUCTURES.items()}, "background": "#E8E8E8"}
WINDOW, PANEL = (1180, 860), 450
RED = slicer.vtkMRMLLayoutNode.SlicerLayoutOneUpRedSliceView
FOUR = slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView
QUALITY = 80
ZOOMED, SIDE = 190.0, 380  # mm that a zoomed view shows, and pixels of it in a picture
PATIENCE = 300.0
MARK = "#D5005A"


class Tour:
    """The application with the module open, and a user who waits for what they clicked."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.window = slicer.util.mainWindow()
        self.window.setGeometry(0, 0, *WINDOW)
        slicer.util.setDataProbeVisible(False)
        slicer.util.setApplicationLogoVisible(False)
        slicer.util.setModuleHelpSectionVisible(False)
        slicer.util.setModulePanelTitleVisible(False)

    def open(self) -> None:
        """Open the module."""
        slicer.util.selectModule("PromptSeg")
        self.module = slicer.modules.promptseg.widgetRepresentation()
        self.panel = self.module.self().panel
        self.ui, self.session = self.panel.ui, self.panel.session
        self.settle()
        dock = self.window.findChild(qt.QDockWidget, "PanelDockWidget")
        self.window.resizeDocks([dock], [PANEL], qt.Qt.Horizontal)

    def settle(self) -> None:
        """Let the window come to rest."""
        for _ in range(6):
            slicer.app.processEvents()
            time.sleep(0.08)
        slicer.util.forceRenderAllViews()
        slicer.app.processEvents()

    def wait(self, done: Callable[[], bool]) -> None:
        """Let the event loop run until something is true."""
        loop, timer, end = qt.QEventLoop(), qt.QTimer(), time.monotonic() + PATIENCE
        timer.setInterval(30)
        timer.timeout.connect(lambda: loop.quit() if done() or time.monotonic() > end else None)
        timer.start()
        loop.exec_()
        timer.stop()
        if not done():
            raise TimeoutError(self.session.view().notice.text)

    def click(self, button: Any) -> None:
        """Click, and wait until nothing is running any more."""
        button.click()
        self.wait(lambda: not self.session.busy)
        print("   ", self.session.view().notice.text, flush=True)

    def scroll_to(self, section: Any, above: int = 4) -> None:
        """Show a section at the top of what scrolls in the panel."""
        area = self.ui.workArea
        self.settle()
        area.verticalScrollBar().value = section.mapTo(area.widget(), qt.QPoint(0, 0)).y() - above
        self.settle()

    def picture(self, name: str, *marks: tuple[Any, float]) -> None:
        """Write what panel and views show, with numbers on some widgets: each with its place across, 0..1."""
        self.settle()
        shot = self.window.grab()
        painter = qt.QPainter(shot)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        for number, (widget, across) in enumerate(marks, 1):
            at = widget.mapTo(self.window, qt.QPoint(int(across * widget.width), widget.height // 2))
            _number(painter, at, number)
        painter.end()
        middle = self.window.centralWidget()
        top = middle.mapTo(self.window, qt.QPoint(0, 0)).y()
        self._save(shot.copy(0, top, shot.width(), middle.height), name)

    def panel_picture(self, name: str) -> None:
        """Write the whole panel, longer than the screen as it may be."""
        self.settle()
        self._save(self.module.grab(), name)

    def setup_picture(self, name: str) -> None:
        """Write the Setup section as it is where nothing but Slicer's own packages is installed."""
        setup = self.panel.setup
        setup.rows = [each if each.name in GIVEN else replace(each, installed=None) for each in setup.rows]
        setup.missing = [each for each in setup.rows if not each.satisfied]
        self.panel.render()
        self.settle()
        self._save(self.ui.setupCollapsibleButton.grab(), name)
        setup.refresh()
        self.panel.render()

    def _save(self, shot: Any, name: str) -> None:
        path = self.folder / name
        shot.save(str(path), "JPG" if path.suffix == ".jpg" else "PNG", QUALITY)
        print(f"{path.name}: {shot.width()} x {shot.height()}, {path.stat().st_size / 1000:.0f} kB", flush=True)

    # What the user does in the views

    def show(self, layout: int, point: Optional[Sequence[float]] = None) -> None:
        """Choose a layout; look at a point (RAS)."""
        slicer.app.layoutManager().setLayout(layout)
        self.settle()
        slicer.util.resetSliceViews()
        if point is not None:
            slicer.modules.markups.logic().JumpSlicesToLocation(*point, False)
        self.settle()

    def zoom(self, point: Sequence[float]) -> None:
        """Look at the surroundings of a point (RAS) in the axial view."""
        widget = slicer.app.layoutManager().sliceWidget("Red")
        node = widget.mrmlSliceNode()
        node.JumpSliceByCentering(*point)
        width, height, depth = node.GetFieldOfView()
        node.SetFieldOfView(width * ZOOMED / height, ZOOMED, depth)
        self.settle()

    def view(self) -> Any:
        """The middle of the axial view, as wide as it is high."""
        self.settle()
        shot = slicer.app.layoutManager().sliceWidget("Red").sliceView().grab()
        side = min(shot.width(), shot.height()) * 3 // 4
        return shot.copy((shot.width() - side) // 2, (shot.height() - side) // 2, side, side)

    def strip(self, name: str, views: Sequence[Any], titles: Sequence[str]) -> None:
        """Write views side by side, each with a title."""
        side, gap = SIDE, 6
        shot = qt.QPixmap(len(views) * (side + gap) - gap, side + 30)
        shot.fill(qt.QColor("white"))
        painter = qt.QPainter(shot)
        font = painter.font()
        font.setPixelSize(16)
        painter.setFont(font)
        for index, (view, title) in enumerate(zip(views, titles)):
            left = index * (side + gap)
            painter.drawPixmap(left, 30, view.scaled(side, side, qt.Qt.KeepAspectRatio, qt.Qt.SmoothTransformation))
            painter.drawText(qt.QRect(left, 0, side, 28), qt.Qt.AlignCenter, title)
        painter.end()
        self._save(shot, name)

    def front(self, zoom: float = 1.1) -> None:
        """Look at the 3D view's surfaces from the front."""
        view = slicer.app.layoutManager().threeDWidget(0).threeDView()
        view.mrmlViewNode().SetBoxVisible(False)
        view.mrmlViewNode().SetAxisLabelsVisible(False)
        view.rotateToViewAxis(3)
        view.resetFocalPoint()
        view.resetCamera()
        camera = slicer.modules.cameras.logic().GetViewActiveCameraNode(view.mrmlViewNode())
        camera.GetCamera().Azimuth(-15)
        camera.GetCamera().Elevation(10)
        camera.GetCamera().Zoom(zoom)
        camera.ResetClippingRange()
        self.settle()


def _number(painter: Any, at: Any, number: int) -> None:
    radius = 11
    center = qt.QPoint(max(at.x(), radius + 2), at.y())
    painter.setPen(qt.QPen(qt.QColor("white"), 2))
    painter.setBrush(qt.QBrush(qt.QColor(MARK)))
    painter.drawEllipse(center, radius, radius)
    font = painter.font()
    font.setPixelSize(15)
    font.setBold(True)
    painter.setFont(font)
    area = qt.QRect(center.x() - radius, center.y() - radius, 2 * radius, 2 * radius)
    painter.drawText(area, qt.Qt.AlignCenter, str(number))


class Patient:
    """A volume and its segmentation; paints and looks at them as a user with a perfect eye."""

    def __init__(self, tour: Tour):
        self.tour = tour
        self.volume = slicer.util.loadVolume(str(DATA / CT), {"name": "PromptSegDemoCT"})
        window(self.volume)
        tour.open()
        self.segmentation = tour.panel.parameters.segmentation
        segments = self.segmentation.GetSegmentation()
        there = {segments.GetSegment(each).GetName(): each for each in segments.GetSegmentIDs()}
        colors = {name: rgb(color) for name, color in COLORS.items()}
        self.ids = {name: there.get(name) or segments.AddEmptySegment(name, name, colors[name]) for name in colors}

    def voxels(self, name: str) -> np.ndarray:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(self.segmentation, self.ids[name], self.volume)
        return array.astype(bool)

    def paint(self, name: str, mask: np.ndarray) -> None:
        """A segment is these voxels (z, y, x) from now on."""
        array = mask.astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(array, self.segmentation, self.ids[name], self.volume)

    def point(self, index: Sequence[float]) -> list[float]:
        """The place (RAS) of a voxel (z, y, x)."""
        matrix = vtk.vtkMatrix4x4()
        self.volume.GetIJKToRASMatrix(matrix)
        return list(matrix.MultiplyPoint((*map(float, reversed(index)), 1.0))[:3])

    def say_dice(self, truth: np.ndarray) -> None:
        for name, value in CLASSES.items():
            mine, true = self.voxels(name), truth == value
            print(f"    {name}: Dice {2 * (mine & true).sum() / (mine.sum() + true.sum()):.3f}", flush=True)


def main(folder: Path = PICTURES, second: Optional[Path] = None) -> None:
    """The tutorial, from strokes to another patient.

    :param second: a CT of another patient.
    """
    reference = sitk.ReadImage(str(DATA / REFERENCE))
    truth = sitk.GetArrayFromImage(reference)
    strokes = sitk.GetArrayFromImage(scribble(reference, CLASSES, BACKGROUND, background_share=0.005))
    tour = Tour(folder)
    patient = Patient(tour)
    ui, session, editor = tour.ui, tour.session, tour.ui.segmentEditorWidget
    tour.setup_picture("setup.png")

    for name, value in {**CLASSES, "background": BACKGROUND}.items():
        patient.paint(name, strokes == value)
    most = max(range(len(strokes)), key=lambda z: (len(np.unique(strokes[z])), (strokes[z] > 0).sum()))
    there = patient.point((most, *(extent // 2 for extent in strokes.shape[1:])))
    editor.setActiveEffectByName("Paint")
    editor.setCurrentSegmentID(patient.ids["liver"])
    tour.show(RED, there)
    tour.picture("1-paint.jpg", (ui.inputCollapsibleButton, 0.9), (ui.segmentNameEdit, 0.9), (ui.segmentsTable, 0.5))

    editor.setActiveEffect(None)
    tour.show(RED, there)
    ui.tuneButton.click()
    tour.wait(lambda: session.view().preview != "" and session.view().share > 0.4)
    tour.picture("2-tune.jpg", (ui.tuneButton, 0.1), (ui.statusArea, 0.9))
    tour.wait(lambda: not session.busy)
    tour.click(ui.applyButton)
    patient.say_dice(truth)

    display = patient.segmentation.GetDisplayNode()
    display.SetSegmentVisibility3D(patient.ids["background"], False)
    patient.segmentation.CreateClosedSurfaceRepresentation()
    tour.show(FOUR, there)
    tour.front()
    tour.picture("3-apply.jpg", (ui.applyButton, 0.0), (ui.undoButton, 0.0))

    display.SetVisibility2DFill(False)
    tour.show(RED, there)
    ui.lookButton.click()
    ui.mapCheckBox.click()
    tour.picture("4-look.jpg")
    ui.mapCheckBox.click()
    display.SetVisibility2DFill(True)

    gone = excess(patient.voxels(CORRECTED) & (truth != CLASSES[CORRECTED]))
    tour.show(RED, there)
    display.SetSegmentVisibility(patient.ids["background"], False)
    tour.zoom(patient.point([float(each.mean()) for each in np.nonzero(gone)]))
    views = [tour.view()]
    patient.paint(CORRECTED, patient.voxels(CORRECTED) & ~gone)
    print(f"    erased {gone.sum()} voxels of {CORRECTED}", flush=True)
    views.append(tour.view())
    tour.click(ui.tuneButton)
    tour.click(ui.applyButton)
    views.append(tour.view())
    tour.strip("5-retune.jpg", views, ("Applied: too large", "A part erased", "Retuned and applied"))
    patient.say_dice(truth)
    display.SetSegmentVisibility(patient.ids["background"], True)
    tour.panel_picture("panel.jpg")

    if second is not None:
        other_patient(tour, patient, second)


def other_patient(tour: Tour, patient: Patient, path: Path) -> None:
    """Segment another volume with the prompts, without painting."""
    ui = tour.ui
    other = slicer.util.loadVolume(str(path), {"name": "Another patient"})
    window(other)
    tour.settle()
    ui.largestComponentCheckBox.checked = True
    ui.volumesCollapsibleButton.collapsed = False
    tour.wait(lambda: not tour.session.busy)  # prompts for other volumes are tuned on what was applied
    ui.volumesList.item(0).setCheckState(qt.Qt.Checked)
    own = ui.promptsTree.topLevelItem(ui.promptsTree.topLevelItemCount - 1)
    ui.promptsTree.setCurrentItem(own)
    tour.click(ui.segmentVolumesButton)
    slicer.util.setSliceViewerLayers(background=other)
    patient.segmentation.GetDisplayNode().SetVisibility(False)
    made = node_references.remembered(other)
    made.CreateClosedSurfaceRepresentation()
    spleen = made.GetSegmentCenterRAS(made.GetSegmentation().GetSegmentIdBySegmentName("spleen"))
    tour.show(FOUR, spleen)
    tour.front()
    tour.scroll_to(ui.promptsCollapsibleButton)
    tour.picture("6-others.jpg", (ui.promptsTree, 0.9), (ui.volumesList, 0.9), (ui.segmentVolumesButton, 0.9))


def excess(wrong: np.ndarray) -> np.ndarray:
    """Of voxels (z, y, x) that a result has too many, the largest piece on one slice: what a user erases."""
    solid = ndimage.binary_opening(wrong, np.ones((1, 2, 2)))
    at = int(solid.sum((1, 2)).argmax())
    parts, _count = ndimage.label(solid[at])
    piece = np.zeros_like(wrong)
    piece[at] = ndimage.binary_dilation(parts == np.bincount(parts.ravel())[1:].argmax() + 1)
    return piece & wrong


def window(volume: Any) -> None:
    """The gray values of an abdominal CT."""
    slicer.modules.volumes.logic().ApplyVolumeDisplayPreset(volume.GetDisplayNode(), "CT_ABDOMEN")


def rgb(name: str) -> list[float]:
    color = qt.QColor(name)
    return [color.redF(), color.greenF(), color.blueF()]


if __name__ == "__main__":
    status = 0
    try:
        main(*(Path(each) for each in sys.argv[1:3]))
    except Exception:
        traceback.print_exc()
        status = 1
    slicer.util.exit(status)

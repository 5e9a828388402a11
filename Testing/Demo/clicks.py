"""How many clicks and notches of the wheel three tasks take, beside the strokes, counted on the panel itself.

In the application, which the window of a laptop is made of::

    Slicer --no-splash --additional-module-paths PromptSeg --python-script Testing/Demo/clicks.py

Outside of it, on the stand-ins of the tests, which lay the same panel out with Qt (needs ``make test``'s environment)::

    PYTHONPATH=.:Testing/Python QT_QPA_PLATFORM=offscreen python Testing/Demo/clicks.py

A hand does what a user does: it clicks what is enabled and in sight, and turns the wheel until it is. Keys that are
pressed once (Enter) are counted by themselves, typed names are not. Strokes are put in by code.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import SimpleITK as sitk

SCREEN, PANEL = (1366, 768), 452  # pixels of a laptop, and the width of the panel on it
HIGH = 434  # of the panel outside of the application, as was seen there
NOTCH = 60  # pixels that a notch of the wheel scrolls: three lines of 20
PATIENCE = 600.0
NAMES = ("liver", "spleen", "left kidney")
GOALS = {"one structure and background": (8, None), "one correction": (None, 0)}  # clicks, notches


@dataclass
class Hand:
    """A user's hand on the panel.

    :param panel: ``PromptSegLib.gui.panel.Panel``; ``qt``: the application's Qt; ``settle``: lets the event loop run.
    """

    panel: Any
    qt: Any
    settle: Callable[[], None]
    clicks: int = 0
    keys: int = 0
    notches: int = 0
    typing: bool = False
    rows: list[tuple[str, int, int, int]] = field(default_factory=list)

    def done(self, task: str) -> None:
        """A task has ended: note what it took."""
        self.rows.append((task, self.clicks, self.keys, self.notches))
        self.clicks = self.keys = self.notches = 0

    def click(self, part: Any) -> None:
        """Click a button. It must be there for a user, too."""
        self.reach(part)
        if not part.enabled:
            raise RuntimeError(f"{part.objectName} cannot be clicked: {part.toolTip}")
        part.click()
        self.clicks, self.typing = self.clicks + 1, False
        self.settle()

    def name(self, text: str) -> None:
        """Type the name of a structure into its field, and press Enter."""
        edit = self.panel.ui.segmentNameEdit
        self.reach(edit)
        if not self.typing:
            edit.setFocus()
            self.clicks += 1
        self.typing = True  # until something else is clicked
        edit.text = text
        self.panel.segments.add()  # what Enter is connected to
        self.keys += 1
        self.settle()

    def choose(self, name: str) -> None:
        """Click a segment in the list."""
        table = self.panel.ui.segmentsTable
        self.reach(table)
        number = next(n for n in range(table.rowCount) if table.item(n, 1).text() == name)
        if number >= table.rowAt(int(table.viewport().height) - 1) >= 0:
            self.notches += 1  # the list scrolls a row a notch and more
        table.selectRow(number)
        self.clicks, self.typing = self.clicks + 1, False
        self.settle()

    def effect(self, name: str) -> None:
        """Click an effect of the Segment Editor."""
        self.click(self.panel.ui.segmentEditorWidget.findChild(self.qt.QAbstractButton, name))

    def reach(self, part: Any) -> None:
        """Turn the wheel until a widget is seen as a whole, or as much of it as there is room for."""
        for area in self._areas(part):
            top = int(part.mapTo(area.widget(), self.qt.QPoint(0, 0)).y())
            bottom, bar = top + int(part.height), area.verticalScrollBar()
            seen, room = int(bar.value), int(area.viewport().height)
            wanted = seen
            if top < seen:
                wanted = top
            elif bottom > seen + room:
                wanted = min(top, bottom - room)
            if wanted != seen:
                self.notches += math.ceil(abs(wanted - seen) / NOTCH)
                bar.setValue(wanted)
                self.settle()

    def _areas(self, part: Any) -> Iterator[Any]:
        """The scroll areas that a widget is in, from the inside."""
        above = part.parentWidget()
        while above is not None:
            if str(above.metaObject().className()) in ("QScrollArea", "qSlicerScrollArea"):
                inside = above.widget()
                if inside is not None and inside.isAncestorOf(part):
                    yield above
            above = above.parentWidget()


class Painter:
    """Puts strokes into segments, as if they were painted in the views, of two balls in a bright room."""

    def __init__(self, scene: Any):
        from harness.scene_nodes import volume_from_image

        z, y, x = np.ogrid[:28, :56, :64]
        self.balls = {
            "liver": (z - 13) ** 2 * 1.5 + (y - 26) ** 2 + (x - 20) ** 2 < 130,
            "spleen": (z - 13) ** 2 * 1.5 + (y - 30) ** 2 + (x - 47) ** 2 < 70,
        }
        array = np.random.default_rng(0).normal(40, 6, (28, 56, 64))
        array += 90 * self.balls["liver"] - 70 * self.balls["spleen"]
        image = sitk.GetImageFromArray(array.astype(np.float32))
        image.SetSpacing((2.0, 2.0, 3.0))
        self.volume = volume_from_image(scene, image, "CT")

    def stroke(self, segmentation: Any, name: str, erase: bool = False) -> None:
        """Add a stroke through what is called so, or take some voxels from it."""
        from harness.scene_nodes import image_from_volume, segments_by_name
        from PromptSegLib.annotation.classes import describe
        from PromptSegLib.imaging.geometry import Grid
        from PromptSegLib.inference.result import Segmentation
        from PromptSegLib.scene import segment_snapshot
        from PromptSegLib.scene.segmentations import RESULT_TAG, apply_result

        grid = Grid.of(image_from_volume(self.volume))
        mask, segment_id = np.zeros(grid.shape, bool), segments_by_name(segmentation)[name]
        for plane in (10, 13, 16):
            if name == "background":
                mask[plane, 4:6, 6:58] = mask[plane, 50:52, 6:58] = True
            else:
                mask[plane] |= self.balls[name][plane] & (np.arange(56)[:, None] % 5 == 0)
        now = segment_snapshot.snapshot(segmentation, self.volume, [segment_id]).masks([segment_id], grid)[segment_id]
        if erase:
            edge = np.argwhere(now)[:6]
            mask = np.zeros_like(now)
            mask[tuple(edge.T)] = True
        result = Segmentation(grid.image((now & ~mask if erase else now | mask).astype(np.uint8)), (describe(name, 1),))
        apply_result(segmentation, self.volume, result, segment_ids={name: segment_id})
        if not erase and not now.any():
            segmentation.GetSegmentation().GetSegment(segment_id).RemoveTag(RESULT_TAG)


def count(hand: Hand, painter: Painter) -> list[tuple[str, int, int, int]]:
    """Go through the three tasks; each row is its name, clicks, keys and notches."""
    panel, session = hand.panel, hand.panel.session

    def wait(until: Callable[[], bool]) -> None:
        limit = time.monotonic() + PATIENCE
        while not until():
            hand.settle()
            if time.monotonic() > limit:
                raise TimeoutError(str(session.view()))

    def paint(name: str, erase: bool = False) -> None:
        painter.stroke(panel.parameters.segmentation, name, erase)
        hand.typing = False
        hand.settle()

    def tuned() -> None:
        hand.click(panel.ui.tuneButton)
        wait(lambda: not session.busy)
        hand.click(panel.ui.applyButton)
        wait(lambda: not session.busy)

    # Once the volume is there, the panel has chosen it, made a segmentation and a background.
    hand.name("liver")
    paint("liver")
    hand.choose("background")
    paint("background")
    tuned()
    hand.done("one structure and background")

    hand.effect("Erase")
    hand.choose("liver")
    paint("liver", erase=True)
    tuned()
    hand.done("one correction")

    for name in NAMES[1:]:
        hand.name(name)
    hand.name("pancreas")
    hand.done("naming three segments")
    return hand.rows


def told(rows: list[tuple[str, int, int, int]]) -> str:
    """A table in Markdown."""
    lines = ["| task, beside the strokes | clicks | keys | notches of the wheel |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {task} | {clicks} | {keys} | {notches} |" for task, clicks, keys, notches in rows)])


def missed(rows: list[tuple[str, int, int, int]]) -> list[str]:
    """The tasks that take more than they should."""
    found = []
    for task, clicks, _keys, notches in rows:
        most, turns = GOALS.get(task, (None, None))
        if (most is not None and clicks > most) or (turns is not None and notches > turns):
            found.append(task)
    return found


def in_the_application() -> None:
    """In a running Slicer."""
    import qt
    import slicer

    window = slicer.util.mainWindow()
    window.setGeometry(0, 0, *SCREEN)
    painter = Painter(slicer.mrmlScene)
    slicer.util.selectModule("PromptSeg")
    panel = slicer.modules.promptseg.widgetRepresentation().self().panel
    dock = window.findChild(qt.QDockWidget, "PanelDockWidget")
    window.resizeDocks([dock], [PANEL], qt.Qt.Horizontal)

    def settle() -> None:
        for _ in range(8):
            slicer.app.processEvents()
            time.sleep(0.06)

    settle()
    rows = count(Hand(panel, qt, settle), painter)
    print(told(rows), flush=True)
    slicer.util.exit(1 if missed(rows) else 0)


def on_stand_ins(model: str = "", seconds: float = 10.0, make_worker: Any = None) -> list[tuple[str, int, int, int]]:
    """On the stand-ins of the tests.

    :param model: path of another model than the shipped one, to be quick.
    :param make_worker: of parameters; by default the application's way.
    """
    from PySide6 import QtWidgets

    from harness import slicer_stand_in as stand_in
    from harness.scene_files import new_scene

    stand_in.as_in_pythonqt(sys.modules[__name__])
    with stand_in.application(new_scene()) as application:
        widget = application.open_module()
        if make_worker is not None:
            widget.panel.session.engine._make = make_worker
        parameters = widget.panel.parameters
        parameters.model, parameters.device, parameters.seconds = model, "cpu", seconds
        application.window.resize(PANEL, HIGH)
        application.window.show()

        def settle() -> None:
            end = time.monotonic() + 0.4  # longer than a stroke is waited for
            while time.monotonic() < end:
                QtWidgets.QApplication.processEvents()
                time.sleep(0.005)

        painter = Painter(application.scene)
        widget.ui.volumeSelector.setCurrentNode(painter.volume)
        settle()
        return count(Hand(widget.panel, stand_in.qt_module(), settle), painter)


def main() -> None:
    found = on_stand_ins()
    print(told(found))
    sys.exit(f"More than it should be: {', '.join(missed(found))}" if missed(found) else 0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Python"))
    try:
        from slicer import app  # noqa: F401  (what is only in the application)
    except ImportError:
        main()
    else:
        in_the_application()

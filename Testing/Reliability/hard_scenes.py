"""The hard volumes that are hard because of their grid and values, through a real MRML scene and a session.

Usage: ``make hard-volumes`` or ``python Testing/Reliability/hard_scenes.py [--only WORD] [--write FILE]``.
The voxels and the matrix of a case become a volume node as they are, the strokes segments on its own voxels; the
session grows them as it does while one paints, tunes for a moment with a worker in this process, and each time Apply
writes into the segmentation. Right means: what was grown has the middle of each class where it lies in the phantom, to
half a voxel, and the strokes are in the segments, also after the tuning, and after the scene was saved and opened
again. Refused means: one sentence of the session, at the first click or at Tune, and a scene with the same nodes and
segments as before.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Python"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import slicer  # noqa: E402
from cases import CASES, Case, Files  # noqa: E402
from constructed import BACKGROUND, CLASSES  # noqa: E402
from hard_volumes import HALF, MODEL  # noqa: E402
from outcomes import Outcome, crashed, report  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

from harness.scene_files import load_scene, new_scene, save_scene  # noqa: E402
from harness.scene_nodes import segments_by_name  # noqa: E402
from PromptSegLib.scene.labelmaps import labelmap_of, scalars_of  # noqa: E402
from PromptSegLib.scene.placement import to_array, to_vtk  # noqa: E402
from PromptSegLib.session.inputs import Parameters  # noqa: E402
from PromptSegLib.session.session import Session  # noqa: E402
from PromptSegLib.worker.in_process import InProcess  # noqa: E402

_BRIEF = 0.3  # seconds of tuning
_PATIENCE = 600.0
_NAMES = {**CLASSES, "background": BACKGROUND}


def main() -> int:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    cases = [case for case in CASES if case.in_scene]
    return report(__doc__, cases, outcome_of, "Hard volumes in a scene", "hard_scenes.py")


def outcome_of(case: Case, model: Optional[str] = None) -> Outcome:
    """Run one case in a scene of its own."""
    with tempfile.TemporaryDirectory(prefix="hard-", ignore_cleanup_errors=True) as folder:
        scene = new_scene()
        parameters = Parameters(model=model or "", device="cpu", seconds=_BRIEF)
        session = Session(scene, parameters, make_worker=lambda _: InProcess())
        try:
            return judged(case, case.make(Path(folder)), session, Path(folder))
        except Exception as error:  # a crash is an outcome, and the other cases go on
            return crashed(case, error)
        finally:
            session.close()


def judged(case: Case, files: Files, session: Session, folder: Path) -> Outcome:
    """Paint, tune and apply; see the top of this file."""
    volume = volume_of(session.scene, files)
    session.inputs.choose_volume(volume)
    before = state_of(session.scene)
    segmentation = session.inputs.ensure_segmentation()
    middles, strokes = np.inf, 0.0
    if segmentation is not None:
        paint(segmentation, files)
        before = state_of(session.scene)
        session.painted()
        finish(session)
        if not session.view().reasons["apply"]:
            session.apply()
            finish(session)
            middles, strokes = measured(segmentation, files)
        session.tune()
        finish(session)
    notice = session.view().notice
    if notice.level == "error":
        kept = state_of(session.scene) == before
        one = notice.text.endswith(".") and "\n" not in notice.text
        good = kept and one and case.refusal is not None and case.refusal in notice.text
        return Outcome(case, good, f"refused: {notice.text}")
    session.apply()
    finish(session)
    tuned = measured(segmentation, files)
    save_scene(session.scene, folder / "saved.mrb")
    opened = load_scene(folder / "saved.mrb")
    same = np.allclose(measured(opened.GetNodeByID(segmentation.GetID()), files), tuned, atol=1e-2)
    strokes = min(strokes, tuned[1])
    good = not case.refusal and middles < HALF and strokes == 1 and same
    told = f"; told: {notice.text}" if notice.level == "warning" else ""
    text = f"right: middles {middles:.2f} voxels off, strokes {strokes:.1%}{told}"
    text += "" if same else "; otherwise after the scene was opened again"
    return Outcome(case, good, text if good else text.replace("right", "WRONG"))


def finish(session: Session) -> None:
    """Let the session come to an end of what it does."""
    limit = time.monotonic() + _PATIENCE
    while session.busy:
        session.poll()
        time.sleep(0.005)
        if time.monotonic() > limit:
            raise TimeoutError(session.view().stage)


def volume_of(scene: Any, files: Files) -> Any:
    """The voxels of the file and the matrix of the case, unchecked, as a volume node."""
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(files.image)))
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    node.SetSaveWithScene(False)  # Slicer cannot write every type of voxels
    data = slicer.vtkOrientedImageData()
    data.SetDimensions(voxels.shape[::-1])
    data.GetPointData().SetScalars(scalars_of(voxels))
    node.SetIJKToRASMatrix(to_vtk(files.phantom.matrix))
    node.SetAndObserveImageData(data)
    return node


def paint(segmentation: Any, files: Files) -> None:
    """The strokes as segments, on the volume's own voxels."""
    for name, value in _NAMES.items():
        mask = (files.phantom.strokes == value).astype(np.uint8)
        if not mask.any():  # on a volume that is too thin to show the class
            mask.reshape(-1)[value] = 1
        segment = slicer.vtkSegment()
        segment.SetName(name)
        segment.AddRepresentation("Binary labelmap", labelmap_of(mask, np.zeros(3), files.phantom.matrix))
        segmentation.GetSegmentation().AddSegment(segment, name)


def state_of(scene: Any) -> list:
    """Nodes and segments, to compare."""
    nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    found = [(node.GetID(), node.GetName()) for node in nodes]
    for node in nodes:
        if node.IsA("vtkMRMLSegmentationNode"):
            ids = node.GetSegmentation().GetSegmentIDs()
            found += [(each, node.GetSegmentation().GetSegment(each).GetName()) for each in ids]
    return found


def measured(segmentation: Any, files: Files) -> tuple[float, float]:
    """How far the middles of the classes are off, in voxels, and the share of strokes in the segments.

    Read from VTK's own labelmaps and matrices, apart from the code under test.
    """
    shown, ids = files.phantom, segments_by_name(segmentation)
    back = np.linalg.inv(shown.matrix)
    own = np.linalg.norm(shown.matrix[:3, :3], axis=0)
    coarser = np.maximum(own, np.abs(shown.matrix[:3, :3] / own * MODEL[:, None]).max(0))
    gaps, held, painted = [], 0, 0
    for name, value in CLASSES.items():
        segment = segmentation.GetSegmentation().GetSegment(ids[name])
        labelmap = segment.GetRepresentation("Binary labelmap")
        voxels = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(labelmap.GetDimensions()[::-1])
        matrix = to_vtk(np.eye(4))
        labelmap.GetImageToWorldMatrix(matrix)
        start = np.asarray(labelmap.GetExtent()[::2])
        places = np.argwhere(voxels == segment.GetLabelValue())[:, ::-1] + start
        if not len(places):
            return np.inf, 0.0
        points = places @ to_array(matrix)[:3, :3].T + to_array(matrix)[:3, 3]
        indices = points @ back[:3, :3].T + back[:3, 3]  # of the volume
        truth = np.argwhere(shown.truth == value)[:, ::-1].mean(0)
        gaps.append(float(np.abs((indices.mean(0) - truth) * own / coarser).max()))
        found = {tuple(each) for each in np.rint(indices).astype(int).tolist()}
        strokes = np.argwhere(shown.strokes == value)[:, ::-1].tolist()
        held += sum(tuple(each) in found for each in strokes)
        painted += len(strokes)
    return max(gaps), held / painted


if __name__ == "__main__":
    sys.exit(main())

"""A scene to drive a session in: real nodes, a real worker, a tiny backbone."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Mapping

import numpy as np
import SimpleITK as sitk
from vtk.util.numpy_support import vtk_to_numpy

from harness import brisk
from harness.scene_nodes import image_from_volume, segments_by_name, volume_from_image
from harness.tiny_model import CLASSES, painted, phantom
from PromptSegLib.annotation.classes import ClassInfo, describe
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.scene.placement import to_vtk
from PromptSegLib.scene.segment_snapshot import snapshot
from PromptSegLib.scene.segmentations import RESULT_TAG, apply_result, segments
from PromptSegLib.session.engine import start_worker
from PromptSegLib.session.inputs import Parameters
from PromptSegLib.session.session import Session
from PromptSegLib.worker.client import GONE, Worker
from PromptSegLib.worker.launch import environment

BACKGROUND_VALUE = 7


def add_volume(scene, name="CT", matrix=None, **keywords):
    """A phantom as a volume node, under a linear transform when a (4, 4) RAS matrix is given; with its reference."""
    image, reference = phantom(**keywords)
    node = volume_from_image(scene, image, name)
    if matrix is not None:
        put_under(scene, node, matrix)
    return node, reference


def put_under(scene, node, matrix) -> None:
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    transform.SetMatrixTransformToParent(to_vtk(np.asarray(matrix, float)))
    node.SetAndObserveTransformNodeID(transform.GetID())


def paint(segmentation, volume, labels: sitk.Image | np.ndarray, names: dict[str, int], mode: str = "set") -> None:
    """Paint as the user does, on the volume's voxels: ``set`` replaces a segment, ``add`` and ``erase`` change it."""
    image = image_from_volume(volume)
    array = labels if isinstance(labels, np.ndarray) else sitk.GetArrayFromImage(labels)
    known = segments_by_name(segmentation)
    grid = Grid.of(image)
    for name, value in names.items():
        mask = array == value
        if mode != "set" and name in known:
            now = snapshot(segmentation, volume, [known[name]]).masks([known[name]], grid)[known[name]]
            mask = now | mask if mode == "add" else now & ~mask
        others = [each for other, each in known.items() if other != name]
        info = ClassInfo(name, 1, describe(name, 1).color)
        result = Segmentation(grid.image(mask.astype(np.uint8)), (info,))
        ids = {name: known[name]} if name in known else {}
        made = apply_result(segmentation, volume, result, segment_ids=ids, overwrite=others if mode == "add" else ())
        segmentation.GetSegmentation().GetSegment(made[name]).RemoveTag(RESULT_TAG)  # a user made it, not a result


def strokes(reference: sitk.Image) -> sitk.Image:
    return painted(reference)


def paint_strokes(segmentation, volume, reference) -> None:
    """The usual strokes: ball, rod and background."""
    paint(segmentation, volume, painted(reference), {**CLASSES, "background": BACKGROUND_VALUE})


def mask_of(segmentation, volume, name: str) -> np.ndarray:
    """Where a segment is on the volume's voxels, bool (z, y, x)."""
    segment_id = segments_by_name(segmentation)[name]
    grid = Grid.of(image_from_volume(volume))
    return snapshot(segmentation, volume, [segment_id]).masks([segment_id], grid)[segment_id]


def content(segmentation) -> dict:
    """Everything that a segmentation holds, to compare: ID -> (name, bytes of its voxels, extent)."""
    found = {}
    for each in segments(segmentation):
        labelmap = segmentation.GetSegmentation().GetSegment(each.id).GetRepresentation("Binary labelmap")
        label = segmentation.GetSegmentation().GetSegment(each.id).GetLabelValue()
        scalars = labelmap.GetPointData().GetScalars() if labelmap is not None else None
        voxels = (
            np.zeros(0)
            if scalars is None
            else np.argwhere(vtk_to_numpy(scalars).reshape(labelmap.GetDimensions()[::-1]) == label)
            + np.asarray(labelmap.GetExtent()[::2])[::-1]
        )
        found[each.id] = (each.name, each.color, voxels.tobytes())
    return found


def run(session: Session, seconds: float = 900.0, until=None) -> None:
    """Let a session work until it is idle, or until something is true of it; a busy machine has time for that."""
    limit = time.monotonic() + seconds
    while session.busy if until is None else not until(session):
        session.poll()
        time.sleep(0.01)
        assert time.monotonic() < limit, session.view()


def new_session(scene, model: Path, others=MappingProxyType({}), **choices) -> Session:
    """A session on a model's file; ``others`` goes to :class:`Session` itself (``history``, ``make_worker``)."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    values = {"model": str(model), "device": "cpu", "seconds": 2.0, **choices}
    return Session(scene, Parameters(**values), **others)


def nodes_of(scene) -> list[tuple[str, str, str]]:
    """ID, class and name of every node of a scene, to compare."""
    nodes = (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes()))
    return sorted((node.GetID(), node.GetClassName(), node.GetName() or "") for node in nodes)


def box_in(mask: np.ndarray, radius: int = 2) -> np.ndarray:
    """A box around the middle voxel of a mask, cut to the mask: something to erase; bool (z, y, x)."""
    places = np.argwhere(mask)
    middle = places[len(places) // 2]
    box = np.zeros(mask.shape, bool)
    box[tuple(slice(max(at - radius, 0), at + radius + 1) for at in middle)] = True
    return box & mask


@dataclass(frozen=True)
class Sent:
    """A job that a session gave to a worker."""

    name: str
    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]

    def said(self, index: int = 0) -> dict[str, np.ndarray]:
        """What an example says: name of a class, "not <class>", "background" or "another" -> bool (z, y, x)."""
        described, array = self.values["examples"][index], self.arrays[f"annotation{index}"]
        names = {value: name for name, value in self.values["classes"].items()}
        known = {**names, described["background"]: "background"}
        for value, other in described["barred"].items():
            known[int(value)] = f"not {names.get(other, 'another')}"
        found: dict[str, np.ndarray] = {}
        for value in np.unique(array[array > 0]).tolist():
            name = known.get(value, "another")
            found[name] = found.get(name, np.zeros(array.shape, bool)) | (array == value)
        return found


class Lent:
    """A worker that outlives the session it is lent to: what that ends is its jobs, not the process."""

    def __init__(self, worker: Worker, jobs: list[Sent]):
        self.worker, self._jobs, self._given_back = worker, jobs, False
        self._own: set[int] = set()

    @property
    def gone(self) -> bool:
        return self._given_back or self.worker.gone

    @property
    def pid(self) -> int | None:
        return self.worker.pid

    def submit(self, name, values, arrays=None, images=()) -> int:
        job = self.worker.submit(name, values, arrays, images)
        self._jobs.append(Sent(name, values, arrays or {}))
        self._own.add(job)
        return job

    def cancel(self, job: int) -> None:
        self.worker.cancel(job)

    def poll(self) -> list:
        events = [] if self._given_back else self.worker.poll()
        return [event for event in events if event.kind == GONE or event.job in self._own]

    def kill(self) -> None:
        self._given_back = True
        for job in self._own:
            self.worker.cancel(job)


def brisk_worker(parameters: Parameters) -> Worker:
    """As :func:`start_worker`; but on this machine, one that is not thorough, and whose growing is plain."""
    if parameters.device == "ssh":
        return start_worker(parameters)
    return Worker(brisk.plain_command, environment(parameters.threads))


class Workers:
    """Lends the same worker process to one session after the other: starting one takes seconds.

    :ivar jobs: all that sessions sent.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.jobs: list[Sent] = []

    def __call__(self, parameters) -> Lent:
        if self.worker is None or self.worker.gone:
            self.worker = brisk_worker(parameters)
        return Lent(self.worker, self.jobs)

    def end(self) -> None:
        if self.worker is not None:
            self.worker.kill()

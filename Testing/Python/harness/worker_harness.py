"""A worker whose events are waited for, and the same jobs without one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable, Iterator

import numpy as np
import pytest
import SimpleITK as sitk
import torch

import PromptSegLib as ps
from harness.tiny_model import CLASSES
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker.client import Event, Sent, Worker
from PromptSegLib.worker.packing import grid_of, grid_values, infos_of, packed_prompts, prompts_of

SECONDS = 900.0  # until a worker that does not answer fails its test, on however busy a machine
ENDS = ("done", "cancelled", "refused", "failed")
BRIEF = {"steps": 4, "token_steps": 5, "seed": 3}


class Driven:
    """A worker whose events are waited for, each taken once."""

    def __init__(self, *arguments, **keywords):
        self.worker = Worker(*arguments, **keywords)
        self._waiting: list[Event] = []

    def until(self, kind: str, job: int = 0) -> list[Event]:
        """Everything up to the first event of a kind (of a job); fails when the job or the worker ends otherwise."""
        taken: list[Event] = []
        for event in self._events():
            taken.append(event)
            if event.kind == kind and job in (0, event.job):
                return taken
            if event.kind == "gone" or (event.kind in ENDS and job in (0, event.job)):
                pytest.fail(f"waited for {kind} of {job}, got {event.kind}: {event.message}\n{self.worker.log}")
        raise AssertionError("unreachable")

    def last(self, kind: str, job: int = 0) -> Event:
        return self.until(kind, job)[-1]

    def gone(self) -> list[Event]:
        """Everything up to the worker's end, after which nothing more is said."""
        taken = []
        for event in self._events():
            taken.append(event)
            if event.kind == "gone":
                break
        assert self.worker.gone and not self._waiting and not self.worker.poll()
        return taken

    def end(self) -> str:
        """What the worker's end says; jobs end with it, without a word of their own."""
        events = self.gone()
        assert not [event.kind for event in events if event.kind in ENDS]
        return events[-1].message

    def _events(self) -> Iterator[Event]:
        deadline = time.monotonic() + SECONDS
        while True:
            self._waiting += self.worker.poll()
            while self._waiting:
                yield self._waiting.pop(0)
            if time.monotonic() > deadline:
                pytest.fail(f"the worker does not answer\n{self.worker.log}")
            time.sleep(0.005)


def eventually(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not check():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"  # a zombie has ended
    except ProcessLookupError:
        return False
    except OSError:
        return not Path("/proc/self").exists()  # no such folder on this system: what kill says is all there is


def one_sentence(text: str) -> bool:
    return text[:1].isupper() and text.endswith(".") and "\n" not in text and ". " not in text


def image_of(case: ps.Example, key: str) -> Sent:
    return Sent(key, {"grid": grid_values(Grid.of(case.image))}, sitk.GetArrayFromImage(case.image))


def strokes_of(case: ps.Example, key: str) -> dict:
    return {"image": key, "name": "case", "grid": grid_values(Grid.of(case.annotation)), "background": case.background}


def tuning(driven: Driven, model: Path, case: ps.Example, key: str, images=None, start=None, **changes) -> int:
    values = {
        "model": str(model),
        "device": "cpu",
        "settings": BRIEF,
        "classes": CLASSES,
        "examples": [strokes_of(case, key)],
        **changes,
    }
    arrays = {"annotation0": sitk.GetArrayFromImage(case.annotation)}
    if start is not None:
        arrays["start"] = packed_prompts(start)
    return driven.worker.submit("tune", values, arrays, [image_of(case, key)] if images is None else images)


def labels_of(event: Event, like: sitk.Image) -> np.ndarray:
    """The labels of an answer on the image's whole grid."""
    grid, part = grid_of(event.values["grid"]), event.arrays["labels"]
    x, y, z = Grid.of(like).indices(np.array([grid.origin]))[0].round().astype(int)
    assert Grid.of(like).part((x, y, z), np.add((x, y, z), grid.size)).same_as(grid) and part.shape == grid.shape
    whole = np.zeros(Grid.of(like).shape, part.dtype)
    whole[z : z + grid.size[2], y : y + grid.size[1], x : x + grid.size[0]] = part
    return whole


def same_prompts(one: ps.Prompts, other: ps.Prompts) -> bool:
    return one.names == other.names and all(
        np.array_equal(array, other.find(name).tensors[key])
        for name in one.names
        for key, array in one.find(name).tensors.items()
    )


def given_without_a_worker(models: Path, case: ps.Example) -> SimpleNamespace:
    """What tuning and segmenting give without a worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        backbone = ps.load_model(str(models / "tiny0.safetensors"), "cpu")
        prompts = ps.tune([case], CLASSES, backbone, settings=ps.Settings(**BRIEF))
        result = ps.segment(
            prompts,
            case.image,
            backbone,
            strokes=case,
            options=ps.SegmentationOptions(uncertainty=True, coarse_maps=True),
        )
    finally:
        torch.set_num_threads(threads)
    return SimpleNamespace(prompts=prompts, result=result, backbone=backbone)


def is_expected(event: Event, expected: SimpleNamespace, case: ps.Example) -> bool:
    result = expected.result
    assert same_prompts(prompts_of(event.arrays["prompts"]), expected.prompts)
    assert np.array_equal(labels_of(event, case.image), sitk.GetArrayFromImage(result.labels))
    assert infos_of(event.values["classes"]) == result.classes
    assert np.allclose(event.values["places"], result.places)
    assert grid_of(event.values["map_grid"]).same_as(Grid.of(result.uncertainty))
    unsure = sitk.GetArrayFromImage(result.uncertainty)
    return bool(np.abs(event.arrays["map"] / 255 - unsure).max() <= 0.5 / 255 + 1e-6)

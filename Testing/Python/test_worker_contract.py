"""Requests and replies: there and back as messages, done by any carrier, and scripted for a session without torch."""

from __future__ import annotations

import io
from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import SimpleITK as sitk

from harness.prompts_fixtures import some_prompts
from PromptSegLib.annotation.classes import describe
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.result import Segmentation
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.worker import contract, jobs
from PromptSegLib.worker.contract import (
    Annotated,
    Grow,
    Learn,
    Prepare,
    Reply,
    Segment,
    Specialize,
    Specialized,
    Taught,
    Tune,
    request_of,
)
from PromptSegLib.worker.messages import Channel

GRID = Grid((5, 4, 3), (1.0, 2.0, 3.0), (-4.0, 5.0, 6.0))
VOXELS = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
EXAMPLE = Annotated("a", GRID, VOXELS, 255, True, {9: 6}, "CT")
INFOS = (describe("liver", 6), describe("spleen", 1))
REQUESTS = [
    Prepare("ct-body", "cpu", "a"),
    Tune("ct-body", "auto", {"liver": 6}, [EXAMPLE]),
    Tune(
        "ct-body",
        "cuda:0",
        {"liver": 6, "spleen": 1},
        [EXAMPLE, Annotated("b", GRID, VOXELS + 1)],
        {"seconds": 3.0, "mode": "decoder"},
        ["liver"],
        [7, 8],
        INFOS,
        False,
        some_prompts("liver"),
    ),
    Learn("ct-body", "cpu", {"liver": 6}, [replace(EXAMPLE, painted=GRID.image(VOXELS))], {"seconds": 9.0}, INFOS),
    Specialize("ct-body", "cpu", {"liver": 6}, [EXAMPLE], {"seconds": 9.0, "what": "decoder"}, INFOS, "mine", "Mine"),
    Segment("ct-body", "cpu", "a", some_prompts("liver", "spleen")),
    Segment("ct-body", "cpu", "a", some_prompts("liver"), EXAMPLE),
    Grow({"liver": 6}, EXAMPLE),
    Grow({"liver": 6}, EXAMPLE, INFOS, False, GRID.image(VOXELS)),
]


def sent(values: dict, arrays: dict) -> tuple[dict, dict]:
    """What arrives of it on the other side of a stream."""
    stream = io.BytesIO()
    Channel(stream, stream).send("job", arrays, **values)
    stream.seek(0)
    message = Channel(stream, stream).receive()
    return message.values, message.arrays


def plain(thing: object) -> object:
    """To be compared: images and prompts by what is in them."""
    if isinstance(thing, Prompts):
        return thing.to_bytes()
    if isinstance(thing, sitk.Image):
        return plain(Grid.of(thing)), sitk.GetArrayFromImage(thing).tolist()
    if is_dataclass(thing):
        return type(thing), [plain(getattr(thing, each.name)) for each in fields(thing)]
    if isinstance(thing, np.ndarray):
        return thing.tolist()
    if isinstance(thing, (list, tuple)):
        return [plain(each) for each in thing]
    return dict(thing) if isinstance(thing, dict) else thing


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda each: each.name)
def test_requests_arrive_as_they_were_sent(request_):
    assert plain(request_of(request_.name, *sent(*request_.pack()))) == plain(request_)


def test_prompts_arrive_with_what_they_have_to_say():
    taught = Taught(some_prompts("liver"))
    values, arrays = sent(*taught.pack())
    assert plain(Taught.unpack(values, arrays)) == plain(taught) and values["notes"] == taught.prompts.notes


def test_a_model_arrives_as_it_was_made():
    made = Specialized("mine", "0" * 64, {".safetensors": b"weights", ".md": b""}, ("One note.",))
    assert Specialized.unpack(*sent(*made.pack())) == made


def test_replies_arrive_as_they_were_sent():
    unsure = GRID.image(np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 4, 5))
    places, notes = ((1.0, 2.0, 3.0),), ("One note.",)
    result = Segmentation(GRID.image(VOXELS), INFOS, uncertainty=unsure, places=places, notes=notes)
    again = Reply.unpack(*sent(*Reply(result, some_prompts("liver")).pack()))
    assert plain(again.result.labels) == plain(result.labels) and again.prompts.names == ["liver"]
    assert (again.result.classes, again.result.places, again.result.notes) == (INFOS, places, notes)
    assert np.abs(sitk.GetArrayFromImage(again.result.uncertainty) / 255 - sitk.GetArrayFromImage(unsure)).max() < 0.003
    empty = Reply.unpack(*sent(*Reply(Segmentation(GRID.image(VOXELS * 0), ())).pack()))
    assert empty.prompts is None and empty.result.uncertainty is None
    assert not sitk.GetArrayFromImage(empty.result.labels).any()


def test_every_job_is_one_that_is_done():
    assert set(contract.JOBS) == {each.name for each in REQUESTS}
    for name in contract.JOBS:
        assert callable(getattr(jobs.JobHandlers, f"_{name}"))


@pytest.mark.parametrize("missing", ["classes", "examples"])
def test_what_is_no_request_is_an_error_that_names_what_is_missing(missing):
    values, arrays = REQUESTS[1].pack()
    del values[missing]
    with pytest.raises(KeyError, match=missing):
        request_of("tune", values, arrays)


def test_a_job_that_there_is_not_is_refused():
    with pytest.raises(PromptSegError, match="does not know the job 'sing'"):
        request_of("sing", {}, {})

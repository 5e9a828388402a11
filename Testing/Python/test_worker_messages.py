"""What goes between the module and its worker arrives as it was, or is refused."""

from __future__ import annotations

import io
import json
import os
import struct
import tempfile
import threading
from pathlib import Path
from typing import Optional

import numpy as np
import pytest
import SimpleITK as sitk

from harness.tiny_model import tiny_backbone
from PromptSegLib.annotation.classes import describe
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.worker.messages import Channel, Message, ProtocolError, shared_folder
from PromptSegLib.worker.packing import (
    grid_of,
    grid_values,
    infos_of,
    packed_infos,
    packed_labels,
    packed_prompts,
    prompts_of,
)

DTYPES = ("?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", ">i2", ">f4", ">u8")
SHAPES = {"small": (3, 4, 5), "large": (32, 64, 65)}
LARGE = 2**17  # bytes: goes through a file where there is a folder


def sent(kind: str, arrays=None, folder: Optional[Path] = None, **values) -> bytes:
    stream = io.BytesIO()
    Channel(io.BytesIO(), stream, folder).send(kind, arrays, **values)
    return stream.getvalue()


def received(data: bytes, folder: Optional[Path] = None) -> Optional[Message]:
    return Channel(io.BytesIO(data), io.BytesIO(), folder).receive()


def through(array: np.ndarray, folder: Optional[Path]) -> np.ndarray:
    return received(sent("x", {"array": array}, folder), folder).arrays["array"]


def raw(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(header)) + header + body


def with_array(body: bytes = b"", **entry) -> bytes:
    return raw(json.dumps({"kind": "x", "arrays": [entry]}).encode(), body)


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other)


@pytest.fixture(params=["inside", "shared"])
def folder(request, tmp_path):
    """No folder, or one; nothing is left in it."""
    if request.param == "inside":
        yield None
    else:
        yield tmp_path
        assert not list(tmp_path.iterdir())


# What arrives


def test_kind_and_values_arrive():
    values = {
        "job": 3,
        "name": "Leber \N{GREEK SMALL LETTER ALPHA}",
        "none": None,
        "places": [[1.5, -2e-9]],
        "deep": {"a": {}},
    }
    message = received(sent("done", **values))
    assert (message.kind, message.values, message.arrays, message.job) == ("done", values, {}, 3)
    assert received(sent("hello")).job == 0


def test_a_stream_that_ends_between_messages_is_at_its_end():
    channel = Channel(io.BytesIO(sent("a") + sent("b")), io.BytesIO())
    assert [channel.receive().kind, channel.receive().kind, channel.receive(), channel.receive()] == [
        "a",
        "b",
        None,
        None,
    ]


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives(dtype, size, folder):
    numbers = np.random.default_rng(0).integers(0, 100, SHAPES[size])
    array = (numbers > 50 if dtype == "?" else numbers).astype(dtype)
    arrived = through(array, folder)
    assert same(arrived, array)
    assert arrived.flags.writeable


def test_special_numbers_arrive(folder):
    array = np.tile(np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32), LARGE // 20)
    assert through(array, folder).tobytes() == array.tobytes()


VOXELS = np.arange(40 * 50 * 60, dtype=np.int16).reshape(40, 50, 60)


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.zeros(0, np.uint8), id="empty"),
        pytest.param(np.zeros((3, 0, 2), np.float32), id="no extent"),
        pytest.param(np.array(2.5), id="no axis"),
        pytest.param(VOXELS.T, id="transposed"),
        pytest.param(np.asfortranarray(VOXELS), id="fortran"),
        pytest.param(VOXELS[::-1, ::2, 1:-1], id="strided"),
        pytest.param(VOXELS[:3, :3, ::-1], id="small strided"),
        pytest.param(np.broadcast_to(np.int32(7), (50, 50, 50)), id="broadcast"),
    ],
)
def test_every_layout_arrives(array, folder):
    assert same(through(array, folder), array)


def test_a_view_of_an_image_arrives(folder):
    image = sitk.GetImageFromArray(VOXELS)
    assert same(through(sitk.GetArrayViewFromImage(image), folder), VOXELS)


def test_several_arrays_keep_their_names_and_order(folder):
    arrays = {"a": VOXELS, "": np.arange(3), "b/../c": np.zeros(0), "ä": VOXELS[0] + 1}
    message = received(sent("x", arrays, folder), folder)
    assert list(message.arrays) == list(arrays)
    assert all(same(message.arrays[name], array) for name, array in arrays.items())


def test_large_arrays_go_through_files_that_end_with_their_message(tmp_path):
    data = sent("x", {"voxels": VOXELS}, tmp_path)
    (file,) = tmp_path.iterdir()
    assert len(data) < 1000 and file.stat().st_size == VOXELS.nbytes
    assert same(received(data, tmp_path).arrays["voxels"], VOXELS)
    assert not file.exists()


def test_small_arrays_go_inside_the_message(tmp_path):
    data = sent("x", {"voxels": VOXELS[:3]}, tmp_path)
    assert not list(tmp_path.iterdir()) and len(data) > VOXELS[:3].nbytes


@pytest.mark.parametrize("place", ["missing", "file", "file/inner"])
def test_a_folder_that_is_none_is_not_needed(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    assert same(through(VOXELS, tmp_path / place), VOXELS)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="nothing is read-only for this user")
def test_a_folder_that_is_read_only_is_not_needed(tmp_path):
    tmp_path.chmod(0o500)
    try:
        assert same(through(VOXELS, tmp_path), VOXELS)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="the limit is POSIX's")
@pytest.mark.parametrize("short", [50, 5000, 70000])
def test_a_disk_that_is_full_is_not_needed(tmp_path, short):
    import resource

    array = np.random.default_rng(0).integers(0, 255, LARGE + 1000, np.uint8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (array.nbytes - short, before[1]))
    try:
        data = sent("x", {"voxels": array}, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    assert same(received(data, tmp_path).arrays["voxels"], array)


def test_messages_of_several_threads_do_not_mix(folder):
    ends = os.pipe()
    arrays = [np.full(4000 * (1 + 9 * index), index, np.int32) for index in range(4)]
    with os.fdopen(ends[0], "rb") as reader:
        with os.fdopen(ends[1], "wb") as writer:
            channel = Channel(reader, writer, folder)

            def talk(index: int) -> None:
                for number in range(10):
                    channel.send(str(index), {"a": arrays[index], "b": arrays[index][:3]}, number=number)

            threads = [threading.Thread(target=talk, args=(index,)) for index in range(4)]
            for thread in threads:
                thread.start()
            messages = [channel.receive() for _ in range(40)]
            for thread in threads:
                thread.join()
        assert channel.receive() is None
    for index in range(4):
        own = [message for message in messages if message.kind == str(index)]
        assert [message.values["number"] for message in own] == list(range(10))
        assert all(same(message.arrays["a"], arrays[index]) for message in own)


# What is refused


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0\0", id="half a length"),
        pytest.param(b"Welcome to the machine\n", id="text"),
        pytest.param(b"\xff\xff\xff\xff" + b"{}" * 100, id="huge header"),
        pytest.param(raw(b'{"kind": "x", "arrays": []}')[:-3], id="half a header"),
        pytest.param(raw(b'{"kind": '), id="no JSON"),
        pytest.param(raw(b"\xff\xfe\xfd"), id="no UTF-8"),
        pytest.param(raw(b""), id="nothing"),
        pytest.param(raw(b"[]"), id="a list"),
        pytest.param(raw(b'"kind"'), id="a string"),
        pytest.param(raw(b"{}"), id="no kind"),
        pytest.param(raw(b'{"kind": "x"}'), id="no arrays"),
        pytest.param(raw(b'{"kind": "x", "arrays": 5}'), id="arrays are a number"),
        pytest.param(raw(b'{"kind": "x", "arrays": [5]}'), id="an array is a number"),
        pytest.param(raw(b'{"kind": "x", "arrays": ["abc"]}'), id="an array is a string"),
        pytest.param(raw(b"[" * 100_000), id="deep"),
        pytest.param(with_array(bytes(8), dtype="u1", shape=[8]), id="no name"),
        pytest.param(with_array(bytes(8), name="a", shape=[8]), id="no dtype"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1"), id="no shape"),
        pytest.param(with_array(bytes(4), name="a", dtype="u1", shape=[8]), id="half an array"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[2**28]), id="an array that never comes"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[-8]), id="negative extent"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[-2, -4]), id="negative extents"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[2.0, 4]), id="broken extent"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[True, 8]), id="true extent"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape="8"), id="extents are a string"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=8), id="extents are a number"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[2**60, 2**60]), id="huge"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[0, 2**70]), id="huge and empty"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1", shape=[1] * 100), id="many axes"),
        pytest.param(with_array(bytes(8), name="a", dtype="O", shape=[1]), id="objects"),
        pytest.param(with_array(bytes(8), name="a", dtype="V8", shape=[1]), id="records"),
        pytest.param(with_array(bytes(8), name="a", dtype="u1,O", shape=[1]), id="records of objects"),
        pytest.param(with_array(bytes(8), name="a", dtype="(1,2,", shape=[1]), id="half a dtype"),
        pytest.param(with_array(bytes(8), name="a", dtype="U2", shape=[1]), id="strings"),
        pytest.param(with_array(bytes(8), name="a", dtype="M8[s]", shape=[1]), id="dates"),
        pytest.param(with_array(bytes(8), name="a", dtype="c8", shape=[1]), id="complex numbers"),
        pytest.param(with_array(bytes(8), name="a", dtype="nonsense", shape=[1]), id="no such dtype"),
        pytest.param(with_array(bytes(8), name="a", dtype=["u1"], shape=[1]), id="a list of dtypes"),
    ],
)
def test_a_broken_stream_is_refused(data, folder):
    with pytest.raises(ProtocolError):
        received(data, folder)


@pytest.mark.parametrize(
    "place", ["../outside", "/outside", "inner/../../outside", "inner/file", "..", ".", "", "a\0b", 5]
)
def test_arrays_lie_nowhere_but_in_the_folder(place, tmp_path):
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "inner").mkdir(parents=True)
    for file in (outside, folder / "inner" / "file"):
        file.write_bytes(bytes(8))
    if place == "/outside":
        place = str(outside)
    with pytest.raises(ProtocolError):
        received(with_array(name="a", dtype="u1", shape=[8], file=place), folder)
    assert outside.exists() and (folder / "inner" / "file").exists()


def test_a_file_without_a_folder_is_refused(tmp_path):
    with pytest.raises(ProtocolError):
        received(sent("x", {"voxels": VOXELS}, tmp_path), None)


@pytest.mark.parametrize("length", [None, 0, VOXELS.nbytes - 2, VOXELS.nbytes + 2])
def test_a_file_of_another_length_is_refused(length, tmp_path):
    data = sent("x", {"voxels": VOXELS}, tmp_path)
    (file,) = tmp_path.iterdir()
    if length is None:
        file.unlink()
    else:
        file.write_bytes(bytes(length))
    with pytest.raises(ProtocolError):
        received(data, tmp_path)


@pytest.mark.parametrize("array", [np.array([{}]), np.array(["text"]), np.zeros(3, complex), np.zeros(3, "V4")])
def test_nothing_is_sent_of_what_would_be_refused(array, folder):
    stream = io.BytesIO()
    channel = Channel(io.BytesIO(), stream, folder)
    with pytest.raises(ValueError):
        channel.send("x", {"first": VOXELS[:2], "array": array})
    with pytest.raises(TypeError):
        channel.send("x", bad=object())
    assert not stream.getvalue()


# The folder


def test_the_folder_is_new_and_the_users_own():
    one, other = shared_folder(), shared_folder()
    try:
        assert one != other and not list(one.iterdir())
        assert os.name != "posix" or one.stat().st_mode & 0o077 == 0
    finally:
        one.rmdir()
        other.rmdir()


def test_there_may_be_no_folder(monkeypatch):
    def refuse(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    assert shared_folder() is None


# What messages hold


def test_grids_arrive():
    turned = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid((40, 30, 20), (0.7, 1 / 3, 2.5), (-10.1, 5e-7, 1e3), turned)
    message = received(sent("x", grid=grid_values(grid)))
    assert grid_of(message.values["grid"]) == grid


@pytest.mark.parametrize("values", [{}, {"size": [1, 2, 3]}, [], None])
def test_something_else_is_no_grid(values):
    with pytest.raises((KeyError, TypeError)):
        grid_of(values)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_labels_are_cropped_to_what_is_there(dtype):
    voxels = np.zeros((20, 30, 40), dtype)
    voxels[5, 7, 9], voxels[11, 20, 31] = 3, 200
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 1.5, 3.0))
    image.SetOrigin((-5.0, 6.0, 7.0))
    image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    values, part = packed_labels(image)
    assert part.shape == (7, 14, 23) and part.dtype == dtype
    placed = grid_of(values).image(part)
    for index in ((9, 7, 5), (31, 20, 11)):
        point = image.TransformIndexToPhysicalPoint(index)
        assert placed[placed.TransformPhysicalPointToIndex(point)] == image[index]


def test_labels_of_nothing_are_one_voxel_of_nothing():
    values, part = packed_labels(sitk.Image(4, 5, 6, sitk.sitkUInt8))
    assert part.shape == grid_of(values).shape == (1, 1, 1) and not part.any()


def test_classes_arrive():
    infos = (describe("liver", 6, ()), describe("my own structure", 300, ()))
    message = received(sent("x", classes=packed_infos(infos)))
    assert infos_of(message.values["classes"]) == infos


def test_prompts_arrive(tmp_path_factory, folder):
    prompts = tiny_backbone(tmp_path_factory.mktemp("models"), shipped=True).shipped
    assert prompts_of(through(packed_prompts(prompts), folder)).to_bytes() == prompts.to_bytes()


def test_something_else_is_no_prompts():
    with pytest.raises(PromptSegError):
        prompts_of(np.arange(1000, dtype=np.uint8))


@pytest.mark.parametrize("number", [1e308, -1e160, float("nan"), float("inf"), 2])
def test_a_grid_whose_directions_are_none_is_no_grid(number):
    """ITK may look for the inverse of some forever."""
    values = grid_values(Grid((4, 3, 2), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    assert grid_of(values).size == (4, 3, 2)
    for index in range(9):
        changed = list(values["direction"])
        changed[index] = number
        with pytest.raises(ValueError, match="no directions"):
            grid_of({**values, "direction": changed})
    with pytest.raises(ValueError, match="no directions"):
        grid_of({**values, "direction": [1, 0, 0, 1]})

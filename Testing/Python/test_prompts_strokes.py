"""The strokes that prompts carry, and the fingerprints that tell their image."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from harness.prompts_checks import IMAGE, forged, painted, runs, sentence, strokes_of
from harness.prompts_fixtures import SMALL, make
from harness.tiny_model import phantom
from PromptSegLib.annotation.classes import ClassInfo, describe
from PromptSegLib.annotation.example import Example
from PromptSegLib.annotation.strokes import Strokes, fingerprint, fingerprints
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.imaging.reading import read_image
from PromptSegLib.inference.field_of_view import strokes_on
from PromptSegLib.models.feature_cache import FeatureCache
from PromptSegLib.network.config import NetworkConfig
from PromptSegLib.prompts.store import MAX_BYTES_PER_CLASS, Prompts
from PromptSegLib.tuning.kept_strokes import strokes_to_keep

pytestmark = pytest.mark.usefixtures("brisk_growing")

# Strokes


@pytest.mark.parametrize("values", [[1, 2], [65535, 7]])
def test_strokes_round_trip(values):
    labels = painted()
    strokes = strokes_of(labels, values)
    assert strokes.shape == labels.shape
    assert strokes.voxels() == (labels >= 0).sum()
    unpacked = Strokes.from_dict(json.loads(json.dumps(strokes.to_dict())), strokes.data).unpack(values)
    assert unpacked.dtype == np.int16
    assert np.array_equal(unpacked, labels)


def test_strokes_follow_label_values():
    labels = painted()
    strokes = strokes_of(labels, [5, 9])
    only = strokes.unpack([9])
    assert np.array_equal(only, np.where(labels == 2, 1, np.where(labels == 0, 0, -1)))
    turned = strokes.unpack([9, 5])
    assert np.array_equal(turned == 1, labels == 2)
    assert np.array_equal(turned == 2, labels == 1)


def test_what_is_no_strokes():
    assert Strokes.pack(IMAGE, np.full((9, 9, 9), -1, np.int16), [1]) is None
    huge = np.broadcast_to(np.int16(0), (2048, 2048, 2048))  # takes no memory unless it is looked at
    assert Strokes.pack(IMAGE, huge, [1]) is None


def test_strokes_may_be_dense():
    rng = np.random.default_rng(0)
    dense = rng.integers(-1, 3, (20, 20, 20)).astype(np.int16)
    full = np.zeros((9, 9, 9), np.int16)
    scattered = np.where(rng.random((60, 100, 100)) < 0.3, 2, -1).astype(np.int16)
    for labels in (dense, full, scattered):
        assert np.array_equal(strokes_of(labels, [7, 300]).unpack([7, 300]), labels)
    # Ten classes painted as areas on fifteen slices of a large CT.
    areas = np.full((100, 512, 512), -1, np.int16)
    for z in range(0, 90, 6):
        for number in range(10):
            y, x = 40 + 45 * (number // 2), 60 + 200 * (number % 2) + z
            rows, columns = np.ogrid[-y : 512 - y, -x : 512 - x]
            areas[z][rows**2 + columns**2 < 200 + 40 * number + z] = number + 1
    packed = strokes_of(areas, list(range(1, 11)))
    assert packed.data.size < 64 * 1024 and np.array_equal(packed.unpack(list(range(1, 11))), areas)


@pytest.fixture
def too_many() -> tuple[Strokes, Strokes]:
    """Strokes that have no room in the prompts file of two classes, and some that have."""
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((60, 100, 100)) < 0.5, rng.integers(1, 3, (60, 100, 100)), -1).astype(np.int16)
    large = strokes_of(labels, [1, 2])
    assert large.data.size > 2 * 64 * 1024
    return large, Strokes.pack("c" * 64, painted(), [1, 2])


def test_strokes_that_have_no_room_lie_beside(tmp_path, too_many):
    large, small = too_many
    path, other = tmp_path / "p.safetensors", tmp_path / "p.strokes.safetensors"
    prompts = make(strokes=too_many)
    assert prompts.outside == (large,)
    prompts.save(path)
    assert path.stat().st_size < 2 * MAX_BYTES_PER_CLASS and other.is_file()
    loaded = Prompts.load(path)
    assert [each.image for each in loaded.strokes] == [large.image, small.image] and not loaded.missing
    assert np.array_equal(loaded.strokes[0].unpack([1, 2]), large.unpack([1, 2]))
    # By their bytes alone, and after the other file went or is another's, the prompts work without.
    for content in (
        None,
        make().to_bytes(),
        b"",
        other.read_bytes()[:-1],
        other.read_bytes().replace(b"runs", b"sunr"),
    ):
        other.unlink() if content is None else other.write_bytes(content)
        without = Prompts.load(path)
        assert [each.image for each in without.strokes] == [small.image]
        assert [image for image, _ in without.missing] == [large.image]
        assert Prompts.from_bytes(without.to_bytes()).missing == without.missing
    # Strokes of another tuning are not taken for these.
    make(strokes=(strokes_of(large.unpack([2, 1]), [1, 2]),)).save(tmp_path / "q.safetensors")
    other.unlink()
    (tmp_path / "q.strokes.safetensors").rename(other)
    assert len(Prompts.load(path).missing) == 1


def test_strokes_beside_go_with_what_they_belonged_to(tmp_path, too_many):
    path, other = tmp_path / "p.safetensors", tmp_path / "p.strokes.safetensors"
    make(strokes=too_many).save(path)
    make().save(path)
    assert not other.exists()
    make().save(other)  # somebody's own prompts
    with pytest.raises(PromptSegError, match="in the way") as caught:
        make(strokes=too_many).save(path)
    sentence(caught.value)
    assert Prompts.load(other) and not Prompts.load(path).missing
    make().save(path)
    assert Prompts.load(other)


@pytest.mark.parametrize("after", ["many", "none"])
@pytest.mark.parametrize("before", ["many", "none"])
def test_where_the_prompts_cannot_be_replaced_all_files_stay(tmp_path, too_many, monkeypatch, before, after):
    """As on Windows while another program reads them."""
    path = tmp_path / "p.safetensors"
    strokes = {"many": too_many, "none": ()}
    make(strokes=strokes[before]).save(path)
    there = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    replacing = os.replace

    def refused(source, target):
        if Path(target) == path:
            raise PermissionError(13, "in use")
        replacing(source, target)

    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(PromptSegError, match="in use"):
        make(strokes=strokes[after][::-1]).save(path)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == there


def test_strokes_of_older_files_are_read():
    """Voxel by voxel, in files of format 1."""
    labels = painted()
    where = np.flatnonzero(labels >= 0)
    raw = np.diff(where, prepend=0).astype("<u4").tobytes()
    raw += np.asarray([0, 5, 9], "<u2")[labels.reshape(-1)[where]].tobytes()
    older = strokes_with(raw, len(where), labels.shape)
    assert not older.runs and np.array_equal(older.unpack([5, 9]), labels)
    changed = older.with_values({5: 6, 9: 9})
    assert changed.runs and np.array_equal(changed.unpack([6, 9]), labels)
    assert Prompts.from_bytes(make(strokes=(older,)).to_bytes()).strokes[0].to_dict() == older.to_dict()


def strokes_with(raw_data: bytes, count: int, shape=(100, 100, 100), level: int = 9, cut: int | None = None) -> Strokes:
    data = np.frombuffer(zlib.compress(raw_data, level)[:cut], np.uint8)

    def change(header, tensors):
        header["format"] = 1
        header["strokes"][0] = {"image": IMAGE, "shape": list(shape), "count": count}
        tensors["strokes/0"] = data

    return Prompts.from_bytes(forged(change)).strokes[0]


def runs_with(raw: bytes, count: int, shape=(100, 100, 100)) -> Strokes:
    """Strokes as runs: gaps, lengths, labels, byte by byte."""
    data = np.frombuffer(zlib.compress(raw), np.uint8)
    return Strokes.from_dict({"image": IMAGE, "shape": list(shape), "runs": count}, data)


def positions(*where: int, labels: int = 1) -> bytes:
    return np.diff(where, prepend=0).astype("<u4").tobytes() + np.full(len(where), labels, "<u2").tobytes()


def test_hostile_strokes():
    assert (strokes_with(positions(5, 999_999), 2).unpack([1]) == 1).sum() == 2
    assert (runs_with(runs([5, 999_000], [95, 900]), 2).unpack([1]) == 1).sum() == 995
    for bad in (
        strokes_with(positions(5, 1_000_000), 2),
        strokes_with(np.full(3, 2**32 - 1, "<u4").tobytes() + bytes(6), 3),
        strokes_with(positions(5, 6, 7), 2),
        strokes_with(positions(5, 6), 3),
        strokes_with(b"", 1),
        strokes_with(positions(5, 6) + b"\0", 2),
        strokes_with(positions(5, 6), 2, cut=-1),
        strokes_with(positions(5, 6), 2, cut=4),
        replace(strokes_with(positions(5, 6), 2), data=np.arange(100, dtype=np.uint8)),
        replace(strokes_with(positions(5, 6), 2), data=np.zeros(0, np.uint8)),
        runs_with(runs([0, 10], [5, 10**6]), 2),
        runs_with(runs([0, 10], [2**32 - 1, 1]), 2),
        runs_with(runs([2**32 - 1, 10], [1, 1]), 2),
        runs_with(runs([0, 10], [0, 1]), 2),
        runs_with(runs([0], [1]), 2),
        runs_with(runs([0, 1, 2], [1, 1, 1]), 2),
    ):
        with pytest.raises(ValueError, match="strokes"):
            bad.unpack([1])


def test_a_zip_bomb_takes_little_memory():
    bomb = bytes(60 * 2**20)
    few = strokes_with(bomb, 2)
    many = strokes_with(bomb, 8_000_000, (1000, 1000, 1000))
    lying = strokes_with(bytes(6), 2, (1600, 1600, 1600))  # 8 GB of labels, were they made
    for strokes, limit in ((few, 8), (many, 320), (lying, 8)):
        tracemalloc.start()
        with pytest.raises(ValueError):
            strokes.unpack([1])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < limit * 2**20


# Fingerprints


def scan() -> sitk.Image:
    image = sitk.GetImageFromArray(np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16))
    image.SetSpacing((0.7, 0.8, 3.0))
    image.SetOrigin((-10.0, 5.0, 100.0))
    return image


def changes():
    one = scan()
    one[3, 4, 5] = one[3, 4, 5] + 1
    yield "a voxel", one
    for number, setter in enumerate(("SetSpacing", "SetOrigin")):
        one = scan()
        values = list(one.GetSpacing() if number == 0 else one.GetOrigin())
        values[number] += 0.01
        getattr(one, setter)(values)
        yield setter, one
    one = scan()
    one.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, -1))
    yield "SetDirection", one
    yield "a slice less", scan()[:, :, :-1]
    other = sitk.GetImageFromArray(sitk.GetArrayFromImage(scan()).reshape(6, 8, 7))
    other.SetSpacing(scan().GetSpacing())
    other.SetOrigin(scan().GetOrigin())
    yield "another shape", other


@pytest.mark.parametrize("kind, changed", list(changes()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_fingerprint_changes_with(kind, changed):
    assert fingerprint(changed) != fingerprint(scan())


def test_a_fingerprint_is_of_the_image_alone(tmp_path):
    own = fingerprint(scan())
    assert len(own) == 64
    assert fingerprint(scan()) == own
    assert fingerprint(sitk.Cast(scan(), sitk.sitkFloat32)) == own
    for name in ("a.nrrd", "a.nii.gz", "a.mha"):
        sitk.WriteImage(scan(), str(tmp_path / name))
        assert fingerprint(sitk.ReadImage(str(tmp_path / name))) == own


LAYING = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
FEW_DIGITS = (0.9985, 0.0548, 0.0, -0.0548, 0.9985, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("direction", [LAYING, FEW_DIGITS])
@pytest.mark.parametrize("spacing", [(0.7125, 0.7125, 1.2505), (0.9765625, 0.9765625, 1.25)])
def test_a_fingerprint_is_the_same_in_every_format(tmp_path, direction, spacing):
    """NIfTI has numbers of 32 bits, and zeros with a sign."""
    image = scan()
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    image.SetOrigin((-120.0005, 0.0, 13.4565))
    own = fingerprints(image)
    for name in ("a.nrrd", "a.nii.gz", "a.mha"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert fingerprint(read_image(tmp_path / name)) == own[0], name
    # What earlier versions called it is found, and is no other image.
    assert earlier_fingerprint(image) in own and not set(own) & set(fingerprints(scan()))


def test_images_that_earlier_versions_recognized_are_recognized():
    """Most have the same fingerprint."""
    assert fingerprints(scan()) == (earlier_fingerprint(scan()),)
    image, labels = phantom()[0], np.full((20, 40, 48), -1, np.int16)
    image.SetSpacing((0.7125, 0.7125, 1.25))
    assert fingerprint(image) != earlier_fingerprint(image)
    labels[3, 4, 5:9], labels[3, 5, 5:9] = 1, 0
    prompts = make(strokes=(Strokes.pack(earlier_fingerprint(image), labels, [1]),))
    assert np.array_equal(strokes_on(image, prompts, prompts, None, FeatureCache(0)), labels)
    painted = Example(image, Grid.of(image).image(np.where(labels[::-1] < 0, 0, 2).astype(np.uint8)))
    (kept,) = strokes_to_keep([painted], {"spleen": 2}, prompts, FeatureCache(0))
    assert kept.image == fingerprint(image)
    assert np.array_equal(kept.unpack([1, 2]), np.where(labels[::-1] < 0, labels, 2))


def earlier_fingerprint(image: sitk.Image) -> str:
    numbers = (image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    digest = hashlib.sha256(repr(tuple(np.round(np.concatenate(numbers), 3).tolist())).encode())
    digest.update(sitk.GetArrayFromImage(image).astype(np.float32).tobytes())
    return digest.hexdigest()


def test_a_class_info_is_read_as_written():
    for name in ("liver", "right kidney", "Tumour (left), 2"):
        info = describe(name, 7)
        assert ClassInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize(
    "changes",
    [
        {"channels": []},
        {"channels": [8] * 9},
        {"channels": [8, 5000]},
        {"channels": [8, 16.0]},
        {"channels": 8},
        {"stem_stride": [1, 2]},
        {"stem_stride": [1, 2, 0]},
        {"window": True},
        {"head_channels": 0},
        {"tokens": 10**12},
        {"tokens": "2"},
        {"attention_from_level": -1},
        {"convolutions_to_level": 99},
        {"dynamic_rank": None},
    ],
)
def test_numbers_that_make_no_network(changes):
    with pytest.raises(ValueError):
        NetworkConfig.from_dict({**SMALL.to_dict(), **changes})
    assert NetworkConfig.from_dict(SMALL.to_dict()) == SMALL

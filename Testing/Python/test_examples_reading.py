"""Files: what can be read, and one sentence for what cannot."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from harness.refusals import sentence
from PromptSegLib.errors import PromptSegError
from PromptSegLib.imaging.intact import check_intact
from PromptSegLib.imaging.reading import read_annotation, read_image

FORMATS = ("nii", "nii.gz", "nrrd", "mha")


@pytest.fixture
def volume() -> sitk.Image:
    voxels = np.random.default_rng(0).integers(-1000, 1000, (20, 30, 40)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.7, 0.8, 2.0))
    return image


@pytest.mark.parametrize("suffix", [*FORMATS, "mhd", "nhdr"])
@pytest.mark.parametrize("compressed", [False, True])
def test_good_files(volume, tmp_path, suffix, compressed):
    path = tmp_path / f"scan.{suffix}"
    sitk.WriteImage(volume, str(path), compressed)
    image = read_image(path)
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(volume))
    assert np.allclose(image.GetSpacing(), volume.GetSpacing())


def test_gzip_in_several_members(volume, tmp_path):
    sitk.WriteImage(volume, str(tmp_path / "scan.nii"))
    data = (tmp_path / "scan.nii").read_bytes()
    parts = b"".join(gzip.compress(data[n : n + 9000]) for n in range(0, len(data), 9000))
    (tmp_path / "scan.nii.gz").write_bytes(parts)
    assert read_image(tmp_path / "scan.nii.gz").GetSize() == volume.GetSize()
    (tmp_path / "scan.nii.gz").write_bytes(parts[:-3000])
    sentence(lambda: read_image(tmp_path / "scan.nii.gz"), "truncated")


@pytest.mark.parametrize("kept", [0, 10, 200, 400, 0.5, -5])
@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_files(volume, tmp_path, capfd, suffix, kept):
    path = tmp_path / f"scan.{suffix}"
    sitk.WriteImage(volume, str(path), suffix != "nii")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept) if isinstance(kept, float) else kept])
    sentence(lambda: read_image(path), str(path), "export it again")
    sentence(lambda: read_annotation(path), str(path))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_damaged_files(volume, tmp_path, capfd, suffix):
    path = tmp_path / f"scan.{suffix}"
    sitk.WriteImage(volume, str(path), True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 1000] = bytes(1000)
    path.write_bytes(data)
    sentence(lambda: read_image(path), "damaged")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("suffix", [*FORMATS, "mhd", "png", "dcm", "xyz"])
def test_files_of_another_format(tmp_path, capfd, suffix):
    path = tmp_path / f"scan.{suffix}"
    path.write_text("not an image at all\n" * 50)
    sentence(lambda: read_image(path), str(path))
    assert capfd.readouterr().err == ""


def test_detached_data_missing(volume, tmp_path, capfd):
    sitk.WriteImage(volume, str(tmp_path / "scan.mhd"))
    (tmp_path / "scan.raw").unlink()
    sentence(lambda: read_image(tmp_path / "scan.mhd"), "data file is missing")
    assert capfd.readouterr().err == ""


def test_missing_and_folder(tmp_path, capfd):
    sentence(lambda: read_image(tmp_path / "no.nii.gz"), "does not exist")
    sentence(lambda: read_image(tmp_path), "folder")
    assert capfd.readouterr().err == ""


def test_a_name_that_is_not_utf_8(tmp_path):
    """SimpleITK would end the process. The sentence itself can be printed."""
    said = sentence(lambda: read_image(tmp_path / "bad\udcff.nrrd"), "not UTF-8")
    assert said.isascii()
    with pytest.raises(PromptSegError, match="not UTF-8"):
        check_intact(tmp_path / "bad\udcff.nrrd")


def test_headers_that_place_voxels_nowhere(volume, tmp_path, capfd):
    path = tmp_path / "scan.nrrd"
    volume.SetSpacing((1, 1, 1))
    sitk.WriteImage(volume, str(path))
    data = path.read_bytes()
    for wrong, word in ((b"(0,0,0) (0,1,0)", "spacing"), (b"(1,0,0) (1,0,0)", "perpendicular")):
        path.write_bytes(data.replace(b"(1,0,0) (0,1,0)", wrong, 1))
        sentence(lambda: read_image(path), word)
    assert capfd.readouterr().err == ""


def test_kinds_that_are_no_scalar_volume(tmp_path):
    path = tmp_path / "scan.nrrd"
    for voxels, vector, word in (
        (np.zeros((3, 4, 5, 6), np.int16), False, "4 dimensions"),
        (np.zeros((4, 5, 6, 3), np.uint8), True, "3 values per voxel"),
        (np.zeros((5, 6), np.int16), False, "single slice"),
        (np.zeros((1, 5, 6), np.int16), False, "single slice"),
    ):
        sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=vector), str(path))
        sentence(lambda: read_image(path), "scan.nrrd", word)
        if voxels.shape != (1, 5, 6):
            sentence(lambda: read_annotation(path), "scan.nrrd", word)
    assert read_annotation(path).GetSize() == (6, 5, 1)


def test_one_volume_in_four_dimensions_is_a_volume(tmp_path):
    path = tmp_path / "scan.nrrd"
    voxels = np.arange(120, dtype=np.int16).reshape(1, 4, 5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(voxels, isVector=False), str(path))
    assert np.array_equal(sitk.GetArrayFromImage(read_image(path)), voxels[0])
    assert np.array_equal(sitk.GetArrayFromImage(read_annotation(path)), voxels[0])


@pytest.mark.parametrize("top, pixel", [(3.0, sitk.sitkInt16), (70000.0, sitk.sitkInt32)])
def test_whole_numbers_become_integers(tmp_path, top, pixel):
    values = np.zeros((4, 5, 6), np.float32)
    values[1, 2, 3] = top
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nii.gz"))
    labels = read_annotation(tmp_path / "a.nii.gz")
    assert labels.GetPixelID() == pixel
    assert np.array_equal(sitk.GetArrayFromImage(labels), values)


@pytest.mark.parametrize("wrong", [0.5, np.nan, np.inf, 1e20])
def test_other_numbers_are_refused(tmp_path, wrong):
    values = np.zeros((4, 5, 6), np.float64)
    values[1, 2, 3] = wrong
    sitk.WriteImage(sitk.GetImageFromArray(values), str(tmp_path / "a.nrrd"))
    sentence(lambda: read_annotation(tmp_path / "a.nrrd"), "whole numbers")


def layered(path, values: list[int]) -> np.ndarray:
    """A segmentation in two layers as Slicer writes it; one segment in each."""
    layers = np.zeros((4, 5, 6, 2), np.uint8)
    layers[:3, ..., 0] = (layers[:3, ..., 0] + 1) * values[0]
    layers[2:, ..., 1] = (layers[2:, ..., 1] + 1) * values[1]
    image = sitk.GetImageFromArray(layers, isVector=True)
    for number, value in enumerate(values):
        image.SetMetaData(f"Segment{number}_LabelValue", str(value))
        image.SetMetaData(f"Segment{number}_Layer", str(number))
    sitk.WriteImage(image, str(path), True)
    return layers


def test_layers_are_flattened_as_slicer_exports_them(tmp_path):
    path = tmp_path / "s.seg.nrrd"
    layered(path, [3, 4])
    labels = sitk.GetArrayFromImage(read_annotation(path))
    assert labels[:, 0, 0].tolist() == [3, 3, 4, 4]
    layered(path, [1, 1])
    sentence(lambda: read_annotation(path), "labelmap")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("off", [6e-10, -7e-10, 2e-7, -2e-7, 1e-5])
def test_labels_within_rounding_of_whole_numbers(tmp_path, suffix, dtype, off):
    wanted = np.random.default_rng(0).choice([0, 1, 3, 255, 300, 4095, 65535], (4, 5, 6))
    values = wanted * (1 + off) if abs(off) < 1e-6 else wanted + off
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(dtype)), str(tmp_path / f"labels.{suffix}"))
    read = read_annotation(tmp_path / f"labels.{suffix}")
    assert np.array_equal(sitk.GetArrayFromImage(read), wanted)
    assert read.GetPixelID() in (sitk.sitkInt16, sitk.sitkInt32)


@pytest.mark.parametrize("value", [0.5, 2.999, 0.001, -0.25, 300.01, 65000.4, np.nan, np.inf, 1e302])
def test_labels_that_are_no_whole_numbers(tmp_path, value):
    labels = np.zeros((4, 5, 6))
    labels[1, 2, 3] = value
    sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / "labels.nrrd"))
    sentence(lambda: read_annotation(tmp_path / "labels.nrrd"), "not whole numbers")


def test_a_spacing_in_another_unit_is_refused_at_the_header(volume, tmp_path, monkeypatch):
    def read(self):
        raise AssertionError("the voxels were read")

    volume.SetSpacing((700.0, 700.0, 3000.0))
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", read)
    for suffix in FORMATS:
        sitk.WriteImage(volume, str(tmp_path / f"scan.{suffix}"))
        sentence(lambda suffix=suffix: read_image(tmp_path / f"scan.{suffix}"), "check the voxel spacing")


@pytest.mark.parametrize("number", ["1e308", "-1e308", "1e160", "7"])
@pytest.mark.parametrize("reads", [read_image, read_annotation])
def test_directions_that_are_none_are_refused_before_itk_looks_for_their_inverse(tmp_path, number, reads):
    """Of some it looks forever."""
    path = tmp_path / "scan.mha"
    sitk.WriteImage(sitk.Image([4, 3, 2], sitk.sitkUInt8), str(path))
    data = path.read_bytes()
    assert b"TransformMatrix = 1 0 0" in data
    path.write_bytes(data.replace(b"TransformMatrix = 1 0 0", f"TransformMatrix = 1 {number} 0".encode()))
    with pytest.raises(PromptSegError, match="no valid orientation|perpendicular"):
        reads(path)


@pytest.mark.parametrize("name", ["SCAN.MHA", "scan.Mha", "SCAN.MHD", "SCAN.NRRD", "scan.Nrrd"])
def test_capitals_in_a_suffix(volume, tmp_path, name):
    small = tmp_path / f"scan{name[4:].lower()}"
    sitk.WriteImage(volume, str(small))
    small.rename(tmp_path / name)
    assert np.array_equal(sitk.GetArrayFromImage(read_image(tmp_path / name)), sitk.GetArrayFromImage(volume))


@pytest.mark.parametrize("suffix, data", [("mhd", "zraw"), ("nhdr", "raw.gz")])
@pytest.mark.parametrize("wrong", ["cut", "changed"])
def test_damaged_data_beside_a_header(volume, tmp_path, capfd, suffix, data, wrong):
    path, beside = tmp_path / f"scan.{suffix}", tmp_path / f"scan.{data}"
    sitk.WriteImage(volume, str(path), True)
    content = bytearray(beside.read_bytes())
    content[len(content) // 2] ^= 0xFF
    beside.write_bytes(beside.read_bytes()[:-20] if wrong == "cut" else content)
    sentence(lambda: read_image(path), "truncated" if wrong == "cut" else "damaged")
    assert capfd.readouterr().err == ""


def test_compressed_voxels_whose_length_is_left_out(volume, tmp_path):
    """ITK would take the file's header for voxels."""
    path = tmp_path / "scan.mha"
    sitk.WriteImage(volume, str(path), True)
    head, size, rest = path.read_bytes().partition(b"CompressedDataSize")
    assert size
    path.write_bytes(head + rest[rest.index(b"\n") + 1 :])
    sentence(lambda: read_image(path), "damaged")


@pytest.mark.parametrize("step", [b"none", b"(nan,nan,nan)", b"(nan,0,1)"])
def test_an_axis_of_which_a_header_says_nothing(volume, tmp_path, step):
    """ITK takes it for 1 mm. A list of values at each voxel is no axis of space."""
    path = tmp_path / "scan.nrrd"
    volume.SetSpacing((1, 1, 5))
    sitk.WriteImage(volume, str(path))
    content = path.read_bytes()
    assert b"(0,0,5)" in content
    path.write_bytes(content.replace(b"(0,0,5)", step, 1))
    for reads in (read_image, read_annotation):
        sentence(lambda reads=reads: reads(path), "how far apart")
    directions = b"space directions: (1,0,0) (0,1,0) (0,0,5)"
    assert directions in content
    path.write_bytes(content.replace(directions, b"spacings: 1 nan 5", 1).replace(b"space", b"#", 1))
    sentence(lambda: read_image(path), "how far apart")


def test_a_damaged_file_of_dicom(tmp_path):
    (tmp_path / "scan.dcm").write_bytes(bytes(128) + b"DICM" + bytes(100))
    sentence(lambda: read_image(tmp_path / "scan.dcm"), "damaged")


@pytest.mark.parametrize(
    "key, text",
    [
        ("LabelValue", "x"),
        ("LabelValue", ""),
        ("LabelValue", "0"),
        ("LabelValue", "-1"),
        ("LabelValue", "9" * 30),
        ("Layer", "x"),
        ("Layer", "-1"),
        ("Layer", "9"),
    ],
)
def test_a_damaged_list_of_segments(tmp_path, key, text):
    layered(tmp_path / "s.seg.nrrd", [1, 2])
    image = sitk.ReadImage(str(tmp_path / "s.seg.nrrd"))
    image.SetMetaData(f"Segment1_{key}", text)
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    sentence(lambda: read_annotation(tmp_path / "s.seg.nrrd"), "export the segmentation to a labelmap")


def test_a_segment_whose_value_no_voxel_can_have_is_empty(tmp_path):
    layered(tmp_path / "s.seg.nrrd", [1, 2])
    image = sitk.ReadImage(str(tmp_path / "s.seg.nrrd"))
    image.SetMetaData("Segment1_LabelValue", "70000")
    sitk.WriteImage(image, str(tmp_path / "s.seg.nrrd"))
    labels = sitk.GetArrayFromImage(read_annotation(tmp_path / "s.seg.nrrd"))
    assert labels[:, 0, 0].tolist() == [1, 1, 1, 0]

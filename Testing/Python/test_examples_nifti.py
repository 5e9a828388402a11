"""NIfTI files are read as the standard says, also where ITK reads them otherwise; nibabel is the other opinion."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from harness.mrml_volumes import rotation
from harness.refusals import sentence
from PromptSegLib.annotation.pairs import read_pair
from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.imaging.nifti import Header, sibling
from PromptSegLib.imaging.reading import read_annotation, read_image
from PromptSegLib.inference.writing import write_image

VOXELS = np.random.default_rng(0).integers(0, 100, (12, 11, 10)).astype(np.int16)
RAS_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SPACING, ORIGIN = (1.0, 2.0, 3.0), (-40.0, 25.0, 310.0)


def affine(turn=(10, 20, 30), spacing=SPACING, origin=ORIGIN, skew=0.0) -> np.ndarray:
    """(4, 4) indices to RAS; the first axis leans towards the second by ``skew``."""
    axes = rotation(*turn)
    axes[:, 0] += skew * axes[:, 1]
    axes[:, 0] /= np.linalg.norm(axes[:, 0])
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes * spacing, origin
    return matrix


def nifti(path: Path, sform=None, qform=None, codes=(1, 1), voxels=VOXELS, kind=nibabel.Nifti1Image, **fields) -> Path:
    """A file with the positions that are given, and with header fields as they are given."""
    image = kind(voxels, None)
    image.header.set_data_dtype(voxels.dtype)
    image.set_qform(qform, codes[1] if qform is not None else 0)
    image.set_sform(sform, codes[0] if sform is not None else 0)
    if qform is None:
        image.header["pixdim"][1:4] = SPACING
    nibabel.save(image, str(path))
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(sibling(path, ".hdr"), "rb") as file:
        content = bytearray(file.read())
    header = np.frombuffer(content, image.header.template_dtype, 1)  # nibabel would refuse what some fields say
    for name, value in fields.items():
        header[name] = value
    with opened(sibling(path, ".hdr"), "wb") as file:
        file.write(content)
    return path


def lies(image: sitk.Image, matrix: np.ndarray) -> bool:
    """Whether every voxel of an image is where a (4, 4) matrix in RAS puts it, to a thousandth of a voxel."""
    grid, wanted = Grid.of(image), RAS_LPS @ matrix
    ends = np.array(np.meshgrid(*[(0, extent - 1) for extent in image.GetSize()], indexing="ij")).reshape(3, -1).T
    gap = grid.indices(ends @ wanted[:3, :3].T + wanted[:3, 3]) - ends
    return bool(np.abs(gap).max() < 1e-3)


def values(image: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(image).T


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".hdr", ".img.gz", ".hdr.gz"])
@pytest.mark.parametrize("skew", [0.0, 1e-5, 1e-4, 3e-4, 1e-3, 1.9e-3, -1.5e-3])
def test_axes_within_the_tolerance(tmp_path, skew, suffix):
    kind = nibabel.Nifti1Image if suffix.startswith(".nii") else nibabel.Nifti1Pair
    matrix = affine(skew=skew)
    path = nifti(tmp_path / f"scan{suffix}", sform=matrix, kind=kind)
    for image in (read_image(path), read_annotation(path)):
        assert lies(image, matrix)
        assert np.array_equal(values(image), VOXELS)
        assert image.GetPixelID() == sitk.sitkInt16


@pytest.mark.parametrize("skew", [3e-3, 0.05, -0.3])
def test_axes_beyond_the_tolerance(tmp_path, skew):
    path = nifti(tmp_path / "scan.nii", sform=affine(skew=skew))
    sentence(lambda: read_image(path), "perpendicular")
    path = nifti(tmp_path / "two.nii", sform=affine(skew=skew), qform=affine(origin=(1, 2, 3)))
    assert lies(read_image(path), affine(origin=(1, 2, 3)))


@pytest.mark.parametrize("codes", [(1, 1), (1, 2), (2, 1), (4, 1), (2, 0), (4, 0), (0, 1), (0, 2), (1, 0)])
def test_which_position_counts(tmp_path, codes):
    """The one that counts in ITK, which leaves no doubt here."""
    sform, qform = affine((0, 0, 5)), affine((20, -30, 40), origin=(5, 6, 7))
    path = nifti(tmp_path / "scan.nii", sform, qform, codes)
    counts = sform if codes[0] == 1 or not codes[1] else qform
    assert lies(read_image(path), counts)
    assert lies(sitk.ReadImage(str(path)), counts)


def test_the_spacing_is_that_of_the_position(tmp_path):
    """ITK takes the distances beside the sform instead."""
    path = nifti(tmp_path / "scan.nii", sform=affine(), pixdim=[1, 9, 9, 9, 1, 1, 1, 1])
    assert lies(read_image(path), affine())


@pytest.mark.parametrize("handedness", [1, -1])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("skew", [0.0, 1e-3])
def test_every_kind_of_header(tmp_path, handedness, kind, order, skew):
    matrix = affine(skew=skew) @ np.diag([1, 1, handedness, 1])
    header = kind(VOXELS, matrix).header.as_byteswapped(order)
    image = kind(VOXELS, None, header)
    image.set_sform(matrix, 2)
    image.set_qform(matrix, 0 if skew else 1)
    nibabel.save(image, str(tmp_path / "scan.nii"))
    assert (tmp_path / "scan.nii").read_bytes()[:1] == (
        b"\0" if order == ">" else b"\x5c" if kind is nibabel.Nifti1Image else b"\x1c"
    )
    read = read_image(tmp_path / "scan.nii")
    assert lies(read, matrix)
    assert np.array_equal(values(read), VOXELS)


def test_qforms_are_read_as_nibabel_reads_them():
    rng = np.random.default_rng(1)
    turns = [*rng.uniform(-180, 180, (50, 3)), (180, 0, 0), (0, 180, 0), (0, 0, 180), (90, 0, 90), (180, 0, 180)]
    for number, turn in enumerate(turns):
        image = nibabel.Nifti1Image(VOXELS, None)
        mirror = np.diag([1, 1, (-1) ** number, 1])
        image.set_qform(affine(turn, rng.uniform(0.3, 5, 3), rng.uniform(-300, 300, 3)) @ mirror, 1)
        header = Header.parsed(image.header.binaryblock)
        assert header is not None
        grid = header.grid("scan")
        assert grid is not None
        assert np.allclose(RAS_LPS[:3, :3] @ image.get_qform()[:3, :3], grid.matrix, atol=1e-5)
        assert np.allclose(RAS_LPS[:3, :3] @ image.get_qform()[:3, 3], grid.origin, atol=1e-4)


@pytest.mark.parametrize("unit, scale", [(1, 1e3), (2, 1.0), (3, 1e-3), (0, 1.0), (10, 1.0)])
def test_units_of_the_header(tmp_path, unit, scale):
    """Those that are declared are heeded."""
    matrix = affine(spacing=(1 / scale, 2 / scale, 3 / scale), origin=(5 / scale, 6 / scale, 7 / scale), skew=1e-3)
    path = nifti(tmp_path / "scan.nii", sform=matrix, xyzt_units=unit)
    assert lies(read_image(path), affine(origin=(5, 6, 7), skew=1e-3))


@pytest.mark.parametrize("broken", ["sform", "qform"])
def test_a_position_that_is_damaged(tmp_path, broken):
    sform, qform = affine((0, 0, 5)), affine((20, -30, 40))
    fields = {"srow_x": np.nan} if broken == "sform" else {"quatern_b": np.inf}
    path = nifti(tmp_path / "scan.nii", sform, qform, (1, 1) if broken == "sform" else (2, 1), **fields)
    assert lies(read_image(path), qform if broken == "sform" else sform)
    path = nifti(tmp_path / "alone.nii", **{broken: sform}, **fields)
    sentence(lambda: read_image(path), "no valid orientation")
    path = nifti(tmp_path / "zero.nii", sform, srow_x=0, srow_y=0, srow_z=0)
    sentence(lambda: read_image(path), "no valid orientation")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slope, inter", [(0, 0), (0, 3), (np.nan, 3), (np.nan, np.nan), (np.inf, 3), (-np.inf, -1)])
def test_a_slope_that_means_no_scaling(tmp_path, suffix, slope, inter):
    path = nifti(tmp_path / f"scan{suffix}", affine(), scl_slope=slope, scl_inter=inter)
    for image in (read_image(path), read_annotation(path)):
        assert np.array_equal(values(image), VOXELS)
        assert lies(image, affine())


@pytest.mark.parametrize("slope, inter", [(1, 0), (1, 3), (2, 0), (0.5, -10), (-1, 5), (1, -1024)])
@pytest.mark.parametrize("skew", [0, 1e-3])
def test_a_slope_that_scales(tmp_path, slope, inter, skew):
    path = nifti(tmp_path / "scan.nii", affine(skew=skew), scl_slope=slope, scl_inter=inter)
    assert np.array_equal(values(read_image(path)), VOXELS * slope + inter)


def test_scaled_labels(tmp_path):
    """Scaling in single precision leaves fractions that are none."""
    stored = np.round(VOXELS / 0.1).astype(np.int16)
    path = nifti(tmp_path / "labels.nii", affine(), voxels=stored, scl_slope=0.1, scl_inter=0)
    assert np.array_equal(values(read_annotation(path)), VOXELS)


def test_pairs_of_files(tmp_path):
    path = nifti(tmp_path / "scan.hdr", affine(), kind=nibabel.Nifti1Pair)
    assert sibling(path, ".img") == tmp_path / "scan.img"
    assert sibling(tmp_path / "scan.nrrd", ".img") == tmp_path / "scan.nrrd"
    data = (tmp_path / "scan.img").read_bytes()
    (tmp_path / "scan.img").write_bytes(data[:-100])
    for file in (path, tmp_path / "scan.img"):
        sentence(lambda file=file: read_image(file), "scan.img", "truncated")
    (tmp_path / "scan.img").unlink()
    sentence(lambda: read_image(path), "scan.img")


def test_no_file_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    path = nifti(tmp_path / "scan.nii.gz", affine(skew=1e-3))
    read_image(path)
    assert not list((tmp_path / "temporary").iterdir())


# Results


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (4, 3), (0, 0), (0, 1), (3, 0)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_result_has_both_positions_of_its_image(tmp_path, suffix, codes, kind):
    sform, qform = affine((0, 0, 5), skew=1e-3), affine((20, -30, 40), origin=(5, 6, 7))
    given = nifti(tmp_path / "scan.nii", sform, qform, codes, kind=kind)
    image = read_image(given)
    write_image(image, tmp_path / f"result{suffix}", given)
    result, source = nibabel.load(tmp_path / f"result{suffix}"), nibabel.load(given)
    for form in ("get_sform", "get_qform"):
        (one, code), (other, other_code) = (getattr(each, form)(coded=True) for each in (result, source))
        assert code == other_code
        assert code == 0 or np.allclose(one, other, atol=1e-5)
    assert result.header["pixdim"][1:4].tolist() == source.header["pixdim"][1:4].tolist()
    assert np.array_equal(np.asarray(result.dataobj), VOXELS)
    again = read_image(tmp_path / f"result{suffix}")
    assert Grid.of(again).same_as(Grid.of(image), 1e-4)
    assert {each.name for each in tmp_path.iterdir()} == {"scan.nii", f"result{suffix}"}


def test_a_result_of_another_kind_of_file(tmp_path):
    given = nifti(tmp_path / "scan.nii", affine(), codes=(2, 0))
    image = read_image(given)
    write_image(image, tmp_path / "result.nrrd", given)
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    write_image(image, tmp_path / "result.nii", tmp_path / "scan.nrrd")
    for name in ("result.nrrd", "result.nii"):
        assert lies(read_image(tmp_path / name), affine())


# Pairs


OTHER = affine((20, -30, 40), origin=(5, 6, 7))
THIRD = affine((1, 2, 3), origin=(500, 6, 7))


def pair(tmp_path, image, annotation):
    """What is read of an image and an annotation with (sform, qform) each, and what is said."""
    given = (("scan", image, VOXELS), ("mask", annotation, VOXELS // 50))
    files = [nifti(tmp_path / f"{name}.nii", *each, codes=(2, 1), voxels=voxels) for name, each, voxels in given]
    said: list[str] = []
    one, two = read_pair(*files, said.append)
    assert all(each.endswith(".") and ". " not in each for each in said)
    return Grid.of(one).same_as(Grid.of(two)), said


def test_positions_that_agree(tmp_path):
    for image, annotation in [
        ((affine(), None), (affine(), None)),
        ((affine(), None), (None, affine())),
        ((affine(), OTHER), (affine(), OTHER)),
        ((affine(), affine()), (affine(), None)),
    ]:
        assert pair(tmp_path, image, annotation) == (True, [])
    assert pair(tmp_path, (affine(), None), (THIRD, None)) == (False, [])


@pytest.mark.parametrize("annotation", [(affine(), None), (None, affine()), (OTHER, None), (None, OTHER)])
def test_an_annotation_that_fits_one_of_two_positions(tmp_path, annotation):
    same, said = pair(tmp_path, (affine(), OTHER), annotation)
    assert same
    assert len(said) == 1 and "scan.nii holds two positions" in said[0]


def test_an_annotation_with_two_positions_of_which_one_fits(tmp_path):
    same, said = pair(tmp_path, (None, OTHER), (affine(), OTHER))  # the qform counts
    assert same and len(said) == 1 and "mask.nii holds two positions" in said[0]
    sentence(lambda: pair(tmp_path, (None, affine()), (affine(), OTHER)), "mask.nii holds two positions")
    sentence(lambda: pair(tmp_path, (affine(), THIRD), (affine(), OTHER)), "mask.nii holds two positions")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers(tmp_path, suffix, dtype, value):
    """ITK makes them 0 without a word, which is water in a CT."""
    voxels = VOXELS.astype(dtype)
    kind = nibabel.Nifti1Image if suffix.startswith(".nii") else nibabel.Nifti1Pair
    header = kind(voxels, None).header.as_byteswapped(dtype[0])
    image = kind(voxels, affine(), header)
    path = tmp_path / f"scan{suffix}"
    nibabel.save(image, path)
    assert np.array_equal(values(read_image(path)), VOXELS)
    voxels[3, 4, 5] = value
    nibabel.save(kind(voxels, affine(), header), path)
    for reads in (read_image, read_annotation):
        sentence(lambda reads=reads: reads(path), "NaN or infinite")


@pytest.mark.parametrize("name", ["scan.Nii", "scan.NII.gz", "scan.Nii.Gz", "scan.nii.GZ", "packed.nii", "PACKED.NII"])
def test_names_that_itk_does_not_know(tmp_path, name):
    nifti(tmp_path / "scan.nii.gz", sform=affine())
    content = (tmp_path / "scan.nii.gz").read_bytes()
    path = tmp_path / name
    path.write_bytes(gzip.decompress(content) if name == "scan.Nii" else content)
    image = read_image(path)
    assert lies(image, affine())
    assert np.array_equal(values(image), VOXELS)


@pytest.mark.parametrize("distances", [0.0, np.nan, np.inf])
def test_distances_that_are_none_beside_a_good_sform(tmp_path, distances):
    path = nifti(tmp_path / "scan.nii.gz", sform=affine(), pixdim=[1, distances, distances, 3, 1, 1, 1, 1])
    image = read_image(path)
    assert lies(image, affine())
    write_image(image, tmp_path / "result.nii.gz", path)
    assert lies(read_image(tmp_path / "result.nii.gz"), affine())
    result = nibabel.load(tmp_path / "result.nii.gz")
    assert np.allclose(result.affine, affine(), atol=1e-4)
    assert np.allclose(result.header.get_zooms(), SPACING)


def test_distances_that_are_none_beside_a_qform(tmp_path):
    path = nifti(tmp_path / "scan.nii.gz", qform=affine(), pixdim=[1, 0, 2, 3, 1, 1, 1, 1])
    sentence(lambda: read_image(path), "not positive")


def test_negative_distances_without_a_position(tmp_path):
    """The standard has them positive; their sign says nothing."""
    for name, sign in (("plain", 1), ("negative", -1)):
        nifti(tmp_path / f"{name}.nii.gz", pixdim=[1, sign * 1, sign * 2, sign * 3, 1, 1, 1, 1])
    plain, negative = (read_image(tmp_path / f"{name}.nii.gz") for name in ("plain", "negative"))
    assert Grid.of(negative) == Grid.of(plain)
    assert np.array_equal(values(negative), VOXELS)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_voxels_whose_place_in_the_file_is_left_out(tmp_path, kind):
    path = nifti(tmp_path / "scan.nii", sform=affine(), kind=kind, vox_offset=0)
    assert np.array_equal(values(read_image(path)), VOXELS)


@pytest.mark.parametrize("name", ["scan.nii.nii.gz", "scan.nii.nii", "scan.hdr.nii", "scan.NII.nii.gz", ".nii.gz"])
@pytest.mark.parametrize("source", [False, True])
def test_names_of_which_itk_drops_a_part(tmp_path, name, source):
    image = read_image(nifti(tmp_path / "image.nii.gz", sform=affine()))
    write_image(image, tmp_path / name, tmp_path / "image.nii.gz" if source else None)
    assert np.array_equal(values(read_image(tmp_path / name)), VOXELS)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([name, "image.nii.gz"])


@pytest.mark.parametrize("end", [".nii", ".img"])
def test_the_same_name_packed_and_not_are_two_images(tmp_path, end):
    """ITK gives the voxels of the plain one for both."""
    paths = [tmp_path / f"a{end}", tmp_path / f"a{end}.gz"]
    for value, path in enumerate(paths, 1):
        sitk.WriteImage(sitk.Image(5, 4, 3, sitk.sitkInt16) + value, str(path))
    assert [read_image(path)[0, 0, 0] for path in paths] == [1, 2]

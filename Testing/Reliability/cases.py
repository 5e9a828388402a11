"""Hard volumes: what other people's files look like, each with what must come of it.

``CASES`` is the list; ``case.make(folder)`` writes the files of one. The same cases serve the command line
(``hard_volumes.py``) and, by their arrays and matrices, the scene.
"""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Optional, Union

import nibabel
import numpy as np
import SimpleITK as sitk
from constructed import BACKGROUND, Phantom, Place, image_of, phantom, write, write_nifti


@dataclass(frozen=True)
class Files:
    """An image and its annotation as files, and what is known of them.

    :param phantom: what the image shows, on the image's grid, and where that lies.
    """

    image: Path
    annotation: Path
    phantom: Phantom


@dataclass(frozen=True)
class Case:
    """A hard volume.

    :param refusal: words of the one sentence with which it is refused; None if it must come out right.
    :param in_scene: whether it is hard because of its grid and values, rather than because of its file.
    """

    name: str
    kind: str
    make: Callable[[Path], Files]
    refusal: Optional[str] = None
    in_scene: bool = False


CASES: list[Case] = []
Maker = Callable[[Path], Files]


def _case(kind: str, name: str, make: Maker, refusal: Optional[str] = None, in_scene: bool = False) -> None:
    CASES.append(Case(name, kind, make, refusal, in_scene))


def on(place: Place, suffix: str = ".nrrd") -> Maker:
    """The phantom on a grid."""

    def make(folder: Path) -> Files:
        shown = phantom(place)
        image = write(folder / f"scan{suffix}", shown.image, shown.matrix)
        return Files(image, write(folder / f"mask{suffix}", shown.strokes, shown.matrix), shown)

    return make


def by(
    image: Callable[[Path, Phantom], Optional[Path]],
    annotation: Optional[Callable[[Path, Phantom], Optional[Path]]] = None,
    place: Place = Place(),  # noqa: B008 (it is frozen)
) -> Maker:
    """The phantom in files of one's own: functions of a folder that write the image and the annotation."""

    def make(folder: Path) -> Files:
        shown = phantom(place)
        scan = image(folder, shown) or folder / "scan.nrrd"
        mask = annotation(folder, shown) if annotation else None
        return Files(scan, mask or write(folder / "mask.nrrd", shown.strokes, shown.matrix), shown)

    return make


def plain(folder: Path, shown: Phantom) -> Path:
    return write(folder / "scan.nrrd", shown.image, shown.matrix)


def typed(dtype: str, scale: float = 1.0, shift: float = 0.0, low: float = -1024, suffix: str = ".nrrd") -> Maker:
    """The image with another type of voxels, its values (not below ``low``) scaled and then shifted."""

    def image(folder: Path, shown: Phantom) -> Path:
        values = np.maximum(shown.image, low) * scale + shift
        return write(folder / f"scan{suffix}", values.astype(dtype), shown.matrix)

    return by(image)


def broken(value: float, dtype: str = "f8") -> Maker:
    """The image with a voxel that is no number, or none that can be."""

    def image(folder: Path, shown: Phantom) -> Path:
        values = shown.image.astype(dtype)
        values[3, 4, 5] = value
        return write(folder / "scan.nrrd", values, shown.matrix)

    return by(image)


def declared(code: int, scale: float) -> Maker:
    """NIfTI files in another unit that they name."""

    def make(folder: Path) -> Files:
        shown = phantom(Place(turn=(5, 10, 15)))
        matrix = np.diag([scale, scale, scale, 1]) @ shown.matrix
        image = write_nifti(folder / "scan.nii", shown.image, matrix, xyzt_units=code)
        return Files(image, write_nifti(folder / "mask.nii", shown.strokes, matrix, xyzt_units=code), shown)

    return make


def nifti(place: Place = Place(), suffix: str = ".nii.gz", image: Optional[dict] = None, **both) -> Maker:  # noqa: B008
    """Image and annotation as NIfTI files, with the sform unless it is said otherwise; ``image``: for the image alone.

    ``True`` for a position stands for the matrix of the grid.
    """

    def make(folder: Path) -> Files:
        shown = phantom(place)

        def file(name: str, array: np.ndarray, options: dict) -> Path:
            options = {"sform": True, **options}
            for form in ("sform", "qform"):
                if options.get(form) is True:
                    options[form] = shown.matrix
            return write_nifti(folder / f"{name}{suffix}", array, **options)

        scan = file("scan", shown.image, {**both, **(image or {})})
        return Files(scan, file("mask", shown.strokes, both), shown)

    return make


def placed_like(change: Callable[[Place], Place], cut: bool = False) -> Callable[[Path, Phantom], Path]:
    """The annotation on another grid over the same phantom."""

    def annotation(folder: Path, shown: Phantom) -> Path:
        other = phantom(change(shown.place), shown.place.middle)
        strokes = np.where(other.strokes > 0, other.strokes, 0).astype(np.uint8)
        return write(folder / "mask.nrrd", strokes, other.matrix)

    return annotation


def relabeled(change: Callable[[np.ndarray], np.ndarray], suffix: str = ".nrrd") -> Callable[[Path, Phantom], Path]:
    """The annotation with other voxels."""
    return lambda folder, shown: write(folder / f"mask{suffix}", change(shown.strokes), shown.matrix)


def edited(path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(path.read_bytes()))
    return path


def named(name: Union[str, bytes]) -> Maker:
    """The image under another name, or in a folder of another name."""

    def image(folder: Path, shown: Phantom) -> Path:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        plain(folder, shown).rename(path)
        return path

    return by(image)


# Where the voxels lie

_AXES: dict[str, dict[str, Any]] = {
    "as the patient": {},
    "left and posterior first": {"flips": (-1, -1, 1)},
    "sagittal slices": {"axes": (1, 2, 0)},
    "coronal slices": {"axes": (0, 2, 1)},
    "upside down": {"flips": (1, -1, -1)},
    "left-handed": {"flips": (1, 1, -1)},
    "left-handed, sagittal": {"axes": (2, 1, 0), "flips": (-1, 1, 1)},
    "oblique": {"turn": (20, -35, 50)},
    "oblique and left-handed": {"turn": (-41, 12, 170), "flips": (1, -1, 1)},
    "45 degrees about two axes": {"turn": (45, 45, 0)},
}
for _name, _change in _AXES.items():
    _case("orientation", _name, on(Place((2.5, 3.0, 3.5), **_change)), in_scene=True)
for _lean in (4e-4, 1.5e-3, -1.8e-3):
    _case("axes", f"NRRD, off by {_lean:g}", on(Place(lean=_lean, turn=(5, 10, 15))), in_scene=True)
_case("axes", "NRRD, off by 0.02", on(Place(lean=0.02)), "perpendicular", in_scene=True)

_THICK = Place((1.0, 1.0, 10.0), (108, 108, 11))
_SPACINGS = {
    "1 to 10": _THICK,
    "1 to 10, oblique": replace(_THICK, turn=(10, 15, 20)),
    "1 to 20": Place((0.8, 0.8, 16.0), (136, 136, 7)),
    "20 to 1, along the first axis": Place((16.0, 0.8, 0.8), (7, 136, 136)),
    "large voxels": Place((6.0, 6.0, 6.0)),
    "small voxels": Place((0.8, 0.8, 0.8), (136, 136, 60)),
    "three spacings": Place((1.3, 2.7, 4.1)),
    "a mouse, 0.2 mm": Place((0.2, 0.2, 0.2), scale=0.1),
    "two slices": Place(size=(36, 36, 2)),
    "two columns": Place(size=(2, 36, 36), axes=(2, 0, 1)),
    "three rows": Place(size=(36, 3, 36)),
}
for _name, _place in _SPACINGS.items():
    _case("spacing", _name, on(_place), in_scene=True)
for _size in ((36, 36, 1), (36, 1, 36), (1, 36, 36), (36, 1, 1)):
    _case("spacing", f"{' x '.join(map(str, _size))} voxels", on(Place(size=_size)), "single slice", in_scene=True)
for _unit, _scale in (("micrometers", 1e3), ("meters", 1e-3), ("0.02 mm, as 20", 20 / 3)):
    _wrong = Place((3 * _scale,) * 3, (100, 100, 70), scale=_scale)
    _case("units", f"{_unit} taken for mm", on(_wrong), "check the voxel spacing", in_scene=True)
for _unit, _code, _scale in (("micrometers", 3, 1e3), ("meters", 1, 1e-3)):
    _case("units", f"{_unit}, as the header says", declared(_code, _scale))

for _distance in (1e4, 1e5, -1e5):
    for _suffix in (".nrrd", ".nii.gz"):
        _far = Place(middle=(_distance, -_distance, 2 * _distance), turn=(5, 10, 15))
        _case("origin", f"{_distance:g} mm away, {_suffix}", on(_far, _suffix), in_scene=_suffix == ".nrrd")


# What the voxels hold

_case("values", "int16, with air at -2048", typed("i2", low=-2048, shift=-24))
for _type, _scale, _shift, _low in (
    ("u1", 0.5, 100, -200),
    ("i1", 0.5, -28, -200),
    ("u2", 1, 1024, -1024),
    ("i4", 1, 0, -1024),
    ("u4", 1, 1024, -1024),
    ("i8", 1, 0, -1024),
    ("f4", 1, 0.25, -1024),
    ("f8", 1, 0.125, -1024),
):
    _case("values", f"{np.dtype(_type).name}", typed(_type, _scale, _shift, _low), in_scene=True)
_case("values", "arbitrary units, 0..1", typed("f4", 1 / 500, 0.4, -200), in_scene=True)
_case("values", "arbitrary units, up to 1e6", typed("f4", 2000, 4e5, -200), in_scene=True)
for _name, _value, _words in (
    ("a NaN", np.nan, "NaN"),
    ("an infinity", np.inf, "infinite"),
    ("1e302", 1e302, "no intensities"),
    ("-1e300", -1e300, "no intensities"),
    ("3e38", 3e38, "no intensities"),
):
    _case("values", f"a voxel of {_name}", broken(_value), _words, in_scene=True)
_case("values", "one value everywhere", typed("i2", 0, 7), "same intensity", in_scene=True)
_case("values", "complex", by(lambda f, p: write(f / "scan.nrrd", p.image.astype("c8"), p.matrix)), "complex")
_case(
    "values",
    "color",
    by(lambda f, p: write(f / "scan.nrrd", np.stack([p.image.astype("u1")] * 3, -1), p.matrix, vector=True)),
    "3 values per voxel",
)


# NIfTI


def _nan_nifti(folder: Path, shown: Phantom) -> Path:
    """Of which ITK makes 0."""
    values = shown.image.astype("f4")
    values[3, 4, 5] = np.nan
    return write_nifti(folder / "scan.nii.gz", values, shown.matrix)


_TURNED = Place(turn=(20, -35, 50))
_ELSE = Place(turn=(-10, 5, 0), middle=(5, 6, 7)).matrix
for _lean in (1e-4, 4e-4, 1.5e-3, 1.9e-3):
    _case("NIfTI", f"sform alone, axes off by {_lean:g}", nifti(replace(_TURNED, lean=_lean)))
_case("NIfTI", "sform alone, axes off by 0.02", nifti(replace(_TURNED, lean=0.02)), "perpendicular")
_case("NIfTI", "qform alone", nifti(_TURNED, sform=None, qform=True))
_case("NIfTI", "qform alone, left-handed", nifti(replace(_TURNED, flips=(1, 1, -1)), sform=None, qform=True))
_case("NIfTI", "sform (code 1) beside another qform", nifti(_TURNED, qform=_ELSE))
_case("NIfTI", "qform beside another sform (code 4)", nifti(_TURNED, sform=_ELSE, qform=True, codes=(4, 1)))
_case("NIfTI", "sform sheared, qform right", nifti(_TURNED, sform=Place(lean=0.3).matrix, qform=True))
_case("NIfTI", "two positions, the mask has the one that counts", nifti(_TURNED, image={"qform": _ELSE}))
_case(
    "NIfTI",
    "two positions, the mask has the other",
    nifti(_TURNED, sform=_ELSE, codes=(2, 1), image={"qform": True}),
)
_case("NIfTI", "distances beside the sform are wrong", nifti(_TURNED, pixdim=[1, 9, 9, 9, 1, 1, 1, 1]))
_case("NIfTI", "sform of NaN, qform right", nifti(_TURNED, qform=True, srow_x=np.nan))
_case("NIfTI", "sform of zeros", nifti(_TURNED, srow_x=0, srow_y=0, srow_z=0), "no valid orientation")
_case("NIfTI", "distances of 0 beside the sform", nifti(_TURNED, pixdim=0))
_case("NIfTI", "distances of 0 beside the qform", nifti(_TURNED, sform=None, qform=True, pixdim=0), "not positive")
_case("NIfTI", "the place of the voxels left out", nifti(_TURNED, ".nii", vox_offset=0))
_case("NIfTI", "slope 0, intercept 3", nifti(_TURNED, scl_slope=0, scl_inter=3))
_case("NIfTI", "slope NaN, intercept 3", nifti(_TURNED, scl_slope=np.nan, scl_inter=3))
_case("NIfTI", "slope 0.5, intercept -100", nifti(_TURNED, image={"scl_slope": 0.5, "scl_inter": -100}))
_case("NIfTI", "big-endian", nifti(_TURNED, order=">"))
_case(
    "NIfTI", "big-endian, off by 1e-3, slope 0", nifti(replace(_TURNED, lean=1e-3), order=">", scl_inter=3, scl_slope=0)
)
_case("NIfTI", "plain", nifti(_TURNED, ".nii"))
_case("NIfTI", "NIfTI-2", nifti(_TURNED, kind=nibabel.Nifti2Image))
_case("NIfTI", "a pair of files", nifti(_TURNED, ".img", kind=nibabel.Nifti1Pair))
_case("NIfTI", "a pair of packed files", nifti(_TURNED, ".img.gz", kind=nibabel.Nifti1Pair))
_case("NIfTI", "a voxel of NaN", by(_nan_nifti), "NaN")
_case("NIfTI", "one capital in the suffix", by(lambda f, p: nifti(p.place)(f).image.rename(f / "scan.Nii.gz")))
_case("NIfTI", "packed, as .nii", by(lambda f, p: nifti(p.place)(f).image.rename(f / "scan.nii")))
_case("NIfTI", "capitals in the suffix", by(lambda f, p: nifti(p.place)(f).image.rename(f / "SCAN.NII.GZ")))


# Other files


def _header(change: Callable[[bytes], bytes]) -> Maker:
    return by(lambda folder, shown: edited(plain(folder, shown), change))


def _ras_nrrd(folder: Path, shown: Phantom) -> Path:
    """Written in the space RAS, as other programs do."""
    rows = shown.matrix[:3, :3].T
    vector = "({:.9f},{:.9f},{:.9f})".format
    header = (
        f"NRRD0005\ntype: short\ndimension: 3\nspace: right-anterior-superior\nendian: big\nencoding: raw\n"
        f"sizes: {' '.join(map(str, shown.image.shape[::-1]))}\n"
        f"space directions: {' '.join(vector(*row) for row in rows)}\nspace origin: {vector(*shown.matrix[:3, 3])}\n\n"
    )
    (folder / "scan.nrrd").write_bytes(header.encode() + shown.image.astype(">i2").tobytes())
    return folder / "scan.nrrd"


def _bare(folder: Path, name: str, array: np.ndarray) -> Path:
    """Nothing but spacings, which is taken as lying at the origin, along the axes of LPS."""
    header = f"NRRD0004\ntype: uint8\ndimension: 3\nsizes: {' '.join(map(str, array.shape[::-1]))}\nspacings: 3 3 3\n"
    data = array.astype("u1").tobytes()
    (folder / name).write_bytes(f"{header}encoding: gzip\n\n".encode() + gzip.compress(data))
    return folder / name


def _bare_nrrd(folder: Path, shown: Phantom) -> Path:
    return _bare(folder, "scan.nrrd", np.clip(shown.image, -200, 300) // 2 + 100)


def _bare_nrrd_mask(folder: Path, shown: Phantom) -> Path:
    return _bare(folder, "mask.nrrd", shown.strokes)


def _frames(count: int) -> Callable[[Path, Phantom], Path]:
    def image(folder: Path, shown: Phantom) -> Path:
        return write_nifti(folder / "scan.nii", np.stack([shown.image] * count), shown.matrix)

    return image


def _layers(folder: Path, shown: Phantom) -> Path:
    """A segmentation of Slicer in two layers, as it saves overlapping segments."""
    layers = np.stack([np.where(shown.strokes == 1, 1, 0), np.where(shown.strokes > 1, shown.strokes, 0)], -1)
    image = image_of(layers.astype(np.uint8), shown.matrix, vector=True)
    for number, (name, value, layer) in enumerate((("ball", 1, 0), ("lump", 2, 1), ("background", BACKGROUND, 1))):
        for key, text in (("ID", name), ("Name", name), ("LabelValue", value), ("Layer", layer)):
            image.SetMetaData(f"Segment{number}_{key}", str(text))
    sitk.WriteImage(image, str(folder / "mask.seg.nrrd"))
    return folder / "mask.seg.nrrd"


_case("file", "NRRD in RAS, big-endian", by(_ras_nrrd, place=_TURNED))
_case("file", "NRRD with a header of its own", on(_TURNED, ".nhdr"))
_case(
    "file",
    "NRRD without a place",
    by(_bare_nrrd, _bare_nrrd_mask, Place(flips=(-1, -1, 1), middle=(-52.5, -52.5, 52.5))),
)
_case("file", "NRRD of half a place", _header(lambda b: b.replace(b"space: left", b"# space: left")), "cannot be read")
_case("file", "NRRD that leaves an axis open", _header(lambda b: b.replace(b"(0,0,3)", b"none", 1)), "how far apart")
_case("file", "MetaImage in capitals", by(lambda f, p: write(f / "x.mha", p.image, p.matrix).rename(f / "X.MHA")))
_case("file", "MetaImage", on(_TURNED, ".mha"))
_case("file", "MetaImage in two files", on(_TURNED, ".mhd"))
_case("file", "VTK, an image of no orientation", on(Place(flips=(-1, -1, 1)), ".vtk"))
_case("file", "four dimensions, one frame", by(_frames(1), place=_TURNED))
_case("file", "four dimensions, two frames", by(_frames(2)), "4 dimensions")
_case("file", "text", by(lambda f, p: edited(plain(f, p), lambda _: b"This is no image.\n" * 99)), "damaged")
_case("file", "empty", by(lambda f, p: edited(plain(f, p), lambda _: b"")), "is empty")
_case("file", "missing", by(lambda f, p: f / "none.nrrd"), "does not exist")
_case("file", "a folder", by(lambda f, p: f), "is a folder")
_case("file", "NRRD cut short", _header(lambda b: b[: len(b) // 2]), "cannot be read")
_case("file", "packed NIfTI cut short", by(lambda f, p: edited(nifti()(f).image, lambda b: b[:-2000])), "truncated")
_case(
    "file",
    "packed NIfTI that lacks voxels",
    by(lambda f, p: edited(nifti()(f).image, lambda b: gzip.compress(gzip.decompress(b)[:-2000]))),
    "truncated",
)
_case("file", "NRRD by the name of a NIfTI file", by(lambda f, p: plain(f, p).rename(f / "scan.nii.gz")), "damaged")
_case("file", "NIfTI by the name of an NRRD file", by(lambda f, p: nifti()(f).image.rename(f / "x.nrrd")), "damaged")
_case("file", "no suffix", by(lambda f, p: plain(f, p).rename(f / "scan")), "is not known")

_case("name", "of 200 letters", named("s" * 195 + ".nrrd"))
_case("name", "with blanks, quotes and dollars", named("a 'scan' of \"$HOME\" & more.nrrd"))
_case("name", "in other letters", named("\u809d\u81df L\u00e9sion \U0001fac0.nrrd"))
_case("name", "in decomposed letters", named("Le\u0301sion.nrrd"))
_case("name", "in a folder with dots", named("a.b.c/../a.b.c/scan.v2.nrrd"))
_case("name", "not UTF-8", named(b"scan-\xe9.nrrd"), "not UTF-8")


# Annotations


def _with_others(labels: np.ndarray) -> np.ndarray:
    """Values that are no classes, in what is unpainted."""
    labels = labels.copy()
    corner = labels[:3, :3]
    corner[corner == 0] = 77
    return labels


_case("mask", "on a finer grid", by(plain, placed_like(lambda p: replace(p, spacing=(1.5, 1.5, 1.5))), _TURNED))
_case("mask", "on a coarser grid", by(plain, placed_like(lambda p: replace(p, spacing=(4, 4, 4))), _TURNED))
_case("mask", "on upright axes", by(plain, placed_like(lambda p: replace(p, turn=(0, 0, 0))), _TURNED))
_case(
    "mask", "with other axes", by(plain, placed_like(lambda p: replace(p, axes=(2, 0, 1), flips=(-1, 1, 1))), _TURNED)
)
_case("mask", "cropped", by(plain, placed_like(lambda p: replace(p, size=(30, 24, 22))), _TURNED))
_case(
    "mask",
    "partly outside",
    by(plain, placed_like(lambda p: replace(p, size=(40, 40, 40))), replace(_TURNED, size=(22, 36, 36))),
)
_case(
    "mask",
    "far outside",
    by(plain, lambda f, p: write(f / "mask.nrrd", p.strokes, p.place.moved((500, 0, 0)).matrix)),
    "lie outside the image",
)
_case("mask", "float64, 2.9999999993", by(plain, relabeled(lambda m: m * (1 - 2.4e-10)), _TURNED))
_case("mask", "float32, next to whole", by(plain, relabeled(lambda m: np.nextafter(m.astype("f4"), 9)), _TURNED))
_case("mask", "int64", by(plain, relabeled(lambda m: m.astype("i8")), _TURNED))
_case("mask", "with labels of something else", by(plain, relabeled(_with_others), _TURNED))
_case("mask", "with fractions", by(plain, relabeled(lambda m: m * 0.75)), "not whole numbers")
_case("mask", "empty", by(plain, relabeled(lambda m: m * 0)), "is empty")
_case("mask", "with other values", by(plain, relabeled(lambda m: m + np.uint8(40) * (m > 0))), "none of the classes")
_case("mask", "the image itself", by(plain, lambda f, p: f / "scan.nrrd"), "the image itself")
_case("mask", "of several layers", by(plain, _layers, _TURNED))
_case(
    "mask",
    "slope 0, intercept 3",
    by(plain, lambda f, p: nifti(p.place, scl_slope=0, scl_inter=3)(f).annotation, _TURNED),
)

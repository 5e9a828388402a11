"""Headers of NIfTI files: where the voxels lie and how they are scaled, where ITK does not read them as the standard
says (https://nifti.nimh.nih.gov/nifti-1).

A file may hold two positions, a qform and an sform. Which of two counts is left to the program; here it is the one
that counts in Slicer and in ITK: the sform if its code is 1 (scanner), or if there is no qform; else the qform.
"""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Optional, cast

import numpy as np

from ..errors import PromptSegError
from .geometry import PERPENDICULAR, Grid, skew

_PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
SUFFIXES = (".nii", ".nii.gz", *_PAIRS)
_ADVICE = "convert the original series again"
# Field -> its type and its offset in NIfTI-1 and in NIfTI-2.
_FIELDS: dict[str, Any] = {
    "sizeof_hdr": (("i4", 0), ("i4", 0)),
    "dim": (("8i2", 40), ("8i8", 16)),
    "intent_code": (("i2", 68), ("i4", 504)),
    "datatype": (("i2", 70), ("i2", 12)),
    "bitpix": (("i2", 72), ("i2", 14)),
    "pixdim": (("8f4", 76), ("8f8", 104)),
    "vox_offset": (("f4", 108), ("i8", 168)),
    "scl_slope": (("f4", 112), ("f8", 176)),
    "scl_inter": (("f4", 116), ("f8", 184)),
    "xyzt_units": (("u1", 123), ("i4", 500)),
    "qform_code": (("i2", 252), ("i4", 344)),
    "sform_code": (("i2", 254), ("i4", 348)),
    "quatern": (("3f4", 256), ("3f8", 352)),
    "qoffset": (("3f4", 268), ("3f8", 376)),
    "srow": (("(3,4)f4", 280), ("(3,4)f8", 400)),
    "magic": (("S4", 344), ("S8", 4)),
}
_LARGEST = 540


def _layout(version: int, size: int) -> np.dtype:
    formats, offsets = zip(*(each[version - 1] for each in _FIELDS.values()))
    layout: Any = {"names": list(_FIELDS), "formats": formats, "offsets": offsets, "itemsize": size}
    return np.dtype(layout)


_LAYOUTS = {348: _layout(1, 348), _LARGEST: _layout(2, _LARGEST)}
_ORDERS: tuple[Any, ...] = ("<", ">")
_POSITION = ("qform_code", "sform_code", "quatern", "qoffset", "srow")
_MILLIMETERS = {1: 1e3, 3: 1e-3}  # in meters and micrometers
_SPATIAL = 7  # the bits of the units that are those of space
_FLOATS = {16: 4, 64: 8}  # datatype -> bytes of one
_BEFORE = {b"n+1": 352, b"n+2": 544}  # bytes before the voxels of a single file
_BLOCK = 1 << 22
# ITK reads an sform only with axes that are perpendicular to 1e-4; half of it, to be safe.
_ITK_SKEW = 5e-5


@dataclass(frozen=True)
class Header:
    """``fields``: a record of ``_FIELDS`` in the byte order of the file."""

    fields: np.void

    @classmethod
    def of(cls, path: Path) -> Optional[Header]:
        """The header of a file, or of the pair that a file belongs to; None if it is no NIfTI file."""
        if not path.name.lower().endswith(SUFFIXES):
            return None
        file = sibling(path, ".hdr")
        if not file.is_file():
            return None
        with _unpacked(file) as stream:
            return cls.parsed(stream.read(_LARGEST))

    @classmethod
    def parsed(cls, head: bytes) -> Optional[Header]:
        """From the first bytes of a file; None if they are no NIfTI header."""
        for size, layout in _LAYOUTS.items():
            for order in _ORDERS:
                if len(head) >= size and np.frombuffer(head, f"{order}i4", 1)[0] == size:
                    fields = np.frombuffer(head[:size], layout.newbyteorder(order))[0]
                    known = fields["magic"][:3] in (b"n+1", b"ni1", b"n+2", b"ni2") and 1 <= fields["dim"][0] <= 7
                    return cls(fields) if known else None
        return None

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels along each axis."""
        return tuple(max(int(extent), 1) for extent in self.fields["dim"][1 : 1 + int(self.fields["dim"][0])])

    @property
    def offset(self) -> int:
        """Where the voxels begin in their file, in bytes; some programs leave that 0 in a single file."""
        return self._told_offset or _BEFORE.get(bytes(self.fields["magic"][:3]), 0)

    @property
    def _told_offset(self) -> int:
        offset = float(self.fields["vox_offset"])
        return int(offset) if np.isfinite(offset) and offset > 0 else 0

    @property
    def length(self) -> int:
        """Length in bytes of the file that holds the voxels, at least."""
        voxels = 1
        for extent in self.size:
            voxels *= extent
        return self.offset + voxels * int(self.fields["bitpix"]) // 8

    @property
    def spacing(self) -> np.ndarray:
        """(number of axes, at most 3): the distances of voxels, apart from any sform, in mm."""
        return np.abs(self.fields["pixdim"][1 : 1 + min(len(self.size), 3)].astype(float)) * self._scale

    @property
    def _spaced(self) -> bool:
        return bool((np.isfinite(self.spacing) & (self.spacing > 0)).all())

    @property
    def _scale(self) -> float:
        return _MILLIMETERS.get(int(self.fields["xyzt_units"]) & _SPATIAL, 1.0)

    def forms(self) -> dict[str, Grid]:
        """The usable ones of the file's positions, by name, the one that counts first; empty below 3 dimensions."""
        if len(self.size) < 3:
            return {}
        found = {"sform": self._sform(), "qform": self._qform()}
        order = ("sform", "qform") if self.fields["sform_code"] == 1 else ("qform", "sform")
        return {name: grid for name in order if (grid := found[name]) is not None}

    def grid(self, name: str) -> Optional[Grid]:
        """Where the voxels lie; None if the file does not say more than their distances.

        Raises :class:`PromptSegError`, with ``name`` for the file, for positions of which none is usable.
        """
        forms = self.forms()
        if forms:
            return next(iter(forms.values()))
        if not self._spaced:
            raise PromptSegError(
                "{name} has a voxel spacing that is not positive; {advice}.", name=name, advice=_ADVICE
            )
        if len(self.size) < 3 or max(self.fields["sform_code"], self.fields["qform_code"]) < 1:
            return None
        axes = self.fields["srow"][:, :3].astype(float)
        if self.fields["sform_code"] > 0 and np.isfinite(axes).all() and (np.linalg.norm(axes, axis=0) > 0).all():
            raise PromptSegError(
                "The axes of {name} are not perpendicular; resample it to a rectangular grid.", name=name
            )
        raise PromptSegError("{name} has no valid orientation; {advice}.", name=name, advice=_ADVICE)

    def _sform(self) -> Optional[Grid]:
        rows = self.fields["srow"].astype(float) * self._scale
        spacing = np.linalg.norm(rows[:, :3], axis=0)
        if self.fields["sform_code"] < 1 or not np.isfinite(rows).all() or not (spacing > 0).all():
            return None
        return self._placed(spacing, rows[:, :3] / spacing, rows[:, 3])

    def _qform(self) -> Optional[Grid]:
        b, c, d = self.fields["quatern"].astype(float)
        origin = self.fields["qoffset"].astype(float) * self._scale
        if self.fields["qform_code"] < 1 or not (np.isfinite([b, c, d, *origin]).all() and self._spaced):
            return None
        rest = 1.0 - (b * b + c * c + d * d)
        a, b, c, d = np.array([np.sqrt(max(rest, 0.0)), b, c, d]) / (np.sqrt(1.0 - rest) if rest < 1e-7 else 1.0)
        axes = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        if self.fields["pixdim"][0] < 0:
            axes[:, 2] *= -1
        return self._placed(self.spacing, axes, origin)

    def _placed(self, spacing: np.ndarray, axes: np.ndarray, origin: np.ndarray) -> Optional[Grid]:
        """The grid, in LPS, of axes in RAS; None if they are not perpendicular."""
        if not skew(axes) < PERPENDICULAR:
            return None
        lps = np.array([-1.0, -1.0, 1.0])
        parts = (self.size[:3], spacing.tolist(), (lps * origin).tolist(), (lps[:, None] * axes).ravel().tolist())
        return Grid(*(cast(tuple, tuple(part)) for part in parts))

    @property
    def misread(self) -> bool:
        """Whether ITK refuses the file, looks for its voxels elsewhere, or scales them where the standard does not."""
        if self.fields["sizeof_hdr"] == _LARGEST or not (self._scaled or self.fields["scl_inter"] == 0):
            return True
        if self.offset != self._told_offset or not self._spaced:
            return True
        forms = self.forms()
        if not forms and (self.fields["pixdim"][1 : 1 + len(self.spacing)] < 0).any():
            return True
        sform = forms.get("sform")
        if sform is None and self.fields["sform_code"] > 0 and forms:
            return True  # the qform is good, but ITK may look at the other
        return sform is not None and skew(np.reshape(sform.direction, (3, 3))) > _ITK_SKEW

    @property
    def _scaled(self) -> bool:
        """Whether the voxels are to be scaled: a slope of 0 means that they are not."""
        return bool(np.isfinite(self.fields["scl_slope"]) and self.fields["scl_slope"] != 0)

    def finite(self, path: Path) -> bool:
        """Whether no voxel of the file ``path`` is NaN or infinite; raises ``OSError`` as files do."""
        width = _FLOATS.get(int(self.fields["datatype"]))
        if width is None:
            return True
        kind = np.dtype(f"f{width}").newbyteorder(self.fields.dtype["dim"].base.byteorder)
        left = self.length - self.offset
        with _unpacked(sibling(path, ".img")) as source:
            source.seek(self.offset)
            while left > 0 and (block := source.read(min(left, _BLOCK))):
                left -= len(block)
                if not np.isfinite(np.frombuffer(block[: len(block) // width * width], kind)).all():
                    return False
        return True

    def write_readable(self, path: Path, copy: Path) -> None:
        """Write a copy of the file ``path`` with this header that ITK reads: the voxels as the standard scales them,
        one after the other, at no particular place.

        Raises :class:`PromptSegError` for more voxels along an axis than ITK reads, ``OSError`` as files do.
        """
        if max(self.size) > np.iinfo(np.int16).max:
            raise PromptSegError(
                "{name} has more than 32767 voxels along an axis; crop it, or save it as .nrrd.", name=path.name
            )
        order = self.fields.dtype["dim"].base.byteorder
        fields = np.zeros(1, _LAYOUTS[348].newbyteorder(order))
        for name in ("dim", "intent_code", "datatype", "bitpix", "scl_slope", "scl_inter"):
            fields[name] = self.fields[name]
        if not self._scaled:
            fields["scl_slope"], fields["scl_inter"] = 1.0, 0.0
        fields["sizeof_hdr"], fields["magic"], fields["vox_offset"], fields["pixdim"] = 348, b"n+1", 352, 1.0
        if self._spaced:
            fields["pixdim"][:, 1 : 1 + len(self.spacing)] = self.spacing
        with _unpacked(sibling(path, ".img")) as source, open(copy, "wb") as target:
            source.seek(self.offset)
            target.write(fields.tobytes() + bytes(4))
            shutil.copyfileobj(source, target, 1 << 20)

    def stamp(self, path: Path) -> None:
        """Give the plain, single NIfTI file ``path``, if it has as many voxels, both positions of this header."""
        with open(path, "rb+") as file:
            head = bytearray(file.read(_LARGEST))
            other = Header.parsed(bytes(head))
            if other is None or other.size[:3] != self.size[:3]:
                return
            fields = np.frombuffer(head, other.fields.dtype, 1)  # a view: what is changed here is changed in the head
            for name in _POSITION:
                fields[name] = self.fields[name]
            if self._spaced:
                fields["pixdim"][:, :4] = self.fields["pixdim"][:4]
            else:
                fields["qform_code"] = 0  # without distances of voxels it never was a position
            units = int(other.fields["xyzt_units"]) & ~_SPATIAL | int(self.fields["xyzt_units"]) & _SPATIAL
            fields["xyzt_units"] = units
            file.seek(0)
            file.write(head)


def sibling(path: Path, end: str) -> Path:
    """The file of a pair that ends with ``end`` (``.hdr`` or ``.img``, compressed or not); any other file itself."""
    suffix = next((each for each in _PAIRS if path.name.lower().endswith(each)), None)
    if suffix is None:
        return path
    stem = path.name[: -len(suffix)]
    upper = path.name[len(stem) :].isupper()
    ends = (end, f"{end}.gz") if not suffix.endswith(".gz") else (f"{end}.gz", end)
    found = [path.with_name(stem + (each.upper() if upper else each)) for each in ends]
    return next((each for each in found if os.path.exists(each)), found[0])


def oddly_named(path: Path) -> bool:
    """Whether ITK does not know a NIfTI file by the letters of its suffix, takes what is packed for plain, or takes the
    voxels of another file: beside ``x.nii.gz``, those of an ``x.nii``."""
    suffix = path.name[-max(len(each) for each in SUFFIXES if path.name.lower().endswith(each)) :]
    gz = suffix.lower().endswith(".gz")
    if not (suffix.islower() or suffix.isupper()) or (_packed(path) and not gz):
        return True
    return gz and os.path.exists(path.with_name(path.name[: -len(".gz")]))


def _packed(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _unpacked(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if _packed(path) else open(path, "rb"))

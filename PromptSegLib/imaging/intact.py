"""Files that are cut short or damaged, and headers that leave out where voxels lie: what ITK reads without a word.

It fills what is missing of a NIfTI file with zeros, does not look at the checksums of compressed NRRD and MetaImage
files, and takes what an NRRD file leaves open of its axes for 1 mm.
"""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO

from ..errors import PromptSegError
from ..files import check_name
from . import nifti

AGAIN = "copy or export it again"
_LINE, _HEADER = 1 << 20, 1 << 24  # bytes at most; voxels may follow without any line break
_NRRD, _META = (".nrrd", ".nhdr"), (".mha", ".mhd")


def check_intact(path: Path) -> None:
    """Refuse a truncated or damaged file that SimpleITK would read without a word, and a name that it cannot take."""
    check_name(path)
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise PromptSegError("{path} is empty; {again}.", path=path, again=AGAIN)
    if name.endswith(nifti.SUFFIXES):
        _check_nifti(path)
    elif name.endswith((*_NRRD, *_META)):
        _check_by_header(path)


def _check_nifti(path: Path) -> None:
    """Refuse a NIfTI file that is shorter than its header says, or that says nothing usable of where its voxels lie."""
    file, data = nifti.sibling(path, ".hdr"), nifti.sibling(path, ".img")
    for each in (file, data):
        if not each.exists():
            raise PromptSegError(
                "{path} cannot be read without {name} beside it; copy both.", path=path, name=each.name
            )
    length, head = _contents(file)
    header = nifti.Header.parsed(head)
    if header is None:
        return
    if data != file:
        length, _ = _contents(data)
    if length < header.length:
        raise PromptSegError(
            "{data} is truncated ({arrived} of {announced} bytes); {again}.",
            data=data,
            arrived=length,
            announced=header.length,
            again=AGAIN,
        )
    header.grid(path.name)


def _contents(path: Path) -> tuple[int, bytes]:
    """Length and first bytes of what a file holds, unpacked if it is packed."""
    with open(path, "rb") as file:
        head = file.read(544)
        file.seek(0)
        return _inflate(file, path) if head[:2] == b"\x1f\x8b" else (path.stat().st_size, head)


def _check_by_header(path: Path) -> None:
    """Refuse an NRRD or MetaImage file whose compressed voxels are damaged, or whose axes are left open."""
    nrrd = path.name.lower().endswith(_NRRD)
    with open(path, "rb") as file:
        fields = _nrrd_fields(file) if nrrd else _meta_fields(file)
        if nrrd:
            _check_axes(fields, path)
            compressed = fields.get("encoding") in ("gzip", "gz")
            data = fields.get("data file", fields.get("datafile", ""))
        else:
            compressed = fields.get("compresseddata", "").lower() == "true"
            data = fields.get("elementdatafile", "")
            data = "" if data.lower() == "local" else data
        if not compressed or {"line skip", "byte skip", "headersize"} & fields.keys():
            return
        if not data:
            if not nrrd and "compresseddatasize" not in fields:  # ITK would begin with the header
                raise PromptSegError("{path} is damaged; {again}.", path=path, again=AGAIN)
            _inflate(file, path)
            return
    beside = path.parent / data
    if beside.is_file():  # not a list or a pattern of several
        with open(beside, "rb") as file:
            _inflate(file, beside)


def _nrrd_fields(file: BinaryIO) -> dict[str, str]:
    """The fields of an NRRD header, in small letters but for file names; ``file`` is left where voxels may follow."""
    fields: dict[str, str] = {}
    while file.tell() < _HEADER and (line := file.readline(_LINE)):
        text = line.decode("latin-1").strip()
        if not text:
            break
        key, colon, value = text.partition(":")
        key = key.strip().lower()
        if colon and not key.startswith("#"):
            fields[key] = value.strip() if "file" in key else value.strip().lower()
    return fields


def _meta_fields(file: BinaryIO) -> dict[str, str]:
    """The fields of a MetaImage header, their names in small letters; ``file`` is left where voxels may follow."""
    fields: dict[str, str] = {}
    while file.tell() < _HEADER and (line := file.readline(_LINE)):
        key, _, value = line.decode("latin-1").partition("=")
        key = key.strip().lower()
        fields[key] = value.strip()
        if key == "elementdatafile":
            break
    return fields


def _check_axes(fields: dict[str, str], path: Path) -> None:
    """Refuse an NRRD header that places voxels along some of its axes, and leaves open how far apart along another."""
    if "space directions" in fields:
        steps = re.findall(r"none|\([^)]*\)", fields["space directions"])
        known = [all(map(_is_number, step.strip("()").split(","))) for step in steps]
    else:
        known = [_is_number(step) for step in fields.get("spacings", "").split()]
    axes = sum(known)
    if 0 < axes < min(3, len(known)):
        raise PromptSegError(
            "{name} does not say how far apart its voxels lie along each axis; convert the original series again.",
            name=path.name,
        )


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _inflate(file: BinaryIO, path: Path) -> tuple[int, bytes]:
    """Length and first bytes of what a gzip or zlib stream holds; refuses a stream that is damaged or ends early."""
    length, head = 0, b""
    stream = zlib.decompressobj(47)  # gzip or zlib, told by its header
    try:
        while chunk := file.read(1 << 16):
            data = stream.decompress(chunk)
            while stream.eof and stream.unused_data[:2] == b"\x1f\x8b":  # compressed in parallel, in several members
                rest = stream.unused_data
                stream = zlib.decompressobj(47)
                data += stream.decompress(rest)
            head = head or data[:544]
            length += len(data)
    except zlib.error as error:
        raise PromptSegError("{path} is damaged; {again}.", path=path, again=AGAIN) from error
    if not stream.eof:
        raise PromptSegError("{path} is truncated; {again}.", path=path, again=AGAIN)
    return length, head

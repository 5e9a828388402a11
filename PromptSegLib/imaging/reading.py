"""Reading images and annotations from files, with a sentence where that fails."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError, Sentence
from ..files import check_name
from . import nifti
from .checking import check_kind, check_size, is_integer
from .geometry import Grid, holds_directions

_KNOWN = (*nifti.SUFFIXES, ".nrrd", ".nhdr", ".mha", ".mhd")
_AGAIN = "copy or export it again"
# Labels that were scaled or stored in single precision are whole numbers but for this.
_RELATIVE, _ABSOLUTE = 5e-7, 1e-4
_ITK_ROUNDING = 1e-3  # voxels, by which ITK's single precision may move one
_NO_SPACING = "{} has a voxel spacing that is not positive; convert the original series again."


def read_image(path: Union[str, Path]) -> sitk.Image:
    """The scalar 3D volume in a file (NIfTI, NRRD, MetaImage or whatever else SimpleITK reads).

    Raises :class:`PromptSegError` for a missing, damaged or truncated file, an unknown format, a folder,
    and what is not a scalar 3D volume. Whether the intensities are usable is for
    :func:`~.checking.check_image` to say.
    """
    path = Path(path)
    with _opened(path) as (reader, grid):
        check_kind(path.name, _size(reader), reader.GetNumberOfComponents(), reader.GetPixelID())
        check_size(path.name, grid or _header_grid(reader))
        return _load(reader, path, grid)


def read_annotation(path: Union[str, Path]) -> sitk.Image:
    """The integer 3D label volume in a file.

    Whole numbers stored as floating point become integers. A Slicer segmentation (.seg.nrrd) in several
    layers is flattened as Slicer exports it, later segments over earlier ones, if every segment has a
    label value of its own. Raises :class:`PromptSegError` as :func:`read_image` does, and for values
    that are not whole numbers.
    """
    path = Path(path)
    with _opened(path) as (reader, grid):
        segments = _segments(reader)
        components = 1 if segments else reader.GetNumberOfComponents()
        check_kind(
            path.name, _size(reader), components, reader.GetPixelID() if not segments else sitk.sitkUInt8, thin=True
        )
        if segments and len({value for _, value in segments}) < len(segments):
            raise PromptSegError(
                "{name} holds overlapping segments that share label values; in Slicer, export the "
                "segmentation to a labelmap and save that.",
                name=path.name,
            )
        image = _load(reader, path, grid)
    if segments:
        image = _flatten(image, segments)
    return image if is_integer(image.GetPixelID()) else _whole_numbers(image, path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[sitk.ImageFileReader, Optional[Grid]]]:
    """A reader that has read the header of an intact file, and where its voxels lie if ITK might not know it."""
    check_name(path)
    if path.is_dir():
        raise PromptSegError(
            "{path} is a folder; give a file (in Slicer: load the DICOM series and save it as .nrrd).", path=path
        )
    if not path.exists():
        raise PromptSegError("{path} does not exist; check its name.", path=path)
    try:
        check_intact(path)
    except OSError as error:
        raise PromptSegError(
            "{path} cannot be read: {strerror}; check its permissions.", path=path, strerror=error.strerror or error
        ) from error
    header = nifti.Header.of(path)
    with ExitStack() as stack:
        file = stack.enter_context(_readable(header, path)) if header and header.misread else path
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        try:
            with quiet():
                reader.ReadImageInformation()
        except RuntimeError as error:
            raise PromptSegError(unreadable(path, str(error))) from error
        yield reader, header.grid(path.name) if header else None


@contextmanager
def _readable(header: nifti.Header, path: Path) -> Iterator[Path]:
    """A copy, for the time being, of a NIfTI file that ITK does not read as it should."""
    with tempfile.TemporaryDirectory(prefix="promptseg-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder) / "copy.nii"
        try:
            header.write_readable(path, copy)
        except OSError as error:
            raise PromptSegError(
                "{path} cannot be copied to {gettempdir} to be read ({strerror}); make room there, or save "
                "the volume as .nrrd.",
                path=path,
                gettempdir=tempfile.gettempdir(),
                strerror=error.strerror or error,
            ) from error
        yield copy


def _header_grid(reader: sitk.ImageFileReader) -> Grid:
    """Where the first three axes of a file lie."""
    axes = reader.GetDimension()
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    x, y, z = ([*part[:3]] for part in (reader.GetSize(), reader.GetSpacing(), reader.GetOrigin()))
    return Grid(tuple(x), tuple(y), tuple(z), tuple(direction.ravel().tolist()))


def _size(reader: sitk.ImageFileReader) -> tuple[int, ...]:
    """Size (x, y, z, ...), without further dimensions that hold a single volume."""
    size = tuple(reader.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    return size


def _load(reader: sitk.ImageFileReader, path: Path, grid: Optional[Grid]) -> sitk.Image:
    if len(reader.GetSize()) > 3:
        reader.SetExtractSize(list(reader.GetSize()[:3]) + [0] * (len(reader.GetSize()) - 3))
    try:
        if not holds_directions(_header_grid(reader).direction):
            raise PromptSegError("{name} has no valid orientation; convert the original series again.", name=path.name)
        with quiet():
            image = reader.Execute()
    except RuntimeError as error:
        raise PromptSegError(unreadable(path, str(error))) from error
    if grid is not None and not grid.same_as(Grid.of(image), _ITK_ROUNDING):
        image.SetSpacing(grid.spacing)
        image.SetOrigin(grid.origin)
        image.SetDirection(grid.direction)
    return image


def _segments(reader: sitk.ImageFileReader) -> list[tuple[int, int]]:
    """(layer, label value) of each segment of a Slicer segmentation in several layers; else empty."""
    if reader.GetNumberOfComponents() < 2:
        return []
    keys = [re.fullmatch(r"Segment(\d+)_LabelValue", key) for key in reader.GetMetaDataKeys()]
    numbers = sorted(int(key.group(1)) for key in keys if key)
    value = reader.GetMetaData
    has = reader.HasMetaDataKey
    return [
        (int(value(f"Segment{n}_Layer")) if has(f"Segment{n}_Layer") else 0, int(value(f"Segment{n}_LabelValue")))
        for n in numbers
    ]


def _flatten(image: sitk.Image, segments: list[tuple[int, int]]) -> sitk.Image:
    layers = sitk.GetArrayViewFromImage(image)  # (z, y, x, layer)
    labels = np.zeros(layers.shape[:3], layers.dtype)
    for layer, value in segments:
        labels[layers[..., layer] == value] = value
    flat = sitk.GetImageFromArray(labels)
    flat.CopyInformation(image)
    return flat


def _whole_numbers(image: sitk.Image, path: Path) -> sitk.Image:
    """A floating-point label volume as integers."""
    values = sitk.GetArrayViewFromImage(image)
    low, high = values.min(), values.max()
    in_range = np.iinfo(np.int32).min <= low and high <= np.iinfo(np.int32).max  # false for NaN
    if not in_range or any(not np.allclose(plane, np.rint(plane), _RELATIVE, _ABSOLUTE) for plane in values):
        raise PromptSegError(
            "{name} holds values that are not whole numbers; give a label volume (is this the image itself?).",
            name=path.name,
        )
    image = sitk.Round(image)
    short = np.iinfo(np.int16).min <= low and high <= np.iinfo(np.int16).max
    return sitk.Cast(image, sitk.sitkInt16 if short else sitk.sitkInt32)


def check_intact(path: Path) -> None:
    """Refuse a truncated or damaged file that SimpleITK would read without a word, and a name that it cannot take.

    It fills what is missing of a NIfTI file with zeros, and does not look at the checksums
    of compressed NRRD and MetaImage files.
    """
    check_name(path)
    name = path.name.lower()
    if path.stat().st_size == 0:
        raise PromptSegError("{path} is empty; {again}.", path=path, again=_AGAIN)
    if name.endswith(nifti.SUFFIXES):
        _check_nifti(path)
        return
    with open(path, "rb") as file:
        if _compressed_data_follow(file, name):
            _inflate(file, path)


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
            again=_AGAIN,
        )
    header.grid(path.name)


def _contents(path: Path) -> tuple[int, bytes]:
    """Length and first bytes of what a file holds, unpacked if it is packed."""
    with open(path, "rb") as file:
        head = file.read(544)
        file.seek(0)
        return _inflate(file, path) if head[:2] == b"\x1f\x8b" else (path.stat().st_size, head)


def _compressed_data_follow(file: BinaryIO, name: str) -> bool:
    """Leaves ``file`` behind the header of an NRRD or MetaImage file; whether compressed voxels follow there."""
    compressed = False
    if name.endswith(".nrrd"):
        for line in file:
            line = line.strip().lower()
            if not line:
                return compressed
            if line.startswith(b"encoding:"):
                compressed = line.split(b":", 1)[1].strip() in (b"gzip", b"gz")
            elif line.startswith((b"data file:", b"datafile:", b"line skip:", b"byte skip:")):
                return False
    elif name.endswith(".mha"):
        for line in file:
            key, _, value = (part.strip().lower() for part in line.partition(b"="))
            if key == b"compresseddata":
                compressed = value == b"true"
            elif key == b"elementdatafile":
                return compressed and value == b"local"
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
        raise PromptSegError("{path} is damaged; {again}.", path=path, again=_AGAIN) from error
    if not stream.eof:
        raise PromptSegError("{path} is truncated; {again}.", path=path, again=_AGAIN)
    return length, head


def unreadable(path: Path, message: str) -> str:
    """One sentence for what SimpleITK said over several lines."""
    known = path.name.lower().endswith(_KNOWN)
    if "Unable to determine ImageIO" in message:
        if known:
            return Sentence(
                "{path} is damaged, or not of the format that its name says; {again}.", path=path, again=_AGAIN
            )
        return Sentence("The format of {path} is not known; save the volume as .nrrd, .nii.gz or .mha.", path=path)
    if "orthonormal" in message or "determinant is 0" in message:
        return Sentence("The axes of {name} are not perpendicular; resample it to a rectangular grid.", name=path.name)
    if "spacing is not supported" in message:
        return _NO_SPACING.format(path.name)
    if "llocat" in message:
        return Sentence(
            "There is not enough memory to read {path}; close other programs or crop the volume.", path=path
        )
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("Reason:")]
    short = re.sub(r"^(\[\w+\]|\w+\(0x\w+\):|(ITK |itk::|sitk::)ERROR:|_?\w+:|\s)+", "", lines[-1] if lines else "")
    short = short.replace(str(path), "the file").rstrip(".: ")[:100]
    if not short or "cannot be read" in short:
        short = "truncated or damaged" + (", or its data file is missing" if path.suffix in (".mhd", ".nhdr") else "")
    return Sentence("{path} cannot be read ({short}); {again}.", path=path, short=short, again=_AGAIN)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what ITK's readers and writers print on standard error away from the user; the sentence says it."""
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError):  # a Windows program without a console has none
        saved = None
    try:
        if saved is not None:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        if saved is not None:
            os.dup2(saved, 2)
            os.close(saved)
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)

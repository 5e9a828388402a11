"""Reading images and annotations from files, with a sentence where that fails."""

from __future__ import annotations

import os
import re
import struct
import sys
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError
from ..files import check_name
from .checking import check_kind, is_integer

_KNOWN = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_AGAIN = "copy or export it again"
_NO_SPACING = "{} has a voxel spacing that is not positive; convert the original series again."


def read_image(path: Union[str, Path]) -> sitk.Image:
    """The scalar 3D volume in a file (NIfTI, NRRD, MetaImage or whatever else SimpleITK reads).

    Raises :class:`PromptSegError` for a missing, damaged or truncated file, an unknown format, a folder,
    and what is not a scalar 3D volume. Whether the intensities are usable is for
    :func:`~.checking.check_image` to say.
    """
    path = Path(path)
    reader = _open(path)
    check_kind(path.name, _size(reader), reader.GetNumberOfComponents(), reader.GetPixelID())
    return _load(reader, path)


def read_annotation(path: Union[str, Path]) -> sitk.Image:
    """The integer 3D label volume in a file.

    Whole numbers stored as floating point become integers. A Slicer segmentation (.seg.nrrd) in several
    layers is flattened as Slicer exports it, later segments over earlier ones, if every segment has a
    label value of its own. Raises :class:`PromptSegError` as :func:`read_image` does, and for values
    that are not whole numbers.
    """
    path = Path(path)
    reader = _open(path)
    segments = _segments(reader)
    components = 1 if segments else reader.GetNumberOfComponents()
    check_kind(
        path.name, _size(reader), components, reader.GetPixelID() if components == 1 else sitk.sitkUInt8, thin=True
    )
    if segments and len({value for _, value in segments}) < len(segments):
        raise PromptSegError(
            f"{path.name} holds overlapping segments that share label values; "
            "in Slicer, export the segmentation to a labelmap and save that."
        )
    image = _load(reader, path)
    if segments:
        image = _flatten(image, segments)
    return image if is_integer(image.GetPixelID()) else _whole_numbers(image, path)


def _open(path: Path) -> sitk.ImageFileReader:
    """A reader that has read the header of an intact file."""
    check_name(path)
    if path.is_dir():
        raise PromptSegError(
            f"{path} is a folder; give a file (in Slicer: load the DICOM series and save it as .nrrd)."
        )
    if not path.exists():
        raise PromptSegError(f"{path} does not exist; check its name.")
    try:
        check_intact(path)
    except OSError as error:
        raise PromptSegError(f"{path} cannot be read: {error.strerror or error}; check its permissions.") from error
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with quiet():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise PromptSegError(unreadable(path, str(error))) from error
    return reader


def _size(reader: sitk.ImageFileReader) -> tuple[int, ...]:
    """Size (x, y, z, ...), without further dimensions that hold a single volume."""
    size = tuple(reader.GetSize())
    while len(size) > 3 and size[-1] == 1:
        size = size[:-1]
    return size


def _load(reader: sitk.ImageFileReader, path: Path) -> sitk.Image:
    if len(reader.GetSize()) > 3:
        reader.SetExtractSize(list(reader.GetSize()[:3]) + [0] * (len(reader.GetSize()) - 3))
    try:
        with quiet():
            return reader.Execute()
    except RuntimeError as error:
        raise PromptSegError(unreadable(path, str(error))) from error


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
    if not in_range or any(not np.array_equal(plane, np.rint(plane)) for plane in values):
        raise PromptSegError(
            f"{path.name} holds values that are not whole numbers; give a label volume (is this the image itself?)."
        )
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
        raise PromptSegError(f"{path} is empty; {_AGAIN}.")
    with open(path, "rb") as file:
        if name.endswith((".nii", ".nii.gz")):
            head = file.read(544)
            file.seek(0)
            if head[:2] == b"\x1f\x8b":
                length, head = _inflate(file, path)
            else:
                length = path.stat().st_size
            wanted, steps = _nifti(head) or (0, (1.0,))
            if length < wanted:
                raise PromptSegError(f"{path} is truncated ({length} of {wanted} bytes); {_AGAIN}.")
            if not all(0 < abs(step) < np.inf for step in steps):  # SimpleITK would take 1 mm instead
                raise PromptSegError(_NO_SPACING.format(path.name))
        elif _compressed_data_follow(file, name):
            _inflate(file, path)


def _nifti(head: bytes) -> Optional[tuple[int, tuple[float, ...]]]:
    """How many bytes a NIfTI file with this header has at least, and its spacing; None if it is no such header."""
    if len(head) < 348:
        return None
    for order in "<>":
        kind = struct.unpack(order + "i", head[:4])[0]
        if kind == 348:
            dimensions = struct.unpack(order + "8h", head[40:56])
            bits = struct.unpack(order + "h", head[72:74])[0]
            offset = struct.unpack(order + "f", head[108:112])[0]
            steps = struct.unpack(order + "3f", head[80:92])
        elif kind == 540 and len(head) >= 540:
            bits = struct.unpack(order + "h", head[14:16])[0]
            dimensions = struct.unpack(order + "8q", head[16:80])
            offset = struct.unpack(order + "q", head[168:176])[0]
            steps = struct.unpack(order + "3d", head[112:136])
        else:
            continue
        if not 1 <= dimensions[0] <= 7:
            return None
        voxels = 1
        for extent in dimensions[1 : dimensions[0] + 1]:
            voxels *= max(extent, 1)
        return (int(offset) + voxels * bits // 8, steps[: dimensions[0]]) if np.isfinite(offset) else None
    return None


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
        raise PromptSegError(f"{path} is damaged; {_AGAIN}.") from error
    if not stream.eof:
        raise PromptSegError(f"{path} is truncated; {_AGAIN}.")
    return length, head


def unreadable(path: Path, message: str) -> str:
    """One sentence for what SimpleITK said over several lines."""
    known = path.name.lower().endswith(_KNOWN)
    if "Unable to determine ImageIO" in message:
        if known:
            return f"{path} is damaged, or not of the format that its name says; {_AGAIN}."
        return f"The format of {path} is not known; save the volume as .nrrd, .nii.gz or .mha."
    if "orthonormal" in message or "determinant is 0" in message:
        return f"The axes of {path.name} are not perpendicular; resample it to a rectangular grid."
    if "spacing is not supported" in message:
        return _NO_SPACING.format(path.name)
    if "llocat" in message:
        return f"There is not enough memory to read {path}; close other programs or crop the volume."
    lines = [line.strip() for line in message.splitlines() if line.strip() and not line.startswith("Reason:")]
    short = re.sub(r"^(\[\w+\]|\w+\(0x\w+\):|(ITK |itk::|sitk::)ERROR:|_?\w+:|\s)+", "", lines[-1] if lines else "")
    short = short.replace(str(path), "the file").rstrip(".: ")[:100]
    if not short or "cannot be read" in short:
        short = "truncated or damaged" + (", or its data file is missing" if path.suffix in (".mhd", ".nhdr") else "")
    return f"{path} cannot be read ({short}); {_AGAIN}."


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

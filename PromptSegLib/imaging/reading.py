"""Reading images and annotations from files, with a sentence where that fails."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, Optional, Union

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError, Sentence
from ..files import check_name
from . import nifti
from .checking import check_kind, check_size, is_integer
from .geometry import Grid, holds_directions
from .intact import AGAIN, check_intact

_META = (".mha", ".mhd")
_KNOWN = (*nifti.SUFFIXES, *_META, ".nrrd", ".nhdr", ".dcm", ".vtk", ".h5", ".tif", ".tiff", ".mnc")
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
        segments = _segments(reader, path.name)
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
    if header and not header.finite(path):  # ITK would make them 0
        raise PromptSegError(
            "{name} has voxels that are NaN or infinite; replace them, for example with the lowest value.",
            name=path.name,
        )
    with ExitStack() as stack:
        again = header and (header.misread or nifti.oddly_named(path))
        file = stack.enter_context(_readable(header, path)) if header and again else path
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(file))
        if path.suffix.lower() in _META and path.suffix not in _META:
            reader.SetImageIO("MetaImageIO")  # which ITK tells by small letters
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


def _segments(reader: sitk.ImageFileReader, name: str) -> list[tuple[int, int]]:
    """(layer, label value) of each segment of a Slicer segmentation in several layers; else empty.

    Raises :class:`PromptSegError`, with ``name`` for the file, for layers and values that cannot be.
    """
    layers = reader.GetNumberOfComponents()
    if layers < 2:
        return []
    keys = [re.fullmatch(r"Segment([0-9]+)_LabelValue", key) for key in reader.GetMetaDataKeys()]
    found = []
    for number in sorted((key.group(1) for key in keys if key), key=int):
        layer = f"Segment{number}_Layer"
        words = (
            reader.GetMetaData(layer) if reader.HasMetaDataKey(layer) else "0",
            reader.GetMetaData(f"Segment{number}_LabelValue"),
        )
        numbers = [int(word) if re.fullmatch(r"\s*[0-9]{1,9}\s*", word) else -1 for word in words]
        if not (0 <= numbers[0] < layers and numbers[1] > 0):
            raise PromptSegError(
                "{name} says of a segment that it is number {value} in layer {layer}; in Slicer, export the "
                "segmentation to a labelmap and save that.",
                name=name,
                value=words[1][:20],
                layer=words[0][:20],
            )
        found.append((numbers[0], numbers[1]))
    return found


def _flatten(image: sitk.Image, segments: list[tuple[int, int]]) -> sitk.Image:
    layers = sitk.GetArrayViewFromImage(image)  # (z, y, x, layer)
    labels = np.zeros(layers.shape[:3], layers.dtype)
    for layer, value in segments:
        where = layers[..., layer] == value
        if where.any():  # a value beyond the type of the voxels is nowhere
            labels[where] = value
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


def unreadable(path: Path, message: str) -> str:
    """One sentence for what SimpleITK said over several lines."""
    known = path.name.lower().endswith(_KNOWN)
    if "Unable to determine ImageIO" in message:
        if known:
            return Sentence(
                "{path} is damaged, or not of the format that its name says; {again}.", path=path, again=AGAIN
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
    return Sentence("{path} cannot be read ({short}); {again}.", path=path, short=short, again=AGAIN)


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

"""Many images in one command: what was done of each, a table of volumes, and going on where it stopped."""

from __future__ import annotations

import csv
import io
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Iterator, Optional, Sequence

import numpy as np
import SimpleITK as sitk

from ..errors import PromptSegError, is_out_of_memory
from ..evaluation.scores import volume_text
from ..files import atomic_write, check_writable
from .saying import visible

_KNOWN = (".nii.gz", ".nii", ".hdr", ".hdr.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_SEGMENTATION = ".seg.nrrd"


def images_in(names: Sequence[str]) -> list[Path]:
    """The images of a command: each file as it is, and of a folder all volumes that lie in it and are not hidden.

    Raises :class:`PromptSegError` for a folder without any, and for one that cannot be read.
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if not path.is_dir():
            found.append(path)
            continue
        try:
            # A link that leads nowhere was meant as a volume, too: it is one that fails, not one that is passed over.
            files = sorted(each for each in path.iterdir() if each.is_file() or not each.exists())
        except OSError as error:
            raise PromptSegError(
                "Cannot read the folder {path}: {strerror}.", path=path, strerror=error.strerror or error
            ) from error
        volumes = [each for each in files if each.name.lower().endswith(_KNOWN)]
        volumes = [each for each in volumes if not each.name.lower().endswith(_SEGMENTATION)]
        volumes = [each for each in volumes if not each.name.startswith(".")]  # what macOS puts beside each file
        if not volumes:
            raise PromptSegError(
                "The folder {path} has no volume ({known}); in Slicer, load the series and save it as .nrrd.",
                path=path,
                known=", ".join(_KNOWN),
            )
        found += volumes
    return found


@dataclass
class _Row:
    image: Path
    result: Path
    state: str = ""
    reason: str = ""
    seconds: Optional[float] = None
    volumes: dict[str, float] = field(default_factory=dict)  # ml


class Batch:
    """The images of a command in turn.

    :param report: where the table goes, after each image; None for none, and then the first failure ends the command.
    :param resume: leave out images that are ``complete``: a result takes its name only when it is.
    :param values: class -> its value in results.
    :param complete: whether of an image (first) its result (second), and what is wanted beside it, are there.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        report: Optional[Path],
        resume: bool,
        values: dict[str, int],
        complete: Callable[[Path, Path], bool] = lambda image, result: result.is_file(),
    ):
        self._rows = [_Row(image, result) for image, result in pairs]
        self._report, self._resume, self._values, self._complete = report, resume, values, complete
        if report is not None:
            check_writable(report)

    def __iter__(self) -> Iterator[tuple[Path, Path]]:
        """Images that are still to be segmented, with where their results go."""
        for number, row in enumerate(self._rows, start=1):
            if self._resume and self._complete(row.image, row.result):
                with self.noting(row.image):
                    row.state, row.volumes = "there already", self._measured_file(row.result)
                continue
            if len(self._rows) > 1:
                print(f"{number} of {len(self._rows)}: {visible(str(row.image))}", file=sys.stderr, flush=True)
            yield row.image, row.result

    @contextmanager
    def noting(self, image: Path) -> Iterator[_Row]:
        """Note how an image ends; without a report, what goes wrong with it is raised."""
        row, began = next(each for each in self._rows if each.image == image), time.monotonic()
        try:
            yield row
            row.state = row.state or "done"
        except Exception as error:
            if self._report is None or not (isinstance(error, (PromptSegError, OSError)) or is_out_of_memory(error)):
                raise
            row.state, row.reason = "failed", _reason(error)
            print(f"promptseg: {visible(row.reason)}", file=sys.stderr, flush=True)
        if row.state == "done":
            row.seconds = time.monotonic() - began
        self._write()

    def measure(self, row: _Row, labels: sitk.Image) -> None:
        """Note the volumes of the classes in a result."""
        row.volumes = _milliliters(labels, self._values)

    def finish(self) -> None:
        """Say how many failed; raises :class:`PromptSegError` when some did."""
        failed = sum(row.state == "failed" for row in self._rows)
        if failed:
            raise PromptSegError(
                "{failed} of {count} images were not segmented; {report} says why, and --resume leaves out "
                "those that were.",
                failed=failed,
                count=len(self._rows),
                report=self._report,
            )

    def _measured_file(self, path: Path) -> dict[str, float]:
        from ..imaging.reading import read_annotation

        return _milliliters(read_annotation(path), self._values)

    def _write(self) -> None:
        if self._report is None:
            return
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["image", "result", "state", "reason", "seconds", *(f"{name} (ml)" for name in self._values)])
        for row in self._rows:
            if row.state:
                seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
                sizes = [volume_text(row.volumes[name], 3) if name in row.volumes else "" for name in self._values]
                table.writerow([row.image, row.result, row.state, row.reason, seconds, *sizes])
        with atomic_write(self._report) as temporary:
            temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def _reason(error: Exception) -> str:
    if is_out_of_memory(error):
        return "The memory is used up; close other programs or give a smaller image."
    return " ".join(str(error).split())


def _milliliters(labels: sitk.Image, values: dict[str, int]) -> dict[str, float]:
    """Class -> its volume, ml."""
    voxel = float(np.prod(labels.GetSpacing())) / 1000
    known, counts = np.unique(sitk.GetArrayViewFromImage(labels), return_counts=True)
    found = dict(zip(known.tolist(), counts.tolist()))
    return {name: found.get(value, 0) * voxel for name, value in values.items()}

"""Writing files so that a failure leaves what was there untouched."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

from .errors import PromptSegError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well, removed when not.

    The temporary name keeps the suffixes, because writers choose the format by them.
    Raises :class:`PromptSegError` when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        _check_replaceable(path)
        folder = Path(tempfile.mkdtemp(prefix=".promptseg-", dir=path.parent))
    except OSError as error:
        raise PromptSegError(f"Cannot write {path}: {error.strerror or error}; choose another folder.") from error
    temporary = folder / path.name
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # some disks say only now that they are full
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise PromptSegError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise :class:`PromptSegError` before a long job when its result could not be written to ``path``."""
    path = Path(path)
    check_name(path.absolute())
    try:
        _check_replaceable(path)
        if not path.parent.is_dir():
            raise PromptSegError(f"There is no folder {path.parent}; make it or choose another.")
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise PromptSegError(f"Cannot write {path}: {error.strerror or error}; choose another folder.") from error


def check_name(path: Path) -> None:
    """Raise :class:`PromptSegError` for a name that is not UTF-8, as in old archives: on such, SimpleITK aborts."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise PromptSegError(f"The name {ascii(str(path))} is not UTF-8; rename the file or its folder.") from error


def _check_replaceable(path: Path) -> None:
    """Refuse what a file must not be renamed to: a folder, a device, a pipe."""
    if path.is_dir():
        raise PromptSegError(f"{path} is a folder; give a file name.")
    if path.exists() and not path.is_file():
        raise PromptSegError(f"{path} is a device or a pipe; give a file name.")

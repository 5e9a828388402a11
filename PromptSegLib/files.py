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
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, renamed to it when the block ends well, removed when not.

    The temporary name keeps the suffixes, because writers choose the format by them. A symbolic link stays one: what
    it points to is replaced.
    Raises :class:`PromptSegError` when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        target = _target(path)
        folder = Path(tempfile.mkdtemp(prefix=".promptseg-", dir=target.parent))
    except OSError as error:
        raise PromptSegError(
            "Cannot write {path}: {strerror}; choose another folder.", path=path, strerror=error.strerror or error
        ) from error
    temporary = folder / path.name
    try:
        yield temporary
        with open(temporary, "rb+") as file:  # some disks say only now that they are full
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise PromptSegError("Cannot write {path}: {strerror}.", path=path, strerror=error.strerror or error) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_writable(path: Path) -> None:
    """Raise :class:`PromptSegError` before a long job when its result could not be written to ``path``."""
    path = Path(path)
    check_name(path.absolute())
    try:
        target = _target(path)
        if not target.parent.is_dir():
            raise PromptSegError("There is no folder {parent}; make it or choose another.", parent=target.parent)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise PromptSegError(
            "Cannot write {path}: {strerror}; choose another folder.", path=path, strerror=error.strerror or error
        ) from error


def check_name(path: Path) -> None:
    """Raise :class:`PromptSegError` for a name that is not UTF-8, as in old archives: on such, SimpleITK aborts."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise PromptSegError(
            "The name {ascii} is not UTF-8; rename the file or its folder.", ascii=ascii(str(path))
        ) from error


def delete_file(path: Path) -> None:
    """Delete a file, if it is there; raises :class:`PromptSegError` where it cannot be."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise PromptSegError(
            "Cannot delete {path}: {strerror}; close what uses it and try again.",
            path=path,
            strerror=error.strerror or error,
        ) from error


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it; when the block ends, those of them in which nothing is are gone again.

    What a symbolic link points to is made, and the link stays. Raises :class:`PromptSegError` when it cannot be made.
    """
    place = Path(os.path.realpath(folder))
    if place.is_symlink():
        raise PromptSegError("{path} is a link to itself; remove it or choose another name.", path=folder)
    if place.exists() and not place.is_dir():
        raise PromptSegError("{path} is a file, not a folder; choose another name.", path=folder)
    missing = [each for each in (place, *place.parents) if not each.exists()]
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PromptSegError(
            "Cannot make the folder {folder}: {strerror}.", folder=folder, strerror=error.strerror or error
        ) from error
    try:
        yield
    finally:
        for each in missing:
            try:
                each.rmdir()
            except OSError:
                break


def _target(path: Path) -> Path:
    """What is replaced when ``path`` is written: itself, or what it is a link to, on whatever disk and there or not.

    Refuses what a file must not be renamed to: a folder, a device, a pipe, a file that is write-protected.
    """
    if path.is_dir():
        raise PromptSegError("{path} is a folder; give a file name.", path=path)
    if path.exists() and not path.is_file():
        raise PromptSegError("{path} is a device or a pipe; give a file name.", path=path)
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise PromptSegError("{path} is a link to itself; remove it or choose another name.", path=path)
    if target.exists() and not target.stat().st_mode & 0o222:
        raise PromptSegError("{path} is write-protected; choose another name.", path=path)
    return target

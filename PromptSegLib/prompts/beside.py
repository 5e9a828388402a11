"""Strokes that have no room in a prompts file, in a file beside it: ``NAME.strokes.safetensors``.

The prompts file names them by their image and a digest, so that no others are taken for them; it works without.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Iterable, Iterator, Optional

from ..annotation.strokes import MAX_PACKED, Strokes
from ..errors import PromptSegError
from ..files import atomic_write, check_writable

Key = tuple[str, str]  # fingerprint of the image, digest of the strokes
_KIND = "promptseg-strokes"
_MAX_FILE = 4 * MAX_PACKED
_MAX_HEADER = 2**20


def key_of(strokes: Strokes) -> Key:
    return strokes.image, hashlib.sha256(strokes.data.tobytes()).hexdigest()


def place(prompts: Path) -> Path:
    """Where the strokes beside a prompts file are."""
    return prompts.with_name(f"{prompts.stem}.strokes.safetensors")


@contextmanager
def written(prompts: Path, strokes: Iterable[Strokes]) -> Iterator[None]:
    """Keep strokes beside a prompts file, which the block replaces; of none, their file goes. When the block fails,
    what was there is there again. Raises :class:`PromptSegError` rather than to replace something else."""
    from safetensors.numpy import save  # not at the top: the panel opens before anything is installed

    path, kept = place(prompts), list(strokes)
    ours = _header(path) is not None
    if kept and os.path.exists(path) and not ours:
        raise PromptSegError("{path} is in the way of what was painted; give the prompts file another name.", path=path)
    if kept:
        check_writable(path)
    header = json.dumps([each.to_dict() for each in kept])
    content = save({str(index): each.data for index, each in enumerate(kept)}, {_KIND: header}) if kept else b""
    with _aside(path) if ours or kept else nullcontext():
        if kept:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        yield


@contextmanager
def _aside(path: Path) -> Iterator[None]:
    """With a file out of the way, be it there or not; when the block fails, it is there again, and nothing else."""
    target = Path(os.path.realpath(path))  # a link stays one
    try:
        with tempfile.TemporaryDirectory(prefix=".promptseg-", dir=target.parent) as folder:
            before = Path(folder) / target.name
            if target.exists():
                os.replace(target, before)
            try:
                yield
            except BaseException:
                target.unlink(missing_ok=True)
                if before.exists():
                    os.replace(before, target)
                raise
    except OSError as error:
        raise PromptSegError("Cannot write {path}: {strerror}.", path=path, strerror=error.strerror or error) from error


def read(prompts: Path, wanted: Iterable[Key]) -> list[Strokes]:
    """Those of the wanted strokes that are there and intact, believing nothing."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path, keys = place(prompts), set(wanted)
    header = _header(path) if keys else None
    if header is None:
        return []
    try:
        tensors = load(path.read_bytes())
        found = [Strokes.from_dict(entry, tensors[str(index)]) for index, entry in enumerate(header)]
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return [each for each in found if key_of(each) in keys]


def _header(path: Path) -> Optional[list]:
    """What such a file lists; None for any other file."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_FILE:
            return None
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            listed = json.loads(json.loads(file.read(min(length, _MAX_HEADER)))["__metadata__"][_KIND])
    except (OSError, ValueError, LookupError, TypeError, RecursionError, struct.error):
        return None
    return listed if isinstance(listed, list) else None

"""Messages between the module and its worker, over one byte stream each way. Protocol version 1.

A message is the length of its header (4 bytes, big-endian), the header (a JSON object, UTF-8) and the voxels
of the arrays that travel inside it, in C order. A header has ``kind``, ``arrays`` (name, dtype, shape and,
where the voxels lie in a file of the shared folder instead, its name) and what the kind asks for:

to the worker
    ``image``   key, grid, optionally modality; array ``voxels``. An image that later jobs name by its key.
    ``job``     job (its number), name, and what :mod:`.contract` packs for the job of that name; ``keep``: the
                keys of the images that later jobs need, all others are dropped.
    ``cancel``  job. It answers ``cancelled``, or with the result if that was on its way.
from the worker
    ``hello``   version, python, pid; once, before anything heavy is imported.
    ``report``  job, stage, share (0..1), figures.
    ``preview`` job, and as ``done``.
    ``done``    job, and what the job gives.
    ``cancelled``  job.
    ``refused`` job, message: one sentence for the user; the worker goes on.
    ``failed``  job, message, details: something that should not happen; the worker goes on, unless ``memory``
                is true: it ends, so that its memory is free, and a fresh one must be started.
    ``farewell`` the last message of a worker that ends by itself; one that was killed says nothing.

The worker ends when its input ends, so it never outlives the application. Arrays lie in files of a folder
that both sides see (shared memory, where the system has a folder for it); without one, as over ssh, inside the
messages.
"""

from __future__ import annotations

import contextlib
import json
import struct
import tempfile
import threading
import uuid
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import IO, Any, Mapping, Optional

import numpy as np

VERSION = 1
_MAX_HEADER = 64 * 2**20
_MAX_BYTES = 2**36
_BLOCK = 2**24  # bytes that are taken before any has come
_FILE_FROM = 2**16  # bytes from which an array goes through a file
_KINDS = "biuf"


class ProtocolError(Exception):
    """The other side does not speak this protocol (or something else wrote into the stream)."""


@dataclass(frozen=True)
class Message:
    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def job(self) -> int:
        """The number of the job it belongs to; 0 for none."""
        return int(self.values.get("job", 0))


def shared_folder() -> Optional[Path]:
    """A new folder for arrays, in memory where the system has such a place; None where none can be made."""
    for parent in ("/dev/shm", None):
        try:
            if parent is None or Path(parent).is_dir():
                return Path(tempfile.mkdtemp(prefix="promptseg-", dir=parent))
        except OSError:
            continue
    return None


class Channel:
    """One end of the two streams. Sending is safe from several threads; receiving is for one."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes], folder: Optional[Path] = None):
        self._reader, self._writer, self._folder = reader, writer, folder
        self._lock = threading.Lock()

    def send(self, kind: str, arrays: Optional[Mapping[str, np.ndarray]] = None, **values: Any) -> None:
        """Send one message; raises ``OSError`` or ``ValueError`` when the other side is gone."""
        listed, inside = [], []
        for name, array in (arrays or {}).items():
            array = np.asarray(array, order="C")
            if array.dtype.kind not in _KINDS:
                raise ValueError(f"an array of {array.dtype}")
            entry = {"name": name, "dtype": array.dtype.str, "shape": list(array.shape)}
            place = self._written(array)
            if place is None:
                inside.append(array)
            else:
                entry["file"] = place
            listed.append(entry)
        header = json.dumps({"kind": kind, **values, "arrays": listed}).encode()
        with self._lock:
            self._writer.write(struct.pack(">I", len(header)) + header)
            for array in inside:
                if array.size:
                    self._writer.write(array.reshape(-1).view(np.uint8).data)
            self._writer.flush()

    def receive(self) -> Optional[Message]:
        """The next message, None at the end of the stream; raises :class:`ProtocolError` for anything else."""
        start = self._reader.read(4)
        if not start:
            return None
        (length,) = struct.unpack(">I", start.ljust(4, b"\0"))
        if len(start) < 4 or length > _MAX_HEADER:
            raise ProtocolError(f"no message starts with {start!r}")
        try:
            header = json.loads(self._exactly(length).decode())
            kind, listed = header.pop("kind"), header.pop("arrays")
            arrays = {str(entry["name"]): self._array(entry) for entry in listed}
        except (ProtocolError, OSError, MemoryError):
            raise
        except Exception as error:  # foreign headers fail in more ways than one can list
            raise ProtocolError(f"not a message: {error}") from error
        return Message(str(kind), header, arrays)

    def _array(self, entry: Mapping[str, Any]) -> np.ndarray:
        dtype, shape = np.dtype(entry["dtype"]), tuple(entry["shape"])
        if dtype.kind not in _KINDS or not all(type(extent) is int and extent >= 0 for extent in shape):
            raise ValueError(f"an array of {dtype} {shape}")
        size = dtype.itemsize * prod(shape)
        if size > _MAX_BYTES:
            raise ValueError(f"an array of {size} bytes")
        name = entry.get("file")
        if name is None:
            return np.frombuffer(self._exactly(size), dtype).reshape(shape)
        if self._folder is None or Path(name).name != name:
            raise ValueError(f"an array in {name!r}")
        path = self._folder / name
        try:
            array = np.fromfile(path, dtype)
        except OSError as error:
            raise ValueError(f"an array is missing: {error}") from error
        path.unlink()
        return array.reshape(shape)

    def _written(self, array: np.ndarray) -> Optional[str]:
        """The name of a new file with the array's voxels; None where it had better travel inside."""
        if self._folder is None or array.nbytes < _FILE_FROM:
            return None
        path = self._folder / f"{uuid.uuid4().hex}.raw"
        try:
            path.write_bytes(array.reshape(-1).view(np.uint8).data)  # tofile is silent when the disk is full
        except OSError:  # full or read-only: the stream still works
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        return path.name

    def _exactly(self, size: int) -> bytearray:
        data, done = bytearray(min(size, _BLOCK)), 0
        while True:
            # A header may claim any size: memory is taken as the bytes come, doubling.
            with memoryview(data) as view:
                while done < len(data):
                    count = self._reader.readinto(view[done:])  # type: ignore[attr-defined]
                    if not count:
                        raise ProtocolError("the stream ended in the middle of a message")
                    done += count
            if done == size:
                return data
            data.extend(bytes(min(size, 2 * done) - done))

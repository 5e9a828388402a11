"""What was painted and tuned since the scene was saved, in a folder of the user's, for when the application is killed.

Every application has a folder of its own beside those of others, and holds a lock on it, which the system lets go when
the process ends, however it ends. So neither a clock nor the number of a process says whether a folder is in use.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import threading
import uuid
from pathlib import Path
from typing import Any, Callable, Optional

from ..errors import PromptSegError
from ..files import atomic_write

FOLDER_VARIABLE = "PROMPTSEG_RECOVERY"
_SUFFIX = ".salvage"
_OFFERED = "offered"  # a file in a folder: its content was offered once, and is kept for a while
_MOST_BYTES = 1 << 29  # of an application's folder, the newest go first into it
_MOST_FOLDERS = 4  # of applications that ended


def recovery_folder() -> Path:
    """That of ``PROMPTSEG_RECOVERY``, else one beside the user's models."""
    named = os.environ.get(FOLDER_VARIABLE, "").strip()
    if named:
        return Path(os.path.expanduser(named))
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Application Support"
    else:
        base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(os.path.expanduser(base)) / "promptseg" / "recovery"


class Recovery:
    """The recovery folder of this application, and what those that were killed have left.

    Nothing here raises for a disk that is full or a folder that cannot be written: it is a second line of defense.

    :param base: where the folders of all applications are.
    """

    def __init__(self, base: Optional[Path] = None):
        self._base = Path(base) if base is not None else recovery_folder()
        self._own: Optional[_Folder] = None
        self._left: list[_Folder] = []
        self._order: list[str] = []  # keys, the one noted last at the end
        self._waiting: dict[str, Callable[[], bytes]] = {}
        self._changed = threading.Condition()
        self._thread: Optional[threading.Thread] = None
        self._writing = self._closed = False

    # What this application does

    def note(self, key: str, content: Callable[[], bytes]) -> None:
        """Keep something instead of what was kept under ``key``; ``content`` is called in a thread, the last one's."""
        with self._changed:
            if self._closed:
                return
            self._waiting[key] = content
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def keys(self) -> list[str]:
        """Of all that is kept, or is about to be."""
        with self._changed:
            return list(dict.fromkeys([*self._order, *self._waiting]))

    def forget(self, key: Optional[str] = None) -> None:
        """Let what is kept under ``key`` go, or all of it: it is saved elsewhere, or no longer wanted."""
        with self._changed:
            for each in [key] if key is not None else [*self._order, *self._waiting]:
                self._waiting.pop(each, None)
            self._changed.wait_for(lambda: not self._writing, timeout=10.0)
            for each in [key] if key is not None else list(self._order):
                self._remove(each)

    def flush(self, seconds: float = 30.0) -> bool:
        """Wait until everything noted is on the disk; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._writing, timeout=seconds)

    def close(self) -> None:
        """The application ends as it should: its folder goes, and what it offered is offered no more."""
        self.forget()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for folder in self._left:
            folder.mark()
            folder.unlock()
        self._left = []
        if self._own is not None:
            self._own.remove()
        self._own = None

    # What others have left

    def find(self) -> list[bytes]:
        """What applications that were killed have left and nobody was offered yet, the newest folder first.

        It is this application's from now on: no other finds it, unless this one is killed, too.
        """
        dead = [folder for path in _folders(self._base) if (folder := _Folder.locked(path)) is not None]
        for folder in dead[_MOST_FOLDERS:]:
            folder.remove()
        for folder in dead[:_MOST_FOLDERS]:
            if folder.marked or not folder.files():
                folder.unlock() if folder.marked else folder.remove()
            else:
                self._left.append(folder)
        found = []
        for path in [path for folder in self._left for path in folder.files()]:
            with contextlib.suppress(OSError):
                if path.stat().st_size <= _MOST_BYTES:
                    found.append(path.read_bytes())
        return found

    def done(self) -> None:
        """What was found is taken, or not wanted: it goes."""
        for folder in self._left:
            folder.remove()
        self._left = []

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._waiting) or self._closed)
                if self._closed:
                    return
                key, content = next(iter(self._waiting.items()))
                del self._waiting[key]
                self._writing = True
            try:
                self._write(key, content())
            except Exception as error:
                logging.warning("PromptSeg could not keep '%s' for recovery: %s", key, error)
            finally:
                with self._changed:
                    self._writing = False
                    self._changed.notify_all()

    def _write(self, key: str, content: bytes) -> None:
        if len(content) > _MOST_BYTES:
            raise PromptSegError("it is too large")
        if self._own is None:
            self._own = _Folder.new(self._base)
        others = [each for each in self._order if each != key]
        sizes = {each: path.stat().st_size for each in others if (path := self._own.file(each)).exists()}
        while sizes and sum(sizes.values()) + len(content) > _MOST_BYTES:
            oldest = next(iter(sizes))
            del sizes[oldest]
            self._remove(oldest)
        with atomic_write(self._own.file(key)) as temporary:
            temporary.write_bytes(content)
        self._order = [*(each for each in self._order if each != key), key]

    def _remove(self, key: str) -> None:
        if key in self._order:
            self._order.remove(key)
        if self._own is not None:
            with contextlib.suppress(OSError):
                self._own.file(key).unlink()


class _Folder:
    """A folder and the lock beside it, which is there before the folder is and goes after it."""

    def __init__(self, path: Path, lock: Any):
        self.path, self._lock = path, lock

    @classmethod
    def new(cls, base: Path) -> _Folder:
        base.mkdir(parents=True, exist_ok=True)
        taken = [int(path.name.partition("-")[0]) for path in _folders(base)]
        path = base / f"{1 + max(taken, default=0):09d}-{uuid.uuid4().hex}"
        lock = _lock(_lock_file(path))
        if lock is None:
            raise PromptSegError("{base} takes no locks", base=base)
        path.mkdir()
        return cls(path, lock)

    @classmethod
    def locked(cls, path: Path) -> Optional[_Folder]:
        """A folder that nobody uses; None for one that is in use, or went meanwhile."""
        lock = _lock(_lock_file(path))
        if lock is None:
            return None
        folder = cls(path, lock)
        if path.is_dir():
            return folder
        folder.remove()
        return None

    @property
    def marked(self) -> bool:
        return (self.path / _OFFERED).exists()

    def mark(self) -> None:
        with contextlib.suppress(OSError):
            (self.path / _OFFERED).touch()

    def files(self) -> list[Path]:
        try:
            return sorted(path for path in self.path.iterdir() if path.suffix == _SUFFIX and path.is_file())
        except OSError:
            return []

    def file(self, key: str) -> Path:
        return self.path / f"{''.join(letter for letter in key if letter.isalnum())[:100]}{_SUFFIX}"

    def unlock(self) -> None:
        with contextlib.suppress(OSError):
            self._lock.close()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.unlock()
        with contextlib.suppress(OSError):
            _lock_file(self.path).unlink()


def _folders(base: Path) -> list[Path]:
    """The folders of all applications, the newest first."""
    try:
        paths = [path for path in base.iterdir() if path.is_dir() and path.name.partition("-")[0].isdecimal()]
    except OSError:
        return []
    return sorted(paths, key=lambda path: path.name, reverse=True)


def _lock_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _lock(path: Path) -> Any:
    """An open file that this process alone holds; None where another does."""
    try:
        file = open(path, "a+b")  # noqa: SIM115
    except OSError:
        return None
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file

"""What was painted and tuned since the scene was saved, in a folder of the user's, for when the application is killed.

Every application has a folder of its own beside those of others, and holds a lock on it, which the system lets go when
the process ends, however it ends. So neither a clock nor the number of a process says whether a folder is in use.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any, Callable, Optional

from ..errors import PromptSegError, Sentence
from ..files import atomic_write
from ..scene import prompt_nodes, salvage, scene_nodes
from . import prompts as prompts_list
from .actions import Actions, Notice

FOLDER_VARIABLE = "PROMPTSEG_RECOVERY"
_SUFFIX = ".salvage"
_OFFERED = "offered"  # a file in a folder: its content was offered once, and is kept for a while
_MOST_BYTES = 1 << 29  # of an application's folder, the newest go first into it
_MOST_FOLDERS = 4  # of applications that ended
_PAUSE = 20.0  # seconds between two notes because of strokes


class Rescue:
    """Between a session's scene and its recovery folder.

    :param recovery: None keeps and offers nothing.
    """

    def __init__(self, scene: Any, recovery: Optional[Recovery], actions: Actions):
        self._scene, self._recovery, self._actions = scene, recovery, actions
        self._noted, self._stored = float("-inf"), scene.GetStoredTime()
        self._due: dict[str, tuple[Any, Any]] = {}  # ID of a segmentation -> it and its volume
        self._found: list[salvage.Salvage] = []
        for content in recovery.find() if recovery is not None else []:
            with contextlib.suppress(PromptSegError):  # half of it is nothing
                self._found.append(salvage.Salvage.from_bytes(content))

    @property
    def text(self) -> str:
        """What is offered, one sentence; "" for nothing."""
        if not self._found:
            return ""
        names = ", ".join(f"'{each.name}'" for each in self._found)
        return Sentence("Slicer ended unexpectedly; what was not saved of {names} can be recovered.", names=names)

    def note(self, segmentation: Any, volume: Any) -> None:
        """Keep a segmentation as it is now, with its prompts; quick, the rest is done in a thread."""
        if self._recovery is None or not scene_nodes.alive(self._scene, segmentation):
            return
        self._due.pop(segmentation.GetID(), None)
        node = prompt_nodes.linked(segmentation)
        with contextlib.suppress(PromptSegError):  # what cannot be taken cannot be tuned on either
            prompts = prompt_nodes.bytes_of(node) if node is not None else b""
            taken = salvage.take(segmentation, volume if scene_nodes.alive(self._scene, volume) else None, prompts)
            if taken.layers:
                self._recovery.note(segmentation.GetID(), taken.to_bytes)
        self._noted = time.monotonic()

    def note_strokes(self, segmentation: Any, volume: Any) -> None:
        """As :meth:`note`, once in a while; in between it is due, see :meth:`step`."""
        if self._recovery is not None and scene_nodes.alive(self._scene, segmentation):
            self._due[segmentation.GetID()] = segmentation, volume
            self.step()

    @property
    def wait(self) -> float:
        """Seconds until :meth:`step` is to be called, infinite while nothing is due."""
        return max(0.0, self._noted + _PAUSE - time.monotonic()) if self._due else math.inf

    def step(self) -> None:
        """Keep the strokes that are due: the last ones before the user rests are kept, too."""
        if self.wait > 0:
            return
        for key, (segmentation, volume) in list(self._due.items()):
            del self._due[key]
            self.note(segmentation, volume)

    def look_whether_saved(self) -> None:
        """Let go what is kept when the scene was saved meanwhile, which no event of it says.

        A scene may be saved without the files of some of its nodes: segmentations that were left out stay kept.
        """
        if self._scene.GetStoredTime() == self._stored:
            return
        self._stored = self._scene.GetStoredTime()
        for key in self._recovery.keys() if self._recovery is not None else []:
            node = self._scene.GetNodeByID(key)
            if self._recovery is not None and (node is None or not node.GetModifiedSinceRead()):
                self._recovery.forget(key)

    def removed(self, node: Any) -> None:
        self._due.pop(node.GetID() or "", None)
        if self._recovery is not None and node.IsA("vtkMRMLSegmentationNode"):
            self._recovery.forget(node.GetID())

    def closing(self) -> None:
        """The user closes the scene, and with it what was not saved."""
        self._due.clear()
        if self._recovery is not None:
            self._recovery.forget()

    def recover(self) -> None:
        """Put what a killed application has left into the scene, beside what is there."""
        with self._actions.doing():
            self._actions.notice = self._put_back()

    def dismiss(self) -> None:
        """What a killed application has left is not wanted."""
        with self._actions.doing():
            self._end()

    def close(self) -> None:
        """The application ends as it should."""
        if self._recovery is not None:
            self._recovery.close()

    def _put_back(self) -> Notice:
        if not self._found:
            raise PromptSegError("There is nothing to recover.")
        made = []
        for each in self._found:
            volume = salvage.volume_for(self._scene, each)
            node = salvage.put_back(self._scene, each, volume)
            prompts = salvage.prompts_of(each)
            if prompts is not None:
                prompts_list.keep(self._scene, node, prompts)
            self.note(node, volume)
            missing = "" if volume is not None or not each.described["volume"] else each.described["volume"]
            made.append(f"'{node.GetName()}'{f' (of the volume {missing}, which is not here)' if missing else ''}")
        self._end()
        return Notice(Sentence("Recovered {made}; save the scene to keep it.", made=", ".join(made)))

    def _end(self) -> None:
        self._found = []
        if self._recovery is not None:
            self._recovery.flush()  # what was put back is kept anew before the old goes
            self._recovery.done()


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

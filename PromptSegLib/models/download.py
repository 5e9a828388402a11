"""Getting models over the network, and deleting them again."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Callable, Iterator, Optional

from ..errors import PromptSegError
from ..progress import Job
from .catalogue import PARTIAL_SUFFIX, Download, Entry, download_paths, find_name, is_file_with, sha256_of

TIMEOUT_SECONDS = 15.0
ATTEMPTS = 3
_BLOCK = 2**18
_REPORT_SECONDS = 0.1
_BY_HAND = "or put the file into"
_HELD = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES)  # the last on Windows


def download(entry: Entry, job: Optional[Job] = None) -> Entry:
    """Get what is not here of an entry; returns the entry as it then is.

    The files go to the first of :func:`~.catalogue.model_folders`. What an interrupted download left there goes on
    where it stopped. A file takes its name only when its SHA-256 is right. The proxy settings of the environment (and
    of the system, on Windows and macOS) are followed.

    :param job: gets the share of the bytes, and ``megabytes`` and ``of`` as figures; cancelling keeps what has come.

    Raises :class:`PromptSegError` for no network, another answer than the file, a wrong hash, a full disk or a folder
    that cannot be written, while another PromptSeg downloads it, and :class:`~PromptSegLib.progress.Cancelled`.
    """
    job = job or Job()
    if entry.weights_download is None or entry.installed:
        return entry
    folder = download_paths(entry.name)[0].parent
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _alone(entry.name):
        entry = find_name(entry.name)  # another PromptSeg may just have got it
        wanted = [
            (part, path)
            for part, path, present in (
                (entry.weights_download, download_paths(entry.name)[0], entry.path),
                (entry.prompts_download, download_paths(entry.name)[1], entry.prompts),
            )
            if part is not None and not (present is not None and is_file_with(present, part.sha256, part.size))
        ]
        whole = sum(part.size for part, _ in wanted) or 1
        done = 0
        for part, path in wanted:
            _check_room(part, path)
            try:
                _get(part, path, _reporter(job, entry.name, done, whole))
            except PromptSegError:
                # Where a file system has no locks, another PromptSeg may have got it.
                if not is_file_with(path, part.sha256, part.size):
                    raise
            done += part.size
    job.report(f"Downloaded {entry.name}", 1.0)
    return find_name(entry.name)


def delete(entry: Entry) -> None:
    """Delete what was downloaded of an entry, finished or not; nothing happens when nothing was.

    Raises :class:`PromptSegError` for a bundled model, for a file that somebody placed by hand, for a file that
    cannot be deleted, and while another PromptSeg downloads the model.
    """
    if entry.weights_download is None:
        raise PromptSegError(f"The model {entry.name} is part of PromptSeg and stays; only downloads can be deleted.")
    paths = download_paths(entry.name)
    for path in (entry.path, entry.prompts):
        if path is not None and path not in paths and path.exists():
            raise PromptSegError(f"{path} was not downloaded by PromptSeg; delete it by hand if you want it gone.")
    with _alone(entry.name):
        for path in (*paths, *map(_partial, paths)):
            try:
                path.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise PromptSegError(
                    f"Cannot delete {path}: {error.strerror or error}; close what uses it and try again."
                ) from error


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Keep others from downloading and deleting that model: processes, and threads of this one.

    The system ends a lock with its process, however that ends. Where a file system has no locks, nobody is kept out.
    Raises :class:`PromptSegError` while another holds the lock.
    """
    place = download_paths(name)[0].with_name(f"{name}.lock")
    try:
        handle = _locked(place)
    except BlockingIOError as error:
        raise PromptSegError(
            f"The model {name} is being downloaded by another PromptSeg; wait until that has ended, and try again."
        ) from error
    try:
        yield
    finally:
        if handle is not None:
            # Windows deletes no open file; elsewhere, nobody else may have locked what is deleted.
            steps = [lambda: os.unlink(place), lambda: os.close(handle)]
            for step in steps[::-1] if sys.platform == "win32" else steps:
                with suppress(OSError):
                    step()


def _locked(place: Path) -> Optional[int]:
    """A handle of the file ``place``, made where needed, with its lock; None where there are no locks.

    Raises ``BlockingIOError`` while another holds the lock.
    """
    for _ in range(ATTEMPTS):
        try:
            handle = _lock_file(place)
        except OSError:
            return None
        try:
            _lock(handle)
            if os.path.samestat(os.fstat(handle), os.stat(place)):
                return handle
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(handle)
            if error.errno in _HELD:
                raise BlockingIOError(*error.args) from error
            return None
        os.close(handle)  # whoever had the lock deleted the file before this one got it
    return None


def _lock_file(place: Path) -> int:
    try:
        return os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's, in a folder that a group shares
        return os.open(place, os.O_RDONLY)


def _lock(handle: int) -> None:
    """Lock an open file until it is closed; raises ``OSError`` with one of ``_HELD`` when another has the lock."""
    if sys.platform == "win32":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _partial(path: Path) -> Path:
    """Where a download lies until it is whole."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _reporter(job: Job, name: str, done: int, whole: int) -> Callable[[int], None]:
    """Tells the job of so many bytes of a file, some times a second; cancelling is noticed every time."""
    last = [0.0]

    def report(arrived: int) -> None:
        now = time.monotonic()
        if now - last[0] < _REPORT_SECONDS:
            job.check()
            return
        last[0] = now
        figures = {"megabytes": round((done + arrived) / 1e6, 1), "of": round(whole / 1e6, 1)}
        job.report(f"Downloading {name}", (done + arrived) / whole, **figures)

    return report


def _check_room(part: Download, path: Path) -> None:
    with _writing(path):
        lacking = part.size - _size(_partial(path))
        free = shutil.disk_usage(path.parent).free
    if free < lacking:
        raise PromptSegError(
            f"The disk of {path.parent} has {free / 1e6:.0f} MB left, but {lacking / 1e6:.0f} MB are needed; free some "
            "space, or set PROMPTSEG_MODELS to another folder."
        )


def _get(part: Download, path: Path, report: Callable[[int], None]) -> None:
    """Fetch one file; broken connections are taken up again, and a damaged file is fetched anew once."""
    if urllib.parse.urlsplit(part.url).scheme not in ("http", "https"):
        raise PromptSegError(f"{part.url} is no web address; update PromptSeg.")
    partial = _partial(path)
    for attempt in range(ATTEMPTS):
        resumed = _size(partial) > 0
        try:
            if _size(partial) < part.size:
                _fetch(part, partial, report)
        except (OSError, http.client.HTTPException) as error:  # the network's; the disk's are PromptSegErrors
            if isinstance(error, urllib.error.HTTPError) and error.code == 416 and resumed:
                with _writing(partial):
                    partial.unlink()  # what is here is not the start of what is there
                continue
            if attempt + 1 == ATTEMPTS or not _may_pass(error):
                raise _unreachable(part, path, error) from error
            report(_size(partial))
            continue
        with _writing(path):
            if _size(partial) == part.size and sha256_of(partial) == part.sha256:
                os.replace(partial, path)
                return
            partial.unlink()
        if not resumed:  # what an older attempt left may have been at fault
            break
    raise PromptSegError(
        f"What came from {_host(part)} for {path.name} is not the file that was asked for (its SHA-256 is wrong), and "
        "was deleted; try again later, or update PromptSeg."
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _fetch(part: Download, partial: Path, report: Callable[[int], None]) -> None:
    """Append to ``partial`` what it lacks, or write it anew where the server sends all of it."""
    there = _size(partial)
    request = urllib.request.Request(part.url, headers={"User-Agent": "PromptSeg"})
    if there:
        request.add_header("Range", f"bytes={there}-")
    # An opener of its own follows the proxy settings as they are now.
    with urllib.request.build_opener().open(request, timeout=TIMEOUT_SECONDS) as answer:
        goes_on = answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {there}-")
        if answer.status == 206 and not goes_on:
            raise urllib.error.HTTPError(part.url, 416, "another range than asked for", answer.headers, None)
        arrived = there if goes_on else 0
        announced = answer.headers.get("Content-Length")
        if announced and announced.isdecimal() and arrived + int(announced) != part.size:
            raise PromptSegError(
                f"{_host(part)} sent {arrived + int(announced)} bytes instead of the {part.size} of {partial.stem}; "
                "log in where your network asks you to, or update PromptSeg."
            )
        with _writing(partial):
            file = open(partial, "ab" if goes_on else "wb")  # noqa: SIM115  (closed below)
        try:
            while arrived < part.size:
                report(arrived)
                block = answer.read1(min(_BLOCK, part.size - arrived))  # what is there: read() waits for all
                if not block:
                    raise ConnectionResetError("the connection was closed too early")
                with _writing(partial):
                    file.write(block)
                arrived += len(block)
            with _writing(partial):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with _writing(partial):  # it writes what it still holds, which a full disk refuses again
                file.close()
    report(arrived)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in a sentence what the disk refuses, so that it is not taken for the network."""
    try:
        yield
    except OSError as error:
        raise _cannot_write(path, error) from error


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may go better."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code == 429
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return not isinstance(reason, (ssl.SSLCertVerificationError, socket.gaierror))


def _unreachable(part: Download, path: Path, error: Exception) -> PromptSegError:
    """One sentence on a failed request."""
    host, by_hand = _host(part), f"{_BY_HAND} {path.parent} by hand"
    if isinstance(error, urllib.error.HTTPError):
        if error.code in (404, 410):
            return PromptSegError(f"{part.url} is not there ({error.code}); update PromptSeg, {by_hand}.")
        if error.code == 407:
            return PromptSegError(f"The proxy wants a password; put it into HTTPS_PROXY, {by_hand}.")
        return PromptSegError(f"{host} refused the download ({error.code} {error.reason}); try later, {by_hand}.")
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLError):
        return PromptSegError(
            f"The certificate of {host} was not accepted, which a firewall that reads along may cause; ask your "
            f"administrator, {by_hand}."
        )
    if isinstance(reason, (socket.timeout, ConnectionError, http.client.HTTPException)):
        return PromptSegError(
            f"The connection to {host} broke several times; download again to go on where it stopped, {by_hand}."
        )
    return PromptSegError(f"There is no connection to {host}; check the network and the proxy settings, {by_hand}.")


def _cannot_write(path: Path, error: OSError) -> PromptSegError:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return PromptSegError(
            f"The disk of {path.parent} is full; free some space and download again to go on where it stopped."
        )
    return PromptSegError(
        f"Cannot write {path}: {error.strerror or error}; set PROMPTSEG_MODELS to a folder that you may write."
    )


def _host(part: Download) -> str:
    return urllib.parse.urlsplit(part.url).netloc or part.url

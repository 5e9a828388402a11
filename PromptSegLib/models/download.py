"""Getting models over the network, and deleting them again."""

from __future__ import annotations

import errno
import os
import shutil
import time
import urllib.parse
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

from ..errors import PromptSegError
from ..files import delete_file
from ..progress import ProgressHandle
from .catalogue import PARTIAL_SUFFIX, Download, Entry, download_paths, find_name, is_file_with

TIMEOUT_SECONDS = 15.0
ATTEMPTS = 3
_BLOCK = 2**16
_REPORT_SECONDS = 0.1
_BY_HAND = "or put the file into"


def download(entry: Entry, job: Optional[ProgressHandle] = None) -> Entry:
    """Get what is not here of an entry, by pooch; returns the entry as it then is.

    The files go to the first of :func:`~.catalogue.model_folders`. What an interrupted download left there goes on
    where it stopped. A file takes its name only when its SHA-256 is right. The proxy settings of the environment (and
    of the system, on Windows and macOS) are followed.

    :param job: gets the share of the bytes, and ``megabytes`` and ``of`` as figures; cancelling keeps what has come.

    Raises :class:`PromptSegError` for no network, another answer than the file, a wrong hash, a full disk or a folder
    that cannot be written, while another PromptSeg downloads it, and :class:`~PromptSegLib.progress.Cancelled`.
    """
    job = job or ProgressHandle()
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
        raise PromptSegError(
            "The model {name} is part of PromptSeg and stays; only downloads can be deleted.", name=entry.name
        )
    paths = download_paths(entry.name)
    for path in (entry.path, entry.prompts):
        if path is not None and path not in paths and path.exists():
            raise PromptSegError(
                "{path} was not downloaded by PromptSeg; delete it by hand if you want it gone.", path=path
            )
    with _alone(entry.name):
        for path in (*paths, *map(_partial, paths)):
            delete_file(path)


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Keep others from downloading and deleting that model: processes, and threads of this one.

    The system ends a lock with its process, however that ends. Where a file system has no locks, nobody is kept out.
    Raises :class:`PromptSegError` while another holds the lock.
    """
    from filelock import FileLock, Timeout  # not at the top: it is there once Setup has run

    place = download_paths(name)[0].with_name(f"{name}.lock")
    lock = FileLock(place)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise PromptSegError(
            "The model {name} is being downloaded by another PromptSeg; wait until that has ended, and try again.",
            name=name,
        ) from error
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            os.unlink(place)


def _partial(path: Path) -> Path:
    """Where a download lies until it is whole."""
    return path.with_name(path.name + PARTIAL_SUFFIX)


def _reporter(job: ProgressHandle, name: str, done: int, whole: int) -> Callable[[int], None]:
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
            "The disk of {parent} has {free:.0f} MB left, but {lacking:.0f} MB are needed; free some "
            "space, or set PROMPTSEG_MODELS to another folder.",
            parent=path.parent,
            free=free / 1000000.0,
            lacking=lacking / 1000000.0,
        )


def _get(part: Download, path: Path, report: Callable[[int], None]) -> None:
    """Fetch one file; one that is damaged is fetched anew once where an older attempt may have been at fault."""
    import pooch  # not at the top: it is there once Setup has run

    if urllib.parse.urlsplit(part.url).scheme not in ("http", "https"):
        raise PromptSegError("{url} is no web address; update PromptSeg.", url=part.url)
    pooch.get_logger().setLevel("WARNING")
    downloader = _Resuming(part, path, report)
    for attempt in range(2):
        left = _size(_partial(path)) > 0
        try:
            with _writing(path):
                pooch.retrieve(part.url, f"sha256:{part.sha256}", path.name, path.parent, downloader=downloader)
            return
        except PromptSegError:
            raise
        except ValueError:  # pooch's, for a wrong hash; it has deleted what came
            if attempt or not left:
                break
    raise PromptSegError(
        "What came from {host} for {name} is not the file that was asked for (its SHA-256 is "
        "wrong), and was deleted; try again later, or update PromptSeg.",
        host=_host(part),
        name=path.name,
    )


class _Resuming:
    """A downloader for pooch that goes on where another attempt stopped, and takes up broken connections again."""

    def __init__(self, part: Download, path: Path, report: Callable[[int], None]) -> None:
        self._part, self._path, self._report = part, path, report

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        import requests

        partial = _partial(self._path)
        for attempt in range(1, ATTEMPTS + 1):
            there = _size(partial)
            try:
                if there < self._part.size:
                    self._fetch(url, partial, there)
                break
            except requests.RequestException as error:
                answer = getattr(error, "response", None)
                if there and answer is not None and answer.status_code == 416:
                    with _writing(partial):
                        partial.unlink()  # what is here is not the start of what is there
                elif attempt == ATTEMPTS or not _may_pass(error):
                    raise _unreachable(self._part, self._path, error) from error
                self._report(_size(partial))
        with _writing(partial):
            os.replace(partial, output_file)

    def _fetch(self, url: str, partial: Path, there: int) -> None:
        """Append to ``partial`` what it lacks, or write it anew where the server sends all of it."""
        import requests

        size = self._part.size
        headers = {"User-Agent": "PromptSeg", "Accept-Encoding": "identity"}  # packed, its length would be another
        if there:
            headers["Range"] = f"bytes={there}-"
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as answer:
            answer.raise_for_status()
            goes_on = (answer.headers.get("Content-Range") or "").startswith(f"bytes {there}-")
            if answer.status_code == 206 and not goes_on:
                answer.status_code = 416
                raise requests.HTTPError("another range than asked for", response=answer)
            arrived = there if answer.status_code == 206 else 0
            announced = answer.headers.get("Content-Length") or ""
            if announced.isdecimal() and arrived + int(announced) != size:
                raise PromptSegError(
                    "{host} sent {arrived} bytes instead of the {size} of {stem}; log in where your network "
                    "asks you to, or update PromptSeg.",
                    host=_host(self._part),
                    arrived=arrived + int(announced),
                    size=size,
                    stem=partial.stem,
                )
            with _writing(partial), open(partial, "ab" if arrived else "wb") as file:
                for block in answer.iter_content(_BLOCK):
                    self._report(arrived)
                    file.write(block[: size - arrived])
                    arrived = min(size, arrived + len(block))
                file.flush()
                os.fsync(file.fileno())
        if arrived < size:
            raise requests.ConnectionError("the connection was closed too early")
        self._report(arrived)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in a sentence what the disk refuses, so that it is not taken for the network."""
    import requests

    try:
        yield
    except requests.RequestException:  # the network's, although they are OSErrors, too
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
            raise PromptSegError(
                "The disk of {parent} is full; free some space and download again to go on where it stopped.",
                parent=path.parent,
            ) from error
        raise PromptSegError(
            "Cannot write {path}: {strerror}; set PROMPTSEG_MODELS to a folder that you may write.",
            path=path,
            strerror=error.strerror or error,
        ) from error


def _may_pass(error: Exception) -> bool:
    """Whether another attempt may go better."""
    import requests

    answer = getattr(error, "response", None)
    if answer is not None:
        return answer.status_code >= 500 or answer.status_code == 429
    return not isinstance(error, requests.exceptions.SSLError)


def _unreachable(part: Download, path: Path, error: Exception) -> PromptSegError:
    """One sentence on a failed request."""
    import requests

    host, by_hand = _host(part), f"{_BY_HAND} {path.parent} by hand"
    answer = getattr(error, "response", None)
    if answer is not None:
        if answer.status_code in (404, 410):
            return PromptSegError(
                "{url} is not there ({status_code}); update PromptSeg, {by_hand}.",
                url=part.url,
                status_code=answer.status_code,
                by_hand=by_hand,
            )
        if answer.status_code == 407:
            return PromptSegError("The proxy wants a password; put it into HTTPS_PROXY, {by_hand}.", by_hand=by_hand)
        why = f"{answer.status_code} {answer.reason}"
        return PromptSegError(
            "{host} refused the download ({why}); try later, {by_hand}.", host=host, why=why, by_hand=by_hand
        )
    if isinstance(error, requests.exceptions.SSLError):
        return PromptSegError(
            "The certificate of {host} was not accepted, which a firewall that reads along may cause; "
            "ask your administrator, {by_hand}.",
            host=host,
            by_hand=by_hand,
        )
    if error.args and type(error.args[0]).__name__ == "MaxRetryError":  # of urllib3: nothing was ever answered
        return PromptSegError(
            "There is no connection to {host}; check the network and the proxy settings, {by_hand}.",
            host=host,
            by_hand=by_hand,
        )
    return PromptSegError(
        "The connection to {host} broke several times; download again to go on where it stopped, {by_hand}.",
        host=host,
        by_hand=by_hand,
    )


def _host(part: Download) -> str:
    return urllib.parse.urlsplit(part.url).netloc or part.url

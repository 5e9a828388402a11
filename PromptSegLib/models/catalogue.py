"""The catalogue: which backbones there are, where they lie and whether they are here; needs no torch."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Optional

from ..errors import PromptSegError

FOLDER = Path(__file__).parent
CATALOGUE = FOLDER / "catalogue.json"
FOLDERS_VARIABLE = "PROMPTSEG_MODELS"
PARTIAL_SUFFIX = ".part"
_SUFFIX, _PROMPTS_SUFFIX = ".safetensors", ".prompts.safetensors"


@dataclass(frozen=True)
class Download:
    """A file that can be had over the network, and how to know it.

    :param size: bytes.
    """

    url: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Entry:
    """One backbone of the catalogue (or a file of the user's, with nothing known but its path).

    :param path: the weights: where they lie, or where a download puts them.
    :param prompts: the shipped prompts, likewise; None where there are none.
    :param size: of the weights, bytes; 0 where it is not known.
    :param bundled: part of PromptSeg (or a file of the user's), so that it is neither downloaded nor deleted.
    :param expected: seconds to segment a large CT, by ``cpu`` and ``gpu`` where that was measured.
    :param weights_download: where to get the weights; None for a bundled entry.
    :param prompts_download: where to get the shipped prompts; None where there are none, and for a bundled entry.
    """

    name: str
    path: Path
    title: str = ""
    modality: str = ""
    spacing: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    licence: str = ""
    sha256: str = ""
    prompts: Optional[Path] = None
    card: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    bundled: bool = True
    expected: Mapping[str, float] = field(default_factory=dict)
    weights_download: Optional[Download] = None
    prompts_download: Optional[Download] = None

    @property
    def url(self) -> str:
        """Where the weights are downloaded from; empty for a bundled entry."""
        return self.weights_download.url if self.weights_download else ""

    @property
    def installed(self) -> bool:
        """Whether all its files are here and have the right hashes; each file is hashed once for its size and time."""
        if not is_file_with(self.path, self.sha256, self.size):
            return False
        if self.prompts_download is None:
            return True
        sha256, size = self.prompts_download.sha256, self.prompts_download.size
        return self.prompts is not None and is_file_with(self.prompts, sha256, size)

    def to_dict(self) -> dict:
        return {
            "name": self.name,
            "title": self.title,
            "modality": self.modality,
            "spacing": list(self.spacing),
            "classes": list(self.classes),
            "licence": self.licence,
            "sha256": self.sha256,
            "size": self.size,
            "path": str(self.path),
            "prompts": str(self.prompts) if self.prompts else None,
            "bundled": self.bundled,
            "url": self.url or None,
            "installed": self.installed,
            "expected_seconds": dict(self.expected),
            "card": dict(self.card),
        }


def entries() -> list[Entry]:
    """All backbones of the catalogue; the first is the default."""
    items = _items(str(CATALOGUE), CATALOGUE.stat().st_mtime_ns)
    files = _files_by_size() if any("url" in item for item in items) else {}
    return [_entry(item, files) for item in items]


def find(model: Optional[str] = None) -> Entry:
    """The entry of that name, the default without a name, or a file of that path.

    Raises :class:`PromptSegError` when there is neither, and when the entry still has to be downloaded.
    """
    known = entries()
    if model is None:
        return _here(known[0])
    for entry in known:
        if entry.name == model:
            return _here(entry)
    path = Path(model)
    if path.is_file():
        return Entry(path.stem, path, prompts=path.with_suffix(_PROMPTS_SUFFIX))
    raise _unknown(model, "or the path of a backbone file")


def find_name(name: str) -> Entry:
    """The catalogue's entry of that name, here or not. Raises :class:`PromptSegError` when there is none."""
    for entry in entries():
        if entry.name == name:
            return entry
    raise _unknown(name)


def find_sha256(sha256: str) -> Optional[Entry]:
    """The catalogue's entry with that hash, or None."""
    return next((entry for entry in entries() if entry.sha256 == sha256), None)


def model_folders() -> list[Path]:
    """Where downloaded and hand-placed models lie: those of ``PROMPTSEG_MODELS``, else one of the user's.

    Downloads go to the first; more of them (separated as in PATH) are only read, e.g. one that a group shares.
    """
    named = [Path(each).expanduser() for each in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if each.strip()]
    if named:
        return named
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [base / "promptseg" / "models"]


def download_paths(name: str) -> tuple[Path, Path]:
    """Where a download of the entry of that name puts weights and prompts."""
    folder = model_folders()[0]
    return folder / f"{name}{_SUFFIX}", folder / f"{name}{_PROMPTS_SUFFIX}"


def is_file_with(path: Path, sha256: str, size: int = 0) -> bool:
    """Whether there is a file of that size (0: any) and hash ("": any) at ``path``."""
    try:
        state = path.stat()
        if not path.is_file() or (size and state.st_size != size):
            return False
        if not sha256:
            return True
        key = (str(path), state.st_size, state.st_mtime_ns)
        if key not in _HASHES:
            _HASHES[key] = sha256_of(path)
        return _HASHES[key] == sha256
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=4)
def _items(path: str, changed: int) -> list[dict[str, Any]]:
    """The catalogue as it was at that time: a panel asks many times a second."""
    return json.loads(Path(path).read_text(encoding="utf-8"))["models"]


_HASHES: dict[tuple[str, int, int], str] = {}


def _entry(item: Mapping[str, Any], files: Mapping[int, list[Path]]) -> Entry:
    prompts: Optional[Path] = None
    weights_download = prompts_download = None
    if "url" in item:
        path, prompts_path = download_paths(item["name"])
        weights_download = Download(item["url"], item["sha256"], item["size"])
        path = _placed(weights_download, path, files)
        if item.get("prompts"):
            prompts_download = Download(**item["prompts"])
            prompts = _placed(prompts_download, prompts_path, files)
    else:
        path = FOLDER / item["file"]
        prompts = FOLDER / item["prompts"] if item.get("prompts") else None
    return Entry(
        item["name"],
        path,
        item["title"],
        item["modality"],
        tuple(item["spacing"]),
        tuple(item["classes"]),
        item["licence"],
        item["sha256"],
        prompts,
        item.get("card", {}),
        item.get("size", 0),
        weights_download is None,
        item.get("expected_seconds", {}),
        weights_download,
        prompts_download,
    )


def _placed(download: Download, path: Path, files: Mapping[int, list[Path]]) -> Path:
    """Where a file lies that somebody put into a model folder under any name; ``path`` when nobody did."""
    if is_file_with(path, download.sha256, download.size):
        return path
    same_size = files.get(download.size, [])
    return next((each for each in same_size if is_file_with(each, download.sha256, download.size)), path)


def _files_by_size() -> dict[int, list[Path]]:
    """The files of the model folders; a folder that cannot be read counts as empty."""
    found: dict[int, list[Path]] = {}
    for folder in model_folders():
        try:
            files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix != PARTIAL_SUFFIX)
            for path in files:
                found.setdefault(path.stat().st_size, []).append(path)
        except OSError:
            continue
    return found


def _here(entry: Entry) -> Entry:
    if entry.weights_download is not None and not entry.installed:
        raise PromptSegError(
            f"The model {entry.name} is not on this machine; get it with promptseg models --download {entry.name}, "
            "or with Download in the module."
        )
    return entry


def _unknown(name: str, otherwise: str = "") -> PromptSegError:
    names = ", ".join(entry.name for entry in entries())
    more = f", {otherwise}" if otherwise else ""
    return PromptSegError(f"There is no model {str(name)!r}: give one of {names}{more}.")

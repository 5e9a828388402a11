"""The catalogue: which backbones there are, where they lie and whether they are here; needs no torch."""

from __future__ import annotations

import hashlib
import json
import stat
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional

from ..annotation.classes import is_name
from ..errors import PromptSegError
from ..imaging.preprocessing import Preprocessing
from .folders import model_folders
from .further import FurtherPrompts, further_of

FOLDER = Path(__file__).parent
CATALOGUE = FOLDER / "catalogue.json"
MODALITIES = ("CT", "MR", "CT and MR", "PET", "US", "other")  # as the schema has them
PARTIAL_SUFFIX = ".part"
_SUFFIX, _PROMPTS_SUFFIX = ".safetensors", ".prompts.safetensors"
_MAX_HEADER = 2**24  # bytes; a backbone's has some ten thousand
_MAX_TEXT = 1000  # characters of a title, a modality or a licence that a list shows
# What reading JSON that somebody else wrote may raise.
_NOT_READ = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


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
    """One backbone of the catalogue, or a file of the user's: one in a model folder is known by its header, of one
    that is given by its path nothing is known but that.

    :param path: the weights: where they lie, or where a download puts them.
    :param prompts: the shipped prompts, likewise; None where there are none.
    :param size: of the weights, bytes; 0 where it is not known.
    :param bundled: part of PromptSeg (or a file of the user's), so that it is neither downloaded nor deleted.
    :param expected: seconds to segment a large CT, by ``cpu`` and ``gpu`` where that was measured.
    :param weights_download: where to get the weights; None for a bundled entry.
    :param prompts_download: where to get the shipped prompts; None where there are none, and for a bundled entry.
    :param own: a file of the user's, so not one of the catalogue.
    :param further: prompts that come along beside the shipped ones.
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
    own: bool = False
    further: tuple[FurtherPrompts, ...] = ()

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
            "own": self.own,
            "url": self.url or None,
            "installed": self.installed,
            "expected_seconds": dict(self.expected),
            "card": dict(self.card),
        }


def entries() -> list[Entry]:
    """All backbones of the catalogue, the first is the default; then those that somebody put into a model folder.

    Files are read once for their size and time: a call costs a listing of the model folders.
    Raises :class:`PromptSegError` when the catalogue itself is damaged.
    """
    files = _files()
    by_size: dict[int, list[Path]] = {}
    for file in files:
        by_size.setdefault(file.size, []).append(file.path)
    try:
        listed = [_entry(item, by_size) for item in _items(str(CATALOGUE), CATALOGUE.stat().st_mtime_ns)]
    except (OSError, *_NOT_READ) as error:
        raise PromptSegError(
            "The catalogue of models {catalogue} is damaged; install PromptSeg again.", catalogue=CATALOGUE
        ) from error
    if not listed:
        raise PromptSegError(
            "The catalogue of models {catalogue} is empty; install PromptSeg again.", catalogue=CATALOGUE
        )
    return listed + _own_entries(files, listed)


def find(model: Optional[str] = None) -> Entry:
    """The entry of that name, the default without a name, or a file of that path.

    Raises :class:`PromptSegError` when there is neither, and when the entry still has to be downloaded.
    """
    return _here(find_known(model))


def find_known(model: Optional[str] = None) -> Entry:
    """As :func:`find`, also when the entry still has to be downloaded."""
    known = entries()
    if model is None:
        return known[0]
    for entry in known:
        if entry.name == model:
            return entry
    path = Path(model)
    if path.is_file():
        return Entry(path.stem, path, prompts=path.with_suffix(_PROMPTS_SUFFIX), own=True)
    raise _unknown(model, "or the path of a backbone file")


def find_name(name: str) -> Entry:
    """The entry of that name, here or not. Raises :class:`PromptSegError` when there is none."""
    for entry in entries():
        if entry.name == name:
            return entry
    raise _unknown(name)


def find_sha256(sha256: str) -> Optional[Entry]:
    """The entry with that hash, or None."""
    return next((entry for entry in entries() if entry.sha256 == sha256), None)


def download_paths(name: str) -> tuple[Path, Path]:
    """Where a download of the entry of that name puts weights and prompts."""
    folder = model_folders()[0]
    return folder / f"{name}{_SUFFIX}", folder / f"{name}{_PROMPTS_SUFFIX}"


def is_file_with(path: Path, sha256: str, size: int = 0) -> bool:
    """Whether there is a file of that size (0: any) and hash ("": any) at ``path``."""
    try:
        file = _seen(path)
        if file is None or (size and file.size != size):
            return False
        return not sha256 or _hash(file) == sha256
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()


class _File(NamedTuple):
    """A file as it was when somebody looked: bytes, and when it was changed (ns)."""

    path: Path
    size: int
    changed: int


@lru_cache(maxsize=4)
def _items(path: str, changed: int) -> list[dict[str, Any]]:
    """The catalogue as it was at that time: a panel asks many times a second."""
    return json.loads(Path(path).read_text(encoding="utf-8"))["models"]


_HASHES: dict[_File, str] = {}
_OWN: dict[_File, Optional[Entry]] = {}


def _entry(item: Mapping[str, Any], files: Mapping[int, list[Path]]) -> Entry:
    _check_item(item)
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
        further=further_of(item.get("further", []), FOLDER),
    )


def _check_item(item: Mapping[str, Any]) -> None:
    """Raise any of the errors of reading JSON for what is no entry of a catalogue."""
    texts = [item[key] for key in ("name", "title", "modality", "licence", "sha256")]
    texts += [*item["classes"], item.get("url", ""), item.get("file", "")]
    maps = (item.get("card", {}), item.get("expected_seconds", {}))
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(each, dict) for each in maps):
        raise ValueError("a part is of another type")
    if not is_name(item["name"]) or Path(item["name"]).name != item["name"]:
        raise ValueError("the name is none")
    if any(type(size) is not int for size in (item.get("size", 0), *_sizes(item))):
        raise ValueError("a size is none")


def _sizes(item: Mapping[str, Any]) -> list[Any]:
    prompts = item.get("prompts")
    return [prompts["size"]] if "url" in item and prompts else []


def _placed(download: Download, path: Path, files: Mapping[int, list[Path]]) -> Path:
    """Where a file lies that somebody put into a model folder under any name; ``path`` when nobody did."""
    if is_file_with(path, download.sha256, download.size):
        return path
    same_size = files.get(download.size, [])
    return next((each for each in same_size if is_file_with(each, download.sha256, download.size)), path)


def _files() -> list[_File]:
    """The files of the model folders; a folder that cannot be read counts as empty."""
    found = []
    for folder in model_folders():
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix != PARTIAL_SUFFIX)
        except OSError:
            continue
        found += [file for file in map(_seen, paths) if file is not None]
    return found


def _seen(path: Path) -> Optional[_File]:
    """What there is at ``path``; None where there is no file, or one that cannot be looked at."""
    try:
        state = path.stat()
    except (OSError, ValueError):  # the latter for a path with a null character
        return None
    return _File(path, state.st_size, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _hash(file: _File) -> str:
    """SHA-256, computed once for a file's size and time; raises ``OSError`` where it cannot be read."""
    if file not in _HASHES:
        _HASHES[file] = sha256_of(file.path)
    return _HASHES[file]


def _own_entries(files: list[_File], listed: list[Entry]) -> list[Entry]:
    """The backbones among ``files`` that are not ``listed``, each with a name of its own.

    A name that is taken gives way to the file's. Where that is taken as well, the first folder's is meant, as in PATH.
    """
    names, titles, hashes = ({getattr(each, key) for each in listed} for key in ("name", "title", "sha256"))
    paths = {file.path for file in files}
    found = []
    for file in files:
        entry = _own_entry(file)
        if entry is None or entry.sha256 in hashes:
            continue
        name = next((each for each in (entry.name, file.path.stem) if is_name(each) and each not in names), None)
        if name is None:
            continue
        title = entry.title if entry.title not in titles else f"{entry.title} ({name})"
        prompts: Optional[Path] = file.path.with_suffix(_PROMPTS_SUFFIX)
        if prompts not in paths:
            prompts = None
        classes = entry.classes if prompts else ()
        found.append(replace(entry, name=name, title=title, classes=classes, prompts=prompts))
        for taken, value in ((names, name), (titles, title), (hashes, entry.sha256)):
            taken.add(value)
    return found


def _own_entry(file: _File) -> Optional[Entry]:
    """A backbone as its header describes it, read once for its size and time; None for a file that is none."""
    if file.path.suffix.lower() != _SUFFIX:
        return None
    if file not in _OWN:
        try:
            _OWN[file] = _described(file, _read_header(file))
        except OSError:
            return None  # it may be readable the next time
        except _NOT_READ:
            _OWN[file] = None
    return _OWN[file]


def described(path: Path) -> Optional[Entry]:
    """The backbone that a file's header describes, whatever the file is called; None for a file that is none."""
    file = _seen(path)
    try:
        return None if file is None else _described(file, _read_header(file))
    except (OSError, *_NOT_READ):
        return None


def _described(file: _File, header: Any) -> Entry:
    """The entry of a header; raises any of the errors of reading JSON for one that is none of a backbone."""
    name, card = header["name"], header["card"]
    classes = card.get("classes", [])
    if not is_name(name) or not isinstance(classes, list) or not all(map(is_name, classes)):
        raise ValueError("a name is none")
    spacing = Preprocessing.from_dict(header["preprocessing"]).spacing
    title, modality, licence = (_line(card.get(key, "")) for key in ("title", "modality", "licence"))
    listed = (title or name, modality, spacing, tuple(classes), licence)
    return Entry(name, file.path, *listed, sha256=_hash(file), card=card, size=file.size, own=True)


def _read_header(file: _File) -> Any:
    """What ``backbone.save_backbone`` says in a file's header, read without torch; nothing in it is to be trusted.

    Raises ``OSError``, and any of the errors of reading JSON for a file that is no backbone or not there as a whole.
    """
    with open(file.path, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 0 < length <= min(_MAX_HEADER, file.size - 8):
            raise ValueError("no header")
        header = json.loads(opened.read(length).decode("utf-8"))
    described = json.loads(header.pop("__metadata__")["promptseg-backbone"])
    # A file that is still being copied has its header long before its end.
    if 8 + length + max(tensor["data_offsets"][1] for tensor in header.values()) != file.size:
        raise ValueError("a part is missing")
    return described


def _line(text: Any) -> str:
    """A text for a list, in one line; raises ``AttributeError`` or ``TypeError`` for something else."""
    return "".join(each for each in " ".join(text.split()) if each.isprintable())[:_MAX_TEXT]


def _here(entry: Entry) -> Entry:
    if entry.weights_download is not None and not entry.installed:
        raise PromptSegError(
            "The model {name} is not on this machine; get it with promptseg models --download {name}, "
            "or with Download in the module.",
            name=entry.name,
        )
    return entry


def _unknown(name: str, otherwise: str = "") -> PromptSegError:
    names = ", ".join(entry.name for entry in entries())
    more = f", {otherwise}" if otherwise else ""
    return PromptSegError(
        "There is no model {name}: give one of {names}{more}.", name=repr(str(name)), names=names, more=more
    )

"""Models that a user made: keeping them in the model folder, deleting them, and giving them away as one file."""

from __future__ import annotations

import contextlib
import os
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Iterator, Mapping, Optional

from ..annotation.classes import is_name
from ..errors import PromptSegError
from ..files import atomic_write, check_writable, delete_file
from . import catalogue
from .catalogue import PARTIAL_SUFFIX, Entry
from .folders import model_folders
from .further import find_further

if TYPE_CHECKING:
    from ..network.punet import PUNet
    from ..prompts.store import Prompts
    from .backbone import Backbone

MARK = "specialized"  # in the card of a model that a user made
SHARED_SUFFIX = ".zip"
_UNFINISHED = ".training" + PARTIAL_SUFFIX
_KINDS = (".safetensors", ".prompts.safetensors", ".md")
_LARGEST = 2**31  # bytes of a file of a shared model


def is_own(entry: Entry) -> bool:
    """Whether an entry is a model that a user made with PromptSeg."""
    return entry.own and entry.card.get(MARK) is True


def place_for(name: str) -> Path:
    """Where the weights of a new model of that name go; its folder is made.

    Raises :class:`PromptSegError` for a name that is none or taken, be it by prompts that come along, and for a folder
    that cannot be written.
    """
    if not is_name(name) or Path(name).name != name or name.startswith(".") or set(name) & set('\\/:*?"<>|'):
        raise PromptSegError("{name} cannot be the name of a model; give letters and digits.", name=repr(name))
    entries = catalogue.entries()
    if any(entry.name == name for entry in entries) or find_further(entries, name):
        raise PromptSegError(
            "There is a model {name} already; give another name, or delete that one first.", name=repr(name)
        )
    weights = _folder() / f"{name}{_KINDS[0]}"
    for kind in _KINDS:
        check_writable(weights.with_name(name + kind))
    return weights


def unfinished(name: str) -> Path:
    """Where the training of a model that is not finished lies."""
    return model_folders()[0] / (name + _UNFINISHED)


def keep(
    name: str,
    net: PUNet,
    backbone: Backbone,
    card: dict[str, Any],
    prompts: Callable[[str], Prompts],
    text: str,
) -> Entry:
    """Write a model, with ``backbone``'s grid and tiles; the weights come last, so that there is all of it or nothing.

    :param prompts: gives the prompts that belong to weights of a SHA-256.
    """
    from .backbone import save_backbone

    weights = place_for(name)
    partial = weights.with_name(weights.name + PARTIAL_SUFFIX)
    try:
        sha256 = save_backbone(partial, net, name, backbone.preprocessing, backbone.tile, card)
        prompts(sha256).save(weights.with_name(name + _KINDS[1]))
        with atomic_write(weights.with_name(name + _KINDS[2])) as temporary:
            temporary.write_text(text, encoding="utf-8")
        os.replace(partial, weights)
    except BaseException:
        for path in (partial, *(weights.with_name(name + kind) for kind in _KINDS[1:])):
            with contextlib.suppress(OSError):
                path.unlink()
        raise
    with contextlib.suppress(OSError):
        unfinished(name).unlink()
    return catalogue.find_name(name)


def delete(name: str) -> None:
    """Delete a model that a user made, or its unfinished training.

    Raises :class:`PromptSegError` for any other model, where there is none, and where files cannot be deleted.
    """
    found = next((entry for entry in catalogue.entries() if entry.name == name), None)
    if found is not None and not is_own(found):
        raise PromptSegError("The model {name} was not made here; it stays.", name=repr(name))
    paths = [unfinished(name)] if is_name(name) and Path(name).name == name else []
    if found is not None:
        paths += [found.path.with_name(found.path.name[: -len(_KINDS[0])] + kind) for kind in _KINDS]
    there = [path for path in paths if path.is_file()]
    if not there:
        raise PromptSegError("There is no model {name} that was made here.", name=repr(name))
    for path in there:
        delete_file(path)


def share(entry: Entry, target: Path) -> Path:
    """Write a model that a user made, its prompts and its card as one file that can be given away; gives its path.

    Raises :class:`PromptSegError` for another model, and where the file cannot be written.
    """
    if not is_own(entry):
        raise PromptSegError("The model {name} was not made here; say where you have it from.", name=repr(entry.name))
    if target.suffix != SHARED_SUFFIX:
        raise PromptSegError("A shared model is a .zip; {name} ends otherwise.", name=target.name)
    check_writable(target)
    stem = entry.path.name[: -len(_KINDS[0])]
    with atomic_write(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for kind in _KINDS:
            path = entry.path.with_name(stem + kind)
            if path.is_file():
                archive.write(path, entry.name + kind)
    return target


def files_of(entry: Entry) -> dict[str, bytes]:
    """The files of a model that a user made, by the ends of their names."""
    stem = entry.path.name[: -len(_KINDS[0])]
    paths = {kind: entry.path.with_name(stem + kind) for kind in _KINDS}
    return {kind: path.read_bytes() for kind, path in paths.items() if path.is_file()}


def take(name: str, files: Mapping[str, bytes]) -> Entry:
    """Put a model that was made on another machine into the model folder; ``files`` as :func:`files_of` gives them.

    Raises :class:`PromptSegError` as :func:`add` does.
    """
    weights = place_for(name)
    try:
        with _placing(weights, name) as places:
            for kind in _KINDS:
                places[kind].write_bytes(files.get(kind, b""))
    except zipfile.BadZipFile as error:
        raise PromptSegError("The model {name} did not arrive whole; make it again.", name=name) from error
    except OSError as error:
        raise PromptSegError(
            "Cannot write {path}: {strerror}.", path=weights, strerror=error.strerror or error
        ) from error
    return catalogue.find_name(name)


def add(source: Path) -> Entry:
    """Put a shared model into the model folder; gives its entry.

    Nothing in the file is believed: no path, no size, no name. Raises :class:`PromptSegError` for another file, for a
    name that is taken, and where the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            name, members = _members(archive)
            weights = place_for(name)
            with _placing(weights, name) as places:
                for kind, member in members.items():
                    with archive.open(member) as packed, open(places[kind], "wb") as file:
                        shutil.copyfileobj(packed, file, 2**20)
    except FileNotFoundError as error:
        raise PromptSegError("There is no file {path}; check the path.", path=source) from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise PromptSegError("{name} is not a shared model, or it is damaged.", name=Path(source).name) from error
    except OSError as error:
        raise PromptSegError("Cannot add {path}: {strerror}.", path=source, strerror=error.strerror or error) from error
    return catalogue.find_name(name)


def _members(archive: zipfile.ZipFile) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The name of a shared model and its files by their kinds; raises ``BadZipFile`` for anything else."""
    infos = archive.infolist()
    found = [each.filename[: -len(_KINDS[1])] for each in infos if each.filename.endswith(_KINDS[1])]
    if len(found) != 1:
        raise zipfile.BadZipFile("no model, or several")
    wanted = {found[0] + kind: kind for kind in _KINDS}
    if {each.filename for each in infos} - set(wanted) or any(each.file_size > _LARGEST for each in infos):
        raise zipfile.BadZipFile("other files")
    members = {wanted[each.filename]: each for each in infos}
    if _KINDS[0] not in members:
        raise zipfile.BadZipFile("no weights")
    return found[0], members


@contextlib.contextmanager
def _placing(weights: Path, name: str) -> Iterator[dict[str, Path]]:
    """Kinds -> where to write them; moved to their places together when they are a model that fits, else removed."""
    places = {kind: weights.with_name(name + kind + PARTIAL_SUFFIX) for kind in _KINDS}
    try:
        yield places
        if not _fits(places):
            raise zipfile.BadZipFile("the weights and the prompts do not belong together")
        for kind in _KINDS[::-1]:  # weights last
            if places[kind].exists():
                os.replace(places[kind], weights.with_name(name + kind))
    finally:
        for path in places.values():
            with contextlib.suppress(OSError):
                path.unlink()


def _fits(places: dict[str, Path]) -> bool:
    """Whether there are prompts of exactly these weights, which a user made."""
    from ..prompts.store import Prompts

    try:
        prompts = Prompts.load(places[_KINDS[1]])
    except PromptSegError:
        return False
    described = catalogue.described(places[_KINDS[0]])
    return described is not None and described.card.get(MARK) is True and prompts.sha256 == described.sha256


def _folder() -> Path:
    folder = model_folders()[0]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PromptSegError(
            "Cannot make the folder of models {folder}: {strerror}.", folder=folder, strerror=error.strerror or error
        ) from error
    return folder


def finished(name: str) -> Optional[Entry]:
    """The model of that name that a user made; None without one."""
    return next((entry for entry in catalogue.entries() if entry.name == name and is_own(entry)), None)

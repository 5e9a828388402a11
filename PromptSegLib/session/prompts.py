"""Prompts of a session: those that models ship, and the user's own, which live in the scene.

Classes are called as their segments, also when those were renamed meanwhile.
"""

from __future__ import annotations

import contextlib
from functools import lru_cache
from pathlib import Path
from typing import Any, Iterable, Mapping, Optional, Sequence, Union

from ..annotation.classes import check_names, is_name, matching_name
from ..errors import PromptSegError, Sentence
from ..models import catalogue
from ..models.further import find_further
from ..prompts import beside
from ..prompts.store import Prompts
from ..scene import prompt_nodes, scene_nodes, segment_tags
from ..scene.roles import Role
from ..scene.segmentations import Segment, segments
from .actions import Actions, Notice, PromptsRow
from .applied import CLASS, numbers

SHIPPED = "shipped:"
_OWNER_ROLE = "PromptSegOwner"


class PromptsList:
    """What a user can do with the list."""

    def __init__(self, scene: Any, parameters: Any, actions: Actions):
        self._scene, self._parameters, self._actions = scene, parameters, actions

    def load(self, path: Union[str, Path]) -> None:
        """Read a prompts file into the scene."""
        with self._actions.doing():
            node = load(self._scene, Path(path), self._parameters.model)
            self._actions.notice = Notice(Sentence("Loaded '{node}'.", node=node.GetName()))

    def save(self, key: str, path: Union[str, Path]) -> None:
        """Write prompts of the list to a file."""
        with self._actions.doing():
            prompts, path = called_now(self._scene, key), Path(path)
            prompts.save(path)
            saved = Sentence("Saved {name} ({kilobytes:.0f} kB).", name=path.name, kilobytes=path.stat().st_size / 1024)
            if prompts.outside:
                saved = Sentence(
                    "{saved} What was painted has no room in it; keep {beside} beside it.",
                    saved=saved,
                    beside=beside.place(path).name,
                )
            self._actions.notice = Notice(saved)

    def rename(self, key: str, name: str) -> None:
        """Call prompts otherwise."""
        with self._actions.doing():
            if not name.strip():
                raise PromptSegError("A name is empty; type at least one letter.")
            if not name.strip().isprintable():
                raise PromptSegError("A name has letters that cannot be written; type it instead of pasting it.")
            node_of(self._scene, key).SetName(name.strip())

    def delete(self, key: str) -> None:
        """Take prompts out of the scene."""
        with self._actions.doing():
            scene_nodes.remove(node_of(self._scene, key))
            self._actions.notice = Notice("Deleted the prompts; segments that they made stay.")

    def fitting(self, key: str) -> Prompts:
        """The prompts of a row; raises :class:`PromptSegError` where they cannot be used with the chosen model."""
        prompts = called_now(self._scene, key)
        reason = misfit(prompts, self._parameters.model)
        if reason:
            raise PromptSegError(reason)
        return prompts


def rows(scene, model: str, segmentation=None) -> tuple[PromptsRow, ...]:
    """Shipped prompts of the model first, then the scene's; decoding none, and hashing a model of the user's once."""
    known = catalogue.entries()
    titles, own = _titles(known), _chosen_sha256(model)
    found = []
    for entry in known:
        if entry.sha256 != own or not entry.installed:
            continue
        for each in ([entry] if entry.prompts is not None else []) + list(entry.further):
            found.append(PromptsRow(SHIPPED + each.name, f"{each.title} (shipped)", each.classes, True))
    current = prompt_nodes.linked(segmentation) if segmentation is not None else None
    for node in prompt_nodes.prompt_nodes(scene):
        backbone, sha256 = prompt_nodes.backbone_of(node)
        reason = _misfit(backbone, sha256, own, titles)
        names = tuple(name for name in (node.GetAttribute("PromptSeg.Classes") or "").split(", ") if name)
        names = names_now(names, segmentation) if node is current and names else names
        taught = prompt_nodes.taught(node)
        found.append(PromptsRow(node.GetID(), node.GetName(), names, False, reason, node is current, taught))
    return tuple(found)


def node_of(scene, key: str):
    """The node of a row; raises :class:`PromptSegError` for shipped prompts and for a node that is gone."""
    if key.startswith(SHIPPED):
        raise PromptSegError("Shipped prompts stay as they are; save a copy and load it to change that.")
    node = scene.GetNodeByID(key) if key else None
    if node is None or node not in prompt_nodes.prompt_nodes(scene):
        raise PromptSegError("These prompts are no longer in the scene; choose others.")
    return node


def prompts_of(scene, key: str) -> Prompts:
    """The prompts of a row; raises :class:`PromptSegError` when they are gone or damaged."""
    if key.startswith(SHIPPED):
        further = find_further(catalogue.entries(), key[len(SHIPPED) :])
        if further is not None:
            return Prompts.load(further.path)
        entry = catalogue.find(key[len(SHIPPED) :])
        if entry.prompts is None:
            raise PromptSegError("The model {name} ships no prompts; tune some.", name=entry.name)
        return Prompts.load(entry.prompts)
    return prompt_nodes.prompts_of(node_of(scene, key))


def called_now(scene, key: str) -> Prompts:
    """As :func:`prompts_of`, of a segmentation that goes on with them with its segments' names."""
    return up_to_date(prompts_of(scene, key), owner(scene, key))


def load(scene, path: Path, model: str = ""):
    """Read a prompts file, of a model of the catalogue or of the chosen one, into the scene; gives its node.

    Raises :class:`PromptSegError` for a bad file.
    """
    path = Path(path)
    prompts = Prompts.load(path)
    if prompts.sha256 not in {_chosen_sha256(model), *_titles(catalogue.entries())}:
        raise PromptSegError("{name}: {why_not}", name=path.name, why_not=misfit(prompts, model))
    return prompt_nodes.add_prompts(scene, prompts, path.stem)


def misfit(prompts: Prompts, model: str) -> str:
    """Why prompts do not work with the chosen model; "" when they do."""
    return _misfit(prompts.backbone, prompts.sha256, _chosen_sha256(model), _titles(catalogue.entries()))


def _titles(known: Sequence[catalogue.Entry]) -> dict[str, str]:
    """SHA-256 -> title."""
    return {entry.sha256: entry.title for entry in known}


def _misfit(backbone: str, sha256: str, chosen: str, titles: Mapping[str, str]) -> str:
    """:func:`misfit`, from the hashes of the prompts' model, of the chosen one and of those of the catalogue."""
    if sha256 in ("", chosen):  # a node that does not say: it is looked into when its prompts are used
        return ""
    if sha256 in titles:
        return Sentence("These prompts belong to the model {titles}; choose that model.", titles=titles[sha256])
    return Sentence(
        "These prompts belong to a version of the model {backbone} that is not here; put its file "
        "into the folder of models, or tune again.",
        backbone=backbone,
    )


def keep(scene, segmentation, prompts: Prompts) -> Any:
    """Make prompts those that a segmentation goes on with: in its own node, made when there is none; gives the node."""
    node = prompt_nodes.linked(segmentation)
    if node is None or node.GetNodeReference(_OWNER_ROLE) is not segmentation:
        node = _unlinked(scene, segmentation, prompts)
        if node is None:
            node = prompt_nodes.add_prompts(scene, prompts, f"{segmentation.GetName()} prompts")
            node.SetNodeReferenceID(_OWNER_ROLE, segmentation.GetID())
        prompt_nodes.link(segmentation, node)
    else:
        prompt_nodes.update_prompts(node, prompts)
    return node


def unlink(segmentation) -> None:
    """Let a segmentation go on with no prompts; those that it went on with stay in the list."""
    prompt_nodes.link(segmentation, None)


def _unlinked(scene, segmentation, prompts: Prompts) -> Any:
    """The node with just these prompts that a segmentation had before an undo unlinked it; None without one."""
    content = prompts.to_bytes(whole=True)
    own = (each for each in prompt_nodes.prompt_nodes(scene) if each.GetNodeReference(_OWNER_ROLE) is segmentation)
    with contextlib.suppress(PromptSegError):
        return next((each for each in own if prompt_nodes.prompts_of(each).to_bytes(whole=True) == content), None)
    return None


def owner(scene, key: str):
    """The segmentation that prompts were tuned for and that goes on with them; None without one."""
    node = None if not key or key.startswith(SHIPPED) else scene.GetNodeByID(key)
    segmentation = node.GetNodeReference(_OWNER_ROLE) if node is not None else None
    return segmentation if segmentation is not None and prompt_nodes.linked(segmentation) is node else None


def link(scene, segmentation, key: str) -> bool:
    """Let a segmentation go on with prompts of the list that others use, too; a retuning makes its own of them.

    False for shipped prompts: a tuning that needs them finds them in the model.
    """
    node = None if not key or key.startswith(SHIPPED) else scene.GetNodeByID(key)
    if node is not None:
        prompt_nodes.link(segmentation, node)
    return node is not None


def current(segmentation) -> Optional[Prompts]:
    """The prompts that a segmentation goes on with; None without any."""
    node = prompt_nodes.linked(segmentation)
    return None if node is None else prompt_nodes.prompts_of(node)


def _chosen_sha256(model: str) -> str:
    """As :func:`sha256_of_model`; "" when there is no such model."""
    try:
        return sha256_of_model(model)
    except PromptSegError:
        return ""


def sha256_of_model(model: str) -> str:
    """The hash that prompts of a model carry, be it here or not; of a file of the user's it is computed once."""
    entry = catalogue.find_known(model or None)
    return entry.sha256 or _hash(str(entry.path), entry.path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _hash(path: str, changed: int) -> str:
    return catalogue.sha256_of(Path(path))


def called_as_now(prompts: Prompts, segmentation: Any, tuned: Iterable[Segment]) -> Prompts:
    """The prompts with the classes of renamed segments renamed."""
    return with_names(prompts, _renamed(prompts.names, segmentation, list(tuned)))


def names_now(names: Sequence[str], segmentation: Any) -> tuple[str, ...]:
    """What the classes of prompts, which a segmentation goes on with, are called now."""
    tuned = _to_be_named(segmentation)
    new = _renamed(names, segmentation, tuned) if tuned else {}
    return tuple(new.get(name, name) for name in names)


def _renamed(names: Sequence[str], segmentation: Any, tuned: Sequence[Segment]) -> dict[str, str]:
    """Old name -> new of the classes whose segments were renamed."""
    new: dict[str, str] = {}
    own = numbers(segmentation)
    for each in tuned:
        before = segment_tags.tag(segmentation, each.id, CLASS) if each.id in own else ""
        if before and before != each.name and before in names:
            new[before] = each.name
    # A new segment that is called as a class goes on with it.
    for each in tuned:
        found = matching_name(each.name, names)
        if found and found != each.name and found not in new and each.name not in new.values():
            new[found] = each.name
    return new


def with_names(prompts: Prompts, names: Mapping[str, str]) -> Prompts:
    """The prompts with classes called otherwise (old name -> new); one that has a new name already makes room."""
    names = dict(names)
    for name in prompts.names:
        if name not in names and matching_name(name, names.values()):
            free = (f"{name} (earlier{f' {count}' if count else ''})" for count in range(len(prompts.names) + 1))
            names[name] = next(each for each in free if each not in prompts.names and each not in names.values())
    return prompts.renamed(names) if names else prompts


def renamed_since(segmentation: Any, segment_ids: Mapping[str, str], given: Mapping[str, int]) -> dict[str, str]:
    """Old name -> new of the classes whose segments were renamed since a job began.

    :param segment_ids: class name -> ID of its segment; ``given``: class name -> the number of the class.

    Nothing where a class cannot have the new name, or two would look the same.
    """
    by_number = {number: segment_id for segment_id, number in numbers(segmentation).items()}
    ids = {**{name: by_number[number] for name, number in given.items() if number in by_number}, **segment_ids}
    now = {each.id: each.name for each in segments(segmentation)}
    names = {name: now[each] for name, each in ids.items() if each in now}
    try:
        check_names([*names.values(), *(set(given) - set(names))])
    except PromptSegError:
        return {}
    return {old: new for old, new in names.items() if old != new and is_name(new)}


def up_to_date(prompts: Prompts, segmentation: Any) -> Prompts:
    """The prompts that a segmentation goes on with, their classes called as the segments are now."""
    if segmentation is None:
        return prompts
    tuned = _to_be_named(segmentation)
    return called_as_now(prompts, segmentation, tuned) if tuned else prompts


def _to_be_named(segmentation: Any) -> list[Segment]:
    """The segments that classes are called as; none where their names are no names."""
    tuned = [each for each in segments(segmentation) if each.role == Role.TUNE]
    try:
        check_names([each.name for each in tuned])
    except PromptSegError:
        return []
    return [each for each in tuned if is_name(each.name)]


def follow_names(scene: Any, segmentation: Any) -> None:
    """Let the prompts that a segmentation goes on with call their classes as its segments."""
    own = current(segmentation)
    now = up_to_date(own, segmentation) if own is not None else None
    if own is not None and now is not None and now.names != own.names:
        keep(scene, segmentation, now)

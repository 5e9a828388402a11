"""The list of prompts: those that models ship, and the user's own, which live in the scene."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

from ..errors import PromptSegError, Sentence
from ..models import catalogue
from ..prompts.store import Prompts
from ..scene import links, prompt_nodes
from .names import names_now
from .view import PromptsRow

SHIPPED = "shipped:"
_OWNER_ROLE = "PromptSegOwner"


def rows(scene, model: str, segmentation=None) -> tuple[PromptsRow, ...]:
    """Shipped prompts of the model first, then the scene's; decoding none, and hashing a model of the user's once."""
    known = catalogue.entries()
    titles, own = _titles(known), _chosen_sha256(model)
    found = []
    for entry in known:
        if entry.prompts is not None and entry.sha256 == own and entry.installed:
            found.append(PromptsRow(SHIPPED + entry.name, f"{entry.title} (shipped)", entry.classes, True))
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
        entry = catalogue.find(key[len(SHIPPED) :])
        if entry.prompts is None:
            raise PromptSegError("The model {name} ships no prompts; tune some.", name=entry.name)
        return Prompts.load(entry.prompts)
    return prompt_nodes.prompts_of(node_of(scene, key))


def load(scene, path: Path, model: str = ""):
    """Read a prompts file, of a model of the catalogue or of the chosen one, into the scene; gives its node.

    Raises :class:`PromptSegError` for a bad file.
    """
    path = Path(path)
    prompts = Prompts.load(path)
    if prompts.sha256 not in {_chosen_sha256(model), *_titles(catalogue.entries())}:
        raise PromptSegError("{name}: {why_not}", name=path.name, why_not=why_not(prompts, model))
    return prompt_nodes.add_prompts(scene, prompts, path.stem)


def why_not(prompts: Prompts, model: str) -> str:
    """Why prompts do not work with the chosen model; "" when they do."""
    return _misfit(prompts.backbone, prompts.sha256, _chosen_sha256(model), _titles(catalogue.entries()))


def _titles(known: Sequence[catalogue.Entry]) -> dict[str, str]:
    """SHA-256 -> title."""
    return {entry.sha256: entry.title for entry in known}


def _misfit(backbone: str, sha256: str, chosen: str, titles: Mapping[str, str]) -> str:
    """:func:`why_not`, from the hashes of the prompts' model, of the chosen one and of those of the catalogue."""
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
        node = prompt_nodes.add_prompts(scene, prompts, f"{segmentation.GetName()} prompts")
        node.SetNodeReferenceID(_OWNER_ROLE, segmentation.GetID())
        prompt_nodes.link(segmentation, node)
    else:
        prompt_nodes.update_prompts(node, prompts)
    return node


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


def rename(scene, key: str, name: str) -> None:
    """Call prompts otherwise; raises :class:`PromptSegError` for an empty name."""
    if not name.strip():
        raise PromptSegError("A name is empty; type at least one letter.")
    node_of(scene, key).SetName(name.strip())


def delete(scene, key: str) -> None:
    links.remove(node_of(scene, key))

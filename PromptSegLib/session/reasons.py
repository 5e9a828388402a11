"""Why something cannot be done now, in one sentence; the panel's tooltips say it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, Optional

from ..errors import PromptSegError, Sentence
from ..models import catalogue
from ..scene import links
from ..scene.segmentations import check_writable, segments
from . import specializing
from .memory import current_tag
from .places import Places


@dataclass(frozen=True)
class Situation:
    """What there is, for the panel's actions; nodes are None where they are not chosen or gone.

    :param choice: whether the result is there with and without what nobody corrected.
    """

    parameters: Any
    volume: Any
    segmentation: Any
    running: bool
    result: bool
    choice: bool
    places: Places
    history: Any


def why_not(action: str, now: Situation) -> str:
    """Why one of ``view.ACTIONS``, or to ``grow`` while the user paints, is not possible; "" when it is."""
    if action == "cancel":
        return "" if now.running else "Nothing is running."
    if action in ("apply", "discard"):
        return "" if now.result else "There is no preview; tune first."
    if action == "keep":
        return "" if now.choice else "No retuning is shown that would change much that nobody corrected."
    if action in ("undo", "redo"):
        return _why_no_history(action, now)
    if action == "look":
        return "" if now.places.any(now.volume) else "Tune or segment first."
    if action == "map":
        return "" if now.places.has_map(now.volume) else "Tune or segment first; the map comes with the result."
    if action in ("save", "load", "rename", "delete"):
        return ""
    if action in ("example", "name"):
        return "" if now.volume is not None else "Choose a volume first."
    if action == "grow":
        return _why_no_growing(now)
    reason = _why_no_job(now)
    if action == "learn":
        return reason or _why_no_learning(now)
    if action == "specialize":
        return reason or _why_no_learning(now) or specializing.why_not(now.segmentation)
    return reason or (_why_no_tuning(now) if action == "tune" else "")


def _why_no_history(action: str, now: Situation) -> str:
    if now.history is None:
        return "Choose a segmentation first."
    if now.running:
        return "Cancel the running job first."
    able = now.history.can_undo if action == "undo" else now.history.can_redo
    return "" if able else Sentence("There is nothing to {action}.", action=action)


def _why_no_job(now: Situation) -> str:
    if now.running:
        return "A job is running; cancel it first, or wait until it is done."
    if now.volume is None:
        return "Choose a volume first."
    entry = _entry(now.parameters.model)
    if entry is None:
        return Sentence("There is no model {model}; choose another.", model=now.parameters.model)
    if not entry.installed:
        return Sentence("The model {title} is not downloaded yet; click Download.", title=entry.title)
    return _why_no_host(now)


def _why_no_host(now: Situation) -> str:
    if now.parameters.device == "ssh" and not now.parameters.host.strip():
        return "Type the host to compute on, as for ssh, or choose this machine."
    return ""


def _why_no_growing(now: Situation) -> str:
    """It needs no model, but something that says where a structure ends: another one, background, or a result."""
    if not now.parameters.live or now.running or now.volume is None or now.segmentation is None:
        return "Nothing is grown now."
    painted = [each.role for each in segments(now.segmentation) if not each.is_empty]
    if "tune" not in painted:
        return "Paint some voxels of a structure first."
    if painted.count("tune") + painted.count("background") < 2 and not current_tag(now.segmentation):
        return "Paint some background, or another structure, too."
    return _why_no_host(now) or _why_not_there(now)


def _why_no_learning(now: Situation) -> str:
    """Prompts for other volumes are tuned on a result that was accepted."""
    if now.segmentation is None or not current_tag(now.segmentation):
        return "Apply a result first; prompts for other volumes are tuned on it."
    if now.result:
        return "Apply or discard the preview first."
    return _why_not_there(now)


def _why_no_tuning(now: Situation) -> str:
    if now.segmentation is None:
        return "Choose or create a segmentation and paint some voxels first."
    tuned = [each for each in segments(now.segmentation) if each.role == "tune"]
    if not tuned:
        return "Add a segment and paint some voxels of a structure first."
    if all(each.is_empty for each in tuned) and not current_tag(now.segmentation) and not now.parameters.examples:
        return "Paint some voxels of a structure, and some background, first."
    return _why_not_there(now)


def _why_not_there(now: Situation) -> str:
    """Why the segmentation cannot take a result of the volume."""
    try:
        check_writable(now.segmentation, now.volume)
        if not links.same_place(now.volume, now.segmentation):
            return "The segmentation lies outside the volume; choose the segmentation of this volume."
    except PromptSegError as error:
        return str(error)
    return ""


def _entry(model: str) -> Optional[catalogue.Entry]:
    """The chosen model, here or not; None when there is no such model."""
    with contextlib.suppress(PromptSegError):
        return catalogue.find_known(model or None)
    return None

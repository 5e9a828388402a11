"""What the panel shows, and what a user can do now: guarded, with one sentence for what stands against each action."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, Optional, Protocol

from ..annotation.partial_labels import Unpainted
from ..choice import Choice
from ..errors import PromptSegError, Sentence
from ..models import catalogue
from ..scene import node_references
from ..scene.roles import Role
from ..scene.segmentations import check_writable, segments
from .applied import current_tag, why_no_model

ACTIONS = (
    "tune",
    "learn",
    "specialize",
    "cancel",
    "apply",
    "discard",
    "undo",
    "redo",
    "look",
    "map",
    "segment",
    "save",
    "load",
    "rename",
    "delete",
    "example",
    "name",
    "keep",
)


class Level(Choice):
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Notice:
    """One sentence for the user."""

    text: str = ""
    level: Level = Level.INFO


@dataclass(frozen=True)
class PromptsRow:
    """A line of the list of prompts.

    :param key: ``shipped:<model>``, ``shipped:<further prompts>`` or the ID of the node.
    :param reason: why they cannot be used with the chosen model; "" when they can.
    :param current: whether the segmentation goes on with them.
    :param taught: what they have learned from, a few words; "" where that is not known.
    """

    key: str
    name: str
    classes: tuple[str, ...]
    shipped: bool
    reason: str = ""
    current: bool = False
    taught: str = ""


class Shows(Choice):
    """What a preview shows: nothing, regions grown from strokes, a tuning on its way, a result."""

    NOTHING = ""
    GROWN = "grown"
    EARLY = "early"
    FINAL = "final"


WORDS = {  # what a preview is, a few words
    Shows.NOTHING: "",
    Shows.GROWN: "Grown from strokes; Tune prompts refines it",
    Shows.EARLY: "Preview",
    Shows.FINAL: "Result",
}
GROWN_FROM_CORRECTIONS = "Grown from strokes; Retune refines it"  # once there is a result


@dataclass(frozen=True)
class View:
    """A snapshot of the session.

    :param reasons: action -> why it is not possible now, one sentence; "" when it is.
    :param tune_text: what the one big button says.
    :param share: of the running job, 0..1; ``seconds_left`` where it can be told.
    :param curve: (share, loss, agreement) of the running or last tuning; nan where unknown.
    :param recovery: what a killed application has left, one sentence; "" for nothing.
    :param preview: what the preview shows, a few words; "" without one.
    :param remarks: on what the preview shows: how good it is as far as that can be told, what is unusual.
    :param shows: of the preview: ``grown``, ``early`` (a tuning is still at it), ``final``; "" without one.
    :param keeps: whether the preview leaves what nobody corrected as it was.
    :param specialize: why a model of its own is worth its time, one sentence; "" where none is offered.
    :param doing: what the running job does, a few words; "" without one.
    """

    busy: bool = False
    tune_text: str = "Tune prompts"
    stage: str = ""
    share: float = 0.0
    seconds_left: Optional[float] = None
    curve: tuple[tuple[float, float, float], ...] = ()
    notice: Notice = Notice()
    preview: str = ""
    remarks: tuple[str, ...] = ()
    shows: str = ""
    doing: str = ""
    device: str = ""
    frame: str = ""
    look: str = ""
    map_shown: bool = False
    keeps: bool = True
    recovery: str = ""
    specialize: str = ""
    reasons: Mapping[str, str] = field(default_factory=dict)
    prompts: tuple[PromptsRow, ...] = ()
    examples: tuple[tuple[str, str], ...] = ()


class Uncertainty(Protocol):
    """Where the network was unsure of a volume."""

    def any(self, volume: Any, /) -> bool: ...

    def has_map(self, volume: Any, /) -> bool: ...


_NEEDS_MORE = "Paint some background, or another structure, too."  # what one structure alone cannot be grown from


@dataclass(frozen=True)
class ActionContext:
    """What there is, for the panel's actions; nodes are None where they are not chosen or gone.

    :param choice: whether the result is there with and without what nobody corrected.
    :param unfinished: whether the result is still being cleaned up; ``writing``: whether those of other volumes are.
    """

    parameters: Any
    volume: Any
    segmentation: Any
    running: bool
    result: bool
    choice: bool
    unfinished: bool
    writing: bool
    uncertainty: Uncertainty
    history: Any


class Actions:
    """Stands before everything that a user asks for: nothing raises, and what went wrong is the notice.

    :param context: looks at what there is now.
    :ivar notice: the sentence for the user.
    """

    def __init__(self, context: Callable[[], ActionContext]):
        self._context = context
        self._listeners: list[Callable[[], None]] = []
        self.notice = Notice()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever what the panel shows may have changed."""
        self._listeners.append(listener)

    def changed(self) -> None:
        """Tell the listeners."""
        for listener in list(self._listeners):
            listener()

    def reason(self, action: str) -> str:
        """Why an action is not possible now, one sentence; "" when it is."""
        return disabled_reason(action, self._context())

    def reasons(self) -> dict[str, str]:
        """As :meth:`reason`, of all actions of the panel."""
        now = self._context()
        return {action: disabled_reason(action, now) for action in ACTIONS}

    def require(self, action: str) -> None:
        """Raise :class:`PromptSegError` with the reason where an action is not possible now."""
        reason = self.reason(action)
        if reason:
            raise PromptSegError(reason)

    @contextlib.contextmanager
    def doing(self, quiet: bool = False) -> Iterator[None]:
        """Around what a user asked for: a refusal or a bug in it becomes the notice.

        :param quiet: tell the listeners only where there is a new notice.
        """
        before = self.notice
        try:
            yield
        except PromptSegError as error:
            self.notice = Notice(str(error), Level.ERROR)
        except Exception as error:  # a bug of ours must not cost the user a window that answers
            self.notice = unexpected(error)
        if not quiet and self.notice is before and before.level == Level.ERROR:
            self.notice = Notice()  # what was done now went well
        if not quiet or self.notice is not before:
            self.changed()


def unexpected(error: Exception) -> Notice:
    """What is said of a bug; the log has all of it."""
    logging.exception("PromptSeg could not do that")
    text = Sentence("Something unexpected happened ({error}); nothing is lost, see the log.", error=repr(error))
    return Notice(text, Level.ERROR)


def disabled_reason(action: str, now: ActionContext) -> str:
    """Why one of ``view.ACTIONS``, or to ``grow`` while the user paints, is not possible; "" when it is."""
    if action == "cancel":
        return "" if now.running else "Nothing is running."
    if action == "apply" and now.unfinished:
        return "The result is still being cleaned up; wait a moment."
    if action in ("apply", "discard"):
        return "" if now.result else "There is no preview; paint some voxels or tune first."
    if action == "keep":
        return "" if now.choice else "No retuning is shown that would change much that nobody corrected."
    if action in ("undo", "redo"):
        return _no_history(action, now)
    if action == "look":
        return "" if now.uncertainty.any(now.volume) else "Tune or segment first."
    if action == "map":
        return "" if now.uncertainty.has_map(now.volume) else "Tune or segment first; the map comes with the result."
    if action in ("save", "load", "rename", "delete"):
        return ""
    if action in ("example", "name"):
        return "" if now.volume is not None else "Choose a volume first."
    if action == "grow":
        return _no_growing(now)
    reason = _no_job(now)
    if action == "learn":
        return reason or _no_learning(now)
    if action == "specialize":
        return reason or _no_learning(now) or why_no_model(now.segmentation)
    return reason or (_no_tuning(now) if action == "tune" else "")


def _no_history(action: str, now: ActionContext) -> str:
    if now.history is None:
        return "Choose a segmentation first."
    if now.running:
        return "Cancel the running job first."
    able = now.history.can_undo if action == "undo" else now.history.can_redo
    return "" if able else Sentence("There is nothing to {action}.", action=action)


def _no_job(now: ActionContext) -> str:
    if now.running:
        return "A job is running; cancel it first, or wait until it is done."
    if now.writing:
        return "Results of other volumes are still being cleaned up; wait a moment."
    if now.volume is None:
        return "Choose a volume first."
    entry = _entry(now.parameters.model)
    if entry is None:
        return Sentence("There is no model {model}; choose another.", model=now.parameters.model)
    if not entry.installed:
        return Sentence("The model {title} is not downloaded yet; click Download.", title=entry.title)
    return _no_host(now)


def _no_host(now: ActionContext) -> str:
    if now.parameters.device == "ssh" and not now.parameters.host.strip():
        return "Type the host to compute on, as for ssh, or choose this machine."
    return ""


def _no_growing(now: ActionContext) -> str:
    """It needs no model, but something that says where a structure ends: another one, background, or a result."""
    if not now.parameters.live or now.running or now.volume is None or now.segmentation is None:
        return "Nothing is grown now."
    painted = [each.role for each in segments(now.segmentation) if not each.is_empty]
    if Role.TUNE not in painted:
        return "Paint some voxels of a structure first."
    if _alone(now):
        return _NEEDS_MORE
    return _no_host(now) or _not_there(now)


def _no_learning(now: ActionContext) -> str:
    """Prompts for other volumes are tuned on a result that was accepted."""
    if now.segmentation is None or not current_tag(now.segmentation):
        return "Apply a result first; prompts for other volumes are tuned on it."
    if now.result:
        return "Apply or discard the preview first."
    return _not_there(now)


def _no_tuning(now: ActionContext) -> str:
    if now.segmentation is None:
        return "Choose or create a segmentation and paint some voxels first."
    tuned = [each for each in segments(now.segmentation) if each.role == Role.TUNE]
    if not tuned:
        return "Add a segment and paint some voxels of a structure first."
    if all(each.is_empty for each in tuned) and not current_tag(now.segmentation) and not now.parameters.examples:
        return "Paint some voxels of a structure, and some background, first."
    if _alone(now) and now.parameters.unpainted == Unpainted.UNKNOWN and not now.parameters.examples:
        return _NEEDS_MORE
    return _not_there(now)


def _alone(now: ActionContext) -> bool:
    """Whether one structure is all that is painted: nothing says where it ends."""
    roles = [each.role for each in segments(now.segmentation) if not each.is_empty]
    return roles.count(Role.TUNE) + roles.count(Role.BACKGROUND) < 2 and not current_tag(now.segmentation)


def _not_there(now: ActionContext) -> str:
    """Why the segmentation cannot take a result of the volume."""
    try:
        check_writable(now.segmentation, now.volume)
        if not node_references.same_place(now.volume, now.segmentation):
            return "The segmentation lies outside the volume; choose the segmentation of this volume."
    except PromptSegError as error:
        return str(error)
    return ""


def _entry(model: str) -> Optional[catalogue.Entry]:
    """The chosen model, here or not; None when there is no such model."""
    with contextlib.suppress(PromptSegError):
        return catalogue.find_known(model or None)
    return None

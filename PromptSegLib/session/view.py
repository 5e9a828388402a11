"""What the panel shows: everything a widget needs to know, and nothing that it has to decide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional

from ..choice import Choice

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

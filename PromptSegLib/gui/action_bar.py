"""What the action bar says: the next step, and one line on how things stand. No widget is needed for that."""

from __future__ import annotations

from dataclasses import dataclass

from ..session.actions import Notice, View
from .i18n import _, said


@dataclass(frozen=True)
class ActionBar:
    """:param bold: the button that is the next step, ``tune`` or ``apply``; "" while there is nothing but to wait."""

    bold: str
    status: Notice


def action_bar(view: View) -> ActionBar:
    """The bar for what the session shows."""
    return ActionBar(_next_step(view), _status(view))


def _next_step(view: View) -> str:
    if view.busy:
        return ""
    if view.shows == "grown":  # what corrects a result is to be taken; what begins one is to be learned from
        return "apply" if view.tune_text == "Retune" else "tune"
    if view.shows:
        return "apply"
    return "tune" if not view.reasons.get("tune") and view.tune_text != "Retune" else ""


def _status(view: View) -> Notice:
    if view.busy:
        told = [_progress(view), said(view.notice.text), *map(said, view.remarks)]
        return Notice(" ".join(filter(None, told)), view.notice.level)
    if view.notice.text:
        return view.notice
    if view.preview:
        told = [_("{preview}.").format(preview=said(view.preview)), *map(said, view.remarks)]
        return Notice(" ".join(filter(None, told)))
    reason = view.reasons.get("tune", "")
    return Notice(reason)


def _progress(view: View) -> str:
    doing = said(view.doing or "Working")
    if view.seconds_left is None:
        return _("{doing}...").format(doing=doing)
    return _("{doing}, about {seconds:.0f} s left.").format(doing=doing, seconds=max(1.0, view.seconds_left))

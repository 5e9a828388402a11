"""Slicer's translation of what the panel says, where there is a Slicer.

``_("...")`` is for what stands in this folder: Slicer's tools find the text by it, so it takes nothing but a literal.
``said(text)`` is for what the session says: sentences of :class:`~PromptSegLib.errors.Sentence` are looked up by their
templates, in the context ``PromptSeg``; ``Testing/Python/translations.py`` extracts them.
"""

from __future__ import annotations

from ..errors import Sentence

CONTEXT = "PromptSeg"

try:
    from slicer.i18n import tr as _  # finds the text's context by the file that calls it
    from slicer.i18n import translate
except ImportError:

    def _(text: str) -> str:
        return text

    def translate(context: str, text: str) -> str:
        return text


def said(text: str) -> str:
    """What the session says, in the language of the application; a translation that cannot be filled in is left."""
    if not text or not isinstance(text, Sentence) or not text.fields:
        return translate(CONTEXT, str.__str__(text)) if text else ""
    try:
        return translate(CONTEXT, text.template).format(**text.fields)
    except (KeyError, LookupError, ValueError, TypeError):
        return str.__str__(text)


__all__ = ["_", "said"]

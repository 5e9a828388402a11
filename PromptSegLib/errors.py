"""The one exception that carries a sentence for the user."""

from __future__ import annotations


class PromptSegError(ValueError):
    """Bad input: the message is one sentence that says what is wrong and what to do."""

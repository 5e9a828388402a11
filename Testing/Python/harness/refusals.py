"""What a refusal has to be: one clear sentence."""

from __future__ import annotations

import pytest

from PromptSegLib.errors import PromptSegError


def sentence(call, *words: str) -> str:
    """The message of the refusal: one line, one sentence."""
    with pytest.raises(PromptSegError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert text.endswith(".")
    assert ". " not in text
    assert len(text) < 300
    for unwanted in ("ITK", "0x", "Exception", "Traceback"):
        assert unwanted not in text
    for word in words:
        assert word in text, text
    return text

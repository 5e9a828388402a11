"""What PromptSeg says can be translated: found by a tool, with named fields, and looked up by its template."""

from __future__ import annotations

import ast
import json
import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
import translations

from harness.library_files import FILES, LIBRARY, tree
from PromptSegLib.errors import PromptSegError, Sentence
from PromptSegLib.gui import i18n

# Those that pass on what another sentence says, or what a library said.
PASSED_ON = {
    "errors.py",
    "imaging/reading.py",
    "pretraining/cases.py",
    "pretraining/checking.py",
    "pretraining/run.py",
    "session/actions.py",
    "session/prompts.py",
}


def test_every_sentence_is_a_template_with_named_fields():
    seen = 0
    for path in FILES:
        for call in translations.made(tree(path)):
            text = call.args[0]
            if not isinstance(text, ast.Constant):
                assert path.relative_to(LIBRARY).as_posix() in PASSED_ON, f"{path}:{call.lineno}"
                assert not isinstance(text, ast.JoinedStr), f"{path}:{call.lineno} fills in before it can be translated"
                continue
            seen += 1
            given = {keyword.arg for keyword in call.keywords}
            if given:
                assert translations.fields_of(text.value) == given, f"{path}:{call.lineno}"
    assert seen > 250


def test_the_panel_marks_literals_alone():
    """``_()`` of anything else is found by no tool."""
    for path in (LIBRARY / "gui").glob("*.py"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"


def test_they_are_extracted(tmp_path):
    translations.write(tmp_path / "PromptSeg.ts")
    root = ElementTree.parse(tmp_path / "PromptSeg.ts").getroot()
    assert root.findtext("context/name") == i18n.CONTEXT == translations.CONTEXT
    found = [message.findtext("source") for message in root.iter("message")]
    assert len(found) == len(set(found)) > 280
    assert "{name} has no voxels; export it again." in found
    assert "The model {title} is not downloaded yet; click Download." in found


def test_a_field_without_a_name_is_seen():
    with pytest.raises(ValueError, match="have no names"):
        translations.fields_of("{} has no voxels.")


def test_an_error_keeps_of_what_its_sentence_is_made():
    error = PromptSegError("{name} has {share:.0%} of {what!r}.", name="a{b}", share=np.float32(0.5), what="x")
    assert str(error) == "a{b} has 50% of 'x'."
    for sentence in (str(error), error.message, pickle.loads(pickle.dumps(error)).message):
        assert isinstance(sentence, Sentence)
        assert (sentence.template, sentence.fields["name"]) == ("{name} has {share:.0%} of {what!r}.", "a{b}")
    again = Sentence.from_dict(json.loads(json.dumps(error.message.to_dict())))
    assert again == str(error) and again.template == error.message.template
    plain = PromptSegError("Braces {stay} as they are.")
    assert str(plain) == "Braces {stay} as they are." == plain.message.template
    assert str(PromptSegError(error.message)) == str(error) and PromptSegError(error.message).message.fields


@pytest.mark.parametrize("values", [{}, {"template": 3}, {"template": "{a}", "fields": {}}, {"template": "{a[b]}"}])
def test_what_is_no_sentence_is_a_plain_text(values):
    assert Sentence.from_dict({**values, "message": "As it was said."}) == "As it was said."


def test_the_panel_looks_up_the_template(monkeypatch):
    known = {"{name} has no voxels.": "{name} hat keine Voxel.", "Done.": "Fertig.", "{a} and {b}.": "{c}."}
    monkeypatch.setattr(i18n, "translate", lambda context, text: known.get(text, text))
    assert i18n.said(Sentence("{name} has no voxels.", name="CT")) == "CT hat keine Voxel."
    assert i18n.said("Done.") == "Fertig." and i18n.said("") == ""
    assert i18n.said("Nobody translated this.") == "Nobody translated this."
    assert i18n.said(Sentence("{a} and {b}.", a=1, b=2)) == "1 and 2."  # a translation with another field
    assert type(i18n.said(Sentence("{a} and {b}.", a=1, b=2))) is str

"""CONTRIBUTING's ways to add a method, a model, a section and a message: followed, they work."""

from __future__ import annotations

import sys

import pytest
import translations

import PromptSegLib as ps
from harness.library_files import LIBRARY
from harness.tiny_model import CLASSES, LITTLE, example, tiny_backbone
from PromptSegLib.gui import i18n
from PromptSegLib.models import catalogue
from PromptSegLib.network import methods
from PromptSegLib.network.methods import registry
from PromptSegLib.pretraining.recipe import Recipe

A_METHOD = """
from PromptSegLib.network.methods.scale import Scales


class Shifted(Scales):
    name = "shifted"
    title = "A method of the next paper"
    tip = "What it does, a few words."
    kinds = ("much", "little")
    order = 90
    stored = (2, "shifted")

    def shapes(self, config, mode):
        renamed = {"scale": "much", "shift": "little"}
        found = super().shapes(config, mode).items()
        return {f"{n.rpartition('.')[0]}.{renamed[n.rpartition('.')[2]]}": shape for n, shape in found}


METHOD = Shifted()
"""


@pytest.fixture
def a_method(tmp_path, monkeypatch):
    """One more file in the folder of the methods."""
    (tmp_path / "shifted.py").write_text(A_METHOD)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])

    def forget() -> None:
        registry.known.cache_clear()
        registry._acting.cache_clear()
        sys.modules.pop(f"{methods.__name__}.shifted", None)

    forget()
    yield "shifted"
    monkeypatch.undo()
    forget()


def test_a_method_is_one_new_file(a_method, tmp_path):
    """Command line and prompts files find it there; it tunes and segments."""
    from PromptSegLib.cli.main import _parser

    words = ["tune", "--example", "a", "b", "--classes", "c=1", "--output", "d", "--method", a_method]
    assert _parser().parse_args(words).method == a_method
    backbone, case = tiny_backbone(tmp_path), example(shape=LITTLE)
    settings = ps.Settings(method=a_method, steps=1, token_steps=1)
    prompts = ps.tune([case], CLASSES, backbone, settings=settings)
    again = ps.Prompts.from_bytes(prompts.to_bytes())
    assert again.method == a_method and any(name.endswith(".much") for name in again.classes[0].tensors)
    assert ps.segment(again, case.image, backbone).labels.GetSize() == case.image.GetSize()


def test_a_model_is_a_recipe_or_two_files(tmp_path, monkeypatch):
    """The recipe that is named loads; a body with its prompts in the model folder is an entry."""
    assert Recipe.load(LIBRARY / "pretraining/recipes/ct-body.json").name == "ct-body"
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path))
    tiny_backbone(tmp_path, shipped=True)
    entry = catalogue.find_name("tiny0")
    assert entry.installed and entry.prompts is not None and ps.Prompts.load(entry.prompts).names[0] == "liver"


def test_a_message_is_raised_extracted_and_looked_up(tmp_path, monkeypatch):
    file = tmp_path / "more.py"
    file.write_text('raise PromptSegError("{name} is too blue; paint it green.", name=name)\n')
    (template,) = translations.templates(file)
    monkeypatch.setattr(i18n, "translate", lambda context, text: {template: "{name} ist zu blau."}.get(text, text))
    error = ps.PromptSegError(template, name="CT")
    assert str(error) == "CT is too blue; paint it green." and i18n.said(error.message) == "CT ist zu blau."

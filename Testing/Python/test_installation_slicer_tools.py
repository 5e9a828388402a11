"""Slicer's Python and the words of its extension PyTorch; the application is a stand-in."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

from PromptSegLib.errors import PromptSegError
from PromptSegLib.gui.slicer_tools import SlicerTools

NAME = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
EXTENSION = """
class PyTorchUtilsLogic:
    @staticmethod
    def _getPipInstallArguments(forceComputationBackend=None, torchVersionRequirement=None):
        return ["install", "torch" + torchVersionRequirement, "torchvision", "--extra"]
"""


@pytest.fixture
def application(tmp_path, monkeypatch) -> Path:
    """Its PythonSlicer, which is on its path; before 5.11, and without the extension."""
    file = tmp_path / NAME
    file.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("PyTorchUtils", None)


def test_pythonslicer_is_found(application):
    assert SlicerTools().python() == str(application)
    application.unlink()
    with pytest.raises(PromptSegError, match="PythonSlicer"):
        SlicerTools().python()


def test_while_another_extension_installs(application, monkeypatch):
    module = ModuleType("slicer.packaging")
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    assert SlicerTools().python()  # an early preview of it
    module.isPipInstallInProgress = lambda: False
    assert SlicerTools().python()
    module.isPipInstallInProgress = lambda: True
    with pytest.raises(PromptSegError, match="Another extension"):
        SlicerTools().python()


def test_torch_is_asked_for_in_the_extensions_words(application, tmp_path):
    assert SlicerTools().torch_arguments("torch>=2.1") == ["install", "torch>=2.1", "torchvision"]
    (tmp_path / "PyTorchUtils.py").write_text(EXTENSION)
    importlib.invalidate_caches()
    assert SlicerTools().torch_arguments("torch>=2.1") == ["install", "torch>=2.1", "torchvision", "--extra"]


@pytest.mark.parametrize("text", ["import nothing_of_that_name\n", "x = \n", "class PyTorchUtilsLogic:\n    pass\n"])
def test_an_extension_that_is_damaged_or_has_changed(application, tmp_path, text):
    (tmp_path / "PyTorchUtils.py").write_text(text)
    importlib.invalidate_caches()
    assert SlicerTools().torch_arguments("torch>=2.1") == ["install", "torch>=2.1", "torchvision"]

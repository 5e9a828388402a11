"""Slicer's Python and the words of its extension PyTorch; the application's few names are stand-ins."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import slicer

from PromptSegLib.errors import PromptSegError
from PromptSegLib.gui.slicer_tools import SlicerTools

NAME = "PythonSlicer.exe" if os.name == "nt" else "PythonSlicer"
EXTENSION = """
class PyTorchUtilsLogic:
    @staticmethod
    def _getPipInstallArguments(forceComputationBackend=None, torchVersionRequirement=None):
        return ["install", "torch" + torchVersionRequirement, "torchvision", "--extra"]
"""


def program(folder: Path) -> Path:
    folder.mkdir(parents=True)
    file = folder / NAME
    file.touch(mode=0o755)
    return file


@pytest.fixture
def application(tmp_path, monkeypatch) -> Path:
    """Its PythonSlicer; before 5.11, and without the extension."""
    monkeypatch.setattr(slicer, "app", SimpleNamespace(slicerHome=str(tmp_path / "Slicer")), raising=False)
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield program(tmp_path / "Slicer" / "bin")
    sys.modules.pop("PyTorchUtils", None)


def test_pythonslicer_is_found(application, tmp_path, monkeypatch):
    assert SlicerTools().python() == str(application)
    other = program(tmp_path / "path")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
        assert SlicerTools().python() == str(other)
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

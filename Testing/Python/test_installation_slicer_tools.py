"""How Slicer's own installers are called; the application's few names are stand-ins, its processes are real."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import slicer

from harness.process_harness import finished, until
from PromptSegLib.errors import PromptSegError
from PromptSegLib.gui import slicer_tools
from PromptSegLib.gui.slicer_tools import SlicerTools
from PromptSegLib.installation.child import ChildProcess
from PromptSegLib.installation.installer_tools import TorchExtension
from PromptSegLib.installation.installing import Installer

pytestmark = pytest.mark.skipif(os.name == "nt", reason="PythonSlicer is a shell script here")

# Says what it was called with, as pip and light-the-torch are.
SAYS = "import sys; print({name!r}, *sys.argv[1:])"
EXTENSION = """
import slicer.util

class PyTorchUtilsLogic:
    @staticmethod
    def _getPipInstallArguments(forceComputationBackend=None, torchVersionRequirement=None):
        return ["install", "torch" + torchVersionRequirement, "torchvision", "--extra"]

    @staticmethod
    def _installLightTheTorch():
        slicer.util.pip_install("light-the-torch>=7")
"""


class Extensions:
    """The extensions manager's model."""

    def __init__(self) -> None:
        self.interactive = True
        self.known: set[str] = set()
        self.asked: list[tuple] = []
        self.works = True

    def setInteractive(self, on: bool) -> None:
        self.interactive = on

    def isExtensionInstalled(self, name: str) -> bool:
        return name in self.known

    def installExtensionFromServer(self, name: str, restart: bool) -> bool:
        self.asked.append((name, restart, self.interactive))
        if self.works:
            self.known.add(name)
        return self.works


class Settings:
    """``qt.QSettings``, which forgets nothing when it is made anew."""

    kept: dict[str, str] = {}

    def setValue(self, key: str, value: str) -> None:
        self.kept[key] = value

    def value(self, key: str, otherwise: str) -> str:
        return self.kept.get(key, otherwise)


@pytest.fixture
def application(tmp_path, monkeypatch) -> SimpleNamespace:
    """An application before 5.11 whose Python is this one, but for pip, light_the_torch and the PyTorch extension."""
    home, modules = tmp_path / "Slicer", tmp_path / "modules"
    (home / "bin").mkdir(parents=True)
    script = home / "bin" / "PythonSlicer"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{modules}" exec "{sys.executable}" "$@"\n')
    script.chmod(0o755)
    for name in ("pip", "light_the_torch"):
        (modules / name).mkdir(parents=True)
        (modules / name / "__init__.py").touch()
        (modules / name / "__main__.py").write_text(SAYS.format(name=name))
    extension = tmp_path / "extension"
    extension.mkdir()
    extensions = Extensions()
    app = SimpleNamespace(slicerHome=str(home), extensionsManagerModel=lambda: extensions, testingEnabled=lambda: False)
    monkeypatch.setattr(slicer, "app", app, raising=False)
    monkeypatch.setitem(sys.modules, "qt", SimpleNamespace(QSettings=Settings))
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(Settings, "kept", {})
    monkeypatch.syspath_prepend(str(extension))
    yield SimpleNamespace(app=app, extensions=extensions, folder=extension, python=str(script), modules=modules)
    sys.modules.pop("PyTorchUtils", None)


def load_extension(application, text: str = EXTENSION) -> None:
    (application.folder / "PyTorchUtils.py").write_text(text)
    importlib.invalidate_caches()


def said(run) -> list[str]:
    code, lines = finished(run)
    assert code == 0, lines
    return lines


# torch


def test_the_extension(application):
    tools = SlicerTools()
    assert tools.torch_extension() == TorchExtension.ABSENT
    assert tools.install_torch_extension() == ""
    assert application.extensions.asked == [("PyTorch", False, False)]  # no restart, no questions
    assert application.extensions.interactive
    assert tools.torch_extension() == TorchExtension.RESTART
    load_extension(application)
    assert tools.torch_extension() == TorchExtension.READY


def test_the_extension_cannot_be_installed(application, monkeypatch):
    application.extensions.works = False
    found = SlicerTools().install_torch_extension()
    assert "Extensions Manager" in found
    assert found.endswith(".")
    assert application.extensions.interactive
    monkeypatch.delattr(application.app, "extensionsManagerModel")
    assert SlicerTools().torch_extension() == TorchExtension.ABSENT
    assert "has no Extensions Manager" in SlicerTools().install_torch_extension()


def test_torch_is_installed_in_the_extensions_words(application, tmp_path):
    """light-the-torch as the extension wants it, then torch with it, in child processes; numpy is held in both."""
    load_extension(application)
    before = slicer.util.pip_install
    run = SlicerTools().install_torch("torch>=2.1", ["--no-input"], tmp_path / "c.txt")
    assert slicer.util.pip_install is before
    assert isinstance(run, ChildProcess)
    limits = f"--constraint {tmp_path / 'c.txt'}"
    assert said(run) == [
        f"pip install light-the-torch>=7 {limits} --disable-pip-version-check --no-input",
        f"light_the_torch install torch>=2.1 torchvision --extra --no-input {limits}",
    ]


def test_an_extension_that_has_changed(application, tmp_path):
    load_extension(application, "class PyTorchUtilsLogic:\n    pass\n")
    first, second = said(SlicerTools().install_torch("torch>=2.1", [], tmp_path / "c.txt"))
    assert first.startswith("pip install light-the-torch>=0.5 ")
    assert second == f"light_the_torch install torch>=2.1 torchvision --constraint {tmp_path / 'c.txt'}"


def test_an_extension_that_is_damaged(application, tmp_path):
    for text in ("import nothing_of_that_name\n", "x = 1\n", "x = \n"):
        load_extension(application, text)
        sys.modules.pop("PyTorchUtils", None)
        with pytest.raises(PromptSegError, match="cannot be loaded; update it"):
            SlicerTools().install_torch("torch>=2.1", [], tmp_path / "c.txt")


def test_light_the_torch_is_there(application, tmp_path, monkeypatch):
    load_extension(application)
    monkeypatch.setattr(slicer_tools, "installed_version", lambda name: {"light-the-torch": "0.8"}[name])
    (only,) = said(SlicerTools().install_torch("torch>=2.1", [], tmp_path / "c.txt"))
    assert only.startswith("light_the_torch install")


# The rest


def test_the_rest_before_slicer_5_11(application, tmp_path):
    run = SlicerTools().pip_install(["monai>=1.3", "--no-input"], tmp_path / "c.txt")
    assert said(run) == [f"pip install monai>=1.3 --no-input --constraint {tmp_path / 'c.txt'}"]


def packaging(**replaced) -> ModuleType:
    """``slicer.packaging`` of 5.11 and later, by its documented arguments."""
    module = ModuleType("slicer.packaging")
    module.calls = []

    def pip_install(
        requirements,
        constraints=None,
        no_deps_requirements=None,
        skip_packages=None,
        blocking=True,
        show_progress=True,
        requester=None,
        parent=None,
        logCallback=None,
        completedCallback=None,
    ):
        module.calls.append((requirements, constraints, blocking, show_progress, requester))
        module.log, module.completed = logCallback, completedCallback

    module.pip_install = pip_install
    module.isPipInstallInProgress = lambda: False
    for name, value in replaced.items():
        setattr(module, name, value)
    return module


def test_the_rest_by_slicer_packaging(application, tmp_path, monkeypatch):
    module = packaging()
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    run = SlicerTools().pip_install(["monai>=1.3"], tmp_path / "c.txt")
    assert module.calls == [(["monai>=1.3"], str(tmp_path / "c.txt"), False, False, "PromptSeg")]
    assert (run.returncode, run.lines()) == (None, [])
    module.log("Collecting monai")
    module.log("Installing")
    assert run.lines() == ["Collecting monai", "Installing"]
    run.cancel()
    assert run.returncode is None
    module.completed(1)
    assert (run.returncode, run.lines()) == (1, [])


def test_when_slicer_packaging_cannot_report(application, tmp_path, monkeypatch):
    """An early preview of it, and testing mode: a child process does it."""
    expected = [f"pip install monai>=1.3 --constraint {tmp_path / 'c.txt'}"]
    old = packaging(pip_install=lambda requirements, blocking=True: pytest.fail("was called"))
    monkeypatch.setitem(sys.modules, "slicer.packaging", old)
    assert said(SlicerTools().pip_install(["monai>=1.3"], tmp_path / "c.txt")) == expected
    module = packaging()
    monkeypatch.setitem(sys.modules, "slicer.packaging", module)
    monkeypatch.setattr(application.app, "testingEnabled", lambda: True)
    assert said(SlicerTools().pip_install(["monai>=1.3"], tmp_path / "c.txt")) == expected
    assert module.calls == []


def test_while_another_extension_installs(application, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging(isPipInstallInProgress=lambda: True))
    with pytest.raises(PromptSegError, match="Another extension"):
        SlicerTools().pip_install(["monai>=1.3"], tmp_path / "c.txt")


def test_pythonslicer_is_found(application, tmp_path, monkeypatch):
    other = tmp_path / "path" / "PythonSlicer"
    other.parent.mkdir()
    other.write_text(Path(application.python).read_text().replace('"$@"', '"$@" --from-path'))
    other.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{other.parent}{os.pathsep}{os.environ['PATH']}")
        (line,) = said(SlicerTools().pip_install([], tmp_path / "c.txt"))
        assert line.endswith("--from-path")
    Path(application.python).unlink()
    with pytest.raises(PromptSegError, match="PythonSlicer"):
        SlicerTools().pip_install([], tmp_path / "c.txt")


# With the installer


def test_from_the_first_click_through_a_restart(application, tmp_path, monkeypatch):
    """The whole way with the genuine tools: extension, restart, then both steps."""
    (tmp_path / "requirements.txt").write_text("torch>=2.1\n")
    site = tmp_path / "site"
    site.mkdir()
    installer = Installer(SlicerTools(), tmp_path / "requirements.txt", [str(site)])
    installer.start()
    assert installer.outcome == "restart"
    assert "restart after" in Settings.kept[slicer_tools.SETTING]

    Settings.kept[slicer_tools.SETTING] += "0"  # another process
    load_extension(application)
    installer = Installer(SlicerTools(), tmp_path / "requirements.txt", [str(site)])
    assert installer.pending
    main = application.modules / "light_the_torch" / "__main__.py"
    main.write_text(
        f"import pathlib, sys\nfolder = pathlib.Path({str(site)!r}) / 'torch-2.5.dist-info'\nfolder.mkdir()\n"
        "(folder / 'METADATA').write_text('Metadata-Version: 2.1\\nName: torch\\nVersion: 2.5\\n')\nprint(sys.argv)"
    )
    installer.start()
    until(lambda: installer.poll() is not None and not installer.running)
    assert installer.outcome == "installed", installer.log
    assert Settings.kept[slicer_tools.SETTING] == ""
    assert "pip install light-the-torch>=7" in installer.log[0]
    assert "torch>=2.1" in installer.log[1]

"""The installer with a real pip, in a virtual environment of its own and without a network."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from harness.installer_harness import PlainPython, finish, sentence
from harness.process_harness import look_in
from PromptSegLib.installation.installing import Installer
from PromptSegLib.installation.requirements import installed_version

pytestmark = pytest.mark.application

REQUIREMENTS = "torch>=2.1\nmonai>=1.3\nnumpy>=1.24\n"


def wheel(folder: Path, name: str, version: str, *needs: str, code: str = "") -> Path:
    """A wheel with one module."""
    info = f"{name}-{version}.dist-info"
    metadata = [
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}",
        *(f"Requires-Dist: {each}" for each in needs),
    ]
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    target = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return target


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    # In place of the genuine one, which knows nothing of wheels in a folder.
    wheel(folder, "light_the_torch", "0.8", code="import runpy\nrunpy.run_module('pip', run_name='__main__')\n")
    wheel(folder, "torchvision", "0.20", "torch")
    wheel(folder, "torch", "2.0.0")
    wheel(folder, "torch", "2.5.0", "numpy")
    wheel(folder, "torch", "2.6.0", "numpy")
    wheel(folder, "monai", "1.4.0", "torch>=1.9", "numpy>=1.24")
    wheel(folder, "numpy", "1.26.4")
    wheel(folder, "numpy", "2.4.0")
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """A virtual environment with nothing but pip; its interpreter."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture
def application(bare, wheels, monkeypatch) -> Path:
    """The interpreter of an application that brings numpy 1.26.4, as on its first day; no index can be reached."""
    for name in [each for each in os.environ if each.upper().startswith(("PIP_", "PYTHONPATH"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    pip(bare, "uninstall", "--yes", "torch", "torchvision", "light-the-torch", "monai", "numpy")
    pip(bare, "install", "--no-index", "--find-links", str(wheels), "numpy==1.26.4")
    return bare


def pip(python: Path, *words: str) -> None:
    subprocess.run([python, "-m", "pip", *words, "-q", "--disable-pip-version-check"], check=True, capture_output=True)


@pytest.fixture
def installer(application, tmp_path, monkeypatch) -> Installer:
    (tmp_path / "requirements.txt").write_text(REQUIREMENTS)
    look_in(monkeypatch, site_of(application))
    return Installer(PlainPython(str(application)), tmp_path / "requirements.txt")


def site_of(python: Path) -> str:
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def versions() -> dict[str, str | None]:
    return {name: installed_version(name) for name in ("torch", "monai", "numpy")}


def test_from_a_folder_of_wheels(installer, wheels):
    installer.start(wheels)
    finish(installer)
    sentence(installer, "installed")
    assert versions() == {"torch": "2.6.0", "monai": "1.4.0", "numpy": "1.26.4"}  # not numpy 2.4.0
    assert any("Successfully installed" in line for line in installer.log)


def test_torch_and_then_the_rest(installer, application, wheels, monkeypatch):
    """Two runs of pip: the second keeps the torch that the first chose, though there is a later one."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # of this process, not of that application
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    pip(application, "install", "torch==2.5.0")
    installer.start()
    finish(installer)
    sentence(installer, "installed")
    assert versions() == {"torch": "2.5.0", "monai": "1.4.0", "numpy": "1.26.4"}
    pip(application, "uninstall", "--yes", "monai")
    pip(application, "install", "torch==2.0.0")  # too old: this one may be changed
    installer.start()
    finish(installer)
    sentence(installer, "installed")
    assert versions() == {"torch": "2.6.0", "monai": "1.4.0", "numpy": "1.26.4"}
    assert installed_version("torchvision") == "0.20"


def test_a_package_that_wants_another_numpy(installer, wheels, tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    for each in wheels.glob("[!m]*.whl"):
        (folder / each.name).symlink_to(each)
    wheel(folder, "monai", "1.6.1", "torch>=1.9", "numpy>=2.0")
    installer.start(folder)
    finish(installer)
    found = sentence(installer, "failed")
    assert found.startswith("monai==1.6.1 ")
    assert "cannot be installed: it does not go with numpy==1.26.4, which must stay" in found
    assert any("ResolutionImpossible" in line for line in installer.log)
    assert versions() == {"torch": None, "monai": None, "numpy": "1.26.4"}


def test_a_folder_that_lacks_a_wheel(installer, wheels, tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "torch-2.5.0-py3-none-any.whl").symlink_to(wheels / "torch-2.5.0-py3-none-any.whl")
    installer.start(folder)
    finish(installer)
    assert "no wheel of monai" in sentence(installer, "failed")
    assert versions()["torch"] is None


def test_without_a_network(installer, monkeypatch):
    installer.start()
    finish(installer)
    assert "connection to the package server failed" in sentence(installer, "failed")
    assert any("127.0.0.1" in line for line in installer.log)
    assert versions() == {"torch": None, "monai": None, "numpy": "1.26.4"}
    monkeypatch.setenv("PIP_RETRIES", "0")  # pip is then silent about it
    installer.start()
    finish(installer)
    assert "cannot be reached" in sentence(installer, "failed")


def test_without_pip(installer, tmp_path, wheels):
    """A Python whose pip is gone says so."""
    venv.create(tmp_path / "venv", with_pip=False)
    installer._application = PlainPython(str(tmp_path / "venv" / Path(sys.executable).parent.name / "python"))
    installer.start(wheels)
    finish(installer)
    assert "has no pip" in sentence(installer, "failed")

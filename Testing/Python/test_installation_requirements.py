"""What PromptSeg needs: one declaration, found in every layout, and compared with what is installed."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement as Parsed

from harness.library_files import FILES, imported
from harness.process_harness import distribution, look_in
from PromptSegLib.installation import requirements as module
from PromptSegLib.installation.requirements import (
    GIVEN,
    PINNED,
    Requirement,
    installed_version,
    pins,
    requirements,
    torch_limit,
)

ROOT = Path(__file__).parents[2]
FILE = ROOT / "PromptSeg" / "Resources" / "requirements.txt"
# Packages of the application.
OF_SLICER = {"slicer", "vtk", "qt", "ctk"}


def missing(file: Path) -> list[Requirement]:
    return [each for each in requirements(file) if not each.satisfied]


# The declaration


def test_every_requirement_has_a_lower_bound_only_and_a_reason():
    found = requirements(FILE)
    assert {each.name for each in found} >= {"torch", "monai", "safetensors", "scipy", "numpy", "SimpleITK"}
    for each in found:
        (bound,) = Parsed(each.text).specifier
        assert bound.operator == ">="
    assert len({each.why for each in found} - {""}) == len(found)
    assert {each.name for each in found} >= set(GIVEN)


def test_what_the_library_imports_is_declared():
    names = {each.name.replace("-", "_") for each in requirements(FILE)}
    # The panel may also use other modules of Slicer.
    used = {name for path in FILES if "gui" not in path.parts for name in imported(path)}
    outside = used - set(sys.stdlib_module_names) - OF_SLICER - {"PromptSegLib"}
    assert {"torch", "monai"} <= outside  # the names were found
    assert outside <= names


def test_pip_gets_the_same_declaration(tmp_path):
    """What a wheel of PromptSeg would ask pip for, without the test extra."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "PromptSeg/Resources/requirements.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "PromptSegLib").mkdir()
    (tmp_path / "PromptSegLib" / "__init__.py").touch()
    code = "from setuptools.build_meta import prepare_metadata_for_build_wheel as go; print(go('.'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    metadata = (tmp_path / done.stdout.split()[-1] / "METADATA").read_text(encoding="utf-8")
    asked = [line.partition(": ")[2] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert {line for line in asked if "extra ==" not in line} == {each.text for each in requirements(FILE)}
    assert any(line.startswith("jsonschema") for line in asked)


# What is installed


def test_nothing_is_missing_here():
    assert missing(FILE) == []


def test_missing(tmp_path, monkeypatch):
    site, file = tmp_path / "site", tmp_path / "requirements.txt"
    look_in(monkeypatch, site)
    distribution(site, "torch", "2.0.1+cpu")
    distribution(site, "monai", "1.3.0")
    (distribution(site, "scipy", "1.13.1") / "METADATA").unlink()  # an installation that was interrupted
    file.write_text("# the networks\ntorch>=2.1\n\nmonai>=1.3\n# growing\nscipy>=1.10\n")
    assert missing(file) == [
        Requirement("torch", ">=2.1", "2.0.1+cpu", "the networks"),
        Requirement("scipy", ">=1.10", None, "growing"),
    ]
    distribution(site, "scipy-", "1.13.1")  # pip renames what it could not delete
    assert "scipy" in {each.name for each in missing(file)}
    distribution(site, "scipy", "a build of my own")  # nothing that pip could compare
    assert "scipy" in {each.name for each in missing(file)}


@pytest.mark.parametrize(
    ("installed", "good"),
    [
        ("2.1", True),
        ("2.13.0+cu130", True),
        ("2.2.0.dev20240101", True),
        ("2.0.9", False),
        ("2.1.0rc1", False),
        (None, False),
    ],
)
def test_versions_that_will_do(installed, good):
    assert Requirement("torch", ">=2.1", installed).satisfied is good


def test_a_part_of_slicer_without_metadata_is_there(tmp_path, monkeypatch):
    look_in(monkeypatch, tmp_path)
    assert pins() == []
    assert {"torch", "scipy"} <= {each.name for each in missing(FILE)} <= {each.name for each in requirements(FILE)}
    assert not {each.name for each in missing(FILE)} & set(GIVEN)


def test_names_are_compared_as_pip_does(tmp_path, monkeypatch):
    look_in(monkeypatch, tmp_path)
    distribution(tmp_path, "Typing-Extensions", "4.9")
    distribution(tmp_path, "simpleitk", "2.4")
    assert installed_version("typing_extensions") == "4.9"
    assert installed_version("SimpleITK") == "2.4"


# Constraints


def test_constraints(tmp_path, monkeypatch):
    look_in(monkeypatch, tmp_path)
    for name, version in (("numpy", "1.26.4"), ("SimpleITK", "2.4.0.dev1"), ("torch", "2.13.0+cpu"), ("monai", "1.3")):
        distribution(tmp_path, name, version)
    assert pins() == ["numpy==1.26.4", "SimpleITK==2.4.0.dev1", "torch==2.13.0+cpu"]
    assert pins(["torch"]) == ["numpy==1.26.4", "SimpleITK==2.4.0.dev1"]


def test_what_slicer_ships_is_pinned():
    assert {"numpy", "SimpleITK", "scipy", "torch", "requests", "pydicom", "vtk"} <= set(PINNED)
    for name in ("numpy", "SimpleITK", "scipy", "torch", "vtk"):
        assert f"{name}=={installed_version(name)}" in pins()


@pytest.mark.parametrize(
    ("platform", "folder", "limit"),
    [
        ("win32", "C:/" + "x" * 90, ["torch<2.13"]),
        ("win32", "C:/Slicer", []),
        ("linux", "C:/" + "x" * 90, []),
    ],
)
def test_file_names_that_windows_refuses(monkeypatch, platform, folder, limit):
    monkeypatch.setattr(module, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: {"purelib": folder})
    assert torch_limit() == limit


def test_the_longest_name_in_torch():
    """The limit is that of the torch that is installed here, or this torch has no such names."""
    files = importlib.metadata.files("torch") or []
    longest = max(len(str(each)) for each in files)
    assert longest <= module._LONGEST_NAME_IN_TORCH


def test_the_declaration_has_no_options():
    """Slicer's own reader of such files skips options in silence."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(Parsed(line).marker is None for line in lines)
    assert lines == [each.text for each in requirements(FILE)]

"""What PromptSeg needs: one declaration, found in every layout, and compared with what is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement as Parsed

from harness.library_files import FILES, imported
from harness.process_harness import distribution
from PromptSegLib.errors import PromptSegError
from PromptSegLib.installation import requirements as module
from PromptSegLib.installation.requirements import (
    GIVEN,
    PINNED,
    Requirement,
    constraints,
    installed_version,
    pins,
    requirements,
    torch_limit,
)

ROOT = Path(__file__).parents[2]
FILE = ROOT / "PromptSeg" / "Resources" / "requirements.txt"
# Packages of the application.
OF_SLICER = {"slicer", "vtk", "qt", "ctk"}


def missing(file: Path, paths: list[str] | None = None) -> list[Requirement]:
    return [each for each in requirements(file, paths) if not each.satisfied]


def declared(text: str, tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text(text)
    return file


# The declaration


def test_every_requirement_has_a_lower_bound_only_and_a_reason():
    found = requirements(FILE)
    assert {each.name for each in found} >= {"torch", "monai", "safetensors", "scipy", "numpy", "SimpleITK"}
    for each in found:
        (bound,) = Parsed(each.text).specifier
        assert bound.operator == ">="
        assert each.why
    assert {each.name for each in found if each.given} == set(GIVEN)


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


# Where it is read


def test_without_packaging(tmp_path):
    """pip's own copy is used where the application has none."""
    code = (
        "import pathlib, sys; sys.modules['packaging'] = None;"
        "from PromptSegLib.installation.requirements import requirements;"
        f"print({{each.name: each.satisfied for each in requirements(pathlib.Path({str(FILE)!r}))}}['numpy'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_declaration_that_is_damaged_or_gone(tmp_path):
    with pytest.raises(PromptSegError, match="damaged"):
        requirements(declared("torch>=2.1\n!!\n", tmp_path))
    with pytest.raises(PromptSegError, match="damaged"):
        requirements(tmp_path / "none.txt")


# What is installed


def test_nothing_is_missing_here():
    assert missing(FILE) == []


def test_missing(tmp_path):
    site = tmp_path / "site"
    distribution(site, "torch", "2.0.1+cpu")
    distribution(site, "monai", "1.3.0")
    (distribution(site, "scipy", "1.13.1") / "METADATA").unlink()  # an installation that was interrupted
    text = "# networks\n# of torch\ntorch>=2.1\n\nmonai>=1.3\nscipy>=1.10\nold>=1; python_version < '3'\n"
    found = missing(declared(text, tmp_path), [str(site)])
    assert found == [
        Requirement("torch", ">=2.1", "2.0.1+cpu", "networks of torch"),
        Requirement("scipy", ">=1.10", None, ""),
    ]
    distribution(site, "scipy-", "1.13.1")  # pip renames what it could not delete
    assert "scipy" in {each.name for each in missing(declared(text, tmp_path), [str(site)])}


@pytest.mark.parametrize(
    ("installed", "good"),
    [
        ("2.1", True),
        ("2.13.0+cu130", True),
        ("2.2.0.dev20240101", True),
        ("a build of my own", True),
        ("2.0.9", False),
        ("2.1.0rc1", False),
        (None, False),
    ],
)
def test_versions_that_will_do(installed, good):
    assert Requirement("torch", ">=2.1", installed).satisfied is good


def test_a_part_of_slicer_without_metadata_is_there(monkeypatch):
    monkeypatch.setattr(module.importlib.metadata.Distribution, "discover", lambda **_: iter(()))
    assert installed_version("SimpleITK") == module.UNKNOWN_VERSION
    assert installed_version("torch") is None
    assert pins() == {}
    assert "SimpleITK" not in {each.name for each in missing(FILE)}


def test_names_are_compared_as_pip_does(tmp_path):
    distribution(tmp_path, "Typing-Extensions", "4.9")
    distribution(tmp_path, "simpleitk", "2.4")
    assert installed_version("typing_extensions", [str(tmp_path)]) == "4.9"
    assert installed_version("SimpleITK", [str(tmp_path)]) == "2.4"


# Constraints


def test_constraints(tmp_path):
    site = tmp_path / "site"
    for name, version in (("numpy", "1.26.4"), ("SimpleITK", "2.4.0.dev1"), ("torch", "2.13.0+cpu"), ("monai", "1.3")):
        distribution(site, name, version)
    distribution(site, "vtk", "9.4-slicer-build 3")
    lines = constraints([str(site)]).splitlines()
    assert lines == [
        "numpy==1.26.4",
        "SimpleITK==2.4.0.dev1",
        "torch==2.13.0+cpu",
        "vtk===9.4-slicer-build 3",
    ]
    assert constraints([str(site)], free=["torch"]).splitlines() == [line for line in lines if "torch" not in line]


def test_what_slicer_ships_is_pinned():
    assert {"numpy", "SimpleITK", "scipy", "torch", "requests", "pydicom", "vtk"} <= set(PINNED)
    for name in ("numpy", "SimpleITK", "scipy", "torch", "vtk"):
        assert f"{name}=={installed_version(name)}\n" in constraints()


def test_file_names_that_windows_refuses(tmp_path, monkeypatch):
    deep, short = "C:/" + "x" * 90, "C:/Slicer"
    assert torch_limit("win32", short) == torch_limit("linux", deep) == ""
    assert torch_limit("win32", deep) == "torch<2.13"
    monkeypatch.setattr(module.sys, "platform", "win32")
    assert "torch<2.13\n" in constraints([], site_packages=deep)
    distribution(tmp_path, "torch", "2.13.0")
    assert constraints([str(tmp_path)], site_packages=deep) == "torch==2.13.0\n"
    assert "torch<2.13\n" in constraints([str(tmp_path)], ["torch"], deep)


def test_the_longest_name_in_torch():
    """The limit is that of the torch that is installed here, or this torch has no such names."""
    files = module.importlib.metadata.files("torch") or []
    longest = max(len(str(each)) for each in files)
    assert longest <= module._LONGEST_NAME_IN_TORCH


def test_the_declaration_has_no_options():
    """Slicer's own reader of such files skips options in silence."""
    lines = [line for line in FILE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert all(Parsed(line).marker is None for line in lines)
    assert lines == [each.text for each in requirements(FILE)]

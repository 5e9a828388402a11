"""What PromptSeg needs and which of it is installed, read from metadata without importing any of it."""

from __future__ import annotations

import sys
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Optional, Sequence

from packaging.requirements import Requirement as Line
from packaging.specifiers import SpecifierSet
from packaging.version import Version

GIVEN = ("numpy", "SimpleITK")  # parts of Slicer that are never handed to pip
PINNED = (*GIVEN, "scipy", "torch", "requests", "pydicom", "packaging", "pillow", "typing_extensions", "vtk")
# torch 2.13 and later install license files in so deep folders that Windows refuses their names, after which the
# installation is broken (github.com/Slicer/light-the-torch/issues/176).
_SHORT_TORCH = "torch<2.13"
_LONGEST_NAME_IN_TORCH = 175
_LONGEST_WINDOWS_PATH = 259


@dataclass(frozen=True)
class Requirement:
    """One package that PromptSeg needs.

    :param name: the distribution's name, as pip knows it.
    :param bound: the versions that will do, e.g. ``>=2.1``.
    :param installed: the installed version, None when there is none.
    :param why: what it is for, a few words.
    """

    name: str
    bound: str
    installed: Optional[str] = None
    why: str = ""

    @property
    def text(self) -> str:
        """What pip is asked for."""
        return f"{self.name}{self.bound}"

    @property
    def satisfied(self) -> bool:
        """Whether what is installed will do; what Slicer brings is there, even if its build has no metadata of it."""
        if self.installed is None:
            return self.name in GIVEN
        return SpecifierSet(self.bound).contains(self.installed, prereleases=True)


def requirements(file: Path) -> list[Requirement]:
    """All that PromptSeg needs, each with its installed version and the comment above it.

    :param file: the declaration, ``Resources/requirements.txt`` of the module.
    """
    found, why = [], ""
    for text in file.read_text(encoding="utf-8").splitlines():
        if text.startswith("#"):
            why = text.strip("# ")
        elif text:
            line = Line(text)
            found.append(Requirement(line.name, str(line.specifier), installed_version(line.name), why))
    return found


def installed_version(name: str) -> Optional[str]:
    """The version of an installed distribution; None when there is none."""
    for each in distributions(name=name):
        with suppress(KeyError, OSError, TypeError, ValueError):  # what an interrupted installation left
            return str(Version(each.version))
    return None


def pins(free: Sequence[str] = ()) -> list[str]:
    """What an installation must not change, as constraints of pip: :data:`PINNED` but for these names, as installed."""
    return [f"{name}=={version}" for name in PINNED if name not in free and (version := installed_version(name))]


def torch_limit() -> list[str]:
    """The constraint of a torch that is to be installed here; most often none."""
    longest = len(sysconfig.get_paths()["purelib"]) + 1 + _LONGEST_NAME_IN_TORCH
    return [_SHORT_TORCH] if sys.platform == "win32" and longest > _LONGEST_WINDOWS_PATH else []

"""What PromptSeg needs and which of it is installed, read from metadata without importing any of it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from ..errors import PromptSegError

# Every Python that can install has pip, and pip carries a copy of packaging.
_PACKAGING = "packaging" if importlib.util.find_spec("packaging") else "pip._vendor.packaging"
_parsing = importlib.import_module(f"{_PACKAGING}.requirements")
_versions = importlib.import_module(f"{_PACKAGING}.version")

GIVEN = ("numpy", "SimpleITK")
PINNED = (*GIVEN, "scipy", "torch", "requests", "pydicom", "packaging", "pillow", "typing_extensions", "vtk")
UNKNOWN_VERSION = "?"
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
    :param installed: the installed version; None when there is none, ``?`` when it does not say.
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
    def given(self) -> bool:
        """Whether it is part of Slicer and must never be handed to pip."""
        return self.name in GIVEN

    @property
    def satisfied(self) -> bool:
        if self.installed is None or not _known(self.installed):  # a build of one's own: its maker knows what it is
            return self.installed is not None
        return _parsing.Requirement(self.text).specifier.contains(self.installed, prereleases=True)


def requirements(file: Path, paths: Optional[Sequence[str]] = None) -> list[Requirement]:
    """All that PromptSeg needs on this platform, each with its installed version and the comment above it.

    :param file: the declaration, ``Resources/requirements.txt`` of the module.
    :param paths: folders to look for installed packages in; by default those of this Python.

    Raises :class:`PromptSegError` when the declaration cannot be read.
    """
    found, why = [], ""
    try:
        for line in map(str.strip, file.read_text(encoding="utf-8").splitlines()):
            if line.startswith("#"):
                why = f"{why} {line.lstrip('# ')}".strip()
                continue
            parsed = _parsing.Requirement(line) if line else None
            if parsed and (parsed.marker is None or parsed.marker.evaluate()):
                installed = installed_version(parsed.name, paths)
                found.append(Requirement(parsed.name, str(parsed.specifier), installed, why))
            why = ""
    except (OSError, ValueError) as error:
        raise PromptSegError(
            "The list of what PromptSeg needs ({file}) is damaged; install it again.", file=file
        ) from error
    return found


def installed_version(name: str, paths: Optional[Sequence[str]] = None) -> Optional[str]:
    """The version of an installed distribution; None when there is none."""
    for each in importlib.metadata.Distribution.discover(name=name, path=list(sys.path if paths is None else paths)):
        try:
            if each.version:
                return each.version
        except (KeyError, OSError):  # what an interrupted installation left
            continue
    if paths is None and name in GIVEN and importlib.util.find_spec(name):
        return UNKNOWN_VERSION  # Slicer built it, and pip must not put another beside it
    return None


def pins(paths: Optional[Sequence[str]] = None) -> dict[str, str]:
    """The installed versions of what an installation must not change."""
    versions = {name: installed_version(name, paths) for name in PINNED}
    return {name: version for name, version in versions.items() if version and version != UNKNOWN_VERSION}


def constraints(paths: Optional[Sequence[str]] = None, free: Sequence[str] = (), site_packages: str = "") -> str:
    """The text of a pip constraints file that holds what is installed of :data:`PINNED` at its version.

    :param free: names that the installation is to change.
    :param site_packages: where pip installs to; by default where this Python's pip does.
    """
    held = {name: version for name, version in pins(paths).items() if name not in free}
    lines = [f"{name}{'==' if _known(version) else '==='}{version}" for name, version in held.items()]
    limit = torch_limit(sys.platform, site_packages or sysconfig.get_paths()["purelib"])
    if limit and "torch" not in held:
        lines.append(limit)
    return "".join(f"{line}\n" for line in lines)


def torch_limit(platform: str, site_packages: str) -> str:
    """The versions of torch whose file names Windows takes below ``site_packages``; empty when all will do."""
    too_long = len(site_packages) + 1 + _LONGEST_NAME_IN_TORCH > _LONGEST_WINDOWS_PATH
    return _SHORT_TORCH if platform == "win32" and too_long else ""


def _known(version: str) -> bool:
    """Whether it is a version as pip compares them."""
    try:
        return bool(_versions.Version(version))
    except _versions.InvalidVersion:
        return False

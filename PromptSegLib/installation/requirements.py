"""What PromptSeg needs and which of it is installed, read from metadata without importing any of it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Optional, Sequence

from ..errors import PromptSegError

# Every Python that can install has pip, and pip carries a copy of packaging.
_PACKAGING = "packaging" if importlib.util.find_spec("packaging") else "pip._vendor.packaging"
_parsing = importlib.import_module(f"{_PACKAGING}.requirements")
_versions = importlib.import_module(f"{_PACKAGING}.version")

PROJECT = "promptseg"
GIVEN = ("numpy", "SimpleITK")
PINNED = (
    "numpy",
    "SimpleITK",
    "scipy",
    "torch",
    "requests",
    "pydicom",
    "packaging",
    "pillow",
    "typing_extensions",
    "vtk",
)
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
        if self.installed is None:
            return False
        try:
            version = _versions.Version(self.installed)
        except _versions.InvalidVersion:  # a build of one's own: whoever made it knows what it is
            return True
        return _parsing.Requirement(self.text).specifier.contains(version, prereleases=True)


def find_requirements_file() -> Optional[Path]:
    """``requirements.txt`` beside the module, in a checkout and in Slicer's build and install trees; else None."""
    root = Path(__file__).resolve().parents[2]
    for module in (root / "PromptSeg", root):
        # The module's file tells its Resources from those of whatever else lies in site-packages.
        file = module / "Resources" / "requirements.txt"
        if file.is_file() and (module.name == "PromptSeg" or (module / "PromptSeg.py").is_file()):
            return file
    return None


def requirements(file: Optional[Path] = None, paths: Optional[Sequence[str]] = None) -> list[Requirement]:
    """All that PromptSeg needs on this platform, each with its installed version.

    :param file: the declaration; by default that of the module, or of the package that pip installed.
    :param paths: folders to look for installed packages in; by default those of this Python.

    Raises :class:`PromptSegError` when there is no declaration, or when it cannot be read.
    """
    file = file or find_requirements_file()
    found = []
    try:
        if file is not None:
            lines = file.read_text(encoding="utf-8").splitlines()
        else:
            lines = [each for each in importlib.metadata.requires(PROJECT) or [] if "extra ==" not in each]
        why: list[str] = []
        for line in map(str.strip, lines):
            if line.startswith("#"):
                why.append(line.lstrip("# "))
            elif not line:
                why.clear()
            else:
                parsed = _parsing.Requirement(line)
                if parsed.marker is None or parsed.marker.evaluate():
                    version = installed_version(parsed.name, paths)
                    found.append(Requirement(parsed.name, str(parsed.specifier), version, " ".join(why)))
                why.clear()
    except importlib.metadata.PackageNotFoundError:
        raise PromptSegError("The list of what PromptSeg needs is missing; install PromptSeg again.") from None
    except (OSError, ValueError) as error:
        raise PromptSegError(
            "The list of what PromptSeg needs ({file}) is damaged; install it again.", file=file
        ) from error
    return found


def missing(file: Optional[Path] = None, paths: Optional[Sequence[str]] = None) -> list[Requirement]:
    """The requirements that are not installed, or not in a version that will do; see :func:`requirements`."""
    return [each for each in requirements(file, paths) if not each.satisfied]


def installed_version(name: str, paths: Optional[Sequence[str]] = None) -> Optional[str]:
    """The version of an installed distribution; None when there is none."""
    found = importlib.metadata.Distribution.discover(name=name, path=list(sys.path if paths is None else paths))
    for distribution in found:
        try:
            version = distribution.version
        except (KeyError, OSError):  # what an interrupted installation left
            continue
        if version:
            return version
    if paths is None and name in GIVEN and importlib.util.find_spec(name):
        return UNKNOWN_VERSION  # Slicer built it, and pip must not put another beside it
    return None


def pins(paths: Optional[Sequence[str]] = None) -> dict[str, str]:
    """The installed versions of what an installation must not change."""
    versions = {name: installed_version(name, paths) for name in PINNED}
    return {name: version for name, version in versions.items() if version and version != UNKNOWN_VERSION}


def write_constraints(
    path: Path, paths: Optional[Sequence[str]] = None, leave_free: Iterable[str] = (), site_packages: str = ""
) -> Path:
    """Write a pip constraints file that holds what is installed of :data:`PINNED` at its version.

    :param leave_free: names that the installation is to change.
    :param site_packages: where pip installs to; by default where this Python's pip does.

    Raises :class:`PromptSegError` when the file cannot be written.
    """
    free = set(leave_free)
    versions = {name: version for name, version in pins(paths).items() if name not in free}
    lines = []
    for name, version in versions.items():
        try:
            _versions.Version(version)
            lines.append(f"{name}=={version}")
        except _versions.InvalidVersion:
            lines.append(f"{name}==={version}")
    limit = torch_limit(sys.platform, site_packages or sysconfig.get_paths()["purelib"])
    if limit and "torch" not in versions:
        lines.append(limit)
    try:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise PromptSegError(
            "Cannot write {path}: {strerror}; choose a temporary folder.", path=path, strerror=error.strerror or error
        ) from error
    return path


def torch_limit(platform: str, site_packages: str) -> str:
    """The versions of torch whose file names Windows takes below ``site_packages``; empty when all will do."""
    too_long = len(site_packages) + 1 + _LONGEST_NAME_IN_TORCH > _LONGEST_WINDOWS_PATH
    return _SHORT_TORCH if platform == "win32" and too_long else ""

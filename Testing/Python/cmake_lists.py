"""The lists of files in the CMakeLists.txt, and what lies on disk; ``python cmake_lists.py --write`` renews the lists.

CMake packages exactly what is listed: a file that is forgotten there is missing in the installed extension.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Callable

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Listed:
    """One ``set(variable ...)`` of a folder's CMakeLists.txt.

    :param folder: relative to the repository; the entries are relative to it.
    :param belongs: which files of the folder, at any depth, belong into the list.
    """

    folder: str
    variable: str
    belongs: Callable[[PurePosixPath], bool]

    @property
    def path(self) -> Path:
        return ROOT / self.folder / "CMakeLists.txt"

    def entries(self) -> list[str]:
        """What CMake lists, in its order, with ``MODULE_NAME`` filled in."""
        return [entry.replace("${MODULE_NAME}", self.folder) for entry in self._block().group(2).split()]

    def files(self) -> list[str]:
        """What lies on disk, sorted: tracked by git, or new and not ignored."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", self.folder]
        named = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        paths = {PurePosixPath(name).relative_to(self.folder) for name in named if name and (ROOT / name).is_file()}
        return sorted(str(path) for path in paths if self.belongs(path))

    def write(self) -> bool:
        """List what lies on disk; returns whether that changed anything."""
        if self.entries() == self.files():
            return False
        found, text = self._block(), self.path.read_text(encoding="utf-8")
        lines = "".join(f"  {name}\n" for name in self.files())
        self.path.write_text(text[: found.start(2)] + lines + text[found.end(2) :], encoding="utf-8", newline="\n")
        return True

    def _block(self) -> re.Match[str]:
        text = self.path.read_text(encoding="utf-8")
        found = re.search(rf"^set\(({re.escape(self.variable)})\n((?: {{2}}\S+\n)*) {{2}}\)$", text, re.MULTILINE)
        if found is None:
            raise ValueError(f"{self.path} has no set({self.variable} ...) with one file a line.")
        return found


LISTS = (
    # A .py directly in a module's folder is a module to Slicer.
    Listed("PromptSeg", "MODULE_PYTHON_SCRIPTS", lambda path: path.suffix == ".py"),
    Listed(
        "PromptSeg",
        "MODULE_PYTHON_RESOURCES",
        lambda path: path.parts[0] == "Resources" and path.parts[1] != "Pictures",
    ),
    Listed("PromptSegLib", "PromptSegLib_PYTHON_SCRIPTS", lambda path: path.suffix == ".py"),
    Listed(
        "PromptSegLib",
        "PromptSegLib_PYTHON_RESOURCES",
        lambda path: path.suffix != ".py" and path.name != "CMakeLists.txt",
    ),
    Listed("Testing/Python", "APPLICATION_TESTS", lambda path: len(path.parts) == 1 and path.name.endswith("Test.py")),
)


def main(words: list[str]) -> int:
    """Say what differs, or put it right with ``--write``; returns 1 when a list is wrong and was left so."""
    wrong = 0
    for each in LISTS:
        listed, there = set(each.entries()), set(each.files())
        for sign, names in (("+", there - listed), ("-", listed - there)):
            for name in sorted(names):
                print(f"{sign} {each.folder}/{name}  ({each.variable})")
        if "--write" in words:
            each.write()
        else:
            wrong |= each.entries() != each.files()
    return wrong


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

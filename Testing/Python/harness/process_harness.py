"""Processes that are waited for, and what is left of them."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time
from functools import partial
from pathlib import Path

from PromptSegLib.installation import requirements
from PromptSegLib.installation.child import ChildProcess

WAIT = 900


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def until(condition, what: str = "what was awaited"):
    """Wait for ``condition()`` to be true; returns what it returned."""
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come")


def finished(run: ChildProcess) -> tuple[int, list[str]]:
    until(lambda: run.returncode is not None, "the end")
    return run.returncode or 0, run.lines()


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def distribution(site: Path, name: str, version: str) -> Path:
    """What pip leaves of an installed distribution, without its code."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return folder


def look_in(monkeypatch, site: Path | str) -> None:
    """Have the library look for installed distributions in this folder alone, as an application's Python would."""
    monkeypatch.setattr(requirements, "distributions", partial(importlib.metadata.distributions, path=[str(site)]))

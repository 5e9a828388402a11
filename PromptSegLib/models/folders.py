"""Where models lie that are not part of PromptSeg."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FOLDERS_VARIABLE = "PROMPTSEG_MODELS"


def model_folders() -> list[Path]:
    """Where downloaded and hand-placed models lie: those of ``PROMPTSEG_MODELS``, else one of the user's.

    Downloads go to the first; more of them (separated as in PATH) are only read, e.g. one that a group shares.
    """
    named = [_expanded(each) for each in os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep) if each.strip()]
    if named:
        return named
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or _expanded("~/AppData/Local"))
    elif sys.platform == "darwin":
        base = _expanded("~/Library/Caches")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or _expanded("~/.cache"))
    return [base / "promptseg" / "models"]


def _expanded(folder: str) -> Path:
    """With the home folder for ``~``; as it is where there is none, for which ``Path.expanduser`` would raise."""
    return Path(os.path.expanduser(folder))

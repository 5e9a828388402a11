"""From what pip printed to one sentence that says what is wrong and what to do."""

from __future__ import annotations

import re
from textwrap import shorten
from typing import Sequence

from ..errors import Sentence

# What is found anywhere in the log, in small letters, separated by "|", and what it means; the first counts. The
# network comes last: pip warns of connections that then succeeded. Windows says the rest in its own language.
_CAUSES = {
    "[errno 28]|[winerror 112]|disk quota exceeded": (
        "The disk is full; free some space (torch with CUDA takes up to 10 GB on its way) and install again."
    ),
    "do not match the hashes": "A downloaded file is damaged; install again.",
    "long path support|[winerror 206]": (
        "Windows refused a file name that is too long; turn on long paths in Windows, or install Slicer in a folder "
        "with a short name."
    ),
    "permission denied|[winerror 5]|[winerror 32]|read-only file": (
        "A file of Slicer's Python could not be written; close other Slicer windows, restart Slicer and install again, "
        "or install Slicer in a folder of your own."
    ),
    "no module named pip": "This Python has no pip; install Slicer again.",
    "memoryerror|cannot allocate memory": "The memory is used up; close other programs and install again.",
    "proxyerror|tunnel connection failed|407 proxy": (
        "The proxy refused the connection; set the proxy in the environment variable HTTPS_PROXY and start Slicer "
        "again, or install from a folder of wheels."
    ),
    "certificate_verify_failed|sslerror": (
        "The certificate of the package server was not accepted, which a firewall that reads along may cause; ask "
        "your administrator, or install from a folder of wheels."
    ),
    "connection broken|connectionerror|connection aborted|max retries|timed out|getaddrinfo|incompleteread": (
        "The packages could not be downloaded, because the connection to the package server failed; check the network "
        "and the proxy settings, or install from a folder of wheels."
    ),
}
_CONFLICT = re.compile(r"Cannot install (.+) because these package versions have conflicting dependencies")
_HELD = re.compile(r"The user requested \(constraint\) (\S+)")
_NOTHING = re.compile(r"No matching distribution found for ([^\s(]+)")
_MOST_LETTERS = 160
_ERROR = re.compile(r"(?:error|exception): \S", re.IGNORECASE)


def explain(lines: Sequence[str], returncode: int, offline: bool = False) -> str:
    """One sentence on why an installation failed.

    :param lines: what was printed.
    :param returncode: how the program ended.
    :param offline: whether it installed from a folder of wheels.
    """
    text = "\n".join(lines)
    conflict = _CONFLICT.search(text)
    if conflict:
        return Sentence(
            "{who} cannot be installed: it does not go with {held}, which must stay; use a newer Slicer, or ask for "
            "help with the log below.",
            who=shorten(conflict[1], _MOST_LETTERS),
            held=shorten(", ".join(dict.fromkeys(_HELD.findall(text))), _MOST_LETTERS) or "what is installed",
        )
    for words, sentence in _CAUSES.items():
        if any(word in text.lower() for word in words.split("|")):
            return sentence
    nothing = _NOTHING.search(text)
    if nothing and offline:
        return Sentence(
            "The folder has no wheel of {absent} for this version of Python; add it and install again.",
            absent=nothing[1],
        )
    if nothing:  # with retries turned off, pip says no more than this where no server can be reached
        return Sentence(
            "The package server has no {absent} for this version of Slicer, or cannot be reached; use a newer Slicer, "
            "or check the network and the proxy settings.",
            absent=nothing[1],
        )
    last = [line for line in lines if _ERROR.search(line)][-1:] or [f"exit code {returncode}"]
    short = shorten(last[0].replace("ERROR: ", "").rstrip("."), _MOST_LETTERS)
    return Sentence("The installation failed ({short}); the log below has the details.", short=short)

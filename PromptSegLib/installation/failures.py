"""From what pip printed to one sentence that says what is wrong and what to do."""

from __future__ import annotations

import re
from typing import Optional, Sequence

from ..errors import Sentence

# The first that is found anywhere in the log counts. The network comes last: pip warns of connections that then
# succeeded, and calls what it could not reach "no matching distribution".
_CAUSES = (
    (
        r"No space left on device|\[Errno 28\]|not enough space on the disk|Disk quota exceeded",
        "The disk is full; free some space (torch with CUDA takes up to 10 GB on its way) and install again.",
    ),
    (r"DO NOT MATCH THE HASHES", "A downloaded file is damaged; install again."),
    (
        r"Long Path support enabled|\[WinError 206\]|filename or extension is too long",
        "Windows refused a file name that is too long; turn on long paths in Windows, or install Slicer in a folder "
        "with a short name.",
    ),
    (
        r"\[Errno 13\]|\[WinError 5\]|\[WinError 32\]|Permission denied|Access is denied|\[Errno 30\]|Read-only file",
        "A file of Slicer's Python could not be written; close other Slicer windows, restart Slicer and install again, "
        "or install Slicer in a folder of your own.",
    ),
    (r"No module named '?pip\b", "This Python has no pip; install Slicer again."),
    (r"MemoryError|Cannot allocate memory", "The memory is used up; close other programs and install again."),
    (
        r"ProxyError|Tunnel connection failed|407 Proxy",
        "The proxy refused the connection; set the proxy in the environment variable HTTPS_PROXY and start Slicer "
        "again, or install from a folder of wheels.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "The certificate of the package server was not accepted, which a firewall that reads along may cause; ask "
        "your administrator, or install from a folder of wheels.",
    ),
    (
        r"NewConnectionError|NameResolutionError|Failed to establish a new connection|Name or service not known"
        r"|[Tt]emporary failure in name resolution|getaddrinfo failed|nodename nor servname|Network is unreachable"
        r"|ConnectTimeout|ReadTimeout|Read timed out|Connection refused|ConnectionResetError|Connection aborted"
        r"|Connection broken|IncompleteRead|No route to host|Max retries exceeded",
        "The packages could not be downloaded, because the connection to the package server failed; check the network "
        "and the proxy settings, or install from a folder of wheels.",
    ),
)
_CANNOT = re.compile(r"Cannot install (.+?) because these package versions have conflicting dependencies")
_ASKED = re.compile(r"^\s*The user requested (?:\(constraint\) )?(\S+==\S+)", re.MULTILINE)
_NEEDS = re.compile(r"^\s*\S+ \S+ depends on (\S+?[<>=!~].*?)\s*$", re.MULTILINE)
_NOTHING = re.compile(r"No matching distribution found for ([^\s(]+)")
# With retries turned off, pip says no more than this where no server can be reached.
_NO_VERSIONS = re.compile(r"requirement ([^\s(]+).*\(from versions: none\)")
_OTHER_PYTHON = "require a different python version"
_ERROR = re.compile(r"^\s*(?:(?:ERROR: (?!Exception:)|error: )(.+)|([\w.]*(?:Error|Exception): .+))$", re.MULTILINE)


def explain(lines: Sequence[str], returncode: Optional[int] = None, offline: bool = False) -> str:
    """One sentence on why an installation failed.

    :param lines: what was printed.
    :param returncode: how the program ended.
    :param offline: whether it installed from a folder of wheels.
    """
    text = "\n".join(lines)
    if "ResolutionImpossible" in text:
        return _conflict(text)
    for pattern, sentence in _CAUSES:
        if re.search(pattern, text):
            return sentence
    absent, unknown = _NOTHING.search(text), _NO_VERSIONS.search(text)
    if absent and offline:
        return Sentence(
            "The folder has no wheel of {absent} for this version of Python; add it and install again.",
            absent=absent[1],
        )
    if unknown and _OTHER_PYTHON not in text:
        return Sentence(
            "The package server has no {unknown}, or it cannot be reached; check the network and the proxy settings, "
            "or install from a folder of wheels.",
            unknown=unknown[1],
        )
    if absent:
        return Sentence("There is no {absent} for this version of Slicer; use a newer Slicer.", absent=absent[1])
    errors = [match[1] or match[2] for match in _ERROR.finditer(text)]
    if errors:
        return Sentence("The installation failed ({short}); the log below has the details.", short=_short(errors[-1]))
    how = "was ended from outside" if returncode is not None and returncode < 0 else f"ended with code {returncode}"
    return Sentence("The installation failed: the installing program {how}; the log below has the details.", how=how)


def _conflict(text: str) -> str:
    """pip's account of a conflict: what was asked for, what it needs, and what must stay."""
    cannot = _CANNOT.search(text)
    stay = list(dict.fromkeys(_ASKED.findall(text)))
    names = tuple(each.partition("==")[0].lower() for each in stay)
    needs = ", ".join(each for each in dict.fromkeys(_NEEDS.findall(text)) if each.lower().startswith(names))
    reason = "what it needs does not go with what is installed"
    if stay and needs:
        reason = f"{_short(needs)} is needed, but {', '.join(stay)} of this Slicer must stay"
    return Sentence(
        "{who} cannot be installed: {reason}; use a newer Slicer, or ask for help with the log below.",
        who=_short(cannot[1]) if cannot else "The packages",
        reason=reason,
    )


def _short(text: str, most: int = 160) -> str:
    text = " ".join(text.split()).rstrip(".")
    return text if len(text) <= most else f"{text[:most]}..."

"""How a worker is started: on this machine, or on another one over ssh."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Optional

from ..errors import PromptSegError

REMOTE = "promptseg worker"
_LIBRARY = str(Path(__file__).resolve().parents[2])
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@:\-]*")


def python_of_the_application() -> str:
    """The interpreter with the application's packages: ``PROMPTSEG_PYTHON``, Slicer's ``PythonSlicer``, or our own."""
    given = os.environ.get("PROMPTSEG_PYTHON")
    if given:
        return given
    own = Path(sys.executable or "python")
    beside = own.parent / ("PythonSlicer.exe" if os.name == "nt" else "PythonSlicer")
    return shutil.which("PythonSlicer") or (str(beside) if beside.exists() else str(own))


def local_command(folder: Optional[Path]) -> list[str]:
    """The worker as a child process, with the folder that arrays go through."""
    # Not -m: PythonSlicer sets a PYTHONPATH of its own, and the library may lie outside of it.
    begin = f"import sys; sys.path.insert(0, {_LIBRARY!r}); from PromptSegLib.cli.main import main; sys.exit(main())"
    command = [python_of_the_application(), "-c", begin, "worker"]
    return [*command, "--folder", str(folder)] if folder else command


def ssh_command(host: str, remote: str = REMOTE) -> list[str]:
    """The same worker on another machine: the user's own ssh, keys and configuration; no server, no open port.

    :param remote: what starts a worker there, for another Python than the one on its path.
    :raises PromptSegError: the host is not a host's name.
    """
    if not _HOST.fullmatch(host):
        raise PromptSegError(
            "{host} is not the name of a host; write it as for ssh, for example user@gpu-machine.", host=repr(host)
        )
    ssh = shutil.which("ssh")
    if ssh is None:
        raise PromptSegError("There is no ssh on this machine; install it, or compute on this machine.")
    # BatchMode: never a password prompt that nobody sees. -T: no terminal that would change bytes.
    return [ssh, "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", host, remote]


def environment(threads: int = 0) -> dict[str, str]:
    """The variables of a local worker: it finds this very library, and idle threads do not spin, which on a busy
    machine costs most (docs/methods.md#measured-with-a-prototype)."""
    variables = dict(os.environ)
    variables["PYTHONPATH"] = os.pathsep.join([_LIBRARY, *filter(None, [variables.get("PYTHONPATH")])])
    variables["PYTHONSAFEPATH"] = "1"  # not the working folder first, which may hold anything (from Python 3.11)
    variables["PYTHONUNBUFFERED"] = "1"
    variables.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if threads > 0:
        variables["OMP_NUM_THREADS"] = str(threads)
    return variables

"""Installing what is missing, step by step, without ever waiting."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable, Optional, Sequence

from ..choice import Choice
from ..errors import PromptSegError, Sentence
from .child import CommandRun
from .failures import KEPT, explain
from .installer_tools import PackageInstaller, TorchExtension
from .requirements import Requirement, installed_version, missing, pins, write_constraints


class Outcome(Choice):
    """How an installation ended."""

    NONE = ""
    INSTALLED = "installed"
    RESTART = "restart"
    FAILED = "failed"
    CANCELLED = "cancelled"


_TORCH = "torch"
_PIP_ARGUMENTS = ("--disable-pip-version-check", "--no-input", "--only-binary=:all:")
_PROGRESS = re.compile(r"^Progress (\d+) of (\d+)$")
_PIP_WITH_RAW_PROGRESS = (24, 1)


class Installer:
    """Installs the missing requirements: torch through the application's own way, then the rest by pip.

    It is polled: ``start()``, then ``poll()`` some times a second until ``running`` is false. What is
    there and must stay (numpy, SimpleITK, torch and others) is held by a constraints file, and checked
    afterwards. When the application has to be restarted in between, that is remembered, and ``pending``
    says so after the restart.

    :param tools: how this application installs.
    :param requirements_file: the declaration; see :func:`~PromptSegLib.installation.requirements.requirements`.
    :param paths: where to look for installed packages; by default where this Python does.

    :ivar outcome: nothing before and while it runs.
    :ivar message: one sentence on what is going on, or on how it ended.
    :ivar log: all lines since the start; kept until the next start.
    :ivar share: how much of the present download has arrived, 0..1, or None where that is not known.

    Example::

        installer = Installer(SlicerTools())
        installer.start()
        while installer.running:
            print(*installer.poll(), sep="\\n")
            time.sleep(0.2)
        print(installer.outcome, installer.message)
    """

    def __init__(
        self, tools: PackageInstaller, requirements_file: Optional[Path] = None, paths: Optional[Sequence[str]] = None
    ) -> None:
        self.outcome = Outcome.NONE
        self.message = ""
        self.log: list[str] = []
        self.share: Optional[float] = None
        self._tools = tools
        self._file = requirements_file
        self._paths = paths
        self._steps: list[Callable[[], Optional[CommandRun]]] = []
        self._run: Optional[CommandRun] = None
        self._wheels: Optional[Path] = None
        self._folder: Optional[Path] = None
        self._before: dict[str, str] = {}
        self._loaded: list[str] = []
        self._told = 0
        self._cancelled = False

    @property
    def running(self) -> bool:
        return self._run is not None

    @property
    def pending(self) -> bool:
        """Whether a restart interrupted an installation that can now go on."""
        kept = self._tools.remembered()
        return bool(kept) and not self.running and kept != _restart_mark() and bool(self._missing())

    def start(self, wheels: Optional[Path] = None) -> None:
        """Begin; does nothing while an installation is running.

        :param wheels: a folder of wheels to install from, torch included; nothing is then downloaded.
        """
        if self.running:
            return
        self.outcome, self.message, self.log, self.share = Outcome.NONE, "", [], None
        self._cancelled, self._told, self._wheels, self._steps = False, 0, wheels, []
        try:
            lacking = self._missing()
            free = {each.name for each in lacking}
            self._before = {name: version for name, version in pins(self._paths).items() if name not in free}
            self._loaded = [each.name for each in lacking if each.installed and each.name in sys.modules]
            self._refuse(lacking)
            if not lacking:
                self._end(Outcome.INSTALLED, "All that PromptSeg needs is installed.")
            elif self._plan(lacking):
                self._folder = Path(tempfile.mkdtemp(prefix="promptseg-"))
                self._begin_next()
        except PromptSegError as error:
            self._end(Outcome.FAILED, str(error))
        except OSError as error:
            self._end(
                Outcome.FAILED,
                Sentence(
                    "The installation cannot start: {strerror}; free the temporary folder.",
                    strerror=error.strerror or error,
                ),
            )

    def poll(self) -> list[str]:
        """The lines printed since the last call; goes on to the next step where one has ended."""
        if self._run is not None:
            code = self._run.returncode  # before the lines: all are there once it is known
            self.log += self._without_progress(self._run.lines())
            if code is not None:
                self._run, self.share = None, None
                try:
                    self._ended(code)
                except PromptSegError as error:
                    self._end(Outcome.FAILED, str(error))
        new, self._told = self.log[self._told :], len(self.log)
        return new

    def cancel(self) -> None:
        """Ask the running step to end; the outcome follows in a later :meth:`poll`."""
        if self._run is not None and not self._cancelled:
            self._cancelled = True
            self.message = "Cancelling..."
            self._run.cancel()

    # Steps

    def _missing(self) -> list[Requirement]:
        importlib.invalidate_caches()
        return missing(self._file, self._paths)

    def _refuse(self, lacking: Sequence[Requirement]) -> None:
        for each in lacking:
            if each.given:
                has = f"has {each.name} {each.installed}" if each.installed else f"has no {each.name}"
                raise PromptSegError(
                    "PromptSeg needs {text}, but this Slicer {has}, which must stay; use a newer Slicer.",
                    text=each.text,
                    has=has,
                )
        if self._wheels is not None and lacking and not any(Path(self._wheels).glob("*.whl")):
            raise PromptSegError(
                "The folder {wheels} has no wheels (.whl); choose another folder.", wheels=self._wheels
            )

    def _plan(self, lacking: Sequence[Requirement]) -> bool:
        """Plan the steps; False when the application has to be restarted first."""
        torch = next((each for each in lacking if each.name == _TORCH), None)
        self._steps = [self._install_rest]
        if torch is None or self._wheels is not None:
            return True
        state = self._tools.torch_extension()
        if state is TorchExtension.RESTART and self._tools.remembered() not in ("", _restart_mark()):
            raise PromptSegError(
                "The PyTorch extension is installed, but Slicer did not load it at its start; "
                "turn it on in the Extensions Manager and restart Slicer."
            )
        if state is TorchExtension.ABSENT:
            reason = self._tools.install_torch_extension()
            if reason:
                raise PromptSegError(reason)
            state = self._tools.torch_extension()
        if state is not TorchExtension.READY:
            self._tools.remember(_restart_mark())
            self._end(Outcome.RESTART, "The PyTorch extension is installed; restart Slicer, open PromptSeg and go on.")
            return False
        self._steps.insert(0, lambda: self._install_torch(torch))
        return True

    def _begin_next(self) -> None:
        while self._steps and self._run is None:
            self._run = self._steps.pop(0)()
        if self._run is None:
            self._finish()

    def _install_torch(self, torch: Requirement) -> CommandRun:
        self.message = "Installing torch; this may take some minutes..."
        return self._tools.install_torch(torch.text, self._pip_arguments(), self._constraints({_TORCH}))

    def _install_rest(self) -> Optional[CommandRun]:
        lacking = self._missing()
        names = {each.name for each in lacking}
        if _TORCH in names and self._wheels is None:
            raise PromptSegError("torch was not installed; {kept}.", kept=KEPT)
        if not lacking:
            return None
        self.message = Sentence("Installing {name}...", name=", ".join(each.name for each in lacking))
        arguments = [each.text for each in lacking] + self._pip_arguments()
        if self._wheels is not None:
            arguments += ["--no-index", "--find-links", str(self._wheels)]
        return self._tools.pip_install(arguments, self._constraints(names))

    def _pip_arguments(self) -> list[str]:
        pip = re.findall(r"\d+", installed_version("pip", self._paths) or "")
        raw = ["--progress-bar", "raw"] if tuple(map(int, pip[:2])) >= _PIP_WITH_RAW_PROGRESS else []
        return [*_PIP_ARGUMENTS, *raw]

    def _constraints(self, leave_free: set[str]) -> Path:
        if self._folder is None:  # only while an installation is planned or running is there one
            raise PromptSegError("The installation has ended; start it again.")
        return write_constraints(self._folder / "constraints.txt", self._paths, leave_free)

    def _without_progress(self, lines: Sequence[str]) -> list[str]:
        """Lines for the log; those that say how far a download is set ``share``."""
        kept = []
        for line in lines:
            match = _PROGRESS.match(line.strip())
            if match:
                done, whole = int(match[1]), int(match[2])
                self.share = min(done / whole, 1.0) if whole else None
            else:
                self.share = None
                kept.append(line)
        return kept

    # Ends

    def _ended(self, code: int) -> None:
        """A step has ended with this exit code."""
        if self._cancelled and (code or self._missing()):
            self._end(Outcome.CANCELLED, "The installation was cancelled; press Install to go on.")
        elif code:
            self._end(Outcome.FAILED, explain(self.log, code, self._wheels is not None))
        else:
            self._begin_next()

    def _finish(self) -> None:
        lacking = self._missing()
        after = pins(self._paths)
        changed = [name for name, version in self._before.items() if after.get(name) != version]
        if lacking:
            names = ", ".join(each.text for each in lacking)
            text = Sentence("Still missing after the installation: {names}; {kept}.", names=names, kept=KEPT)
            self._end(Outcome.FAILED, text)
        elif changed:
            names = ", ".join(f"{name} {self._before[name]}" for name in changed)
            self._end(
                Outcome.FAILED,
                Sentence("The installation replaced {names}, which Slicer needs; install Slicer again.", names=names),
            )
        elif self._loaded:
            loaded = ", ".join(self._loaded)
            self._end(Outcome.RESTART, Sentence("Restart Slicer to use the new version of {loaded}.", loaded=loaded))
        else:
            self._end(Outcome.INSTALLED, "All that PromptSeg needs is installed.")

    def _end(self, outcome: Outcome, message: str) -> None:
        self.outcome, self.message, self._run, self._steps = outcome, message, None, []
        self.log.append(message)
        if outcome in (Outcome.INSTALLED, Outcome.CANCELLED):
            self._tools.remember("")
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def _restart_mark() -> str:
    """What is remembered for after a restart: it tells whether there has been one."""
    return f"restart after {os.getpid()}"

"""Installing what is missing, command by command, without ever waiting."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Callable, Optional, Protocol, Sequence

from ..choice import Choice
from ..errors import PromptSegError, Sentence
from .child import ChildProcess
from .failures import explain
from .requirements import Requirement, constraints, installed_version, pins, requirements

_LIGHT_THE_TORCH = "light-the-torch>=0.5"
_OPTIONS = ("--disable-pip-version-check", "--no-input", "--only-binary=:all:", "--constraint")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_PIP_WITH_RAW_PROGRESS = (24, 1)


class Outcome(Choice):
    """How an installation ended."""

    NONE = ""
    INSTALLED = "installed"
    RESTART = "restart"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Application(Protocol):
    """What an installation asks of the application that it installs into."""

    def python(self) -> str:
        """Its interpreter. Raises :class:`PromptSegError` where there is none, or where somebody else installs."""

    def torch_arguments(self, requirement: str) -> list[str]:
        """What light-the-torch is asked for, to install this torch in the build for the machine's GPU."""


class Installer:
    """Installs the missing requirements in processes of their own: torch by light-the-torch, then the rest by pip.

    It is polled: ``start()``, then ``poll()`` some times a second until ``running`` is false. What is there and must
    stay (numpy, SimpleITK, torch and others) is held by a constraints file, and checked afterwards.

    :param application: where to install.
    :param file: what is needed; ``paths`` as for :func:`~PromptSegLib.installation.requirements.requirements`.

    :ivar rows: all that is needed, as it was when last looked at; ``damaged`` says why that is not known.
    :ivar outcome: nothing before and while it runs.
    :ivar message: one sentence on what is going on, or on how it ended.
    :ivar log: all lines since the start; kept until the next start.
    :ivar share: how much of the present download has arrived, 0..1, or None where that is not known.
    """

    def __init__(self, application: Application, file: Path, paths: Optional[Sequence[str]] = None) -> None:
        self._application, self._file, self._paths = application, file, paths
        self._run: Optional[ChildProcess] = None
        self._reset(None)
        self.refresh()

    def _reset(self, wheels: Optional[Path]) -> None:
        self.outcome, self.message = Outcome.NONE, ""
        self.log: list[str] = []
        self.share: Optional[float] = None
        self._wheels, self._cancelled, self._folder = wheels, False, Path()
        self._last: list[str] = []

    def refresh(self) -> None:
        """Look again at what is installed; reads metadata only."""
        importlib.invalidate_caches()
        self.rows, self.damaged = [], ""
        try:
            self.rows = requirements(self._file, self._paths)
        except PromptSegError as error:
            self.damaged = str(error)

    @property
    def lacking(self) -> list[Requirement]:
        """What is not installed, or not in a version that will do."""
        return [each for each in self.rows if not each.satisfied]

    @property
    def missing(self) -> bool:
        return bool(self.damaged or self.lacking)

    @property
    def running(self) -> bool:
        return self._run is not None

    def start(self, wheels: Optional[Path] = None) -> None:
        """Begin; does nothing while an installation is running.

        :param wheels: a folder of wheels to install from, torch included; nothing is then downloaded.
        """
        if not self.running:
            self._reset(wheels)
            self._attempt(self._begin)

    def poll(self) -> None:
        """Take what was printed; go on to the next command where one has ended."""
        if self._run is None:
            return
        code = self._run.returncode  # before the lines: all are there once it is known
        for line in self._run.lines():
            progress = _PROGRESS.fullmatch(line.strip())
            self.share = min(int(progress[1]) / int(progress[2]), 1.0) if progress and int(progress[2]) else None
            self.log += [] if progress else [line]
        if code is not None:
            self._run, self.share = None, None
            self._attempt(lambda: self._ended(code))

    def cancel(self) -> None:
        """Ask the running command to end; the outcome follows in a later :meth:`poll`."""
        if self._run is not None:
            self._cancelled, self.message = True, "Cancelling..."
            self._run.cancel()

    def _attempt(self, step: Callable[[], None]) -> None:
        self.refresh()
        try:
            step()
        except PromptSegError as error:
            self._end(Outcome.FAILED, str(error))
        except OSError as error:
            reason = error.strerror or error
            text = Sentence("The installation cannot start: {reason}; free the temporary folder.", reason=reason)
            self._end(Outcome.FAILED, text)

    def _begin(self) -> None:
        if self.damaged:
            raise PromptSegError(self.damaged)
        for each in self.lacking:
            if each.given:
                raise PromptSegError(
                    "PromptSeg needs {text}, but this Slicer has {version}, which must stay; use a newer Slicer.",
                    text=each.text,
                    version=f"{each.name} {each.installed}" if each.installed else f"no {each.name}",
                )
        if self._wheels and self.lacking and not any(self._wheels.glob("*.whl")):
            raise PromptSegError(
                "The folder {wheels} has no wheels (.whl); choose another folder.", wheels=self._wheels
            )
        free = [each.name for each in self.lacking]
        self._held = {name: version for name, version in pins(self._paths).items() if name not in free}
        self._loaded = [each.name for each in self.lacking if each.installed and each.name in sys.modules]
        self._folder = Path(tempfile.mkdtemp(prefix="promptseg-"))
        self._go_on()

    def _go_on(self) -> None:
        """Start what comes next; a command that is needed twice has installed nothing the first time."""
        if not self.lacking:
            return self._finish()
        command = self._command()
        if command == self._last:
            raise PromptSegError(
                "Still missing after the installation: {names}; the log below has the details.",
                names=", ".join(each.text for each in self.lacking),
            )
        self._last = command
        self._run = ChildProcess([self._application.python(), "-m", *command], self._folder / "output.txt")

    def _command(self) -> list[str]:
        """The next module to run, with its arguments."""
        limits = self._folder / "constraints.txt"
        limits.write_text(constraints(self._paths, [each.name for each in self.lacking]), encoding="utf-8")
        options = [*_OPTIONS, str(limits)]
        pip = re.findall(r"\d+", installed_version("pip", self._paths) or "")
        if tuple(map(int, pip[:2])) >= _PIP_WITH_RAW_PROGRESS:
            options += ["--progress-bar", "raw"]
        torch = [each.text for each in self.lacking if each.name == "torch"]
        if self._wheels or not torch:
            self.message = Sentence("Installing {name}...", name=", ".join(each.name for each in self.lacking))
            wheels = ["--no-index", "--find-links", str(self._wheels)] if self._wheels else []
            return ["pip", "install", *(each.text for each in self.lacking), *options, *wheels]
        self.message = "Installing torch; this may take some minutes..."
        if installed_version("light-the-torch", self._paths) is None:
            return ["pip", "install", _LIGHT_THE_TORCH, *options]
        return ["light_the_torch", *self._application.torch_arguments(torch[0]), *options]

    def _ended(self, code: int) -> None:
        """A command has ended with this exit code."""
        if self._cancelled and (code or self.lacking):
            self._end(Outcome.CANCELLED, "The installation was cancelled; press Install to go on.")
        elif code:
            self._end(Outcome.FAILED, explain(self.log, code, self._wheels is not None))
        else:
            self._go_on()

    def _finish(self) -> None:
        now = pins(self._paths)
        names = ", ".join(f"{name} {was}" for name, was in self._held.items() if now.get(name) != was)
        if names:
            raise PromptSegError(
                "The installation replaced {names}, which Slicer needs; install Slicer again.", names=names
            )
        if self._loaded:
            loaded = ", ".join(self._loaded)
            self._end(Outcome.RESTART, Sentence("Restart Slicer to use the new version of {loaded}.", loaded=loaded))
        else:
            self._end(Outcome.INSTALLED, "All that PromptSeg needs is installed.")

    def _end(self, outcome: Outcome, message: str) -> None:
        self.outcome, self.message = outcome, message
        self.log.append(message)
        if self._folder.name:
            shutil.rmtree(self._folder, ignore_errors=True)

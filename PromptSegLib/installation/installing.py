"""Installing what is missing, command by command, without ever waiting."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Optional, Protocol

from packaging.version import Version

from ..choice import Choice
from ..errors import PromptSegError, Sentence
from .child import ChildProcess
from .failures import explain
from .requirements import GIVEN, installed_version, pins, requirements, torch_limit

_LIGHT_THE_TORCH = "light-the-torch>=0.5"
_OPTIONS = ("--disable-pip-version-check", "--no-input", "--only-binary=:all:", "--constraint")
_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_PIP_WITH_RAW_PROGRESS = Version("24.1")


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
    :param file: what is needed, as :func:`~PromptSegLib.installation.requirements.requirements` reads it.

    :ivar rows: all that is needed, as it was when last looked at; ``missing``: what of it is not there, or too old.
    :ivar outcome: nothing before and while it runs.
    :ivar message: one sentence on what is going on, or on how it ended.
    :ivar log: all lines since the start; kept until the next start.
    :ivar share: how much of the present download has arrived, 0..1, or None where that is not known.
    """

    def __init__(self, application: Application, file: Path) -> None:
        self._application, self._file = application, file
        self._run: Optional[ChildProcess] = None
        self._clear(None)
        self.refresh()

    def _clear(self, wheels: Optional[Path]) -> None:
        self.outcome, self.message = Outcome.NONE, ""
        self.log: list[str] = []
        self.share: Optional[float] = None
        self._wheels, self._folder = wheels, Path()
        self._last: list[str] = []

    def refresh(self) -> None:
        """Look again at what is installed; reads metadata only."""
        importlib.invalidate_caches()
        self.rows = requirements(self._file)
        self.missing = [each for each in self.rows if not each.satisfied]

    @property
    def running(self) -> bool:
        """Whether an installation is on its way."""
        return self._run is not None

    def start(self, wheels: Optional[Path] = None) -> None:
        """Begin; does nothing while an installation is running.

        :param wheels: a folder of wheels to install from, torch included; nothing is then downloaded.
        """
        if self.running:
            return
        self._clear(wheels)
        self.refresh()
        self._held = pins([each.name for each in self.missing])
        self._loaded = [each.name for each in self.missing if each.installed and each.name in sys.modules]
        self._go_on()

    def poll(self) -> None:
        """Take what was printed; go on to the next command where one has ended."""
        if self._run is None:
            return
        code = self._run.returncode  # before the lines: all are there once it is known
        for line in self._run.lines():
            progress = _PROGRESS.fullmatch(line)
            self.share = int(progress[1]) / int(progress[2]) if progress and int(progress[2]) else None
            self.log += [] if progress else [line]
        if code is not None:
            self._go_on(code)

    def cancel(self) -> None:
        """End the running command, and all that it started."""
        if self._run is not None:
            self._run.kill()
            self.refresh()
            self._end(Outcome.CANCELLED, "The installation was cancelled; press Install to go on.")

    def _go_on(self, code: int = 0) -> None:
        """Begin the next command after one that ended with this code, or end."""
        self.refresh()
        try:
            if not self.missing:
                self._finish()
            elif code:
                self._end(Outcome.FAILED, explain(self.log, code, self._wheels is not None))
            else:
                self._begin()
        except PromptSegError as error:
            self._end(Outcome.FAILED, str(error))
        except OSError as error:
            reason = error.strerror or error
            text = Sentence("The installation cannot start: {reason}; free the temporary folder.", reason=reason)
            self._end(Outcome.FAILED, text)

    def _begin(self) -> None:
        """Start what comes next; a command that is needed twice has installed nothing the first time."""
        for each in self.missing:
            if each.name in GIVEN:
                raise PromptSegError(
                    "PromptSeg needs {text}, but this Slicer has {version}, which must stay; use a newer Slicer.",
                    text=each.text,
                    version=f"{each.name} {each.installed}",
                )
        if not self._folder.name:
            self._folder = Path(tempfile.mkdtemp(prefix="promptseg-"))
        command = self._command()
        if command == self._last:
            raise PromptSegError(
                "Still missing after the installation: {names}; the log below has the details.",
                names=", ".join(each.text for each in self.missing),
            )
        self._last, self.share = command, None
        self._run = ChildProcess([self._application.python(), "-m", *command], self._folder)

    def _command(self) -> list[str]:
        """The next module to run, with its arguments."""
        names, limits = [each.name for each in self.missing], self._folder / "constraints.txt"
        held = [*pins(names), *(torch_limit() if "torch" in names else [])]
        limits.write_text("\n".join(held), encoding="utf-8")
        options = [*_OPTIONS, str(limits)]
        if Version(installed_version("pip") or "0") >= _PIP_WITH_RAW_PROGRESS:
            options += ["--progress-bar", "raw"]
        if self._wheels or "torch" not in names:
            self.message = Sentence("Installing {name}...", name=", ".join(names))
            wheels = ["--no-index", "--find-links", str(self._wheels)] if self._wheels else []
            return ["pip", "install", *(each.text for each in self.missing), *options, *wheels]
        self.message = "Installing torch; this may take some minutes..."
        if installed_version("light-the-torch") is None:
            return ["pip", "install", _LIGHT_THE_TORCH, *options]
        torch = self.missing[names.index("torch")].text
        return ["light_the_torch", *self._application.torch_arguments(torch), *options]

    def _finish(self) -> None:
        lost = ", ".join(sorted({*self._held} - {*pins()}))
        if lost:
            raise PromptSegError(
                "The installation replaced {lost}, which Slicer needs; install Slicer again.", lost=lost
            )
        if self._loaded:
            loaded = ", ".join(self._loaded)
            self._end(Outcome.RESTART, Sentence("Restart Slicer to use the new version of {loaded}.", loaded=loaded))
        else:
            self._end(Outcome.INSTALLED, "All that PromptSeg needs is installed.")

    def _end(self, outcome: Outcome, message: str) -> None:
        self._run, self.share = None, None
        self.outcome, self.message = outcome, message
        self.log.append(message)
        if self._folder.name:
            shutil.rmtree(self._folder, ignore_errors=True)

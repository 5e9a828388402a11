"""How Slicer installs Python packages: its PyTorch extension, its packaging functions, its own Python."""

from __future__ import annotations

import importlib
import importlib.util
import os
import queue
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Iterator, Optional, Sequence

from ..errors import PromptSegError
from ..installation.child import ChildProcess, CommandRun
from ..installation.installer_tools import TorchExtension
from ..installation.requirements import installed_version

SETTING = "PromptSeg/Installation"
_EXTENSION, _MODULE = "PyTorch", "PyTorchUtils"
_LIGHT_THE_TORCH = "light-the-torch>=0.5"


class SlicerTools:
    """The ``PackageInstaller`` of the running application. Call from its main thread."""

    # torch

    def torch_extension(self) -> TorchExtension:
        """Whether the PyTorch extension is loaded (``ready``), waits for a ``restart``, or is ``absent``."""
        if importlib.util.find_spec(_MODULE) is not None:
            return TorchExtension.READY
        model = _extensions()
        return (
            TorchExtension.RESTART
            if model is not None and model.isExtensionInstalled(_EXTENSION)
            else TorchExtension.ABSENT
        )

    def install_torch_extension(self) -> str:
        """Install the PyTorch extension from the extension server, without asking and without restarting."""
        by_hand = "install the extension PyTorch in the Extensions Manager and restart Slicer"
        model = _extensions()
        if model is None:
            return f"The PyTorch extension is missing, and this Slicer has no Extensions Manager; {by_hand}."
        asking = model.interactive
        model.setInteractive(False)
        try:
            done = model.installExtensionFromServer(_EXTENSION, False)
        finally:
            model.setInteractive(asking)
        if done:
            return ""
        return (
            f"The PyTorch extension is missing and could not be installed; check the network, or {by_hand}, "
            "or install from a folder of wheels."
        )

    def install_torch(self, requirement: str, arguments: Sequence[str], constraints: Path) -> CommandRun:
        """What ``PyTorchUtilsLogic.installTorch`` does, in child processes: that call would freeze the window."""
        try:
            logic = importlib.import_module(_MODULE).PyTorchUtilsLogic
        except (ImportError, AttributeError, SyntaxError) as error:
            raise PromptSegError(
                "The PyTorch extension cannot be loaded; update it in the Extensions Manager and restart Slicer."
            ) from error
        name, bound = requirement[: len("torch")], requirement[len("torch") :]
        words = ["install", f"{name}{bound}", "torchvision"]
        with suppress(AttributeError, TypeError):  # the extension's own words, where it still has them
            words = list(logic._getPipInstallArguments(torchVersionRequirement=bound))
        limits = ["--constraint", str(constraints)]
        commands = []
        if installed_version("light-the-torch") is None:
            wanted = _light_the_torch_of(logic)
            if wanted:
                commands.append(self.pip_command([*wanted, *limits, "--disable-pip-version-check", "--no-input"]))
        commands.append([self._slicer_python(), "-m", "light_the_torch", *words, *arguments, *limits])
        return ChildProcess(*commands)

    # The rest

    def pip_install(self, arguments: Sequence[str], constraints: Path) -> CommandRun:
        """By ``slicer.packaging`` where that reports as it goes (5.11 and later), else by a child process."""
        import slicer

        packaging = _packaging()
        if packaging is not None:
            if packaging.isPipInstallInProgress():
                raise PromptSegError("Another extension is installing packages; wait for it and install again.")
            if not slicer.app.testingEnabled():  # in testing mode it waits and reports nothing
                with suppress(TypeError, RuntimeError):  # an early preview of it, or no PythonSlicer on the path
                    return _PackagingRun(packaging, arguments, constraints)
        return ChildProcess(self.pip_command([*arguments, "--constraint", str(constraints)]))

    def pip_command(self, arguments: Sequence[str]) -> list[str]:
        return [self._slicer_python(), "-m", "pip", "install", *arguments]

    def _slicer_python(self) -> str:
        """Path of PythonSlicer, the application's interpreter. Raises :class:`PromptSegError` when there is none."""
        import slicer

        name = "PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer"
        folders = [os.path.dirname(sys.executable), os.path.join(slicer.app.slicerHome, "bin")]
        for place in [shutil.which("PythonSlicer"), *(os.path.join(folder, name) for folder in folders)]:
            if place and os.path.isfile(place):
                return place
        raise PromptSegError("Slicer's own Python (PythonSlicer) was not found; install Slicer again.")

    # What is kept beyond a restart

    def remember(self, what: str) -> None:
        import qt

        qt.QSettings().setValue(SETTING, what)

    def remembered(self) -> str:
        import qt

        return str(qt.QSettings().value(SETTING, "") or "")


class _PackagingRun:
    """``slicer.packaging.pip_install`` without its dialog; it cannot be stopped, and takes seconds without torch."""

    def __init__(self, packaging: Any, arguments: Sequence[str], constraints: Path) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._returncode: Optional[int] = None
        packaging.pip_install(
            list(arguments),
            constraints=str(constraints),
            blocking=False,
            show_progress=False,
            requester="PromptSeg",
            logCallback=self._lines.put,
            completedCallback=self._completed,
        )

    @property
    def returncode(self) -> Optional[int]:
        return self._returncode

    def lines(self) -> list[str]:
        found = []
        while not self._lines.empty():
            found.append(self._lines.get())
        return found

    def cancel(self) -> None:
        """Nothing to do: pip is left to end by itself."""

    def _completed(self, returncode: int) -> None:
        self._returncode = returncode


def _extensions() -> Any:
    """The extensions manager's model; None in an application that was built without it."""
    import slicer

    get = getattr(slicer.app, "extensionsManagerModel", None)
    return get() if get else None


def _packaging() -> Any:
    """``slicer.packaging``; None before Slicer 5.11."""
    try:
        return importlib.import_module("slicer.packaging")
    except ImportError:
        return None


def _light_the_torch_of(logic: Any) -> list[str]:
    """What the PyTorch extension asks pip for to get light-the-torch; it has changed between versions.

    Nothing when the extension installed it on the spot, in a way that is not known here.
    """
    if not hasattr(logic, "_installLightTheTorch"):
        return [_LIGHT_THE_TORCH]
    with _recorded_pip_install() as asked:
        logic._installLightTheTorch()
    return asked


@contextmanager
def _recorded_pip_install() -> Iterator[list[str]]:
    """What ``slicer.util.pip_install`` is asked for inside the block, which installs nothing."""
    import slicer.util

    asked: list[str] = []
    original = slicer.util.pip_install

    def record(requirements: Any, **_: Any) -> None:
        asked.extend(requirements.split() if isinstance(requirements, str) else requirements)

    slicer.util.pip_install = record
    try:
        yield asked
    finally:
        slicer.util.pip_install = original

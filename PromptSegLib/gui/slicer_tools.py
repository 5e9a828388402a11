"""Slicer's own Python, and how its extension PyTorch asks for torch.

``PyTorchUtilsLogic.installTorch`` freezes the window for minutes and then imports torch into Slicer;
``slicer.packaging``, of 5.11 and later, cannot be stopped, and knows nothing of builds of torch. So it is the programs
behind these two, light-the-torch and pip, that are run, by the same interpreter.
"""

from __future__ import annotations

import importlib
import shutil
from contextlib import suppress

from ..errors import PromptSegError


class SlicerTools:
    """The ``Application`` of an installer. Call from its main thread."""

    def python(self) -> str:
        """Path of PythonSlicer. Raises :class:`PromptSegError` where there is none, or another extension installs."""
        with suppress(ImportError, AttributeError):
            if importlib.import_module("slicer.packaging").isPipInstallInProgress():
                raise PromptSegError("Another extension is installing packages; wait for it and install again.")
        found = shutil.which("PythonSlicer")  # Slicer puts it on its path, and looks there itself
        if not found:
            raise PromptSegError("Slicer's own Python (PythonSlicer) was not found; install Slicer again.")
        return found

    def torch_arguments(self, requirement: str) -> list[str]:
        """The words of the extension PyTorch; what they are today where it is missing, damaged, or has changed."""
        with suppress(Exception):
            logic = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic
            return list(logic._getPipInstallArguments(torchVersionRequirement=requirement[len("torch") :]))
        return ["install", requirement, "torchvision"]

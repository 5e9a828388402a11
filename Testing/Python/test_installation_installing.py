"""The installer's commands, in an interpreter whose pip and light-the-torch install by writing metadata."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from harness.installer_harness import PlainPython, finish, sentence
from harness.process_harness import distribution, lives, look_in, until
from PromptSegLib.errors import PromptSegError
from PromptSegLib.installation import installing
from PromptSegLib.installation.failures import explain
from PromptSegLib.installation.installing import Installer
from PromptSegLib.installation.requirements import installed_version

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the interpreter is a shell script")

REQUIREMENTS = "torch>=2.1\nmonai>=1.3\nsafetensors>=0.4\nnumpy>=1.24\n"
NO_NETWORK = "WARNING: Retrying: NewConnectionError('Failed to establish a new connection')"
CONFLICT = """ERROR: Cannot install monai==1.6.1 because these package versions have conflicting dependencies.

The conflict is caused by:
    monai 1.6.1 depends on numpy>=2.0
    The user requested (constraint) numpy==1.26.4

ERROR: ResolutionImpossible: for help visit https://pip.pypa.io"""
TELLS = """
import json, sys
limits = open(sys.argv[sys.argv.index("--constraint") + 1]).read().splitlines()
with open({asked!r}, "a") as file:
    file.write(json.dumps([{name!r}, sys.argv[1:], limits]) + "\\n")
"""


def installs(site: Path, *names: str) -> str:
    """Code that installs ``name==version`` below ``site``, in place of other versions."""
    return f"""
import pathlib, shutil
site = pathlib.Path({str(site)!r})
for each in {names!r}:
    name, version = each.split("==")
    for old in site.glob(name + "-*.dist-info"):
        shutil.rmtree(old)
    folder = site / (name + "-" + version + ".dist-info")
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: " + name + "\\nVersion: " + version + "\\n")
    print("Successfully installed", each)
"""


def after(go: Path) -> str:
    """Code that waits until there is such a file."""
    return f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"


class Fake(PlainPython):
    """An interpreter; ``torch`` and ``rest`` are what its light-the-torch and its pip do."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder, self.site = folder, site
        script = folder / "python"
        folder.mkdir()
        script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}" exec "{sys.executable}" -S "$@"\n')
        script.chmod(0o755)
        super().__init__(str(script))
        self.torch = installs(site, "torch==2.5.0")
        self.rest = installs(site, "monai==1.4.0", "safetensors==0.5.0")

    def python(self) -> str:
        for name, code in (("pip", self.rest), ("light_the_torch", self.torch)):
            (self.folder / f"{name}.py").write_text(TELLS.format(name=name, asked=str(self.folder / "asked")) + code)
        return super().python()

    @property
    def asked(self) -> list[tuple[str, list[str], list[str]]]:
        """Module, arguments and constraints of each command."""
        file = self.folder / "asked"
        return [tuple(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def steps(self) -> list[str]:
        return [step for step, _, _ in self.asked]


@pytest.fixture
def site(tmp_path) -> Path:
    """An application's site-packages: numpy and light-the-torch are there, torch and others are not."""
    folder = tmp_path / "site"
    distribution(folder, "numpy", "1.26.4")
    distribution(folder, "light-the-torch", "0.8")
    return folder


@pytest.fixture
def tools(site, tmp_path) -> Fake:
    return Fake(tmp_path / "fake", site)


@pytest.fixture
def new(tmp_path, site, tools, monkeypatch):
    """Makes an installer, as each start of the application does."""
    look_in(monkeypatch, site)
    file = tmp_path / "requirements.txt"
    file.write_text(REQUIREMENTS)
    return lambda: Installer(tools, file)


@pytest.fixture
def installer(new) -> Installer:
    return new()


def test_torch_first_then_the_rest(installer, tools):
    assert (installer.outcome, installer.message, installer.running) == ("", "", False)
    assert [each.name for each in installer.missing] == ["torch", "monai", "safetensors"]
    installer.poll()
    installer.start()
    assert installer.running
    assert "torch" in installer.message
    finish(installer)
    assert "installed" in sentence(installer, "installed")
    assert not installer.missing
    torch, rest = tools.asked
    assert torch[:2] == ("light_the_torch", torch[1]) and torch[1][:3] == ["install", "torch>=2.1", "torchvision"]
    assert torch[2] == ["numpy==1.26.4"]
    assert rest[1][:3] == ["install", "monai>=1.3", "safetensors>=0.4"]
    assert "--only-binary=:all:" in torch[1] and "--only-binary=:all:" in rest[1]
    assert not any(each.startswith(("numpy", "torch", "--no-index")) for each in rest[1])
    assert rest[2] == ["numpy==1.26.4", "torch==2.5.0"]  # the torch that was just installed stays
    assert [line for line in installer.log if line.startswith("Success")] == [
        f"Successfully installed {each}" for each in ("torch==2.5.0", "monai==1.4.0", "safetensors==0.5.0")
    ]


def test_light_the_torch_comes_first(installer, tools, site):
    (site / "light_the_torch-0.8.dist-info" / "METADATA").unlink()
    tools.rest = installs(site, "light_the_torch==0.8")
    installer.start()
    finish(installer)
    sentence(installer, "failed")
    assert tools.steps == ["pip", "light_the_torch", "pip"]
    assert tools.asked[0][1][:2] == ["install", "light-the-torch>=0.5"]
    assert tools.asked[0][2] == ["numpy==1.26.4"]


def test_only_what_is_missing(new, installer, tools, site):
    distribution(site, "torch", "2.5.0")
    distribution(site, "safetensors", "0.5.0")
    tools.rest = installs(site, "monai==1.4.0")
    installer.start()
    finish(installer)
    sentence(installer, "installed")
    assert tools.steps == ["pip"]
    assert [each for each in tools.asked[0][1] if ">=" in each] == ["monai>=1.3"]
    installer = new()
    installer.start()
    assert "All that PromptSeg needs is installed" in sentence(installer, "installed")
    assert installer.log == [installer.message]
    assert tools.steps == ["pip"]


def test_the_log_is_live_and_says_how_far_a_download_is(installer, tools, site, tmp_path):
    """pip's progress lines are for the bar, not for the log."""
    distribution(site, "pip", "24.1.2")
    go = tmp_path / "go"
    lines = ("Downloading torch (2 GB)", "Progress 0 of 0", "Progress 250 of 1000")
    says = "".join(f"print({each!r})\n" for each in lines)
    tools.torch = f"{says}{after(go)}print('Installing')\n{tools.torch}"
    installer.start()
    until(lambda: (installer.poll(), installer.share is not None)[1])
    assert installer.share == 0.25
    assert installer.log == ["Downloading torch (2 GB)"]
    installer.start()  # a second click
    assert tools.steps == ["light_the_torch"]
    go.touch()
    finish(installer)
    sentence(installer, "installed")
    assert installer.share is None
    assert "Progress" not in "".join(installer.log)


def test_a_torch_that_windows_can_install(installer, tools, monkeypatch):
    """Only where torch is still to be installed: one that is there is held as it is."""
    monkeypatch.setattr(installing, "torch_limit", lambda: ["torch<2.13"])
    installer.start()
    finish(installer)
    sentence(installer, "installed")
    assert [limits for _, _, limits in tools.asked] == [
        ["numpy==1.26.4", "torch<2.13"],
        ["numpy==1.26.4", "torch==2.5.0"],
    ]


@pytest.mark.parametrize(
    ("pip", "raw"), [("23.2.1", False), ("24.0", False), ("24.1.2", True), ("26.1", True), (None, False)]
)
def test_old_versions_of_pip_cannot_tell_how_far(installer, site, tmp_path, pip, raw):
    if pip:
        distribution(site, "pip", pip)
    installer._folder = tmp_path
    assert ("raw" in installer._command()) is raw


# Failures


def test_no_network(installer, tools, site):
    tools.torch = (
        f"print({NO_NETWORK!r})\nprint('ERROR: No matching distribution found for torch')\nraise SystemExit(1)"
    )
    installer.start()
    assert NO_NETWORK in finish(installer)
    assert "connection" in sentence(installer, "failed")
    assert tools.steps == ["light_the_torch"]
    tools.torch = installs(site, "torch==2.5.0")  # the network is back
    installer.start()
    assert NO_NETWORK not in installer.log
    finish(installer)
    sentence(installer, "installed")


def test_a_command_that_installs_nothing(installer, tools):
    tools.torch = "print('done')"
    installer.start()
    finish(installer)
    assert "Still missing after the installation: torch>=2.1, monai" in sentence(installer, "failed")
    assert tools.steps == ["light_the_torch"]
    tools.torch = installs(tools.site, "torch==2.5.0")
    tools.rest = "print('done')"
    installer.start()
    finish(installer)
    assert "monai>=1.3" in sentence(installer, "failed")
    assert "torch>=2.1" not in installer.message


def test_numpy_that_was_replaced_is_told(installer, tools, site):
    tools.rest += installs(site, "numpy==2.4.0")
    installer.start()
    finish(installer)
    assert "replaced numpy==1.26.4" in sentence(installer, "failed")


def test_numpy_that_is_too_old_is_never_replaced(installer, tools, tmp_path, monkeypatch):
    distribution(tmp_path / "old", "numpy", "1.20.0")
    look_in(monkeypatch, tmp_path / "old")
    installer.start()
    assert "needs numpy>=1.24, but this Slicer has numpy 1.20.0" in sentence(installer, "failed")
    assert tools.steps == []


def test_no_place_for_temporary_files(installer, tools, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    installer.start()
    assert "cannot start" in sentence(installer, "failed")
    assert tools.steps == []


def test_a_refusal_of_the_application(installer, tools, monkeypatch):
    def refuse():
        raise PromptSegError("Another extension is installing packages; wait for it and install again.")

    monkeypatch.setattr(tools, "python", refuse)
    installer.start()
    assert "Another extension" in sentence(installer, "failed")


@pytest.mark.parametrize("end", [finish, Installer.cancel])
def test_no_temporary_files_stay(installer, tmp_path, monkeypatch, end):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    installer.start()
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    end(installer)
    assert list((tmp_path / "temporary").iterdir()) == []


# Cancelling


def test_cancel_and_start_again(installer, tools):
    tools.torch = "import os, time\nprint(os.getpid())\ntime.sleep(600)"
    installer.cancel()  # nothing runs
    installer.start()
    until(lambda: (installer.poll(), installer.log)[1])
    pid = int(installer.log[0])
    installer.cancel()
    assert "cancelled" in sentence(installer, "cancelled")
    assert not lives(pid)
    assert tools.steps == ["light_the_torch"]
    assert installed_version("torch") is None
    tools.torch = installs(tools.site, "torch==2.5.0")
    installer.start()
    finish(installer)
    sentence(installer, "installed")


def test_what_was_loaded_in_an_old_version_needs_a_restart(new, installer, site, monkeypatch):
    distribution(site, "safetensors", "0.3.0")
    for name in ("safetensors", "monai"):  # monai was not installed: nothing of it can be old
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    installer.start()
    finish(installer)
    assert "new version of safetensors" in sentence(installer, "restart")


# Without a network


def test_a_folder_of_wheels_needs_no_light_the_torch(installer, tools, tmp_path, site):
    tools.rest = installs(site, "torch==2.5.0", "monai==1.4.0", "safetensors==0.5.0")
    (tmp_path / "torch-2.5.0-py3-none-any.whl").touch()
    installer.start(wheels=tmp_path)
    finish(installer)
    sentence(installer, "installed")
    ((step, arguments, constraints),) = tools.asked
    assert step == "pip"
    assert arguments[:4] == ["install", "torch>=2.1", "monai>=1.3", "safetensors>=0.4"]
    assert arguments[-3:] == ["--no-index", "--find-links", str(tmp_path)]
    assert constraints == ["numpy==1.26.4"]


# Sentences


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        (NO_NETWORK + "\nERROR: No matching distribution found for monai>=1.3", "connection"),
        ("getaddrinfo failed", "connection"),
        (NO_NETWORK + "\nOSError: [Errno 28] No space left on device", "disk is full"),
        ("ReadTimeoutError(... Read timed out.)", "connection"),
        ("ProxyError('Cannot connect to proxy.', NewConnectionError('x'))", "proxy"),
        ("SSLError(SSLCertVerificationError(1, 'CERTIFICATE_VERIFY_FAILED'))\nMax retries exceeded", "certificate"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "damaged"),
        ("ERROR: Could not install: [WinError 206] The filename or extension is too long: 'C:\\x'", "long paths"),
        ("PermissionError: [Errno 13] Permission denied: 'x.dll'", "could not be written"),
        ("OSError: [Errno 30] Read-only file system: '/opt/Slicer'", "could not be written"),
        ("python: No module named pip", "no pip"),
        ("ERROR: No matching distribution found for torch>=2.1", "no torch>=2.1 for this version of Slicer"),
        (CONFLICT, "monai==1.6.1 cannot be installed: it does not go with numpy==1.26.4, which must stay"),
        (CONFLICT.splitlines()[0], "does not go with what is installed"),
        ("Cannot allocate memory", "memory"),
        ("ERROR: Something\tthat nobody foresaw.", "Something that nobody foresaw"),
        ("Traceback (most recent call last):", "code 3"),
        (
            "ERROR: Exception:\nTraceback (most recent call last):\n  x()\nTypeError: x() wants y",
            "TypeError: x() wants y",
        ),
        ("", "code 3"),
        ("ERROR: " + "xxx " * 1000, "xxx [...]"),
    ],
)
def test_what_pip_says_in_one_sentence(said, word):
    found = explain(said.splitlines(), 3)
    assert word in found
    assert found.endswith(".")
    assert found.count(". ") == 0
    assert len(found) < 300


def test_a_folder_that_lacks_a_wheel():
    assert "wheel of monai" in explain(["ERROR: No matching distribution found for monai>=1.3"], 1, offline=True)

"""The installer's steps, with child processes that install by writing metadata."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from harness.installer_harness import finish, sentence
from harness.process_harness import distribution, lives, python, until
from PromptSegLib.errors import PromptSegError
from PromptSegLib.installation import installing
from PromptSegLib.installation.child import ChildProcess
from PromptSegLib.installation.failures import explain
from PromptSegLib.installation.installer_tools import TorchExtension
from PromptSegLib.installation.installing import Installer
from PromptSegLib.installation.requirements import installed_version

REQUIREMENTS = "torch>=2.1\nmonai>=1.3\nsafetensors>=0.4\nnumpy>=1.24\n"
NO_NETWORK = "WARNING: Retrying: NewConnectionError('Failed to establish a new connection')"


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


class Tools:
    """An application whose installers are scripts; keeps what it was asked."""

    def __init__(self, site: Path) -> None:
        self.site = site
        self.extension = TorchExtension.READY
        self.refusal = ""
        self.kept = ""
        self.torch = installs(site, "torch==2.5.0")
        self.rest = installs(site, "monai==1.4.0", "safetensors==0.5.0")
        self.asked: list[tuple[str, list[str], list[str]]] = []

    def torch_extension(self) -> TorchExtension:
        return self.extension

    def install_torch_extension(self) -> str:
        self.asked.append(("extension", [], []))
        if not self.refusal:
            self.extension = TorchExtension.RESTART
        return self.refusal

    def install_torch(self, requirement: str, arguments, constraints: Path) -> ChildProcess:
        self.asked.append(("torch", [requirement], constraints.read_text().splitlines()))
        return ChildProcess(python(self.torch))

    def pip_install(self, arguments, constraints: Path) -> ChildProcess:
        self.asked.append(("pip", list(arguments), constraints.read_text().splitlines()))
        return ChildProcess(python(self.rest))

    def remember(self, what: str) -> None:
        self.kept = what

    def remembered(self) -> str:
        return self.kept

    @property
    def steps(self) -> list[str]:
        return [step for step, _, _ in self.asked]


@pytest.fixture
def site(tmp_path) -> Path:
    """An application's site-packages: numpy is there, torch and others are not."""
    folder = tmp_path / "site"
    distribution(folder, "numpy", "1.26.4")
    return folder


@pytest.fixture
def tools(site) -> Tools:
    return Tools(site)


@pytest.fixture
def new(tmp_path, site, tools):
    """Makes an installer, as each start of the application does."""
    file = tmp_path / "requirements.txt"
    file.write_text(REQUIREMENTS)
    return lambda: Installer(tools, file, [str(site)])


def test_torch_first_then_the_rest(new, tools):
    installer = new()
    assert (installer.outcome, installer.message, installer.running, installer.pending) == ("", "", False, False)
    assert installer.poll() == []
    installer.start()
    assert installer.running
    assert "torch" in installer.message
    assert finish(installer) == installer.log
    assert "installed" in sentence(installer, "installed")
    torch, rest = tools.asked
    assert torch == ("torch", ["torch>=2.1"], ["numpy==1.26.4"])
    assert rest[1][:2] == ["monai>=1.3", "safetensors>=0.4"]
    assert not any(each.startswith(("numpy", "torch", "--no-index")) for each in rest[1])
    assert rest[2] == ["numpy==1.26.4", "torch==2.5.0"]  # the torch that was just installed stays
    assert [line for line in installer.log if line.startswith("Success")] == [
        f"Successfully installed {each}" for each in ("torch==2.5.0", "monai==1.4.0", "safetensors==0.5.0")
    ]


def test_nothing_to_do(new, tools, site):
    for name in ("torch", "monai", "safetensors"):
        distribution(site, name, "9.0")
    installer = new()
    installer.start()
    assert "All that PromptSeg needs is installed" in sentence(installer, "installed")
    assert installer.poll() == installer.log == [installer.message]
    assert tools.steps == []


def test_only_what_is_missing(new, tools, site):
    distribution(site, "torch", "2.5.0")
    distribution(site, "safetensors", "0.5.0")
    tools.rest = installs(site, "monai==1.4.0")
    installer = new()
    installer.start()
    finish(installer)
    sentence(installer, "installed")
    assert tools.steps == ["pip"]
    assert [each for each in tools.asked[0][1] if ">=" in each] == ["monai>=1.3"]


def test_the_log_is_live(new, tools, tmp_path):
    go = tmp_path / "go"
    wait = f"import os, time\nprint('Collecting torch')\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    tools.torch = wait + tools.torch
    installer = new()
    installer.start()
    assert until(installer.poll, "the first line") == ["Collecting torch"]
    assert installer.running
    installer.start()  # a second click
    assert tools.steps == ["torch"]
    assert installer.log == ["Collecting torch"]
    go.touch()
    finish(installer)
    sentence(installer, "installed")


def test_how_far_a_download_is(new, tools, tmp_path):
    """pip's progress lines are for the bar, not for the log."""
    go = tmp_path / "go"
    tools.torch = (
        "import os, time\nprint('Downloading torch (2 GB)')\nprint('Progress 0 of 0')\nprint('Progress 250 of 1000')\n"
        f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint('Installing')\n" + tools.torch
    )
    installer = new()
    installer.start()
    until(lambda: installer.poll() is not None and installer.share is not None)
    assert installer.share == 0.25
    go.touch()
    finish(installer)
    assert installer.share is None
    assert "Progress" not in "".join(installer.log)


@pytest.mark.parametrize(
    ("pip", "raw"), [("23.2.1", False), ("24.0", False), ("24.1.2", True), ("26.1", True), (None, False)]
)
def test_old_versions_of_pip_cannot_tell_how_far(new, tools, site, pip, raw):
    if pip:
        distribution(site, "pip", pip)
    installer = new()
    installer.start()
    finish(installer)
    assert ("raw" in tools.asked[1][1]) is raw


# Failures


def test_no_network(new, tools, site):
    tools.torch = (
        f"print({NO_NETWORK!r})\nprint('ERROR: No matching distribution found for torch')\nraise SystemExit(1)"
    )
    installer = new()
    installer.start()
    lines = finish(installer)
    assert "connection" in sentence(installer, "failed")
    assert NO_NETWORK in lines
    assert NO_NETWORK in installer.log
    assert tools.steps == ["torch"]
    tools.torch = installs(site, "torch==2.5.0")  # the network is back
    installer.start()
    assert NO_NETWORK not in installer.log
    finish(installer)
    sentence(installer, "installed")


def test_a_step_that_installs_nothing(new, tools):
    tools.torch = "print('done')"
    installer = new()
    installer.start()
    finish(installer)
    assert "torch was not installed" in sentence(installer, "failed")
    assert tools.steps == ["torch"]
    tools.torch = installs(tools.site, "torch==2.5.0")
    tools.rest = installs(tools.site, "safetensors==0.5.0")
    installer.start()
    finish(installer)
    assert "monai>=1.3" in sentence(installer, "failed")


def test_numpy_that_was_replaced_is_told(new, tools, site):
    tools.rest += installs(site, "numpy==2.4.0")
    installer = new()
    installer.start()
    finish(installer)
    assert "replaced numpy 1.26.4" in sentence(installer, "failed")


def test_numpy_that_is_too_old_is_never_replaced(tmp_path, tools):
    site = tmp_path / "old"
    distribution(site, "numpy", "1.20.0")
    (tmp_path / "r.txt").write_text(REQUIREMENTS)
    installer = Installer(tools, tmp_path / "r.txt", [str(site)])
    installer.start()
    assert "numpy>=1.24" in sentence(installer, "failed")
    assert "1.20.0" in installer.message
    assert tools.steps == []


def test_places_and_declarations_that_cannot_be_used(new, tools, tmp_path, monkeypatch):
    installer = new()
    installer.start(wheels=tmp_path / "none")
    assert "has no wheels" in sentence(installer, "failed")
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        installer.start()
        assert "cannot start" in sentence(installer, "failed")
    (tmp_path / "requirements.txt").write_text("!!")
    installer.start()
    assert "damaged" in sentence(installer, "failed")
    assert tools.steps == []


def test_a_refusal_of_the_application(new, tools, monkeypatch):
    def refuse(*_):
        raise PromptSegError("Another extension is installing packages; wait for it and install again.")

    monkeypatch.setattr(tools, "pip_install", refuse)
    installer = new()
    installer.start()
    finish(installer)
    assert "Another extension" in sentence(installer, "failed")


def test_no_temporary_files_stay(new, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    installer = new()
    installer.start()
    assert len(list((tmp_path / "temporary").iterdir())) == 1
    finish(installer)
    assert list((tmp_path / "temporary").iterdir()) == []


# Cancelling


def test_cancel_and_start_again(new, tools, site):
    tools.torch = "import os, time\nprint(os.getpid())\ntime.sleep(600)"
    installer = new()
    installer.cancel()  # nothing runs
    installer.start()
    pid = int(until(installer.poll)[0])
    installer.cancel()
    installer.cancel()
    assert "Cancel" in installer.message
    finish(installer)
    assert "cancelled" in sentence(installer, "cancelled")
    assert not lives(pid)
    assert tools.steps == ["torch"]
    assert installed_version("torch", [str(site)]) is None
    tools.torch = installs(site, "torch==2.5.0")
    installer.start()
    finish(installer)
    sentence(installer, "installed")


def test_cancelling_a_step_that_cannot_be_stopped(new, tools, monkeypatch):
    """``slicer.packaging`` leaves pip running; nothing more is begun, and what is complete is called complete."""
    monkeypatch.setattr(ChildProcess, "cancel", lambda self: None)
    installer = new()
    installer.start()
    installer.cancel()
    finish(installer)
    sentence(installer, "cancelled")
    assert tools.steps == ["torch"]
    installer.start()
    installer.cancel()
    finish(installer)
    sentence(installer, "installed")
    assert tools.steps == ["torch", "pip"]


# Restarts


def restart(tools) -> None:
    """Another process of the application: what it remembers is not its own."""
    if tools.kept:
        tools.kept = f"{tools.kept}0"


def test_the_extension_is_installed_and_goes_on_after_a_restart(new, tools):
    tools.extension = TorchExtension.ABSENT
    installer = new()
    installer.start()
    assert "restart Slicer" in sentence(installer, "restart")
    assert tools.steps == ["extension"]
    assert not installer.pending  # not before the restart
    installer.start()
    sentence(installer, "restart")  # a second click without a restart
    assert tools.steps == ["extension"]

    restart(tools)
    tools.extension = TorchExtension.READY
    installer = new()
    assert installer.pending
    installer.start()
    assert not installer.pending
    finish(installer)
    sentence(installer, "installed")
    assert not installer.pending
    assert tools.kept == ""


def test_an_extension_that_slicer_does_not_load_ends_the_loop(new, tools):
    tools.extension = TorchExtension.ABSENT
    new().start()
    restart(tools)
    installer = new()
    assert installer.pending
    installer.start()
    assert "Extensions Manager" in sentence(installer, "failed")
    assert tools.steps == ["extension"]


def test_an_extension_that_cannot_be_installed(new, tools):
    tools.extension, tools.refusal = (
        TorchExtension.ABSENT,
        "The PyTorch extension is missing and could not be installed.",
    )
    installer = new()
    installer.start()
    assert sentence(installer, "failed") == tools.refusal
    assert tools.steps == ["extension"]
    assert not installer.pending


def test_what_was_loaded_in_an_old_version_needs_a_restart(new, tools, site, monkeypatch):
    distribution(site, "safetensors", "0.3.0")
    for name in ("safetensors", "monai"):  # monai was not installed: nothing of it can be old
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    installer = new()
    installer.start()
    finish(installer)
    assert "new version of safetensors" in sentence(installer, "restart")
    monkeypatch.delitem(sys.modules, "safetensors")
    installer = new()
    assert not installer.pending
    installer.start()
    sentence(installer, "installed")


def test_the_mark_tells_processes_apart(monkeypatch):
    mine = installing._restart_mark()
    monkeypatch.setattr(installing.os, "getpid", lambda: -1)
    assert installing._restart_mark() != mine


# Without a network


def test_a_folder_of_wheels_needs_no_extension(new, tools, tmp_path, site):
    tools.extension = TorchExtension.ABSENT
    tools.rest = installs(site, "torch==2.5.0", "monai==1.4.0", "safetensors==0.5.0")
    (tmp_path / "torch-2.5.0-py3-none-any.whl").touch()
    installer = new()
    installer.start(wheels=tmp_path)
    finish(installer)
    sentence(installer, "installed")
    ((step, arguments, constraints),) = tools.asked
    assert step == "pip"
    assert arguments[:3] == ["torch>=2.1", "monai>=1.3", "safetensors>=0.4"]
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
        ("python: No module named light_the_torch", "PyTorch extension"),
        ("ERROR: No matching distribution found for torch>=2.1", "There is no torch>=2.1"),
        ("ERROR: Could not find a version that satisfies the requirement x>=1 (from versions: none)", "reached"),
        (
            "ERROR: Ignored the following versions that require a different python version: 1.0\n"
            "ERROR: Could not find a version that satisfies the requirement x>=1 (from versions: none)\n"
            "ERROR: No matching distribution found for x>=1",
            "There is no x>=1 for this version of Slicer",
        ),
        ("ERROR: ResolutionImpossible: for help visit https://pip.pypa.io", "cannot be installed"),
        ("Cannot allocate memory", "memory"),
        ("ERROR: Something\tthat nobody foresaw.", "Something that nobody foresaw"),
        ("Traceback (most recent call last):", "code 3"),
        (
            "ERROR: Exception:\nTraceback (most recent call last):\n  x()\nTypeError: x() wants y",
            "TypeError: x() wants y",
        ),
        ("", "code 3"),
        ("ERROR: " + "x" * 1000, "xxx..."),
    ],
)
def test_what_pip_says_in_one_sentence(said, word):
    found = explain(said.splitlines(), 3)
    assert word in found
    assert found.endswith(".")
    assert found.count(". ") == 0
    assert len(found) < 300


def test_other_ends_in_one_sentence():
    assert "from outside" in explain([], -9)
    assert "wheel of monai" in explain(["ERROR: No matching distribution found for monai>=1.3"], 1, offline=True)

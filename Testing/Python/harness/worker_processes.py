"""Worker processes whose job is one that only a test would have, behind a launcher, and spoken with directly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator, Optional

import pytest

from harness.worker_harness import (
    Driven,
    eventually,
    is_running,
)
from PromptSegLib.worker.launch import environment
from PromptSegLib.worker.messages import Channel

STAND_IN = """
import os, subprocess, sys, time, types
if {torch}:
    torch = sys.modules["torch"] = types.ModuleType("torch")
    torch.set_num_threads = lambda number: None
from PromptSegLib.worker import jobs, kept, serving

def run(self, message, job, emit):
    self.kept.keep_only(message.values["keep"])
    return globals()[message.values["name"]](self, message, job)

def echo(self, message, job):
    voxels = {{key: self.kept.image(key) for key in self.kept._images}}
    arrays = {{key: kept.sitk.GetArrayFromImage(image) for key, image in voxels.items()}}
    folder = message.values.get("folder")
    return {{"pid": os.getpid(), "files": len(os.listdir(folder)) if folder else 0}}, {{**message.arrays, **arrays}}

def endless(self, message, job):
    while True:
        job.report("working", 0.5)
        time.sleep(0.001)

def stuck(self, message, job):
    job.report("working", 0.5)
    while True:
        time.sleep(1)

def noisy(self, message, job):
    print("from print")
    sys.stdout.write("from sys.stdout\\n")
    os.write(1, b"from the first descriptor\\n")
    os.system("echo from a child")
    sys.stdout.flush()
    job.report("printed", 0.5)
    return {{}}, message.arrays

def too_large(self, message, job):
    job.report("working", 0.5)
    jobs.np.zeros(2**60, jobs.np.uint8)

def too_large_for_torch(self, message, job):
    raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes")

def too_large_for_itk(self, message, job):
    raise RuntimeError("Exception thrown in SimpleITK ImageRead: std::bad_alloc")

jobs.JobHandlers.run = run
{patch}
from PromptSegLib.cli.main import main
sys.exit(main(sys.argv[1:]))
"""

BLOCKER = """
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture
def stand_in(tmp_path) -> Iterator[Callable]:
    """Makes workers that are the real thing except for their jobs (and torch, which they do without)."""
    started = []

    def command_of(patch: str = "", torch: bool = True) -> Callable[[Optional[Path]], list[str]]:
        script = tmp_path / f"stand_in{len(started)}.py"
        script.write_text(STAND_IN.format(patch=patch, torch=torch))
        return lambda folder: [sys.executable, str(script), "worker", *(["--folder", str(folder)] if folder else [])]

    def start(patch: str = "", torch: bool = True, **keywords) -> Driven:
        started.append(Driven(command_of(patch, torch), environment(1), **keywords))
        return started[-1]

    start.command_of = command_of  # type: ignore[attr-defined]
    yield start
    for driven in started:
        driven.worker.kill()
    for driven in started:
        eventually(lambda each=driven: each.worker.pid is None or not is_running(each.worker.pid))


# As PythonSlicer does: the worker is its child, and whatever signal ends that, the exit code is 1.
LAUNCHER = """#!{python}
import subprocess, sys
code = subprocess.call([{python!r}, *sys.argv[1:]])
if code < 0:
    print("error: [python-real] exit abnormally - Report the problem.", file=sys.stderr)
sys.exit(code if code >= 0 else {code})
"""


@pytest.fixture
def launched(stand_in, tmp_path) -> Callable:
    """Workers behind a launcher, which gives a code of its own for a child that a signal ended."""
    started = []

    def start(patch: str = "", code: int = 1) -> Driven:
        launcher = tmp_path / f"launcher{len(started)}"
        launcher.write_text(LAUNCHER.format(python=sys.executable, code=code))
        launcher.chmod(0o755)
        command = stand_in.command_of(patch)
        started.append(Driven(lambda folder: [str(launcher), *command(folder)[1:]], environment(1)))
        return started[-1]

    yield start
    for driven in started:
        driven.worker.kill()
        eventually(lambda each=driven: each.worker.pid is None or not is_running(each.worker.pid))


@pytest.fixture
def alone(stand_in) -> Iterator[Callable]:
    """A worker that the test itself speaks with."""
    started = []

    def start(folder: Optional[Path], command=None) -> tuple[subprocess.Popen, Channel]:
        process = subprocess.Popen(
            (command or stand_in.command_of())(folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(1),
        )
        started.append(process)
        return process, Channel(process.stdout, process.stdin, folder)

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()

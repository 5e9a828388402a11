"""A session at work that faults strike, and what must not be lost of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Python")]

from harness.mrml_fixtures import Workers, content, paint_strokes  # noqa: E402
from harness.mrml_fixtures import run as run_for  # noqa: E402
from harness.session_harness import BRIEF, LONG, Desk  # noqa: E402
from PromptSegLib.worker import client  # noqa: E402

PATIENCE = 600.0  # seconds for what should not take any; machines may be busy


def run(session: Any, until: Callable[[Any], bool] | None = None) -> None:
    run_for(session, PATIENCE, until)


@dataclass
class Bench:
    """A desk at work, and what must not be lost."""

    desk: Desk
    folder: Path
    before: dict = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.folder / "mine.safetensors"

    @property
    def worker(self) -> client.Worker:
        """The one that was lent last."""
        worker = self.desk.workers.worker
        assert worker is not None
        return worker

    @property
    def pid(self) -> int:
        pid = self.worker.pid
        assert pid is not None
        return pid

    def ready(self) -> Bench:
        self.desk.session.tune()
        run(self.desk.session)
        self.desk.session.apply()
        run(self.desk.session)
        self.desk.session.prompts.save(self.desk.own_key(), self.file)
        self.before = self.state()
        return self

    def state(self) -> dict:
        prompts = self.desk.own_prompts().to_bytes()
        return {"segments": content(self.desk.segmentation), "prompts": prompts, "file": self.file.read_bytes()}

    def begin(self, until: Callable[[Any], bool]) -> None:
        """Start a tuning that will not end by itself, and let it come to some point."""
        self.desk.session.parameters.seconds = LONG
        self.desk.session.tune()
        run(self.desk.session, until=until)
        self.desk.session.parameters.seconds = BRIEF

    def told(self) -> str:
        return self.desk.notice

    def lost(self) -> list[str]:
        """What is not as before; an unapplied preview is nobody's yet."""
        if self.desk.session.view().preview:
            self.desk.session.discard()
        now = self.state()
        return [name for name in now if now[name] != self.before[name]]

    def works(self) -> bool:
        """Whether the next click does what it should."""
        self.desk.session.tune()
        run(self.desk.session)
        return self.desk.session.view().preview == "Result"

    def segment(self, until: Callable[[Any], bool]) -> None:
        self.desk.session.segment(self.desk.own_key())
        run(self.desk.session, until=until)

    def strike(self, sent: int = signal.SIGKILL) -> str:
        os.kill(self.pid, sent)
        run(self.desk.session)
        return self.told()


@contextlib.contextmanager
def at_work(models: Path, workers: Workers) -> Iterator[Bench]:
    """A desk with a result applied and prompts saved."""
    desk = Desk(models, workers)
    try:
        paint_strokes(desk.segmentation, desk.volume, desk.reference)
        with tempfile.TemporaryDirectory(prefix="promptseg-fault-") as folder:
            yield Bench(desk, Path(folder)).ready()
    finally:
        desk.close()


@contextlib.contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A file system of a few kilobytes; skipped where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "promptseg", str(folder)], capture_output=True)
    if done.returncode:
        raise NotHere("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class NotHere(Exception):
    """This machine cannot bring the fault about."""


def filled(folder: Path) -> None:
    with contextlib.suppress(OSError), open(folder / "filling", "wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()


def command(bench: Bench, *words: str, fails: bool = True) -> str:
    """What a command says: its one sentence where it fails."""
    run_ = [sys.executable, "-m", "PromptSegLib", *words]
    if words[0] in ("segment", "tune"):
        run_ += ["--model", str(bench.desk.models / "tiny0.safetensors"), "--device", "cpu"]
    done = subprocess.run(run_, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (2 if fails else 0), done
    return (done.stderr if fails else done.stdout).strip()


def image_file(bench: Bench) -> str:
    import SimpleITK as sitk

    from harness.scene_nodes import image_from_volume

    path = bench.folder / "ct.nrrd"
    sitk.WriteImage(image_from_volume(bench.desk.volume), str(path))
    return str(path)

"""A fault campaign with real processes: what is broken, what the user is told, and whether anything was lost.

    make fault-campaign                                   # every fault, a table in Markdown
    python Testing/Reliability/faults.py --only killed    # those whose name holds a word

Each fault strikes a session on a real MRML scene with a real worker process (a tiny backbone), an applied result, tuned
prompts in the scene and a saved prompts file. Afterwards the segments, the prompts in the scene and the file must be
as before, byte by byte, the message one sentence, and the next tuning must end well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from unittest import mock

from fault_bench import (  # first: it finds the rest
    PATIENCE,
    ROOT,
    Bench,
    NotHere,
    at_work,
    command,
    filled,
    image_file,
    mounted,
    run,
)

from harness.mrml_fixtures import Lent, Workers
from harness.session_harness import MOMENTS, reported
from harness.worker_harness import eventually, is_running
from PromptSegLib.prompts.store import Prompts
from PromptSegLib.session import engine
from PromptSegLib.worker import client
from PromptSegLib.worker.launch import local_command

STANDS = "as before"


# The worker


def stage(*names: str) -> Callable[[Any], bool]:
    return lambda session: session.view().stage in names


def killed_while_loading(bench: Bench) -> str:
    bench.worker.kill()  # a fresh one has to load
    bench.begin(lambda session: bool(session.jobs.active.number and not bench.worker.gone and bench.worker.pid))
    return bench.strike()


def killed_at_the_first_step(bench: Bench) -> str:
    bench.begin(lambda session: len(session.view().curve) > 0)
    return bench.strike()


def killed_while_tuning(bench: Bench) -> str:
    bench.begin(MOMENTS["tuning"])
    return bench.strike()


def killed_while_a_preview_is_shown(bench: Bench) -> str:
    bench.begin(MOMENTS["preview"])
    told = bench.strike()
    assert bench.desk.session.view().preview, "the preview went"
    return told


def killed_while_segmenting(bench: Bench) -> str:
    bench.segment(stage("segmenting", "growing"))
    return bench.strike()


def killed_while_it_writes_its_answer(bench: Bench) -> str:
    """Its answer is large and nobody reads: it is stopped in the middle of it."""
    bench.segment(lambda session: session.view().share > 0.6)
    os.kill(bench.pid, signal.SIGSTOP)
    return bench.strike()


def killed_while_idle(bench: Bench) -> str:
    pid = bench.pid
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))
    bench.desk.session.tune()
    run(bench.desk.session)
    return bench.told()


def killed_behind_a_launcher(bench: Bench) -> str:
    """As PythonSlicer: the exit code is the launcher's."""
    launcher = bench.folder / "PythonSlicer"
    launcher.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\n"
        f"sys.exit(min(subprocess.call([{sys.executable!r}, *sys.argv[1:]]) % 256, 1))\n"
    )
    launcher.chmod(0o755)
    bench.worker.kill()
    with mock.patch.dict(os.environ, {"PROMPTSEG_PYTHON": str(launcher)}):
        bench.begin(MOMENTS["tuning"])
        told = bench.strike()
    assert "from outside" in told, told
    return told


def stopped_and_cancelled(bench: Bench) -> str:
    """A worker that hears nothing any more."""
    bench.begin(MOMENTS["tuning"])
    os.kill(bench.pid, signal.SIGSTOP)
    bench.desk.session.cancel()
    with mock.patch.object(Lent, "kill", lambda lent: lent.worker.kill()):  # which is else lent to the next session
        run(bench.desk.session)
    return bench.told()


def crashed(bench: Bench) -> str:
    bench.begin(MOMENTS["tuning"])
    return bench.strike(signal.SIGSEGV)


def out_of_memory(megabytes: int, job: str) -> Callable[[Bench], str]:
    def fault(bench: Bench) -> str:
        size = int(Path(f"/proc/{bench.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        limit = (size + megabytes * 2**20, resource.RLIM_INFINITY)
        resource.prlimit(bench.pid, resource.RLIMIT_AS, limit)
        try:
            if job == "tune":
                bench.desk.session.tune()
            else:
                bench.desk.session.segment(bench.desk.own_key())
            run(bench.desk.session)
            told = bench.told()
            assert "emory" in told or told.startswith(("Done", "Segmented")), told
        finally:
            bench.worker.kill()  # the limit was the fault's
        return told

    return fault


# Folders


def disk_full_when_prompts_are_saved(bench: Bench) -> str:
    with mounted(bench.folder / "small", "256k") as small:
        target = small / "mine.safetensors"
        target.write_bytes(bench.file.read_bytes())
        filled(small)
        bench.desk.session.prompts.save(bench.desk.own_key(), target)
        assert target.read_bytes() == bench.before["file"], "the file on the full disk was harmed"
        assert sorted(path.name for path in small.iterdir()) == ["filling", "mine.safetensors"], "something was left"
        return bench.told()


def disk_full_when_a_result_is_written(bench: Bench) -> str:
    """The command line, whose results are files."""
    with mounted(bench.folder / "small", "64k") as small:
        target = small / "result.seg.nrrd"
        target.write_bytes(b"an older result")
        filled(small)
        told = command(bench, "segment", str(bench.file), image_file(bench), "-o", str(target))
        assert target.read_bytes() == b"an older result"
        assert sorted(path.name for path in small.iterdir()) == ["filling", "result.seg.nrrd"]
        return told


def disk_read_only(bench: Bench) -> str:
    with mounted(bench.folder / "small", "1m") as small:
        target = small / "mine.safetensors"
        target.write_bytes(bench.file.read_bytes())
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        bench.desk.session.prompts.save(bench.desk.own_key(), target)
        assert target.read_bytes() == bench.before["file"]
        return bench.told()


def models_folder_read_only(bench: Bench) -> str:
    with mounted(bench.folder / "models", "1m") as small:
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        with mock.patch.dict(os.environ, {"PROMPTSEG_MODELS": str(small)}):
            assert command(bench, "models", fails=False)
            bench.desk.session.tune()
            run(bench.desk.session)
            return bench.told()


def models_folder_is_a_file(bench: Bench) -> str:
    (bench.folder / "models").write_text("not a folder")
    with mock.patch.dict(os.environ, {"PROMPTSEG_MODELS": str(bench.folder / "models")}):
        assert command(bench, "models", fails=False)
        bench.desk.session.tune()
        run(bench.desk.session)
        return bench.told()


def shared_memory_full(bench: Bench) -> str:
    """What /dev/shm is used for goes through the stream."""
    with mounted(bench.folder / "shm", "64k") as small:
        filled(small)
        bench.worker.kill()
        folder = small / "arrays"
        with contextlib.suppress(OSError):
            folder.mkdir()
        with mock.patch.object(client, "shared_folder", lambda: folder):
            bench.desk.session.tune()
            run(bench.desk.session)
            told = bench.told()
            assert told.startswith("Done"), told
        bench.worker.kill()
        return told


def shared_memory_fills_up_while_tuning(bench: Bench) -> str:
    with mounted(bench.folder / "shm", "16m") as small:
        bench.worker.kill()
        folder = small / "arrays"
        folder.mkdir()
        with mock.patch.object(client, "shared_folder", lambda: folder):
            bench.desk.session.tune()
            run(bench.desk.session, until=reported)
            filled(small)
            run(bench.desk.session)
            told = bench.told()
            assert told.startswith("Done"), told
        bench.worker.kill()
        return told


# Two applications


def two_save_the_same_prompts_file(bench: Bench) -> str:
    """Two processes, 40 times each, while a third reads."""
    code = (
        "import sys; sys.path.insert(0, {root!r})\nfrom pathlib import Path\n"
        "from PromptSegLib.prompts.store import Prompts\nprompts = Prompts.load(Path({source!r}))\n"
        "for _ in range(40):\n    prompts.save(Path({target!r}))\n"
    )
    target = bench.folder / "both.safetensors"
    target.write_bytes(bench.file.read_bytes())
    words = {"root": str(ROOT), "source": str(bench.file), "target": str(target)}
    both = [subprocess.Popen([sys.executable, "-c", code.format(**words)]) for _ in range(2)]
    reads = 0
    while any(each.poll() is None for each in both):
        assert Prompts.load(target).names, "a file was half-written"
        reads += 1
    assert [each.returncode for each in both] == [0, 0]
    assert target.read_bytes() == bench.before["file"]
    assert not list(bench.folder.glob(".promptseg-*")), "something was left"
    return f"the file was whole at each of {reads} reads"


def two_tune_in_the_same_folders(bench: Bench) -> str:
    """Another application (here: the command line) tunes with the same model and saves beside, at the same time."""
    bench.begin(MOMENTS["tuning"])
    told = tuned_elsewhere(bench)
    bench.desk.session.cancel()
    run(bench.desk.session)
    return told


def the_model_is_replaced_while_it_is_used(bench: Bench) -> str:
    """Another application puts the same model into the folder again."""
    model, ended = bench.desk.models / "tiny0.safetensors", threading.Event()
    data = model.read_bytes()

    def replaces() -> None:
        while not ended.is_set():
            beside = model.with_name("new")
            beside.write_bytes(data)
            os.replace(beside, model)

    thread = threading.Thread(target=replaces)
    thread.start()
    try:
        bench.worker.kill()
        bench.desk.session.tune()
        run(bench.desk.session)
    finally:
        ended.set()
        thread.join()
    return bench.told()


# The clock


def clock_jumps_in_the_application(bench: Bench) -> str:
    """A day back or forth at each look."""
    real, jumps = time.time, iter(range(10**9))
    with mock.patch.object(time, "time", lambda: real() + (-1) ** next(jumps) * 86400):
        bench.desk.session.tune()
        run(bench.desk.session)
        return bench.told()


def clock_jumps_in_the_worker(bench: Bench) -> str:
    """The same in the worker, from its start."""
    before = "import itertools, time; real = time.time; jumps = itertools.count(); "
    before += "time.time = lambda: real() + (-1) ** next(jumps) * 86400; "

    def command_of(folder: Any) -> list[str]:
        python, option, code, *rest = local_command(folder)
        return [python, option, before + code, *rest]

    bench.worker.kill()
    with mock.patch.object(engine, "local_command", command_of):
        bench.desk.session.tune()
        run(bench.desk.session)
        told = bench.told()
    bench.worker.kill()
    assert told.startswith("Done"), told
    return told


# The application


def application_killed(bench: Bench) -> str:
    """Its worker must not outlive it, nor its folder."""
    code = (
        "import os, sys, time\nsys.path[:0] = {paths!r}\nfrom PromptSegLib.worker.client import Worker\n"
        "from PromptSegLib.worker.contract import Prepare\n"
        "from PromptSegLib.worker.launch import environment, local_command\n"
        "worker = Worker(local_command, environment(1))\n"
        "worker.submit(Prepare.name, *Prepare({model!r}, 'cpu', 'a').pack())\n"
        "while not any(event.kind == 'report' for event in worker.poll()): time.sleep(0.01)\n"
        "print(worker.pid, worker._folder, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    words = {"paths": [str(ROOT)], "model": str(bench.desk.models / "tiny0.safetensors")}
    call = [sys.executable, "-c", code.format(**words)]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, timeout=PATIENCE)
    pid, folder = done.stdout.split()
    eventually(lambda: not is_running(int(pid)) and not Path(folder).exists())
    return "the worker ended and its folder is gone"


def tuned_elsewhere(bench: Bench) -> str:
    import SimpleITK as sitk

    from harness.tiny_model import CLASSES, painted

    strokes = bench.folder / "strokes.nrrd"
    sitk.WriteImage(painted(bench.desk.reference), str(strokes))
    given = ["tune", "--example", image_file(bench), str(strokes), "--background", "7", "--steps", "2"]
    classes = [f"{name}={value}" for name, value in CLASSES.items()]
    command(bench, *given, "--classes", *classes, "-o", str(bench.folder / "theirs.safetensors"), fails=False)
    assert Prompts.load(bench.folder / "theirs.safetensors").names == list(CLASSES)
    return "both tuned"


FAULTS: dict[str, Callable[[Bench], str]] = {
    "worker killed (SIGKILL) while it loads the model": killed_while_loading,
    "worker killed at the first step": killed_at_the_first_step,
    "worker killed while tuning": killed_while_tuning,
    "worker killed while a preview is shown": killed_while_a_preview_is_shown,
    "worker killed while segmenting": killed_while_segmenting,
    "worker killed while it writes its answer": killed_while_it_writes_its_answer,
    "worker killed while idle": killed_while_idle,
    "worker killed behind a launcher (exit code 1)": killed_behind_a_launcher,
    "worker crashed (SIGSEGV)": crashed,
    "worker stopped (SIGSTOP), then Cancel": stopped_and_cancelled,
    **{
        f"out of memory in the worker: {megabytes} MB more than at the click, {job}": out_of_memory(megabytes, job)
        for job in ("tune", "segment")
        for megabytes in (1, 4, 16, 64)
    },
    "disk full while prompts are saved": disk_full_when_prompts_are_saved,
    "disk full while a result is written": disk_full_when_a_result_is_written,
    "folder of the prompts read-only": disk_read_only,
    "folder of models read-only": models_folder_read_only,
    "a file where the folder of models should be": models_folder_is_a_file,
    "/dev/shm full": shared_memory_full,
    "/dev/shm fills up while tuning": shared_memory_fills_up_while_tuning,
    "two applications save the same prompts file": two_save_the_same_prompts_file,
    "two applications tune in the same folders": two_tune_in_the_same_folders,
    "another application replaces the model": the_model_is_replaced_while_it_is_used,
    "clock jumps by a day in the application": clock_jumps_in_the_application,
    "clock jumps by a day in the worker": clock_jumps_in_the_worker,
    "application killed": application_killed,
}


@dataclass
class Row:
    """How a fault ended."""

    fault: str
    told: str = ""
    lost: list[str] = field(default_factory=list)
    works: bool = False
    skipped: str = ""
    wrong: str = ""

    @property
    def survived(self) -> bool:
        return not (self.lost or self.wrong) and (self.works or bool(self.skipped))

    def markdown(self) -> str:
        kept = f"LOST: {', '.join(self.lost)}" if self.lost else STANDS
        told = self.skipped or self.wrong.replace("\n", " ")[:200] or self.told
        return f"| {self.fault} | {told} | {'–' if self.skipped else kept} | {'yes' if self.works else '–'} |"


def tried(name: str, bench: Bench) -> Row:
    """One fault."""
    row = Row(name)
    try:
        with tempfile.TemporaryDirectory(prefix="promptseg-fault-") as folder:
            bench.folder = Path(folder)
            bench.file.write_bytes(bench.before["file"])
            try:
                row.told = FAULTS[name](bench)
                row.lost, row.works = bench.lost(), bench.works()
            except NotHere as error:
                row.skipped = f"not tried: {error}"
            row.lost = row.lost or bench.lost()
    except Exception:
        row.wrong = traceback.format_exc(limit=-2)
    return row


def campaign(names: list[str]) -> list[Row]:
    """One fault after the other at the same desk; at a new one after a fault that did harm."""
    from harness.tiny_model import tiny_backbone

    rows: list[Row] = []
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    left = list(names)
    with tempfile.TemporaryDirectory(prefix="promptseg-models-") as folder:
        tiny_backbone(Path(folder), 0, shipped=True)
        workers = Workers()
        try:
            while left:
                with at_work(Path(folder), workers) as bench:
                    while left:
                        rows.append(tried(left.pop(0), bench))
                        print(rows[-1].markdown(), file=sys.stderr, flush=True)
                        if not rows[-1].survived:
                            break
        finally:
            workers.end()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="faults whose name holds one of these")
    options = parser.parse_args()
    rows = campaign([name for name in FAULTS if any(word in name for word in options.only)])
    print("| fault | what the user is told | segments, prompts, file | next tuning works |\n|---|---|---|---|")
    print("\n".join(row.markdown() for row in rows))
    survived = sum(row.survived and not row.skipped for row in rows)
    print(f"\n{survived} of {len(rows)} faults survived, {sum(bool(row.skipped) for row in rows)} not tried here.")
    return 0 if all(row.survived for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

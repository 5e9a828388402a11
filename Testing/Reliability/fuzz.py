"""Hostile input: seeded mutations of what PromptSeg reads from others, a million of them by default.

    make fuzz                                    # all targets, 1,000,000 inputs
    python Testing/Reliability/fuzz.py --count 5000 --targets prompts cli
    python Testing/Reliability/fuzz.py --out fuzz.json --minutes 15   # a part; again for the next, where it stopped

Each input is made from (seed, target, number) alone, so a finding is tried again by its number. Inputs run in a child
process with a bound on its memory. A finding is an input that raises anything but the documented error, takes longer
than ``--limit`` seconds of the processor (or 15 times that by the clock), takes more memory, starts a program, opens a
connection, unpickles, leaves a file or a folder behind, or ends the process.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Iterator

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Python"), str(Path(__file__).parent)]

from PromptSegLib.files import atomic_write  # noqa: E402

# Of all inputs, by how many fit into an hour: the command line reads files, a message is read in microseconds.
SHARES = {"messages": 0.44, "prompts": 0.29, "catalogue": 0.125, "scene": 0.125, "cli": 0.02}
MEMORY = 2 * 2**30  # bytes beyond what the child has when it begins
GROWTH = 256 * 2**20  # bytes that a single input may add to the peak
_PATIENCE = 15  # times the limit, by the clock: the machine may be busy with other things
_TURN = 60_000  # inputs of all targets together until the next turn: a child takes seconds to begin
FORBIDDEN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.", "pickle.find_class")


class Hang(BaseException):
    """An input took too long."""


def rng_of(seed: int, target: str, number: int) -> random.Random:
    return random.Random(f"{seed}/{target}/{number}")


class Watch:
    """What an input must not do, seen by Python's audit events and by what is left in folders."""

    def __init__(self, folders: list[Path]):
        self.folders, self.on = folders, False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple) -> None:
        if self.on and event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {arguments!r}"[:200])

    def listing(self) -> set[str]:
        return {str(path) for folder in self.folders for path in folder.rglob("*")}


def child(target_name: str, seed: int, first: int, last: int, folder: Path, limit: float) -> None:
    """Run inputs first..last - 1 of a target; findings are lines of JSON on standard output."""
    import targets

    work, temporary = folder / "work", folder / "tmp"
    for each in (work, temporary):
        each.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(temporary)
    os.chdir(work)
    target = targets.TARGETS[target_name](folder)
    watch = Watch([work, temporary])
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))

    def late(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    for number in range(20):  # what is imported and kept is not what an input takes
        one(target, target_name, rng_of(seed, f"{target_name} warm", number), watch, 10 * limit)
    outcomes: dict[str, int] = {}
    progress = os.open(folder / "progress", os.O_WRONLY | os.O_CREAT)
    armed, patience = -math.inf, _PATIENCE * limit
    for number in range(first, last):
        os.pwrite(progress, f"{number:12d}".encode(), 0)
        if time.monotonic() - armed > patience:  # not for each input: it starts a thread
            armed = time.monotonic()
            faulthandler.dump_traceback_later(3 * patience, exit=True)  # a library that lets no signal through
        outcome = one(target, target_name, rng_of(seed, target_name, number), watch, limit)
        outcomes[outcome[0]] = outcomes.get(outcome[0], 0) + 1
        if len(outcome) > 1:
            print(json.dumps({"target": target_name, "number": number, "what": outcome[1]}), flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"target": target_name, "outcomes": outcomes}), flush=True)


def one(target: Any, name: str, rng: random.Random, watch: Watch, limit: float) -> tuple[str, ...]:
    """How one input ended: "taken", "refused", or "found" and what."""
    given = target.make(rng)
    before, peak = watch.listing() if target.leaves else set(), _peak()
    watch.seen.clear()
    signal.setitimer(signal.ITIMER_PROF, limit)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE * limit)
    found, outcome = "", "taken"
    try:
        watch.on = True
        target.run(given)
    except target.refuses:
        outcome = "refused"
    except Hang:
        found = f"takes more than {limit:g} s: {_short(given)}"
    except BaseException:
        found = f"{traceback.format_exc(limit=-4)}\n{_short(given)}"
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if watch.seen:
        found = found or f"does what it must not: {watch.seen[0]}"
    grown = _peak() - peak
    if grown > GROWTH:
        found = found or f"takes {grown / 2**20:.0f} MB: {_short(given)}"
    if target.leaves:
        left = watch.listing() - before
        if left and outcome == "refused":
            found = found or f"leaves {sorted(left)[:3]}: {_short(given)}"
        for path in left:
            _removed(Path(path))
    return ("found", found) if found else (outcome,)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _removed(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _short(given: Any) -> str:
    return repr(given)[:600]


def spans(count: int, done: dict[str, int], size: int) -> Iterator[tuple[str, int, int]]:
    """Turns of a few thousand inputs each, the targets one after the other, after what is done of each."""
    total = sum(SHARES[name] for name in done)
    wanted = {name: max(round(count * SHARES[name] / total), 1) for name in done}
    done = dict(done)
    while any(done[name] < wanted[name] for name in done):
        for name in done:
            step = max(int(size * SHARES[name] / total), 1)
            if done[name] < wanted[name]:
                last = min(done[name] + step, wanted[name])
                yield name, done[name], last
                done[name] = last


def turn(name: str, seed: int, first: int, last: int, limit: float) -> tuple[int, list[dict], dict[str, int]]:
    """Some inputs in a child of their own: how many ran, findings, and how the inputs ended."""
    findings: list[dict] = []
    with tempfile.TemporaryDirectory(prefix="promptseg-fuzz-") as place:
        folder = Path(place)
        command = [sys.executable, __file__, "--child", name, "--seed", str(seed), "--limit", str(limit)]
        command += ["--first", str(first), "--last", str(last), "--folder", place]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PROMPTSEG_MODELS": str(folder / "models")}
        process = subprocess.run(command, capture_output=True, text=True, env=variables)
        outcomes: dict[str, int] = {}
        for line in process.stdout.splitlines():
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if "outcomes" in said:
                    outcomes = said["outcomes"]
                elif "what" in said:
                    findings.append(said)
        if process.returncode:
            if not (folder / "progress").exists():
                raise RuntimeError(f"the target {name} could not be made ready: {process.stderr}")
            number = int((folder / "progress").read_text())
            what = f"the process ended with {process.returncode}: {process.stderr[-1500:]}"
            findings.append({"target": name, "number": number, "what": what})
            return number + 1 - first, findings, outcomes
    return last - first, findings, outcomes


def campaign(
    count: int, names: list[str], seed: int, limit: float, out: Path | None = None, minutes: float = math.inf
) -> dict[str, Any]:
    """Run ``count`` inputs over targets; a table of how they ended, and the findings.

    :param out: where that is kept after each turn, and where it is gone on with if it was made with the same seed.
    :param minutes: begin no turn after that time.
    """
    kept = json.loads(out.read_text()) if out is not None and out.exists() else {}
    kept = kept if kept.get("seed") == seed else {}
    none: dict[str, Any] = {"inputs": 0, "taken": 0, "refused": 0, "found": 0, "seconds": 0.0}
    table: dict[str, dict[str, Any]] = {**{name: dict(none) for name in names}, **kept.get("table", {})}
    findings: list[dict] = kept.get("findings", [])
    began = time.monotonic()
    for name, first, last in spans(count, {name: table[name]["inputs"] for name in names}, _TURN):
        while first < last and time.monotonic() - began < 60 * minutes:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            ran, found, outcomes = turn(name, seed, first, last, limit)
            now = resource.getrusage(resource.RUSAGE_CHILDREN)
            row = table[name]
            row["inputs"] += ran
            row["seconds"] += now.ru_utime - used.ru_utime + now.ru_stime - used.ru_stime
            row["found"] += len(found)
            for key in ("taken", "refused"):
                row[key] += outcomes.get(key, 0)
            findings += found
            first += ran
            if out is not None:
                with atomic_write(out) as temporary:
                    temporary.write_text(json.dumps({"seed": seed, "table": table, "findings": findings}, indent=1))
    return {"seed": seed, "table": table, "findings": findings}


def markdown(result: dict[str, Any]) -> str:
    lines = [
        "| target | inputs | taken | refused in one sentence | findings | inputs a second of the processor |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in result["table"].items():
        rate = row["inputs"] / row["seconds"] if row["seconds"] else 0.0
        lines.append(
            f"| {name} | {row['inputs']:,} | {row['taken']:,} | {row['refused']:,} | {row['found']} | {rate:.0f} |"
        )
    total = sum(row["inputs"] for row in result["table"].values())
    return "\n".join([*lines, f"| all | {total:,} | | | {len(result['findings'])} | |"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--targets", nargs="+", choices=SHARES, default=list(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=20.0, help="seconds of the processor that an input may take")
    parser.add_argument("--out", type=Path, help="where to keep what was found, as JSON; it is gone on with")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so long")
    parser.add_argument("--child", choices=SHARES, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--last", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.seed, options.first, options.last, options.folder, options.limit)
        return 0
    result = campaign(options.count, options.targets, options.seed, options.limit, options.out, options.minutes)
    for found in result["findings"]:
        print(f"{found['target']} {found['number']}: {found['what']}\n", file=sys.stderr)
    print(markdown(result))
    return 1 if result["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())

"""What came of hard cases, and the report of all of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Optional

from cases import Case


@dataclass(frozen=True)
class Outcome:
    """What came of a case, in words, and whether it is what must come of it."""

    case: Case
    good: bool
    said: str


def crashed(case: Case, error: Exception) -> Outcome:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Outcome(case, False, f"{type(error).__name__} in {Path(last.filename).name}: {error}")


def report(
    doc: Optional[str], cases: Iterable[Case], run: Callable[[Case, Optional[str]], Outcome], title: str, script: str
) -> int:
    """Run the cases that the command line asks for, say what comes of each, and write the table; an exit code."""
    parser = argparse.ArgumentParser(description=(doc or title).splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose kind or name holds this")
    parser.add_argument("--model", help="name or file (default: the bundled one)")
    parser.add_argument("--write", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    outcomes = []
    for case in cases:
        if options.only in f"{case.kind}: {case.name}":
            outcomes.append(run(case, options.model))
            print(row(outcomes[-1]), flush=True)
    text = table(outcomes, title, script)
    print(text.split("\n\n")[-1])
    if options.write:
        options.write.write_text(text, encoding="utf-8")
    return 0 if outcomes and all(each.good for each in outcomes) else 1


def commit() -> str:
    """The commit that is checked out here, marked where files differ from it."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """The model of the processor, where the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def row(outcome: Outcome) -> str:
    said = outcome.said.replace("|", "\\|").replace("\n", " ")
    return f"| {outcome.case.kind} | {outcome.case.name} | {said} | {'yes' if outcome.good else '**no**'} |"


def table(outcomes: list[Outcome], title: str = "Hard volumes", script: str = "hard_volumes.py") -> str:
    good = [each for each in outcomes if each.good]
    refused = sum(each.case.refusal is not None for each in good)
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Written by `make hard-volumes` at commit {commit()}, on {cores()} cores of {machine()}; see",
            f"`Testing/Reliability/{script}` for what is done and measured.",
            "",
            "| kind | case | what came of it | as it must |",
            "|---|---|---|---|",
            *map(row, outcomes),
            "",
            f"{len(outcomes)} cases: {len(good) - refused} right, {refused} refused in one sentence, "
            f"{len(outcomes) - len(good)} otherwise.",
            "",
        ]
    )

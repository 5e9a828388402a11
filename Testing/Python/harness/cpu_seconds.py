"""What tests cost: processor seconds of each, its child processes included, whatever else the machine is doing.

``pytest --cpu-seconds=FILE`` appends a line for each test; ``python cpu_seconds.py FILE`` sums them up.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Iterator

import pytest


def spent() -> float:
    """Processor seconds of this process and of all that it started, ended or not; needs Linux for the latter."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system + _children()


def _children() -> float:
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(path.parent.name)] = int(words[1])
        ticks[int(path.parent.name)] = sum(map(int, words[11:15]))
    found = 0
    for process, count in ticks.items():
        ancestor = parents[process]
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        found += count if ancestor == os.getpid() else 0
    return found / os.sysconf("SC_CLK_TCK")


class CpuSeconds:
    """A plugin that appends name, mark and seconds of each test to a file, fixtures included."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        before = spent()
        yield
        tier = next(mark for mark in ("training", "application", "fast") if item.get_closest_marker(mark))
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps([item.nodeid, tier, round(spent() - before, 3)]) + "\n")


def summary(rows: list[tuple[str, str, float]], most: int = 40) -> str:
    """Seconds of each tier, of each file, and of the most expensive tests."""
    tiers, files = Counter(), Counter()
    for name, tier, seconds in rows:
        tiers[tier] += seconds
        files[name.partition("::")[0], tier] += seconds
    lines = [f"{seconds:8.1f}  {tier}: {seconds / 120:.1f} min on two idle cores" for tier, seconds in tiers.items()]
    lines += ["", *(f"{seconds:8.1f}  {name}  {tier}" for (name, tier), seconds in files.most_common())]
    lines += ["", *(f"{seconds:8.2f}  {name}" for name, _, seconds in sorted(rows, key=lambda row: -row[2])[:most])]
    return "\n".join(lines)


if __name__ == "__main__":
    print(summary([tuple(json.loads(line)) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]))

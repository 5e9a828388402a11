"""A fast part of the campaigns of Testing/Reliability; they say how to run all of them."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Callable, Iterator

import pytest

pytest.importorskip("slicer")
pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and ends processes"),
]


@pytest.fixture(scope="module")
def reliability() -> Iterator[Callable[[str], ModuleType]]:
    """Gives a module of ``Testing/Reliability`` by its name."""
    import importlib

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).resolve().parents[1] / "Reliability")
        yield importlib.import_module


def test_some_faults_are_survived(reliability):
    faults = reliability("faults")
    wanted = ["worker killed while tuning", "disk full while prompts are saved", "/dev/shm full"]
    rows = faults.campaign([*wanted, "clock jumps by a day in the worker"])
    assert all(row.survived for row in rows), [row.markdown() for row in rows if not row.survived]


def test_a_fault_that_does_harm_is_seen(reliability, monkeypatch):
    faults = reliability("faults")

    def harmful(bench) -> str:
        bench.file.write_bytes(b"gone")
        return "nothing"

    monkeypatch.setitem(faults.FAULTS, "harm", harmful)
    (row,) = faults.campaign(["harm"])
    assert row.lost == ["file"] and not row.survived


@pytest.mark.parametrize("name", ["prompts", "catalogue", "messages", "scene", "cli"])
def test_hostile_input_is_refused(reliability, name):
    fuzz = reliability("fuzz")
    result = fuzz.campaign(40 if name == "cli" else 200, [name], seed=1, limit=60.0)
    assert not result["findings"], result["findings"][0]["what"]
    row = result["table"][name]
    assert row["taken"] + row["refused"] == row["inputs"] > 0 and row["refused"] + row["taken"] > 0


def test_the_fuzzer_sees_what_it_should(reliability, tmp_path, monkeypatch):
    """A finding of each kind, in this process."""
    fuzz = reliability("fuzz")
    watch = fuzz.Watch([tmp_path])

    class Target:
        leaves, refuses = True, (ValueError,)

        def make(self, rng):
            return rng.random()

        def run(self, given) -> None:
            Target.act()

    def refused() -> None:
        raise ValueError

    def crashes() -> None:
        raise KeyError("x")

    def starts() -> None:
        os.system("true")

    def litters() -> None:
        (tmp_path / "left").write_text("x")
        raise ValueError

    import signal

    def late(*_) -> None:
        raise fuzz.Hang

    def hangs() -> None:
        while True:
            pass

    def waits() -> None:  # the processor does nothing
        time.sleep(60)

    monkeypatch.setattr(fuzz, "_PATIENCE", 2)
    before = {each: signal.signal(each, late) for each in (signal.SIGALRM, signal.SIGPROF)}
    told = {crashes: "KeyError", starts: "must not", litters: "leaves", hangs: "more than", waits: "more than"}
    try:
        for act, words in told.items():
            Target.act = staticmethod(act)
            kind, *what = fuzz.one(Target(), "x", fuzz.rng_of(0, "x", 0), watch, 0.5)
            assert kind == "found" and words in what[0]
        Target.act = staticmethod(refused)
        assert fuzz.one(Target(), "x", fuzz.rng_of(0, "x", 0), watch, 0.5) == ("refused",)
        Target.act = staticmethod(lambda: None)
        assert fuzz.one(Target(), "x", fuzz.rng_of(0, "x", 0), watch, 0.5) == ("taken",)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_inputs_are_the_same_for_the_same_number(reliability):
    fuzz, mutations = reliability("fuzz"), reliability("mutations")
    made = [mutations.bytes_of(bytes(range(200)), fuzz.rng_of(3, "x", 7)) for _ in range(2)]
    assert made[0] == made[1] != mutations.bytes_of(bytes(range(200)), fuzz.rng_of(3, "x", 8))


def test_rounds_leave_nothing_open(reliability):
    found = reliability("load").rounds(12, every=3)
    first, *others = found["table"][1:]
    for row in others:
        for what in ("files", "children"):
            assert row["worker"][what] == first["worker"][what]
            assert row["application"][what] <= first["application"][what]


def test_many_classes(reliability):
    assert reliability("load").many_classes(12)["classes"] == 12


def test_fuzzing_goes_on_where_it_stopped(reliability, tmp_path):
    fuzz, out = reliability("fuzz"), tmp_path / "fuzz.json"
    whole = fuzz.campaign(60, ["messages"], seed=2, limit=60.0)
    assert fuzz.campaign(60, ["messages"], seed=2, limit=60.0, out=out, minutes=0)["table"]["messages"]["inputs"] == 0
    fuzz.campaign(25, ["messages"], seed=2, limit=60.0, out=out)
    both = fuzz.campaign(60, ["messages"], seed=2, limit=60.0, out=out)
    for result in (both, json.loads(out.read_text())):
        rows = [each["table"]["messages"] for each in (whole, result)]
        assert all(rows[0][key] == rows[1][key] for key in ("inputs", "taken", "refused", "found"))
    assert fuzz.campaign(25, ["messages"], seed=3, limit=60.0, out=out)["table"]["messages"]["inputs"] == 25

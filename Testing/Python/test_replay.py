"""Rounds of correction, replayed through the session: no round makes any structure worse.

The structures are unseen: phantoms by code, and, where the real data are, hippocampi and a sarcoma.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("slicer")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
KINDS = ("paint", "erase", "mixed")
WORST = 0.01


def organs(seed, benchmark_module):
    """Five organs of a small body."""
    made = benchmark_module("phantoms").small_numbers(seed, shape=(24, 64, 64))
    (image, reference), classes = made
    return image, reference, dict(list(classes.items())[:3])


def real(name, benchmark_module):
    (of,) = benchmark_module("novel_cases").chosen([name])
    return of.cases(DATA)[0].load()


def changes(case, kinds, way, benchmark_module, first="", **choices) -> list[float]:
    """How much each round changed the Dice of each structure; each is right about something at the beginning."""
    module = benchmark_module("replay")
    desk = module.Desk(*case, **choices)
    try:
        begin, *rounds = module.replay(desk, kinds, way, first)
        assert min(begin["dice"].values()) > 0.3
        assert [row["kind"] for row in rounds] == kinds
        return [each for row in rounds for each in row["change"].values()]
    finally:
        desk.close()


ROUNDS = [
    pytest.param([*KINDS], id="each"),
    *(pytest.param([kind] * 3, id=kind, marks=pytest.mark.training) for kind in KINDS),
]


@pytest.mark.parametrize("kinds", ROUNDS)
def test_a_round_makes_nothing_worse(kinds, benchmark_module):
    found = changes(organs(0, benchmark_module), kinds, "live", benchmark_module)
    assert min(found) > -WORST, found
    assert sum(found) > 0  # and corrections correct


@pytest.mark.training
def test_tuning_what_was_grown_and_corrected_makes_nothing_worse(benchmark_module):
    """Grown while painting, applied, corrected; only then come prompts, as the status line tells users to do."""
    found = changes(organs(0, benchmark_module), ["erase", "paint"], "retune", benchmark_module, "live", seconds=6.0)
    assert min(found) > -WORST, found


@pytest.mark.training
@pytest.mark.parametrize("name", ["vessel", "thick_slices"])
def test_a_round_makes_no_phantom_worse(name, benchmark_module):
    (image, reference), classes = benchmark_module("phantoms").PHANTOMS[name](0)
    found = changes((image, reference, classes), [*KINDS], "live", benchmark_module)
    assert min(found) > -WORST, found


@pytest.mark.training
@pytest.mark.skipif(not DATA.is_dir(), reason=f"needs real volumes in {DATA}")
@pytest.mark.parametrize("way", ["live", "retune"])
@pytest.mark.parametrize("name", ["hippocampus", "sts_t1"])
def test_a_round_makes_no_real_structure_worse(name, way, benchmark_module):
    """A round of each kind; three of one kind after the other are `replay.py`'s."""
    found = changes(real(name, benchmark_module), [*KINDS], way, benchmark_module, seconds=15.0)
    assert min(found) > -WORST, found

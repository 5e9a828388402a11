"""The states of a session: what may follow what, and what it is at while a job goes, with a worker that is a script."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import run
from harness.scripted_worker import replies
from PromptSegLib.session.job import TRANSITIONS, JobKind, State, StateMachine


def seen(session) -> list[State]:
    """The states that a session goes through until it is idle, each noted when it changes."""
    found = [session.state]

    def note() -> bool:
        assert (session.jobs.active is not None) == (session.state not in (State.IDLE, State.GROWING))
        assert session.growing.busy == (session.state is State.GROWING)
        assert session.view().busy == (session.jobs.active is not None)
        if session.state is not found[-1]:
            found.append(session.state)
        return not session.busy

    run(session, until=lambda _: note())
    return found


def machine_in(state: State) -> StateMachine:
    machine = StateMachine()
    for step in {State.IDLE: (), State.GROWING: (state,), State.PREPARING: (state,)}.get(
        state, (State.PREPARING, state)
    ):
        machine.to(step)
    return machine


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_nothing_but_the_transitions(before, after):
    machine = machine_in(before)
    if after is before or after in TRANSITIONS[before]:
        machine.to(after)
        assert machine.state is after
    else:
        with pytest.raises(RuntimeError, match=f"{before.value} cannot be {after.value}"):
            machine.to(after)
        assert machine.state is before


def test_every_state_can_be_come_to_and_ended():
    assert set(TRANSITIONS) == set(State) == {State.IDLE}.union(*TRANSITIONS.values())
    assert all(State.IDLE in following for state, following in TRANSITIONS.items() if state is not State.IDLE)
    assert {kind.state for kind in JobKind} == set(State) - {State.IDLE, State.PREPARING}


def test_a_tuning(session_with):
    session, _ = session_with(replies)
    session.tune()
    assert seen(session) == [State.PREPARING, State.TUNING, State.IDLE]
    assert session.view().shows == "final"


def test_growing_ends_when_something_is_asked_for(session_with):
    session, worker = session_with(lambda request: replies(request) if request.name == "tune" else [])
    session.painted()
    run(session, until=lambda _: session.growing.active is not None)
    assert session.state is State.GROWING
    session.tune()
    assert session.state is State.PREPARING and not session.growing.busy
    assert seen(session)[-2:] == [State.TUNING, State.IDLE]


def test_a_refusal_and_a_cancel_end_in_idle(session_with):
    session, _ = session_with(lambda request: [("report", 0.5), ("refused", "No.")] if request.name == "tune" else [])
    session.tune()
    assert seen(session) == [State.PREPARING, State.TUNING, State.IDLE]
    session.tune()
    session.cancel()
    assert session.state is State.IDLE and not session.view().busy


def test_a_job_that_cannot_be_put_together_ends_in_idle(session_with, monkeypatch):
    from PromptSegLib.session import session as module

    def broken(plan, common):
        raise OverflowError("too much")

    monkeypatch.setattr(module, "request_of", broken)
    session, _ = session_with(replies)
    session.tune()
    assert seen(session) == [State.PREPARING, State.IDLE]
    assert "too much" in session.view().notice.text

"""Whatever befalls a run, it ends at most once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.lifecycle import ACTIVE, TERMINAL, TERMINAL_EVENTS, Signal, State, after

signals = st.lists(st.sampled_from(Signal), max_size=30)


@given(signals)
def test_a_run_ends_at_most_once_and_stays_there(befall: list[Signal]) -> None:
    state, path = State.QUEUED, [State.QUEUED]
    for signal in befall:
        following = after(state, signal)
        if following is not None:
            assert state in ACTIVE
            assert following is not state
            state = following
            path.append(state)
    assert len([one for one in path if one in TERMINAL]) <= 1
    assert all(one in ACTIVE for one in path[:-1])
    assert len(set(path)) == len(path), "no state is entered twice"


@given(signals)
def test_a_wish_to_cancel_is_never_overruled(befall: list[Signal]) -> None:
    state = State.QUEUED
    wished = False
    for signal in befall:
        following = after(state, signal)
        wished = wished or (signal is Signal.CANCEL and following is not None)
        state = following or state
    if wished:
        assert state in (State.CANCELLING, State.CANCELLED)


@given(signals)
def test_every_run_can_still_be_ended(befall: list[Signal]) -> None:
    state = State.QUEUED
    for signal in befall:
        state = after(state, signal) or state
    state = after(state, Signal.LOSE) or state
    assert state in TERMINAL
    assert state in TERMINAL_EVENTS

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.wire import HEARTBEAT_SECONDS, WRITE_DEADLINE_SECONDS
from tailrace.pulse import LEAVE_SECONDS, Act, Pulse

NOW = 1000.0


def acts(pulse: Pulse, *seconds: float) -> list[Act]:
    """What is due so many seconds after it began."""
    return [pulse.beat(NOW + at)[0] for at in seconds]


# --- silence ---------------------------------------------------------------------------


def test_silence_is_broken_once_in_a_while() -> None:
    pulse = Pulse(NOW)
    assert pulse.beat(NOW) == (Act.NOTHING, NOW + HEARTBEAT_SECONDS)
    assert acts(pulse, 14.9, 15.0, 15.1, 29.9, 30.0) == [
        Act.NOTHING, Act.HEARTBEAT, Act.NOTHING, Act.NOTHING, Act.HEARTBEAT,
    ]  # fmt: skip


def test_what_was_sent_is_no_silence() -> None:
    pulse = Pulse(NOW)
    pulse.sent(NOW + 10)
    assert pulse.beat(NOW + 15) == (Act.NOTHING, NOW + 10 + HEARTBEAT_SECONDS)
    pulse.block(NOW + 20)
    pulse.unblock()
    assert acts(pulse, 25, 34, 35) == [Act.NOTHING, Act.NOTHING, Act.HEARTBEAT]


# --- ticks -----------------------------------------------------------------------------


def test_ticks_come_whatever_else_is_sent() -> None:
    pulse = Pulse(NOW, 2.0)
    assert pulse.beat(NOW) == (Act.NOTHING, NOW + 2)
    for at in (0.5, 1.0, 1.5, 1.99):
        pulse.sent(NOW + at)
        assert acts(pulse, at) == [Act.NOTHING]
    assert pulse.beat(NOW + 2) == (Act.TICK, NOW + 4)
    assert acts(pulse, 2.1, 3.9, 4.0) == [Act.NOTHING, Act.NOTHING, Act.TICK]


def test_rare_ticks_do_not_replace_the_signs_of_life() -> None:
    pulse = Pulse(NOW, 40.0)
    assert pulse.beat(NOW) == (Act.NOTHING, NOW + HEARTBEAT_SECONDS)
    assert acts(pulse, 15, 30, 40) == [Act.HEARTBEAT, Act.HEARTBEAT, Act.TICK]


def test_ticks_in_silence_wait_for_it() -> None:
    pulse = Pulse(NOW, 2.0, in_silence=True)
    for at in (0.5, 1.9, 3.0):
        assert acts(pulse, at) == [Act.NOTHING]
        pulse.sent(NOW + at)
    assert pulse.beat(NOW + 4.9) == (Act.NOTHING, NOW + 5)
    assert pulse.beat(NOW + 5) == (Act.TICK, NOW + 7)
    # The tick itself, as it goes out.
    pulse.sent(NOW + 5.2)
    assert acts(pulse, 6.9, 7.0) == [Act.NOTHING, Act.TICK]


def test_a_sign_of_life_is_no_end_of_the_silence() -> None:
    pulse = Pulse(NOW, 20.0, in_silence=True)
    assert acts(pulse, 15.0) == [Act.HEARTBEAT]
    pulse.sent(NOW + 15)
    assert acts(pulse, 19.9, 20.0) == [Act.NOTHING, Act.TICK]
    pulse.sent(NOW + 20)
    pulse.sent(NOW + 21)
    assert acts(pulse, 36.0) == [Act.HEARTBEAT]
    pulse.sent(NOW + 36)
    assert acts(pulse, 40.9, 41.0) == [Act.NOTHING, Act.TICK]


# --- a send that is not read -----------------------------------------------------------


def test_a_send_has_a_deadline_and_then_it_is_cut_and_then_cancelled() -> None:
    pulse = Pulse(NOW, 2.0)
    pulse.block(NOW)
    end = NOW + WRITE_DEADLINE_SECONDS
    assert pulse.deadline == end
    # Nothing is put on top of what is not read.
    assert pulse.beat(NOW + 16) == (Act.NOTHING, end)
    assert pulse.beat(end) == (Act.CUT, end + LEAVE_SECONDS)
    assert pulse.beat(end + 0.5) == (Act.NOTHING, end + LEAVE_SECONDS)
    assert pulse.beat(end + LEAVE_SECONDS)[0] is Act.CANCEL


def test_every_send_has_its_own() -> None:
    pulse = Pulse(NOW)
    assert pulse.deadline is None
    pulse.block(NOW)
    assert acts(pulse, WRITE_DEADLINE_SECONDS) == [Act.CUT]
    pulse.unblock()
    again = NOW + WRITE_DEADLINE_SECONDS + 0.5
    pulse.block(again)
    assert pulse.beat(again + 5) == (Act.NOTHING, again + WRITE_DEADLINE_SECONDS)
    assert pulse.beat(again + WRITE_DEADLINE_SECONDS)[0] is Act.CUT, "not cancelled at once"


def test_the_deadline_can_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pulse, "write_deadline", 2.0)
    pulse = Pulse(NOW)
    pulse.block(NOW)
    assert acts(pulse, 1.9, 2.0) == [Act.NOTHING, Act.CUT]


# --- the server goes away --------------------------------------------------------------


def test_a_server_that_goes_is_kept_for_a_moment_only() -> None:
    pulse = Pulse(NOW)
    pulse.block(NOW)
    assert pulse.leave(NOW + 10)
    assert not pulse.leave(NOW + 10.9), "no news, and no new time to leave"
    assert pulse.deadline == NOW + 10 + LEAVE_SECONDS
    assert acts(pulse, 10.5, 11.0, 12.0) == [Act.NOTHING, Act.CUT, Act.CANCEL]


def test_a_send_that_begins_after_it_has_as_long() -> None:
    pulse = Pulse(NOW)
    pulse.leave(NOW)
    pulse.block(NOW + 5)
    assert pulse.deadline == NOW + 5 + LEAVE_SECONDS


def test_the_deadline_is_not_put_off_by_leaving() -> None:
    pulse = Pulse(NOW)
    pulse.block(NOW)
    pulse.leave(NOW + WRITE_DEADLINE_SECONDS - 0.1)
    assert pulse.deadline == NOW + WRITE_DEADLINE_SECONDS


# --- all of it -------------------------------------------------------------------------


def eighths(least: int, most: int) -> st.SearchStrategy[float]:
    """Seconds that can be added without rounding."""
    return st.integers(8 * least, 8 * most).map(lambda eighth: eighth / 8)


@given(
    st.one_of(st.none(), eighths(1, 40)),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["beat", "sent", "block", "unblock", "leave"]),
                  eighths(0, 4)),
        max_size=60,
    ),
)  # fmt: skip
def test_whoever_asks_when_told_to_misses_nothing(
    tick: float | None, in_silence: bool, steps: list[tuple[str, float]]
) -> None:
    """Asked for no earlier than now, silence never lasts beyond its bound, and a cut comes only
    for a send that was under way for as long as that.
    """
    now = sent = NOW
    since: float | None = None
    leaving: float | None = None
    pulse = Pulse(now, tick, in_silence=in_silence)
    for what, later in steps:
        now += later
        if what == "sent" and since is None:
            pulse.sent(now)
            sent = now
        elif what == "block" and since is None:
            pulse.block(now)
            since = sent = now
        elif what == "unblock":
            pulse.unblock()
            since = None
        elif what == "leave":
            assert pulse.leave(now) is (leaving is None)
            leaving = now if leaving is None else leaving
        act, again = pulse.beat(now)
        assert again >= now
        if since is None:
            assert act in (Act.NOTHING, Act.HEARTBEAT, Act.TICK)
            assert tick is not None or (act is Act.HEARTBEAT) is (now - sent >= HEARTBEAT_SECONDS)
            sent = now if act is Act.HEARTBEAT else sent
            assert again <= now + HEARTBEAT_SECONDS
        else:
            waited = now - since
            assert act in (Act.NOTHING, Act.CUT, Act.CANCEL)
            assert act is Act.NOTHING or waited >= (
                WRITE_DEADLINE_SECONDS if leaving is None else LEAVE_SECONDS
            )

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace import rounds
from tailrace.rounds import BEAT_SECONDS, SLICE_SECONDS, Rounds, Wheel
from tests.waiting import turns, until

pytestmark = pytest.mark.anyio


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rounds, "time", clock)
    return clock


class Crowd:
    """Has `left` sends to do, each of which takes `cost` seconds."""

    def __init__(self, clock: Clock, said: list[str], name: str, left: int, cost: float) -> None:
        self.is_due = False
        self.spent: list[float] = []
        self._clock = clock
        self._said = said
        self._name = name
        self._left = left
        self._cost = cost

    def flow(self, until: float) -> bool:
        began = self._clock.now
        self._said.append(self._name)
        while self._left:
            self._left -= 1
            self._clock.now += self._cost
            if self._clock.now > until:
                break
        self.spent.append(self._clock.now - began)
        return not self._left


class Once:
    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.is_due = False
        self.flows = 0
        self._then = then

    def flow(self, until: float) -> bool:
        self.flows += 1
        self._then()
        return True


# --- slices ----------------------------------------------------------------------------


async def test_a_crowd_lets_others_pass(clock: Clock) -> None:
    said: list[str] = []
    crowd = Crowd(clock, said, "crowd", 100, 0.001)
    others = [Crowd(clock, said, name, 1, 0.001) for name in "abc"]
    going = Rounds()
    for due in (crowd, *others):
        going.schedule(due)
    await turns(60)
    # The crowd had the first slice, all others the next, long before the crowd is through.
    assert said[:4] == ["crowd", "a", "b", "c"]
    assert said[4:] == ["crowd"] * (len(said) - 4)
    assert len(said) > 10
    assert sum(crowd.spent) == pytest.approx(0.1)
    assert max(crowd.spent) <= SLICE_SECONDS + 0.0011


async def test_two_crowds_have_turns(clock: Clock) -> None:
    said: list[str] = []
    going = Rounds()
    for name in "ab":
        going.schedule(Crowd(clock, said, name, 30, 0.001))
    await turns(30)
    assert said[:6] == ["a", "b", "a", "b", "a", "b"]


async def test_the_loop_goes_round_between_two_slices(clock: Clock) -> None:
    """Also within one round of many that take little each."""
    said: list[str] = []
    going = Rounds()
    for number in range(40):
        going.schedule(Crowd(clock, said, str(number), 1, 0.001))
    seen: list[int] = []
    while len(said) < 40:
        await asyncio.sleep(0)
        seen.append(len(said))
    steps = [after - before for before, after in zip([0, *seen], seen, strict=False)]
    assert max(steps) <= SLICE_SECONDS / 0.001 + 1
    assert said == [str(number) for number in range(40)]


async def test_each_is_due_once() -> None:
    going = Rounds()
    one = Once()
    for _ in range(5):
        going.schedule(one)
    assert (one.is_due, one.flows) == (True, 0)
    await turns()
    assert (one.is_due, one.flows) == (False, 1)
    going.schedule(one)
    await turns()
    assert one.flows == 2


async def test_what_comes_in_by_sending_is_for_the_next_round() -> None:
    going = Rounds()
    said: list[str] = []

    class Echo(Once):
        def flow(self, until: float) -> bool:
            said.append("echo")
            if len(said) < 6:
                going.schedule(self)
            return True

    other = Once(lambda: said.append("other"))
    going.schedule(Echo())
    going.schedule(other)
    await until(lambda: len(said) >= 6)
    assert said[:3] == ["echo", "other", "echo"]


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_fault_of_one_does_not_stop_the_others(place: int) -> None:
    told: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, why: told.append(why["exception"]))
    fault = ZeroDivisionError()

    def fail() -> None:
        raise fault

    going = Rounds()
    dues = [Once(), Once()]
    dues.insert(place, Once(fail))
    for due in dues:
        going.schedule(due)
    await turns()
    assert [due.flows for due in dues] == [1, 1, 1]
    assert told == [fault]
    assert not dues[place].is_due, "it may be due again"
    going.schedule(dues[place])
    await turns()
    loop.set_exception_handler(None)
    assert told == [fault, fault]


# --- the wheel -------------------------------------------------------------------------


class Stream:
    def beat(self, now: float) -> float | None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError


STREAMS = [Stream() for _ in range(6)]

which = st.sampled_from(range(len(STREAMS)))
offsets = st.floats(-2.0, 40.0).map(lambda offset: round(offset, 3))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("arm"), which, offsets),
        st.tuples(st.just("disarm"), which, st.just(0.0)),
        st.tuples(st.just("look"), st.just(0), st.floats(0.0, 1.5)),
        st.tuples(st.just("look"), st.just(0), st.sampled_from([BEAT_SECONDS, 60.0])),
    ),
    max_size=60,
)


@given(steps)
def test_a_look_takes_exactly_those_whose_time_has_come(
    steps: list[tuple[str, int, float]],
) -> None:
    """Against a table of times: never early, at most a beat late, and nobody is lost."""
    with pytest.MonkeyPatch.context() as patched:
        clock = Clock()
        patched.setattr(rounds, "time", clock)
        wheel, at = Wheel(), dict[rounds.Timed, float]()
        for what, which, given_ in steps:
            stream = STREAMS[which]
            if what == "arm":
                # What is past already is for the next beat.
                due = clock.now + max(given_, 0.0)
                wheel.arm(stream, clock.now + given_)
                at[stream] = min(at.get(stream, due), due)
            elif what == "disarm":
                wheel.disarm(stream)
                at.pop(stream, None)
            else:
                clock.now += given_
                found = wheel.look(clock.now)
                assert len(found) == len(set(found))
                for one in found:
                    assert at.pop(one) <= clock.now, "early"
                assert all(left + BEAT_SECONDS > clock.now for left in at.values()), "late"
            assert set(wheel) == set(at)
        clock.now += 100
        assert set(wheel.look(clock.now)) == set(at)
        assert not list(wheel)
        assert not wheel._slots


@pytest.fixture
def wheel(clock: Clock) -> Iterator[Wheel]:
    wheel = Wheel()
    yield wheel
    assert sum(map(len, wheel._slots.values())) == len(wheel._places)
    assert all(wheel._slots.values()), "an empty slot is left"


def test_the_earlier_time_is_kept(wheel: Wheel, clock: Clock) -> None:
    one = STREAMS[0]
    wheel.arm(one, clock.now + 10)
    wheel.arm(one, clock.now + 2)
    wheel.arm(one, clock.now + 30)
    assert wheel.look(clock.now + 1.9) == []
    assert wheel.look(clock.now + 2 + BEAT_SECONDS) == [one]
    assert wheel.look(clock.now + 100) == []


def test_whoever_was_looked_at_is_armed_anew(wheel: Wheel, clock: Clock) -> None:
    one = STREAMS[0]
    wheel.arm(one, clock.now + 1)
    assert wheel.look(clock.now + 2) == [one]
    wheel.arm(one, clock.now + 30)
    assert wheel.look(clock.now + 29) == []
    assert wheel.look(clock.now + 31) == [one]


def test_a_time_that_is_past_is_for_the_next_beat(wheel: Wheel, clock: Clock) -> None:
    one = STREAMS[0]
    assert wheel.look(clock.now + 50) == []
    wheel.arm(one, clock.now)
    # Not in the same look, or whoever arms what is past would be looked at without end.
    assert wheel.look(clock.now + 50) == []
    assert wheel.look(clock.now + 50 + BEAT_SECONDS) == [one]


def test_disarming_whoever_is_not_armed_is_nothing(wheel: Wheel, clock: Clock) -> None:
    wheel.disarm(STREAMS[0])
    wheel.arm(STREAMS[0], clock.now)
    wheel.disarm(STREAMS[0])
    wheel.disarm(STREAMS[0])
    assert wheel.look(clock.now + 10) == []


def test_a_look_touches_only_those_whose_time_has_come(wheel: Wheel, clock: Clock) -> None:
    """Five thousand that are idle cost nothing at a beat."""
    many = [Stream() for _ in range(5_000)]
    for number, one in enumerate(many):
        wheel.arm(one, clock.now + 15 + number % 60 * BEAT_SECONDS)

    class Counted(dict[int, dict[rounds.Timed, None]]):
        looked = 0

        def pop(self, *given: object) -> dict[rounds.Timed, None]:
            self.looked += 1
            return super().pop(*given)  # type: ignore[call-overload, no-any-return]

    wheel._slots = Counted(wheel._slots)
    for _ in range(20):
        clock.now += BEAT_SECONDS
        assert wheel.look(clock.now) == []
    assert wheel._slots.looked <= 20 * 2


def test_a_clock_that_steps_back_takes_nobody(wheel: Wheel, clock: Clock) -> None:
    wheel.arm(STREAMS[0], clock.now + 1)
    wheel.look(clock.now)
    assert wheel.look(clock.now - 20) == []
    assert wheel.look(clock.now + 1 + BEAT_SECONDS) == [STREAMS[0]]

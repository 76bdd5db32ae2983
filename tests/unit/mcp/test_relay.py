import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.mcp.asker import Context
from tailrace.mcp.relay import Relay, Steps, least
from tailrace.protocol.events import Event, to_json

pytestmark = pytest.mark.anyio

LOG_LEVEL = "io.modelcontextprotocol/logLevel"


@dataclass
class Session:
    told: list[Any] = field(default_factory=list)

    @property
    def _connection(self) -> Any:
        return self

    @property
    def state(self) -> dict[str, Any]:
        return self.kept

    kept: dict[str, Any] = field(default_factory=dict)

    async def report_progress(self, *told: Any) -> None:
        self.told.append(told)

    async def send_notification(self, notification: Any, related_request_id: Any = None) -> None:
        assert related_request_id == 7
        self.told.append((notification.params.level, notification.params.data))


@dataclass
class Call:
    protocol_version: str = "2025-11-25"
    meta: dict[str, Any] | None = None
    session: Session = field(default_factory=Session)
    request_id: int = 7


def context(call: Call) -> Context:
    return cast("Context", call)


def event(type: str, **payload: Any) -> Event:
    return Event(1, type, to_json(payload))


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "current": st.one_of(st.none(), st.floats(0, 1e12), st.integers(0, 10**6)),
                "percent": st.one_of(st.none(), st.floats(0, 100)),
                "message": st.text(max_size=5),
            },
        ),
        max_size=40,
    )
)
def test_progress_always_grows(told: list[dict[str, Any]]) -> None:
    steps = Steps()
    numbers = [steps.next(one)[0] for one in told]
    assert all(a < b for a, b in pairwise(numbers))


def test_progress_is_what_was_told() -> None:
    steps = Steps()
    assert steps.next({"current": 1, "total": 4, "step": "Read", "message": "a.csv"}) == (
        1, 4, "Read: a.csv",
    )  # fmt: skip
    assert steps.next({"current": 2, "total": 4}) == (2, 4, None)


def test_work_that_begins_again_is_told_almost_the_same_number() -> None:
    steps = Steps()
    steps.next({"current": 100, "total": 100})
    again, total, _ = steps.next({"current": 1, "total": 10})
    assert 100 < again < 100.001
    assert total == 10


def test_percent_will_do() -> None:
    assert Steps().next({"percent": 40}) == (40, 100.0, None)


@pytest.mark.parametrize("odd", [True, math.inf, math.nan, "3", None])
def test_what_is_no_number_is_none(odd: Any) -> None:
    assert Steps().next({"current": odd, "total": odd}) == (0.0, None, None)


async def test_progress_zero_comes_at_once() -> None:
    call = Call()
    await Relay(context(call)).begin("run_a")
    assert call.session.told == [(0, None, "run_a")]


async def test_logs_are_told_from_the_level_on_that_the_session_wants() -> None:
    call = Call(session=Session(kept={"tailrace.level": "warning"}))
    relay = Relay(context(call))
    for level in ("debug", "info", "warn", "error", "nonsense"):
        await relay.tell(event("log", level=level, message=level))
    assert call.session.told == [("warning", "warn"), ("error", "error")]


async def test_details_go_along() -> None:
    call = Call()
    await Relay(context(call)).tell(event("log", level="info", message="m", details={"n": 1}))
    assert call.session.told == [("info", {"message": "m", "details": {"n": 1}})]


async def test_output_is_for_those_who_want_everything() -> None:
    quiet, loud = Call(), Call(session=Session(kept={"tailrace.level": "debug"}))
    for call in (quiet, loud):
        await Relay(context(call)).tell(event("output", stream="stdout", text="hello\n"))
    assert quiet.session.told == []
    assert loud.session.told == [("debug", "hello\n")]


async def test_of_other_events_nothing_is_told() -> None:
    call = Call()
    await Relay(context(call)).tell(event("thought", text="hm"))
    assert call.session.told == []


def test_since_2026_nothing_is_logged_unasked() -> None:
    assert least(context(Call("2026-07-28"))) is None
    assert least(context(Call("2026-07-28", {LOG_LEVEL: "error"}))) == "error"
    assert least(context(Call("2026-07-28", {LOG_LEVEL: "loud"}))) is None
    assert least(context(Call("2025-06-18", {LOG_LEVEL: "error"}))) == "info"

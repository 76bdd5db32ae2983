"""How often each may ask: counted where it is found out who asks, for every route alike."""

from __future__ import annotations

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI, Request
from limits.aio.storage import MemoryStorage

from tailrace.errors import SettingsInvalid, TooManyRequests, Unauthorized
from tailrace.facade import Tailrace
from tailrace.http.access import NEEDS
from tailrace.http.limits import CAPS, SERVED, UNKNOWN, Limits, Rates
from tailrace.protocol.access import CANCEL, EMIT, OPEN, RUN, SCOPES, WATCH, WHO, Access, caller
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio


# --- what can be said ------------------------------------------------------------------


def test_there_are_none_unless_said_otherwise() -> None:
    assert Limits() == Limits(rates={}, keyed={}, streams=None, streams_each=None, watchers=None)
    runs = Tailrace("memory:")
    assert runs.rates is None
    for number in range(50_000):
        runs.hub.seats.check(f"address:{number % 2}", number)
        runs.hub.seats.take(f"address:{number % 2}")


def test_those_of_a_server() -> None:
    assert SERVED.rates[RUN] == "10/minute"
    assert SERVED.keyed[RUN] == "600/minute"
    assert SERVED.rates.keys() == {RUN, CANCEL, EMIT, WATCH, UNKNOWN}
    assert SERVED.keyed.keys() == {RUN, CANCEL, EMIT, WATCH}
    assert (SERVED.streams, SERVED.streams_each, SERVED.watchers) == (20_000, 2_000, 10_000)


@pytest.mark.parametrize(
    "rates",
    [
        {"run": "10/minute"}, {"run": "1 per 5 minutes"}, {"watch": "100/hour", "emit": "none"},
        {"cancel": " NONE "}, {"admin": "5/10 seconds"}, {},
    ],
)  # fmt: skip
def test_rates_that_can_be_read(rates: dict[str, str]) -> None:
    Limits(rates=rates)
    Limits(keyed=rates)


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"run": ""}, "run"),
        ({"run": "many"}, "'many'"),
        ({"run": "10"}, "'10'"),
        ({"run": "0/minute"}, "0/minute"),
        ({"run": "10/fortnight"}, "fortnight"),
        # Of several the first one alone would count.
        ({"run": "10/minute;100/hour"}, "100/hour"),
        ({"run": "10000000000/minute"}, "10000000000"),
        ({"run": "1/1000 years"}, "1000 years"),
        ({"run": 10}, "'10'"),
        ({"walk": "10/minute"}, "walk"),
    ],
)
def test_rates_that_cannot(rates: Any, said: str) -> None:
    for given in ({"rates": rates}, {"keyed": rates}):
        with pytest.raises(SettingsInvalid, match=re.escape(said)) as caught:
            Limits(**given)
        assert caught.value.fix


@pytest.mark.parametrize("name", CAPS)
@pytest.mark.parametrize("most", [0, -1, True, "10", 1.5])
def test_caps_that_cannot(name: str, most: Any) -> None:
    with pytest.raises(SettingsInvalid, match=name) as caught:
        Limits(**{name: most})
    assert caught.value.fix


def test_some_of_them_otherwise() -> None:
    changed = SERVED.but(
        rates={RUN: "none"}, keyed={"admin": "5/minute"}, caps={"streams": None, "watchers": 7}
    )
    assert changed.rates == {**SERVED.rates, RUN: "none"}
    assert changed.keyed == {**SERVED.keyed, "admin": "5/minute"}
    assert (changed.streams, changed.streams_each, changed.watchers) == (None, 2_000, 7)
    assert SERVED.but() == SERVED
    assert SERVED.rates[RUN] == "10/minute"
    for wrong in ({"rates": {RUN: "x"}}, {"caps": {"streams": 0}}, {"caps": {"seats": 5}}):
        with pytest.raises(SettingsInvalid):
            SERVED.but(**wrong)


# --- who is counted ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        # Whoever has one address of a /64 has all of them.
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:0db8:0::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        # As a listener for both kinds tells of IPv4: these are no /64.
        ("::ffff:10.0.0.1", "::ffff:10.0.0.2", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("testclient", "testclient", True),
        ("::1::x", "::2::x", False),
    ],
)
def test_addresses(one: str, other: str, is_same: bool) -> None:
    found = [caller({"type": "http", "client": (host, 5)}) for host in (one, other)]
    assert (found[0] == found[1]) is is_same
    assert not found[0].is_known


def test_without_an_address() -> None:
    for scope in ({}, {"client": None}):
        assert caller(scope) == caller({"client": ("", 0)})


def test_whoever_is_known_is_counted_wherever_from() -> None:
    ada = caller({"client": ("10.0.0.1", 5), WHO: Access.of("ada")})
    assert ada == caller({"client": ("10.0.0.2", 5), WHO: Access.of("ada", [WATCH])})
    assert ada.is_known
    assert ada != caller({"client": ("10.0.0.1", 5), WHO: Access.of("bob")})
    # A principal may be called as it likes.
    assert caller({WHO: Access.of("address:10.0.0.1")}) != caller({"client": ("10.0.0.1", 5)})
    assert not caller({"client": ("10.0.0.1", 5), WHO: OPEN}).is_known


# --- over HTTP ---------------------------------------------------------------------------


def named(request: Request) -> Access:
    name, _, scopes = request.headers.get("x-who", "").partition(":")
    if name == "open":
        return OPEN
    if not name:
        raise Unauthorized("Nobody knows who asks.", fix="Send a key.")
    return Access.of(name, scopes.split(",")) if scopes else Access.of(name)


async def count() -> int:
    return 1


BODY = {"operation": "count", "input": {}}

Made = Callable[..., tuple[Tailrace, Visitor]]


@pytest.fixture
async def made(anyio_backend: str) -> AsyncIterator[Made]:
    all_runs: list[Tailrace] = []

    def make(**given: Any) -> tuple[Tailrace, Visitor]:
        is_open, has_chat = given.pop("is_open", False), given.pop("has_chat", False)
        runs = Tailrace(
            "memory:", grace=0.1, limits=Limits(**given), principal=None if is_open else named
        )
        runs.operation(count)
        if has_chat:
            runs.chat()
        all_runs.append(runs)
        return runs, Visitor(runs.asgi)

    yield make
    for runs in all_runs:
        await runs.close()


def from_address(visitor: Visitor, host: str) -> Visitor:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await visitor._app({**scope, "client": (host, 5)}, receive, send)

    return Visitor(app)


def limited(answer: Visit) -> tuple[str, int, int]:
    """The RateLimit field: whose, how many are left, and in how many seconds there is more."""
    found = re.fullmatch(r'"(\w+)";r=(\d+);t=(\d+)', answer.headers["ratelimit"])
    assert found is not None, answer.headers
    return found[1], int(found[2]), int(found[3])


async def test_the_eleventh_start_in_a_minute(made: Made) -> None:
    runs, visitor = made(rates={RUN: "10/minute"}, is_open=True)
    for number in range(10):
        answer = await visitor.post("/runs", BODY)
        assert answer.status == 201
        assert answer.headers["ratelimit-policy"] == '"run";q=10;w=60'
        assert limited(answer) == ("run", 9 - number, 60)
    for _ in range(3):
        answer = await visitor.post("/runs", BODY)
        assert (answer.status, answer.json["code"]) == (429, "too-many-requests")
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["ratelimit-policy"] == '"run";q=10;w=60'
        scope, left, seconds = limited(answer)
        assert (scope, left) == ("run", 0)
        assert 50 < seconds <= 60
        assert int(answer.headers["retry-after"]) == seconds
        assert str(seconds) in answer.json["fix"]
    # Others may, and the same for other things.
    assert (await from_address(visitor, "10.0.0.9").post("/runs", BODY)).status == 201
    listed = await visitor.get("/runs")
    assert len(listed.json["runs"]) == 11
    assert "ratelimit" not in listed.headers
    assert runs.rates is not None


async def test_nothing_is_read_of_what_is_refused(made: Made) -> None:
    _, visitor = made(rates={RUN: "1/minute"}, is_open=True)
    # What is refused for another reason counts.
    wrong = await visitor.ask("POST", "/runs", body=b"{")
    assert wrong.status == 422
    assert limited(wrong) == ("run", 0, 60)
    for body in (b"{", b"x" * 2_000_000):
        assert (await visitor.ask("POST", "/runs", body=body)).status == 429


async def test_every_route_counts_under_what_it_needs(made: Made, tmp_path: Path) -> None:
    assert {*NEEDS.values()} < {*SCOPES}
    for (method, path), need in NEEDS.items():
        runs, visitor = made(keyed={need: "1/hour"}, has_chat=True)
        runs.allow_scripts(tmp_path)
        # Of runs that there are none of: no answer is a stream.
        target = path.replace("{run}", "run_" + "a" * 26) + "?runs=none"
        target = re.sub(r"\{[a-z]+\}", "none", target)
        headers = {"x-who": "ada"}
        first = await visitor.ask(method, target, headers, json={} if method == "POST" else None)
        assert first.status != 429, (method, path)
        assert ("ratelimit" in first.headers) is (need != WATCH), (method, path)
        second = await visitor.ask(method, target, headers, json={} if method == "POST" else None)
        assert second.status == 429, (method, path)
        assert limited(second)[0] == need
        assert (await visitor.ask(method, target, {"x-who": "bob"})).status != 429


async def test_who_may_not_does_not_count(made: Made) -> None:
    _, visitor = made(keyed={RUN: "1/minute"}, rates={RUN: "1/minute"})
    for _ in range(3):
        assert (await visitor.post("/runs", BODY)).status == 401
        assert (await visitor.post("/runs", BODY, {"x-who": "ada:watch"})).status == 403
    assert (await visitor.post("/runs", BODY, {"x-who": "ada"})).status == 201
    assert (await visitor.post("/runs", BODY, {"x-who": "ada"})).status == 429


async def test_keys_have_rates_of_their_own(made: Made) -> None:
    _, visitor = made(rates={RUN: "1/minute"}, keyed={RUN: "3/minute"})
    for who, most in (("open", 1), ("ada", 3), ("bob", 3)):
        found = [(await visitor.post("/runs", BODY, {"x-who": who})).status for _ in range(5)]
        assert found == [201] * most + [429] * (5 - most), who


async def test_without_a_rate_there_is_no_bound(made: Made) -> None:
    _, visitor = made(rates={RUN: "none", WATCH: "1/minute"}, is_open=True)
    for _ in range(20):
        answer = await visitor.post("/runs", BODY)
        assert answer.status == 201
        assert "ratelimit" not in answer.headers


async def test_a_crowd_is_counted_once_each(made: Made) -> None:
    """Watching has a short way of its own, which may turn out to be the long one."""
    runs, visitor = made(rates={WATCH: "6/minute"}, is_open=True)
    started = (await visitor.post("/runs", BODY)).json["id"]
    await runs.run(started).wait()
    missing = f"/runs/run_{'a' * 26}/events"
    for target, status in (
        (f"/runs/{started}/events", 200),
        (missing, 404),
        (f"/runs/{started}/events?after=99", 400),
        (f"/runs/{started}/events?format=json", 200),
        (f"/runs/{started}/output", 200),
        (f"/runs/{started}/events", 200),
        (f"/runs/{started}/events", 429),
        (missing, 429),
        (f"/runs/{started}/output", 429),
    ):
        answer = await visitor.get(target)
        assert answer.status == status, target
        if status == 200:
            assert "ratelimit" not in answer.headers, "a stream's head is as it was"


async def test_both_ways_refuse_alike(made: Made) -> None:
    _, visitor = made(rates={WATCH: "1/day"}, is_open=True)
    target = f"/runs/run_{'a' * 26}/events"
    assert (await visitor.get(target)).status == 404
    short = await visitor.get(target)
    long = await visitor.get(target + "?format=json")
    assert short.status == long.status == 429
    assert short.headers.keys() == long.headers.keys()
    assert short.json.keys() == long.json.keys()


async def test_a_tickets_holder_counts_for_whom_it_is(made: Made) -> None:
    runs, visitor = made(keyed={WATCH: "3/minute"}, rates={WATCH: "100/minute"})
    started = (await visitor.post("/runs", BODY, {"x-who": "ada"})).json["id"]
    await runs.run(started).wait()
    urls = []
    for _ in range(2):
        made_ = await visitor.post("/tickets", {"run": started}, {"x-who": "ada"})
        urls.append(made_.json["url"])
    assert (await visitor.get(urls[0])).status == 200
    assert (await visitor.get(urls[1])).status == 429
    assert (await visitor.get("/runs", {"x-who": "ada"})).status == 429
    assert (await visitor.get("/runs", {"x-who": "bob"})).status == 200


async def test_counters_are_one_engines(made: Made) -> None:
    both = [made(rates={RUN: "1/minute"}, is_open=True)[1] for _ in range(2)]
    for visitor in both:
        assert (await visitor.post("/runs", BODY)).status == 201
    for visitor in both:
        assert (await visitor.post("/runs", BODY)).status == 429


async def test_mounted_and_included_it_is_one_count(made: Made) -> None:
    runs, visitor = made(rates={RUN: "2/minute"}, is_open=True)
    host = FastAPI()
    host.mount("/inner", runs.asgi)
    host.include_router(runs.router, prefix="/included")
    assert (await visitor.post("/runs", BODY)).status == 201
    assert (await Visitor(host).post("/inner/runs", BODY)).status == 201
    assert (await Visitor(host).post("/included/runs", BODY)).status == 429


async def test_a_stream_that_answers_a_start_tells_of_the_rate(made: Made) -> None:
    _, visitor = made(rates={RUN: "5/minute"}, is_open=True)
    answer = await visitor.post("/runs", BODY, {"accept": "text/event-stream"})
    assert answer.status == 201
    assert limited(answer) == ("run", 4, 60)


async def test_another_storage() -> None:
    """Any of `limits` that knows moving windows."""
    rates = Rates(Limits(rates={RUN: "2/minute"}), MemoryStorage())
    scopes = [{"client": ("10.0.0.1", 5)} for _ in range(3)]
    assert (b"ratelimit", b'"run";r=1;t=60') in await rates.admit(scopes[0], RUN)
    assert await rates.admit(scopes[1], RUN)
    # Once for each request, however often it is asked.
    assert await rates.admit(scopes[0], RUN)
    with pytest.raises(TooManyRequests) as caught:
        await rates.admit(scopes[2], RUN)
    assert 1 <= caught.value.retry_after <= 60
    await asyncio.sleep(0)
    gc.collect()


def test_an_error_that_is_read_back_may_say_anything() -> None:
    for said in ("x", -5, None, float("nan"), 10**400, True):
        error = TooManyRequests("No.", retry_after=said)  # type: ignore[arg-type]
        assert re.fullmatch(r"[1-9]\d*", error.headers["retry-after"])

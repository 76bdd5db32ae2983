from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from fastapi import HTTPException, Request

from tailrace.errors import Unauthorized
from tailrace.facade import Tailrace
from tailrace.http.tickets import SECONDS, Tickets
from tailrace.protocol.access import WATCH, Access
from tailrace.protocol.runs import run_id
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio

RUN, OTHER = run_id(bytes(16)), run_id(b"x" * 16)


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_ticket_is_good_once_for_reading() -> None:
    tickets = Tickets(Clock())
    ticket = tickets.make(RUN, "ada")
    assert tickets.use(ticket, RUN) == Access.of("ada", [WATCH])
    with pytest.raises(Unauthorized, match="used before"):
        tickets.use(ticket, RUN)
    assert tickets.make(RUN, "ada") != ticket


def test_for_its_run_alone() -> None:
    tickets = Tickets(Clock())
    ticket = tickets.make(RUN, "ada")
    with pytest.raises(Unauthorized, match="another run"):
        tickets.use(ticket, OTHER)
    tickets.use(ticket, RUN)


def test_for_a_minute() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    early, late = tickets.make(RUN, "ada"), tickets.make(RUN, "ada")
    clock.now += SECONDS - 0.01
    tickets.use(early, RUN)
    clock.now += 0.01
    with pytest.raises(Unauthorized, match="too old"):
        tickets.use(late, RUN)


def test_what_was_used_is_not_kept_for_ever() -> None:
    clock = Clock()
    tickets = Tickets(clock)
    for _ in range(100):
        tickets.use(tickets.make(RUN, "ada"), RUN)
        clock.now += 10
    assert len(tickets._used) < 10


@pytest.mark.parametrize("forged", ["", "x", "a.b", "\ud800", "x" * 10_000])
def test_nobody_else_can_make_one(forged: str) -> None:
    with pytest.raises(Unauthorized, match="no ticket of this server"):
        Tickets().use(forged, RUN)


def test_a_changed_one_is_none() -> None:
    tickets = Tickets()
    ticket = tickets.make(RUN, "ada")
    for at in range(0, len(ticket), 7):
        changed = ticket[:at] + ("A" if ticket[at] != "A" else "B") + ticket[at + 1 :]
        with pytest.raises(Unauthorized):
            tickets.use(changed, RUN)
    with pytest.raises(Unauthorized):
        Tickets().use(ticket, RUN)
    tickets.use(ticket, RUN)


# --- over HTTP ---------------------------------------------------------------------------


def by_header(request: Request) -> str:
    who = request.headers.get("x-who")
    if who is None:
        raise Unauthorized("Nobody knows who asks.")
    if who == "banned":
        raise HTTPException(403)
    return who


async def count() -> int:
    return 1


@pytest.fixture
async def visitor() -> AsyncIterator[Visitor]:
    runs = Tailrace("memory:", principal=by_header, grace=0.1)
    runs.operation(count)
    yield Visitor(runs.asgi)
    await runs.close()


ADA = {"x-who": "ada"}


async def started(visitor: Visitor) -> str:
    answer = await visitor.post("/runs", {"operation": "count", "input": {}}, ADA)
    return str(answer.json["id"])


async def test_an_address_that_needs_no_key(visitor: Visitor) -> None:
    run = await started(visitor)
    answer = await visitor.post("/tickets", {"run": run}, ADA)
    assert (answer.status, answer.json["expires_in"]) == (201, 60)
    assert answer.headers["cache-control"] == "no-store"
    watched = await visitor.get(answer.json["url"])
    assert watched.status == 200
    assert watched.events[-1].event == "complete"
    again = await visitor.get(answer.json["url"])
    assert (again.status, again.json["code"]) == (401, "unauthorized")
    assert "used before" in again.json["detail"]
    assert answer.json["ticket"] not in again.body.decode()


async def test_a_ticket_opens_nothing_else(visitor: Visitor) -> None:
    run, other = await started(visitor), await started(visitor)
    made = await visitor.post("/tickets", {"run": run}, ADA)
    ticket = made.json["ticket"]
    for method, path in (
        ("GET", f"/runs/{other}/events"), ("GET", f"/runs/{run}"), ("GET", "/runs"),
        ("GET", f"/runs/{run}/output"), ("POST", f"/runs/{run}/cancel"), ("GET", "/events"),
        ("POST", f"/runs/{run}/events"), ("DELETE", f"/runs/{run}"), ("POST", "/runs"),
    ):  # fmt: skip
        answer = await visitor.ask(method, f"{path}?ticket={ticket}")
        assert answer.status == 401, (method, path)
    assert (await visitor.get(f"/runs/{run}/events?ticket={ticket}")).status == 200


async def test_of_somebody_elses_run_there_is_none(visitor: Visitor) -> None:
    run = await started(visitor)
    answer = await visitor.post("/tickets", {"run": run}, {"x-who": "bob"})
    assert (answer.status, answer.json["code"]) == (404, "run-unknown")


async def test_whoever_has_a_key_needs_no_ticket(visitor: Visitor) -> None:
    run = await started(visitor)
    for _ in range(2):
        answer = await visitor.get(f"/runs/{run}/events?ticket=anything", ADA)
        assert answer.status == 200


async def test_whom_the_host_refuses_no_ticket_lets_in(visitor: Visitor) -> None:
    run = await started(visitor)
    made = await visitor.post("/tickets", {"run": run}, ADA)
    refused = await visitor.get(made.json["url"], {"x-who": "banned"})
    assert refused.status == 403
    assert (await visitor.get(made.json["url"])).status == 200


def test_no_other_spelling_of_one_is_good() -> None:
    """The last character of base64 may have bits that mean nothing."""
    tickets = Tickets()
    for _ in range(20):
        ticket = tickets.make("run_a", "ada")
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
            if last != ticket[-1]:
                with pytest.raises(Unauthorized, match="no ticket of this server"):
                    tickets.use(ticket[:-1] + last, "run_a")
        with pytest.raises(Unauthorized, match="no ticket of this server"):
            tickets.use(ticket + "=", "run_a")
        tickets.use(ticket, "run_a")

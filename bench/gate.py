"""What the gate costs a request: from where it may come, who asks, what they may, whose it is.

    python -m bench.gate                 about three minutes; one line for each figure

All in this process, without a network: the app that `tailrace serve` serves, called as a server
calls it. What is counted is the CPU of this process. Servers with more and more of the gate are
asked in turn, in an order of chance, and the figures are medians of the differences within a turn:
so a slow second hits all. The servers are built anew several times, because two that are just the
same may differ by 5 %, depending on where in memory they are.

    requests   µs of CPU per request of each kind, and what each part of the gate adds to it
    pieces     the same parts, called by themselves
    events     µs of CPU per event of one watched run, with and without the gate: nothing is added
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from starlette.requests import Request

from tailrace.http.access import identified
from tailrace.http.origins import Gate
from tailrace.http.tickets import SECONDS, Tickets
from tailrace.protocol.access import SCOPES, WATCH
from tailrace.run import RunContext
from tailrace.server import journal
from tailrace.server.app import build
from tailrace.server.entrance import Entrance
from tailrace.server.keys import Keys
from tailrace.server.settings import Settings

STREETS = 6
ROUNDS = 8
REQUESTS = 200
EVENTS = 20_000
PIECES = 20_000

_HOST = (b"host", b"127.0.0.1:4000")
_JSON = (b"content-type", b"application/json")
_FRIEND = "https://app.example.com"


_UNBOUND = dict.fromkeys(SCOPES[:-1], "none")
_PLAIN: Mapping[str, Any] = {
    "log": "memory:", "allow_origin": (_FRIEND,), "rates": _UNBOUND, "keyed_rates": _UNBOUND,
}  # fmt: skip
_RATES = {"keyed_rates": dict.fromkeys(SCOPES[:-1], "1000000/second")}


class Kind(NamedTuple):
    """A server: which parts of the gate it has. `settings` are further ones of `Settings`, and
    `headers` further ones of each request.
    """

    is_gated: bool = False
    is_keyed: bool = False
    settings: Mapping[str, Any] = {}
    headers: tuple[tuple[bytes, bytes], ...] = ()
    is_audited: bool = False


# Each is compared with the first. What is new at the gate gets a line here.
KINDS = {
    "no gate": Kind(),
    "host and origin": Kind(is_gated=True),
    "keys": Kind(is_keyed=True),
    "the whole gate": Kind(is_gated=True, is_keyed=True),
    "and rates": Kind(is_gated=True, is_keyed=True, settings=_RATES),
    "and rates, audit": Kind(is_gated=True, is_keyed=True, settings=_RATES, is_audited=True),
    "and a friend's page": Kind(
        is_gated=True, is_keyed=True, headers=((b"origin", _FRIEND.encode()),)
    ),
}


@dataclass
class House:
    """A server that is ready to be asked, and a run that goes on."""

    app: Any
    runs: Any
    headers: list[tuple[bytes, bytes]]
    run: str = ""
    audit: Path | None = None
    statuses: set[int] = field(default_factory=set)

    def noted(self) -> contextlib.AbstractContextManager[None]:
        """As long as this lasts it is written down who did what: all of a process share one log."""
        if self.audit is None:
            return contextlib.nullcontext()
        return journal.configured(self.audit, self.runs.masks)

    async def ask(self, ask: Ask) -> bytes:
        """One request, from its first byte to its end; a stream is left when it has begun."""
        method, path, sent = ask
        left: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        told: list[bytes] = []
        inbox = [{"type": "http.request", "body": sent, "more_body": False}]

        async def receive() -> Any:
            return inbox.pop() if inbox else await left

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses.add(message["status"])
                return
            told.append(message["body"])
            if not left.done():
                left.set_result({"type": "http.disconnect"})

        path = path.replace("{run}", self.run)
        await self.app(_scope(method, path, [*self.headers, *_lengths(sent)]), receive, send)
        return b"".join(told)


Ask = tuple[str, str, bytes]

# The key starts a run once, and finds it ever after: what a run itself costs is not the gate's.
ASKS: dict[str, Ask] = {
    "GET /runs/{id}": ("GET", "/runs/{run}", b""),
    "GET /runs/{id}/events": ("GET", "/runs/{run}/events", b""),
    "POST /runs": ("POST", "/runs", b'{"operation":"hold"}'),
}


def _scope(method: str, path: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "scheme": "http", "method": method, "root_path": "", "path": path,
        "raw_path": path.encode(), "query_string": b"", "headers": headers,
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 4000), "state": {},
    }  # fmt: skip


def _lengths(sent: bytes) -> list[tuple[bytes, bytes]]:
    return [_JSON, (b"content-length", b"%d" % len(sent))] if sent else []


async def hold() -> None:
    await asyncio.Event().wait()


async def burst(run: RunContext, events: int) -> None:
    for number in range(events):
        run.emit("burst", number=number)
        if number % 100 == 0:
            # So that they reach the watcher in many sends, and not in a few large ones.
            await run.drain()
    await run.drain()


@contextlib.asynccontextmanager
async def housed(kind: Kind, folder: Path) -> AsyncIterator[House]:
    """A server of this kind, as `tailrace serve` makes it."""
    headers = [_HOST, (b"accept", b"*/*"), (b"user-agent", b"bench"), *kind.headers]
    chosen: dict[str, Any] = {**_PLAIN, **kind.settings}
    if kind.is_keyed:
        chosen["keys"] = folder / "keys"
        keys = Keys(chosen["keys"])
        # Among many, as of a team.
        secrets = [keys.create(f"bench{n}", ["run", "watch"])[1] for n in range(20)]
        headers.append((b"authorization", b"Bearer " + secrets[7].encode()))
    else:
        chosen["no_auth"] = True
    settings = Settings(**chosen)
    entrance = Entrance(settings)
    runs = build(settings, entrance if kind.is_keyed else None)
    for operation in (hold, burst):
        runs.operation(operation)
    app = Gate(runs.asgi, entrance.origins) if kind.is_gated else runs.asgi
    house = House(app, runs, [*headers, (b"idempotency-key", b"bench")])
    house.audit = folder / "audit.jsonl" if kind.is_audited else None
    try:
        house.run = json.loads(await house.ask(ASKS["POST /runs"]))["id"]
        async for _ in runs.run(house.run).events():
            # It has begun, so that there is something to tell.
            break
        yield house
    finally:
        await runs.close()


@contextlib.asynccontextmanager
async def street(chance: random.Random) -> AsyncIterator[dict[str, House]]:
    """One server of each kind."""
    async with contextlib.AsyncExitStack() as stack:
        houses: dict[str, House] = {}
        for name in shuffled(KINDS, chance):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            houses[name] = await stack.enter_async_context(housed(KINDS[name], folder))
        yield houses


def shuffled(names: Iterable[str], chance: random.Random) -> list[str]:
    listed = sorted(names)
    return chance.sample(listed, len(listed))


async def cost(count: int, go: Callable[[], Awaitable[Any]]) -> float:
    """µs of CPU for each of `count` calls."""
    gc.collect()
    before = time.process_time()
    for _ in range(count):
        await go()
    return (time.process_time() - before) / count * 1e6


@dataclass
class Figure:
    """What was measured of each server, and how much more it was than the first one's."""

    costs: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in KINDS})

    def median(self, name: str) -> float:
        return statistics.median(self.costs[name])

    def added(self, name: str) -> float:
        """Of each round by itself."""
        first = self.costs[next(iter(KINDS))]
        return statistics.median(
            cost - least for cost, least in zip(self.costs[name], first, strict=True)
        )


# ------------------------------------------------------------------ requests


async def requests(
    streets: int = STREETS, rounds: int = ROUNDS, count: int = REQUESTS
) -> dict[str, Figure]:
    """Of each request."""
    chance = random.Random(7)
    figures = {name: Figure() for name in ASKS}
    for _ in range(streets):
        async with street(chance) as houses:
            for number in range(rounds + 1):
                for name, kind in itertools.product(ASKS, shuffled(houses, chance)):
                    house = houses[kind]
                    with house.noted():
                        took = await cost(count, partial(house.ask, ASKS[name]))
                    # The first round is for the caches.
                    if number:
                        figures[name].costs[kind].append(took)
            strays = {name: house.statuses - {200, 201} for name, house in houses.items()}
            assert not any(strays.values()), strays
    return figures


# ------------------------------------------------------------------ pieces


async def pieces(count: int = PIECES) -> dict[str, float]:
    """Each part of the gate, by itself."""
    with tempfile.TemporaryDirectory() as name:
        settings = Settings(**{**_PLAIN, "keys": Path(name) / "keys"})
        keys = Keys(settings.keys)
        secrets = [keys.create(f"bench{n}", ["run", "watch"])[1] for n in range(20)]
        entrance = Entrance(settings)
        runs = build(settings, entrance)
        runs.operation(hold)
        headers = [_HOST, (b"accept", b"*/*"), (b"user-agent", b"bench")]
        keyed = [*headers, (b"authorization", b"Bearer " + secrets[7].encode())]
        record, _ = await runs.submit("hold", {}, principal="key:bench7")
        access = await identified(runs, _scope("GET", "/runs", keyed))
        # Half a minute goes by with each look, so that few of those that were used are known.
        tickets = Tickets(partial(next, itertools.count(0.0, SECONDS / 2)))
        origin = [*headers, (b"origin", _FRIEND.encode())]

        async def owner() -> None:
            await runs.record(record.id, access.sees)

        async def anybody() -> None:
            await runs.record(record.id)

        def ticket() -> None:
            tickets.use(tickets.make(record.id, "ada"), record.id)

        asked: dict[str, Callable[[], Any]] = {
            "Host": lambda: entrance.origins.decide("GET", headers),
            "Host and Origin": lambda: entrance.origins.decide("GET", origin),
            "who has the key": lambda: entrance.identify(Request(_scope("GET", "/runs", keyed))),
            "a scope": lambda: access.check(WATCH),
            "a ticket, made and used": ticket,
        }
        found = {name: await cost(count, _awaitable(go)) for name, go in asked.items()}
        mine, any_ones = await cost(count, owner), await cost(count, anybody)
        found["whose run it is"] = max(0.0, mine - any_ones)
        await runs.close()
    nothing = await cost(count, _awaitable(lambda: None))
    return {name: max(0.0, took - nothing) for name, took in found.items()}


def _awaitable(go: Callable[[], Any]) -> Callable[[], Awaitable[None]]:
    async def once() -> None:
        go()

    return once


# ------------------------------------------------------------------ events


async def watched(house: House, events: int) -> tuple[float, int]:
    """µs of CPU per event of a run with one watcher, and the sends it took."""
    body = json.dumps({"operation": "burst", "input": {"events": events}}).encode()
    headers = [pair for pair in house.headers if pair[0] not in (b"idempotency-key", b"accept")]
    headers += [*_lengths(body), (b"accept", b"text/event-stream")]
    inbox = [{"type": "http.request", "body": body, "more_body": False}]
    told: list[bytes] = []
    over = asyncio.Event()

    async def receive() -> Any:
        if inbox:
            return inbox.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        told.append(message.get("body", b""))
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            over.set()

    gc.collect()
    before = time.process_time()
    await house.app(_scope("POST", "/runs", headers), receive, send)
    took = time.process_time() - before
    body = b"".join(told)
    assert body.count(b"event: burst\n") == events, body[-300:]
    return took / events * 1e6, len(told)


async def per_event(streets: int = STREETS, rounds: int = 2, events: int = EVENTS) -> Figure:
    """Of each event."""
    chance = random.Random(7)
    figure = Figure()
    for _ in range(streets):
        async with street(chance) as houses:
            for number in range(rounds + 1):
                for kind in shuffled(houses, chance):
                    with houses[kind].noted():
                        took, _ = await watched(houses[kind], events)
                    if number:
                        figure.costs[kind].append(took)
    return figure


# ------------------------------------------------------------------ what is printed


def lines(title: str, figure: Figure) -> list[str]:
    first = next(iter(KINDS))
    told = [f"{title:22} {first:20} {figure.median(first):8.1f} µs"]
    for kind in [*KINDS][1:]:
        added = figure.added(kind)
        share = 100 * added / figure.median(first)
        told.append(
            f"{title:22} {kind:20} {figure.median(kind):8.1f} µs  {added:+7.2f} µs  {share:+5.1f} %"
        )
    return told


async def measured() -> None:
    for name, figure in (await requests()).items():
        print("\n".join(lines(name, figure)))
    for name, took in (await pieces()).items():
        print(f"{'by itself':22} {name:24} {took:6.2f} µs")
    print("\n".join(lines("an event", await per_event())))


if __name__ == "__main__":
    asyncio.run(measured())

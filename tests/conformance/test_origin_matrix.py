"""Who may ask, and from where: the table in docs/origins.md, asked of a real server line by line,
and what a ticket is good for.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from fastapi import Request

from tailrace.errors import Unauthorized
from tailrace.facade import Tailrace
from tailrace.http import tickets
from tailrace.http.origins import LOOPBACK_HOSTS, Gate, Origins
from tailrace.http.tickets import SECONDS, Tickets
from tailrace.server.protocol import Protocol
from tests.door import Door, opened
from tests.host import hosted
from tests.processes import ROOT
from tests.readers import Answer, answers, events
from tests.watching import request

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

DOCUMENT: Final = (ROOT / "docs" / "origins.md").read_text(encoding="utf-8")
FRIEND: Final = "https://app.example.com"
NONE: Final = "–"


class Row(NamedTuple):
    """A line of the table."""

    host: str
    origin: str
    site: str
    asked: str
    answer: str


def rows() -> list[Row]:
    table = DOCUMENT.partition("|---|")[2].partition("\n\n")[0].splitlines()[1:]
    return [Row(*(cell.strip(" `") for cell in line.strip("|").split("|"))) for line in table]


def options() -> list[str]:
    """Those of the command that the document shows."""
    command = re.search(r"tailrace serve(( .*\\\n)*.*)", DOCUMENT)
    assert command is not None
    return [word.strip("'") for word in command[1].replace("\\\n", " ").split()]


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("origins"), *options()) as door:
        yield door


def asked(door: Door, row: Row) -> Answer:
    method, target = row.asked.split()
    values = [text.replace("PORT", str(door.port)) for text in (row.host, row.origin)]
    host, origin = (None if text == NONE else text for text in values)
    headers = [] if origin is None else [("Origin", origin)]
    if row.site != NONE:
        names = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
        headers += zip(names, row.site.split(", "), strict=False)
    if method == "OPTIONS":
        headers.append(("Access-Control-Request-Method", "POST"))
    script = "countdown.sh"
    body = {"operation": "script", "input": {"file": script}} if method == "POST" else None
    if target == "/run_file":
        target += f"?file_path={script}"
    return door.ask(method, target, headers, body, host=host)


@pytest.mark.parametrize("row", rows(), ids=" ".join)
def test_what_the_document_says(door: Door, row: Row) -> None:
    answer = asked(door, row)
    status, _, said = row.answer.replace(",", "").partition(" ")
    assert answer.status == int(status), answer
    if status == "403":
        assert answer.json["code"] == said
    if said == "readable":
        assert answer.headers["access-control-allow-origin"] == row.origin
        assert answer.headers["access-control-allow-credentials"] == "true"
        assert "origin" in answer.headers["vary"].lower()
    else:
        assert "access-control-allow-origin" not in answer.headers
    if row.host == NONE:
        # Nor does it help to name one elsewhere.
        forwarded = [("X-Forwarded-Host", "localhost"), ("Forwarded", "host=localhost")]
        assert door.ask("GET", "/runs", forwarded, host=None).status in (400, 403)


def test_the_table_has_every_kind() -> None:
    kinds = {(row.answer, row.origin != NONE) for row in rows()}
    assert len(rows()) <= 30
    assert len(kinds) >= 7
    assert {row.asked.split()[0] for row in rows()} == {"GET", "POST", "OPTIONS"}


def test_behind_a_proxy(door: Door, tmp_path: Path) -> None:
    """Its own pages are https:// ones, which the server knows from a proxy that it trusts."""
    host = "tailrace.example.com"
    page = [("Origin", f"https://{host}"), ("Sec-Fetch-Site", "same-origin")]
    proxied = [*page, ("X-Forwarded-Proto", "https")]
    assert door.ask("GET", "/runs", proxied, host=host).status == 403
    options = ["--allow-host", host, "--trusted-proxy", "127.0.0.1"]
    with opened(tmp_path, *options) as behind:
        # Now it is only asked for a key.
        assert behind.ask("GET", "/runs", proxied, host=host).status == 401
        assert behind.ask("GET", "/runs", page, host=host).status == 403
        # Under which name it is asked is not for the proxy to say.
        named = [("X-Forwarded-Host", host), ("Forwarded", f"host={host}")]
        assert behind.ask("GET", "/runs", named, host="evil.example").status == 403


METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
SITES: Final = (None, "none", "same-origin", "same-site", "cross-site", "anything")


def test_no_method_and_no_path_is_forgotten(door: Door) -> None:
    """What is refused is refused for every one of them, and nothing of it has happened."""
    before = len(door.ask("GET", "/runs?limit=200").json["runs"])
    document = door.ask("GET", "/openapi.json").json
    run = "run_" + 26 * "a"
    probes = {"/healthz", "/readyz"}
    paths = [path.replace("{run}", run) for path in document["paths"] if path not in probes]
    paths += ["/", "/docs", "/openapi.json", "/nothing"]
    bad: list[tuple[str, str | None]] = [
        ("evil.example", None), ("localhost", "https://evil.example"), ("localhost", "null"),
    ]  # fmt: skip
    for path, method, (host, origin) in itertools.product(paths, METHODS, bad):
        headers = [] if origin is None else [("Origin", origin)]
        raw = _ask(door, method, path, headers, host)
        assert raw.startswith(b"HTTP/1.1 403 "), (path, method, host, origin, raw)
        assert b"access-control" not in raw.lower()
    for path, method, site in itertools.product(paths, ("GET", "POST", "DELETE"), SITES):
        if site in (None, "none", "same-origin"):
            continue
        raw = _ask(door, method, path, [("Sec-Fetch-Site", str(site))], "localhost")
        assert raw.startswith(b"HTTP/1.1 403 "), (path, method, site, raw)
    assert len(door.ask("GET", "/runs?limit=200").json["runs"]) == before


def _ask(door: Door, method: str, path: str, headers: list[tuple[str, str]], host: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close", "content-length: 2"]
    lines += ["content-type: application/json", *(f"{name}: {text}" for name, text in headers)]
    return door.raw("\r\n".join((*lines, "", "{}")).encode())


def test_one_that_stands_twice(door: Door) -> None:
    """Two readers would take two different ones."""
    for name, good, bad in (
        ("Host", "localhost", "evil.example"),
        ("Origin", FRIEND, "https://evil.example"),
        ("Sec-Fetch-Site", "same-origin", "cross-site"),
    ):
        for pair in ((good, bad), (bad, good), (good, good)):
            host = None if name == "Host" else "localhost"
            answer = door.ask("GET", "/runs", [(name, text) for text in pair], host=host)
            assert answer.status in (400, 403), (name, pair, answer)


def test_an_address_in_full_has_no_say(door: Door) -> None:
    """RFC 9112 §3.2.2: a target may name the host; what was checked is what counts."""
    for target, host, status in (
        ("http://localhost/runs", "evil.example", (400, 403)),
        ("http://evil.example/runs", "localhost", (200, 400, 403, 404)),
    ):
        answer = door.ask("GET", target, host=host)
        assert answer.status in status, answer
        assert b"evil.example/" not in answer.body


# --- tickets, over HTTP ----------------------------------------------------------------------


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def by_header(request: Request) -> str:
    who = request.headers.get("x-who")
    if who is None:
        raise Unauthorized("Nobody knows who asks.")
    return who


async def count() -> int:
    return 1


class House:
    """A server in this loop, whose tickets have a clock of the test's own."""

    def __init__(self, port: int, clock: Clock) -> None:
        self.port = port
        self.clock = clock

    async def ask(
        self, target: str, method: str = "GET", who: str | None = None, body: bytes = b""
    ) -> Answer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        headers = {"connection": "close", "content-type": "application/json"}
        if who is not None:
            headers["x-who"] = who
        writer.write(request(target, method, headers, body))
        try:
            async with asyncio.timeout(10):
                raw = await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()
        (answer,) = answers(raw)
        return answer

    async def start(self, who: str = "ada") -> str:
        answer = await self.ask("/runs", "POST", who, b'{"operation":"count","input":{}}')
        assert answer.status == 201, answer
        return str(answer.json["id"])

    async def ticket(self, run: str, who: str = "ada") -> str:
        answer = await self.ask("/tickets", "POST", who, b'{"run":"%b"}' % run.encode())
        assert answer.status == 201, answer
        assert answer.json["url"] == f"/runs/{run}/events?ticket={answer.json['ticket']}"
        return str(answer.json["ticket"])


@asynccontextmanager
async def housed(log: str = "memory:") -> AsyncIterator[House]:
    runs = Tailrace(log, principal=by_header, grace=0.1)
    runs.operation(count)
    clock = Clock()
    tickets._known[runs] = Tickets(clock)
    gate = Gate(runs.asgi, Origins(LOOPBACK_HOSTS))
    try:
        async with hosted(gate, http=Protocol) as port:
            yield House(port, clock)
    finally:
        await runs.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with housed() as house:
        yield house


def refused(answer: Answer, why: str = "") -> None:
    assert (answer.status, answer.json["code"]) == (401, "unauthorized"), answer
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert why in answer.json["detail"]


async def test_a_ticket_watches_its_run_once(house: House) -> None:
    run = await house.start()
    ticket = await house.ticket(run)
    target = f"/runs/{run}/events?ticket={ticket}"
    answer = await house.ask(target)
    assert answer.status == 200
    assert events(answer.body)[-1].type == "complete"
    for _ in range(3):
        refused(await house.ask(target), "used before")
    # Nor does another way to ask for the same.
    for more in ("&format=text", "&after=1", "&format=json"):
        refused(await house.ask(target + more), "used before")


async def test_of_many_at_once_one_gets_in(house: House) -> None:
    run = await house.start()
    target = f"/runs/{run}/events?ticket={await house.ticket(run)}"
    found = await asyncio.gather(*(house.ask(target) for _ in range(20)))
    assert sorted(answer.status for answer in found) == [200] + 19 * [401]


@pytest.mark.parametrize(("after", "status"), [(SECONDS - 0.01, 200), (SECONDS, 401)])
async def test_within_a_minute(house: House, after: float, status: int) -> None:
    run = await house.start()
    ticket = await house.ticket(run)
    house.clock.now += after
    answer = await house.ask(f"/runs/{run}/events?ticket={ticket}")
    assert answer.status == status, answer
    if status == 401:
        refused(answer, "too old")


async def test_for_its_run_alone(house: House) -> None:
    run, other = await house.start(), await house.start()
    ticket = await house.ticket(run)
    refused(await house.ask(f"/runs/{other}/events?ticket={ticket}"), "another run")
    both = await house.ask(f"/runs/{run}%2fevents/../../{other}/events?ticket={ticket}")
    assert both.status in (401, 404)
    assert (await house.ask(f"/runs/{run}/events?ticket={ticket}")).status == 200


async def test_for_watching_alone(house: House) -> None:
    run = await house.start()
    ticket = await house.ticket(run)
    events_body = b'{"events":[{"type":"note","data":{}}]}'
    for method, path, body in (
        ("POST", f"/runs/{run}/events", events_body), ("DELETE", f"/runs/{run}", b""),
        ("GET", f"/runs/{run}", b""), ("GET", f"/runs/{run}/output", b""), ("GET", "/runs", b""),
        ("GET", "/events", b""), ("GET", f"/events?runs={run}", b""), ("GET", "/metrics", b""),
        ("POST", "/runs", b'{"operation":"count"}'), ("POST", f"/runs/{run}/rerun", b""),
        ("POST", f"/runs/{run}/cancel", b""), ("GET", "/operations", b""),
        ("POST", "/tickets", b'{"run":"%b"}' % run.encode()),
        ("GET", "/run_file?file_path=x", b""), ("POST", "/run_file?file_path=x", b""),
    ):  # fmt: skip
        joint = "&" if "?" in path else "?"
        refused(await house.ask(f"{path}{joint}ticket={ticket}", method, body=body))
    for method in ("HEAD", "PUT", "OPTIONS"):
        reader, writer = await asyncio.open_connection("127.0.0.1", house.port)
        target = f"/runs/{run}/events?ticket={ticket}"
        writer.write(request(target, method, {"connection": "close"}, b""))
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()
        assert head.split()[1] in (b"401", b"405"), head
    # None of these has used it up.
    assert (await house.ask(f"/runs/{run}/events?ticket={ticket}")).status == 200


async def test_a_changed_one_is_none(house: House) -> None:
    run = await house.start()
    ticket = await house.ticket(run)
    forged = [ticket[:at] + ("A" if ticket[at] != "A" else "B") + ticket[at + 1 :]
              for at in range(len(ticket))]  # fmt: skip
    forged += [ticket[:-1], ticket + "A", ticket.partition(".")[0], "x", ".", "..", "%00",
               "%ED%A0%80", f"{ticket}%0A", f"%20{ticket}", "A" * 5000, "%22", "null"]  # fmt: skip
    for each in forged:
        refused(await house.ask(f"/runs/{run}/events?ticket={each}"))
    refused(await house.ask(f"/runs/{run}/events"))
    refused(await house.ask(f"/runs/{run}/events?ticket="))
    assert (await house.ask(f"/runs/{run}/events?ticket={ticket}")).status == 200


async def test_one_of_another_process_is_none(house: House) -> None:
    run = await house.start()
    ticket = await house.ticket(run)
    async with housed() as other:
        refused(await other.ask(f"/runs/{run}/events?ticket={ticket}"), "no ticket of this server")


async def test_there_is_none_for_somebody_elses(house: House) -> None:
    run = await house.start("ada")
    body = b'{"run":"%b"}' % run.encode()
    answer = await house.ask("/tickets", "POST", "bob", body)
    assert (answer.status, answer.json["code"]) == (404, "run-unknown")
    refused(await house.ask("/tickets", "POST", None, body))

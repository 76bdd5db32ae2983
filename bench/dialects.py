"""How a scenario is asked for: of a Tailrace run, of a peer, of a server one publishes to."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlencode

from bench.processes import Running

FRAME_BYTES = 206
_PATIENCE = 120


class Refused(Exception):
    """A server did not do what it was asked."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What the load client is to ask for; `options` are its own."""

    paths: list[str]
    options: dict[str, Any] = field(default_factory=dict)


class Dialect(Protocol):
    """A scenario has a preparation, which says what to watch, and then its beginning."""

    def fanout(self, rate: float, seconds: float, publishers: int, extra: int) -> Watch:
        """Events for everybody; `extra` bytes more than usual in each."""

    def begin(self) -> int | None:
        """Open the gate. How many events that made, unless the stream itself says so."""

    def firehose(self, count: int) -> Watch:
        """As many events as fast as they can be made."""

    def tokens(self, count: int) -> Watch:
        """A stream for each watcher, as from a model."""

    def replay(self, count: int) -> Watch:
        """A history of so many events."""

    def one(self) -> Watch:
        """One event, and silence."""

    def said(self, rate: float, seconds: float) -> Watch:
        """Events that the load client publishes over HTTP."""

    def busy(self, seconds: float, operation: str) -> None:
        """Something that computes, beside the rest."""


def ask(port: int, method: str, path: str, body: Any = None) -> Any:
    """A request and the JSON it is answered with. Raises Refused."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        payload = None if body is None else json.dumps(body)
        connection.request(method, path, payload, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode()
    except OSError as error:
        raise Refused(f"{method} {path}: {error}") from None
    finally:
        connection.close()
    if answer.status >= 300:
        raise Refused(f"{method} {path} was answered {answer.status}: {text[:200]}")
    try:
        return json.loads(text) if text else None
    except ValueError:
        # Nchan describes the channel in words.
        return None


def _publishing(rate: float, seconds: float, to: str, **options: Any) -> dict[str, Any]:
    return {
        "publishers": 1, "rate": round(rate), "publish_ms": round(seconds * 1000),
        "publish": to, "publish_type": "application/json", **options,
    }  # fmt: skip


class Peer:
    """A server with an endpoint for each scenario, which publishes by itself."""

    def __init__(self, running: Running) -> None:
        self._port = running.port
        self._size = running.server.payload
        self._go: tuple[str, Mapping[str, Any]] | None = None

    def fanout(self, rate: float, seconds: float, publishers: int, extra: int) -> Watch:
        self._go = ("/publish", {
            "rate": rate, "seconds": seconds, "publishers": publishers, "size": self._size + extra,
        })  # fmt: skip
        return Watch(["/events"])

    def begin(self) -> int | None:
        if self._go is None:
            return None
        path, query = self._go
        return int(ask(self._port, "POST", f"{path}?{urlencode(query)}")["published"])

    def firehose(self, count: int) -> Watch:
        return Watch([f"/firehose?count={count}&size={self._size}"], {"events": count})

    def tokens(self, count: int) -> Watch:
        return Watch([f"/tokens?count={count}&size={self._size}"], {"events": count})

    def replay(self, count: int) -> Watch:
        ask(self._port, "POST", f"/store?count={count}&size={self._size}")
        return Watch([f"/replay?count={count}"], {"events": count})

    def one(self) -> Watch:
        return Watch([f"/one?size={self._size}"])

    def said(self, rate: float, seconds: float) -> Watch:
        return Watch(["/events"], _publishing(rate, seconds, "/say", size=self._size))

    def busy(self, seconds: float, operation: str) -> None:
        ask(self._port, "POST", f"/busy?seconds={seconds}")


class Published(Peer):
    """A server that is published to: the load client does it, from the other core."""

    def __init__(self, running: Running) -> None:
        super().__init__(running)
        self._server = running.server
        self._ports = running.ports

    def fanout(self, rate: float, seconds: float, publishers: int, extra: int) -> Watch:
        return Watch(["/events"], {
            "publishers": publishers, "rate": round(rate), "publish_ms": round(seconds * 1000),
            "publish": self._server.publish, "publish_port": self._ports[self._server.publish_port],
            "wrap": self._server.wrap, "escape": int(self._server.wrap != "%s"),
            "size": self._size + extra,
        })  # fmt: skip

    def begin(self) -> int | None:
        return None

    def one(self) -> Watch:
        if not self._server.publish_port:
            ask(self._port, "POST", "/first", {"p": 0, "n": 1, "t": time.monotonic_ns()})
        return Watch(["/one"])


class Tailrace:
    """Runs: what is watched is created first, and waits at a gate."""

    def __init__(self, running: Running) -> None:
        self._port = running.port
        self._prefix = running.server.prefix
        self._size = running.server.payload

    def start(self, operation: str, **given: Any) -> str:
        """A new run's id."""
        body = {"operation": operation, "input": given}
        return str(ask(self._port, "POST", f"{self._prefix}/runs", body)["id"])

    def ended(self, run: str) -> Any:
        """Wait for a run; its snapshot. Raises Refused unless it completed."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            shown = ask(self._port, "GET", f"{self._prefix}/runs/{run}")
            if shown["state"] == "completed":
                return shown
            if shown["state"] not in ("queued", "running"):
                raise Refused(f"{run} {shown['state']}: {shown.get('error')}")
            time.sleep(0.05)
        raise Refused(f"{run} does not end")

    def watch(self, *runs: str, **options: Any) -> Watch:
        return Watch([f"{self._prefix}/runs/{run}/events" for run in runs], options)

    def fanout(self, rate: float, seconds: float, publishers: int, extra: int) -> Watch:
        run = self.start(
            "publish",
            rate=rate,
            seconds=seconds,
            publishers=publishers,
            size=self._size + extra,
        )
        return self.watch(run)

    def begin(self) -> int | None:
        self.start("go")
        return None

    def firehose(self, count: int) -> Watch:
        return self.watch(self.start("firehose", count=count, size=self._size), events=count)

    def tokens(self, count: int) -> Watch:
        given = {"operation": "tokens", "input": {"count": count, "size": self._size}}
        # One POST starts the run and is its stream.
        return Watch(
            [f"{self._prefix}/runs"],
            {"method": "POST", "body": json.dumps(given), "events": count},
        )

    def replay(self, count: int) -> Watch:
        run = self.start("store", count=count, size=self._size)
        self.ended(run)
        return self.watch(run, events=count)

    def one(self) -> Watch:
        return self.watch(self.start("one", size=self._size))

    def said(self, rate: float, seconds: float) -> Watch:
        run = self.start("listen")
        to = f"{self._prefix}/runs/{run}/events"
        wrap = '{"events":[{"type":"message","data":%s}]}'
        # What Tailrace adds is not to make the frame larger than the others' are.
        size = self._size - 80
        return self.watch(run, **_publishing(rate, seconds, to, wrap=wrap, size=size))

    def busy(self, seconds: float, operation: str) -> None:
        self.start(operation, seconds=seconds)

    def writers(self, runs: int, rate: float, seconds: float) -> Watch:
        """Many runs that write, each with a watcher of its own."""
        given = {"seconds": seconds, "rate": rate, "size": self._size}
        return self.watch(*(self.start("write", **given) for _ in range(runs)))


def dialect(running: Running) -> Any:
    """The one its server speaks."""
    spoken = {"peer": Peer, "published": Published, "tailrace": Tailrace}
    return spoken[running.server.speaks](running)

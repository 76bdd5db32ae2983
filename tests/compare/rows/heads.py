"""Heads, methods and first bytes."""

from __future__ import annotations

import json

from tests.compare.lab import ENOUGH, Lab, happens
from tests.compare.table import Section

row = Section("The head and the first byte")


@row("before the generator's first item the client has", "the head and a first byte")
async def first_byte(lab: Lab) -> str:
    watcher = await lab.open(f"/waiting?mark={lab.mark()}")
    if not await happens(lambda: watcher.status, ENOUGH):
        return "nothing"
    return "the head and a first byte" if await happens(lambda: watcher.body) else "the head"


@row("and is told when to come back after a cut", "yes, after 1000 ms")
async def retry_hint(lab: Lab) -> str:
    watcher = await lab.begun("/one")
    hints = [line for line in watcher.body.splitlines() if line.startswith(b"retry:")]
    return f"yes, after {int(hints[0][6:])} ms" if hints else "no"


@row("`Cache-Control`", "no-cache, no-transform")
async def cache_control(lab: Lab) -> str:
    return (await lab.begun("/one")).headers.get("cache-control", "none")


@row("`X-Accel-Buffering`, for nginx", "no")
async def accel_buffering(lab: Lab) -> str:
    return (await lab.begun("/one")).headers.get("x-accel-buffering", "none")


@row("`Content-Type`", "text/event-stream; charset=utf-8", "text/event-stream")
async def content_type(lab: Lab) -> str:
    return (await lab.begun("/one")).headers.get("content-type", "none")


@row("`Connection`, which HTTP/2 forbids", "left to the server")
async def connection(lab: Lab) -> str:
    sent = (await lab.begun("/one")).headers.get("connection")
    return "left to the server" if sent is None else f"{sent}, always"


@row("a status and a header of one's own", "both are sent")
async def own_status(lab: Lab) -> str:
    watcher = await lab.open(f"/dressed?mark={lab.mark()}")
    await watcher.until(lambda seen: seen.status, "it answers")
    has = [watcher.status == 203, watcher.headers.get("x-own") == "1"]
    return "both are sent" if all(has) else f"{sum(has)} of 2"


@row("a `Cache-Control` of one's own", "takes the default's place")
async def own_cache_control(lab: Lab) -> str:
    # Not by the watcher, for whom a name stands once.
    path = f"/dressed?mark={lab.mark()}"
    with lab.raw(f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()) as connection:
        head = await connection.until(b"\r\n\r\n")
    sent = [line for line in head.lower().split(b"\r\n") if line.startswith(b"cache-control:")]
    if len(sent) > 1:
        return "stands beside the default"
    return "takes the default's place" if sent[0].endswith(b"max-age=5") else "is dropped"


@row("HEAD", "the head, and nothing is begun")
async def head(lab: Lab) -> str:
    mark = lab.mark()
    with lab.raw(f"HEAD /waiting?mark={mark} HTTP/1.1\r\nhost: x\r\n\r\n".encode()) as connection:
        told = await connection.until(b"\r\n\r\n", ENOUGH)
        if not told:
            return "no answer"
        # The next request of the connection is answered once this one is over.
        connection.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        is_over = (
            b"200 OK" in (await connection.until(b'"library"', ENOUGH)).partition(b"\r\n\r\n")[2]
        )
    begun = "the generator is begun" if lab.noted(f"{mark} begun") else "nothing is begun"
    return f"the head, and {begun}" if is_over else f"no end, and {begun}"


@row("POST with a JSON body", "streams")
async def post(lab: Lab) -> str:
    body = json.dumps({"numbers": [1, 2]}).encode()
    headers = {"content-type": "application/json"}
    watcher = await lab.whole("/post", method="POST", headers=headers, body=body)
    return "streams" if [each.data for each in watcher.events] == ["1", "2"] else "does not"


@row(
    "a client of HTTP/1.0, which knows no chunks, gets",
    "no chunks, and the end is the connection's",
)
async def http10(lab: Lab) -> str:
    with lab.raw(b"GET /item?kind=event HTTP/1.0\r\n\r\n") as connection:
        told = await connection.until(None)
    head, _, body = told.partition(b"\r\n\r\n")
    is_plain = b"transfer-encoding" not in head.lower() and not body[:1].isdigit()
    end = "and the end is the connection's" if connection.is_over else "and no end"
    return f"{'no chunks' if is_plain else 'chunks'}, {end}"


@row("a WebSocket refused by a stream", "403, with the stream as its body")
async def websocket(lab: Lab) -> str:
    asked = (
        b"GET /socket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with lab.raw(asked) as connection:
        told = await connection.until(b"data: refused", ENOUGH)
    status = told[9:12].decode() or "nothing"
    has_body = b"data: refused" in told
    return f"{status}, {'with the stream as its body' if has_body else 'without a body'}"

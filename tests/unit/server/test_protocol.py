"""The protocol class under a real server in this loop: what is handed over, and who is refused."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import gzip
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from tailrace.http.limits import Limits
from tailrace.http.outlets import DIRECT
from tailrace.http.sockets import Sockets
from tailrace.server import protocol
from tailrace.server.listener import listen
from tailrace.server.protocol import HEAD_BYTES, MAX_HEADERS, Patience, Protocol
from tests.stage import Stage, staged
from tests.waiting import soon, turns, until
from tests.watching import Watcher, request, watchers

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="the hand-over is offered on Linux"),
]

App = Callable[[Any, Any, Any], Awaitable[None]]

OPENING: Final = b": tailrace\nretry: 1000\n"
END: Final = b": end\n"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop", marks=pytest.mark.slow),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def stage(anyio_backend: Any) -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


class Client(Watcher):
    def connection_made(self, transport: Any) -> None:
        # uvloop's are no subclass of asyncio's.
        self.transport = transport
        self.closed = asyncio.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


class Hosted(uvicorn.Server):
    port = 0


@contextlib.asynccontextmanager
async def hosted(app: Any, **options: Any) -> AsyncIterator[Hosted]:
    with listen("127.0.0.1", 0) as listener:
        given: dict[str, Any] = {"ws": "none", "lifespan": "off", "log_config": None, **options}
        server = Hosted(uvicorn.Config(app, http=Protocol, timeout_graceful_shutdown=1, **given))
        server.port = listener.getsockname()[1]
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or serving.done(), "started")
            yield server
        finally:
            server.should_exit = True
            await serving
    await until(lambda: not len(Sockets.here()), "all sockets are closed")


async def told(stage: Stage, watcher: Watcher, run: str) -> bytes:
    """Let the run go on and end; the body."""
    stage.emit(run, "log", message="number 1;")
    await watcher.told(b"number 1;")
    stage.finish(run)
    await watcher.until(lambda w: w.is_complete, "complete")
    return bytes(watcher.body)


# --- what is handed over ---------------------------------------------------------------


def plain(app: App) -> App:
    return app


def mounted(app: App) -> App:
    host = FastAPI()
    host.mount("/inner", app)
    return host


def watched_over(app: App) -> App:
    """Middleware that looks at everything and changes nothing."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        seen: list[Any] = []

        async def looking(message: Any) -> None:
            seen.append(message)
            await send({**message})

        async def hearing() -> Any:
            return await receive()

        await app({**scope}, hearing, looking)

    return outer


def late_head(app: App) -> App:
    """Middleware that keeps the head until there is a body."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        heads: list[Any] = []

        async def keeping(message: Any) -> None:
            if message["type"] == "http.response.start":
                heads.append(message)
                return
            if heads:
                await send(heads.pop())
            await send(message)

        await app(scope, receive, keeping)

    return outer


def changed(app: App) -> App:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def shouting(message: Any) -> None:
            if "body" in message:
                message["body"] = message["body"].replace(b"tailrace", b"TAILRACE")
            await send(message)

        await app(scope, receive, shouting)

    return outer


def split(app: App) -> App:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def splitting(message: Any) -> None:
            if message.get("more_body"):
                body = message["body"]
                await send({**message, "body": body[:5]})
                message = {**message, "body": body[5:]}
            await send(message)

        await app(scope, receive, splitting)

    return outer


def doubled(app: App) -> App:
    """The last thing that is sent looks as if nothing had been done to it."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        is_first = True

        async def adding(message: Any) -> None:
            nonlocal is_first
            if "body" in message and is_first:
                is_first = False
                await send({"type": "http.response.body", "body": b"\n", "more_body": True})
            await send(message)

        await app(scope, receive, adding)

    return outer


def delayed(app: App) -> App:
    """Each part is sent when the next one comes."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        kept: list[Any] = []

        async def keeping(message: Any) -> None:
            if "body" in message:
                kept.append(message)
                if len(kept) > 1:
                    await send(kept.pop(0))
                if not message["more_body"]:
                    await send(kept.pop(0))
            else:
                await send(message)

        await app(scope, receive, keeping)

    return outer


def waiting(app: App) -> App:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            await asyncio.sleep(0)
            await send(message)

        await app(scope, receive, sending)

    return outer


def based(app: App) -> App:
    async def pass_on(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        return response

    return BaseHTTPMiddleware(app, dispatch=pass_on)


def zipped(app: App) -> App:
    return GZipMiddleware(app, minimum_size=1)


def crossing(app: App) -> App:
    return CORSMiddleware(app, allow_origins=["https://page.example"])


def closed_off(app: App) -> App:
    """Somebody who does not pass on what the server offers."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app({k: v for k, v in scope.items() if k != "extensions"}, receive, send)

    return outer


ACCEPTS: Final = {"accept-encoding": "gzip", "origin": "https://page.example"}


@pytest.mark.parametrize("around", [plain, mounted, watched_over, late_head, zipped, crossing])
async def test_what_is_handed_over(
    stage: Stage, around: Callable[[App], App], caplog: pytest.LogCaptureFixture
) -> None:
    run = await stage.start()
    prefix = "/inner" if around is mounted else ""
    async with hosted(around(stage.runs.asgi)) as server, watchers() as party:
        tasks = len(asyncio.all_tasks())
        target = f"{prefix}/runs/{run}/events"
        watcher = await Client.open(server.port, target, headers=ACCEPTS)
        party.append(watcher)
        await watcher.told(b"I am")
        assert len(Sockets.here()) == 1
        await until(lambda: not server.server_state.connections, "the server knows nothing of it")
        await turns()
        assert not server.server_state.tasks
        assert len(asyncio.all_tasks()) == tasks
        assert watcher.headers["connection"] == "close"
        assert "content-encoding" not in watcher.headers
        if around is crossing:
            assert watcher.headers["access-control-allow-origin"] == "https://page.example"
        body = await told(stage, watcher, run)
        await watcher.until(lambda w: w.is_closed, "closed")
        assert body == (await stage.visitor.get(f"/runs/{run}/events")).body
        assert server.server_state.total_requests == 1
    assert "ASGI" not in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("around", [based, changed, split, doubled, delayed, waiting, closed_off])
async def test_what_is_not(stage: Stage, around: Callable[[App], App]) -> None:
    """Because it would be passed over."""
    run = await stage.start()
    async with hosted(around(stage.runs.asgi)) as server, watchers() as party:
        watcher = await Client.open(server.port, f"/runs/{run}/events")
        party.append(watcher)
        await watcher.until(lambda w: w.received, "begun")
        await turns()
        assert not len(Sockets.here())
        stage.emit(run, "log", message="tailrace")
        stage.finish(run)
        await watcher.until(lambda w: w.is_complete, "complete")
        expected = (await stage.visitor.get(f"/runs/{run}/events")).body
        if around is changed:
            expected = expected.replace(b"tailrace", b"TAILRACE")
        if around is doubled:
            expected = b"\n" + expected
        assert bytes(watcher.body) == expected


@pytest.mark.parametrize("name", ["events", "text", "typed", "ndjson", "jsonrpc"])
async def test_compression_is_not_passed_over(stage: Stage, name: str) -> None:
    """Starlette's leaves `text/event-stream` alone, and nothing else."""
    run = await stage.start()
    async with hosted(zipped(stage.runs.asgi)) as server, watchers() as party:
        target = f"/runs/{run}/events?format={name}"
        watcher = await Client.open(server.port, target, headers=ACCEPTS)
        party.append(watcher)
        await watcher.until(lambda w: w.received, "begun")
        await turns()
        is_packed = name == "ndjson"
        assert len(Sockets.here()) == (not is_packed)
        stage.finish(run)
        await watcher.until(lambda w: w.is_complete, "complete")
        body = bytes(watcher.body)
        expected = (await stage.visitor.get(target)).body
        assert (gzip.decompress(body) if is_packed else body) == expected


async def test_a_change_of_nothing_is_not_passed_over(stage: Stage) -> None:
    """What a program wrote has no opening that could show whether bytes are changed."""

    def sealed(app: App) -> App:
        async def outer(scope: Any, receive: Any, send: Any) -> None:
            async def sealing(message: Any) -> None:
                if "body" in message:
                    message["body"] = bytes(byte ^ 1 for byte in message["body"])
                await send(message)

            await app(scope, receive, sealing)

        return outer

    run = await stage.start()
    async with hosted(sealed(stage.runs.asgi)) as server, watchers() as party:
        watcher = await Client.open(server.port, f"/runs/{run}/output")
        party.append(watcher)
        await watcher.until(lambda w: w.status, "begun")
        stage.emit(run, "output", stream="stdout", text="secret")
        stage.finish(run)
        await watcher.until(lambda w: w.is_complete, "complete")
        assert bytes(watcher.body) == bytes(byte ^ 1 for byte in b"secret")


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_second_request_in_advance(stage: Stage, method: str) -> None:
    run = await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        both = request("/healthz", method, {}, b"")
        loop = asyncio.get_running_loop()
        _, watcher = await loop.create_connection(Client, "127.0.0.1", server.port)
        party.append(watcher)
        watcher.transport.write(request(f"/runs/{run}/events", "GET", {}, b"") + both)
        await watcher.told(b"I am")
        assert not len(Sockets.here())
        assert (await told(stage, watcher, run)).endswith(END)


async def test_a_second_request_that_comes_later_is_thrown_away(stage: Stage) -> None:
    """`Connection: close` has told the client so (RFC 9112 §9.6)."""
    run = await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        watcher = await Client.open(server.port, f"/runs/{run}/events")
        party.append(watcher)
        await watcher.told(b"I am")
        watcher.transport.write(request("/healthz", "GET", {}, b""))
        assert (await told(stage, watcher, run)).endswith(END)
        await watcher.until(lambda w: w.is_closed, "closed")


async def test_a_body_that_is_still_to_come(stage: Stage) -> None:
    run = await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        headers = {"content-length": "10"}
        watcher = await Client.open(server.port, f"/runs/{run}/events", headers=headers)
        party.append(watcher)
        await watcher.told(b"I am")
        assert not len(Sockets.here())
        assert (await told(stage, watcher, run)).endswith(END)


async def test_a_body_that_has_come(stage: Stage) -> None:
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        watcher = await Client.open(
            server.port,
            "/runs",
            method="POST",
            headers={"accept": "text/event-stream", "content-type": "application/json"},
            body=b'{"operation":"puppet","input":{}}',
        )
        party.append(watcher)
        await watcher.told(b"I am")
        assert watcher.status == 201
        assert len(Sockets.here()) == 1
        run = watcher.headers["location"].rpartition("/")[2]
        assert (await told(stage, watcher, run)).endswith(END)


async def test_an_answer_that_is_no_stream_keeps_its_connection(stage: Stage) -> None:
    async with hosted(stage.runs.asgi) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):
            writer.write(request("/healthz", "GET", {}, b""))
            head = await soon(reader.readuntil(b"\r\n\r\n"))
            assert head.startswith(b"HTTP/1.1 200")
            assert b"connection: close" not in head.lower()
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await soon(reader.readexactly(length))
        writer.close()
        await writer.wait_closed()


async def test_no_descriptor_is_left_behind(stage: Stage) -> None:
    run = await stage.start()

    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    async with hosted(stage.runs.asgi) as server, watchers() as party:
        await turns()
        before = count()
        for number in range(100):
            watcher = await Client.open(server.port, f"/runs/{run}/events")
            await watcher.told(b"I am")
            (watcher.vanish if number % 2 else watcher.leave)()
        await until(lambda: not len(Sockets.here()), "all have left")
        await until(lambda: count() <= before, "as before")
        watcher = await Client.open(server.port, f"/runs/{run}/events")
        party.append(watcher)
        assert (await told(stage, watcher, run)).endswith(END)


async def test_no_number_left_for_it(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server's own connection goes on as well."""
    run = await stage.start()

    def dup(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async with hosted(stage.runs.asgi) as server, watchers() as party:
        monkeypatch.setattr(os, "dup", dup)
        watcher = await Client.open(server.port, f"/runs/{run}/events")
        party.append(watcher)
        await watcher.told(b"I am")
        assert not len(Sockets.here())
        assert (await told(stage, watcher, run)).endswith(END)


async def test_not_within_tls(stage: Stage, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl here to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = f"req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {certificate} -days 1"
    subprocess.run(
        [openssl, *words.split(), "-subj", "/CN=127.0.0.1"], check=True, capture_output=True
    )
    trust = ssl.create_default_context(cafile=certificate)
    trust.check_hostname = False
    run = await stage.start()
    options = {"ssl_keyfile": key, "ssl_certfile": certificate}
    async with hosted(stage.runs.asgi, **options) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=trust)
        writer.write(request(f"/runs/{run}/events", "GET", {}, b""))
        head = await soon(reader.readuntil(b"I am"))
        assert OPENING in head
        assert not len(Sockets.here())
        stage.finish(run)
        await soon(reader.readuntil(END + b"\r\n0\r\n\r\n"))
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await soon(writer.wait_closed())


async def test_an_offer_is_there_for_others_too() -> None:
    """An app of somebody's own may take it, and then the socket is theirs."""
    taken: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        take = scope["extensions"][DIRECT]["take"]
        taken.append(take(b""))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        taken.append(take(b"hello"))
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        taken.append(take(b"other"))
        taken.append(take(b"hello"))
        taken.append(take(b"hello"))
        while (await receive())["type"] != "http.disconnect":
            pass

    async with hosted(app) as server, watchers() as party:
        watcher = await Client.open(server.port, "/")
        party.append(watcher)
        await watcher.told(b"hello")
        await until(lambda: len(taken) == 5)
        *nothing, (descriptor, held), again = taken
        assert nothing == [None, None, None]
        assert not held
        assert again is None
        os.write(descriptor, b"3\r\nbye\r\n0\r\n\r\n")
        os.close(descriptor)
        await watcher.until(lambda w: w.is_complete, "complete")
        assert watcher.body == b"hellobye"


async def test_what_is_held_goes_in_any_case() -> None:
    """Head and first bytes in one write, also where they are not taken."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        offer = scope["extensions"][DIRECT]
        offer["hold"]()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        assert offer["take"](b"other") is None
        await send({"type": "http.response.body", "body": b"two"})

    async with hosted(app) as server, watchers() as party:
        watcher = await Client.open(server.port, "/")
        party.append(watcher)
        await watcher.until(lambda w: w.is_complete, "complete")
        assert watcher.status == 200
        assert watcher.body == b"onetwo"


# --- requests that never end -----------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(Protocol, "patience", 0.2)
    monkeypatch.setattr(protocol, "_LOOK_SECONDS", 0.02)
    return 0.2


async def answered(port: int, *parts: bytes, every: float = 0.0) -> Client:
    """A client that says these things, once it is closed."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    for part in parts:
        if client.is_closed:
            break
        client.transport.write(part)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every):
                await client.closed.wait()
    await soon(client.closed.wait())
    return client


POST: Final = b"POST /runs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("parts", "every"),
    [
        ([], 0.0),
        ([b"GET / HT"], 0.0),
        ([b"GET /healthz HTTP/1.1\r\nhost: x\r\n"], 0.0),
        # However little comes, again and again.
        ([b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ", *[b"y"] * 200], 0.03),
        ([POST + b"content-length: 100\r\n\r\n{"], 0.0),
        ([POST + b"content-length: 1000\r\n\r\n{", *[b" "] * 200], 0.03),
        ([POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"], 0.0),
    ],
    ids=["silent", "line", "head", "drip", "body", "dripped body", "chunks"],
)
async def test_half_a_request_is_waited_for_only_so_long(
    stage: Stage, parts: list[bytes], every: float
) -> None:
    loop = asyncio.get_running_loop()
    async with hosted(stage.runs.asgi) as server:
        began = loop.time()
        answer = await answered(server.port, *parts, every=every)
        assert (answer.status, answer.headers["connection"]) == (408, "close")
        assert 0.15 < loop.time() - began < 2
        await until(lambda: not server.server_state.connections, "closed")


@pytest.mark.usefixtures("hasty")
async def test_a_body_that_comes_steadily_is_waited_for(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "BODY_BYTES", 10)
    body = b'{"operation":"count","input":{"rows":2}}'.ljust(240)
    head = POST + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    parts = [body[start : start + 20] for start in range(0, len(body), 20)]
    async with hosted(stage.runs.asgi) as server:
        answer = await answered(server.port, head, *parts, every=0.05)
        assert answer.status == 201


async def test_an_app_that_reads_slowly_is_not_the_clients_fault(hasty: float) -> None:
    may_read = asyncio.Event()
    size = 500_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await may_read.wait()
        count = 0
        while True:
            message = await receive()
            count += len(message["body"])
            if not message["more_body"]:
                break
        head = [(b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": b"%d" % count})

    async with hosted(app) as server:
        asking = asyncio.create_task(
            answered(server.port, POST + b"content-length: %d\r\n\r\n" % size, b"x" * size)
        )
        [one] = await soon(connections(server))
        await until(lambda: one.flow.read_paused, "paused")
        patience = Patience.here()
        began = patience._since[one]
        # Looked at again and again, and put off each time.
        await until(lambda: patience._since[one] > began + 3 * hasty)
        may_read.set()
        answer = await soon(asking)
        assert (answer.status, bytes(answer.body)) == (200, b"%d" % size)


async def connections(server: Hosted) -> list[Any]:
    await until(lambda: server.server_state.connections, "connected")
    return list(server.server_state.connections)


@pytest.mark.usefixtures("hasty")
async def test_a_connection_that_rests_owes_nothing(stage: Stage) -> None:
    async with hosted(stage.runs.asgi) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        patience = Patience.here()
        for _ in range(2):
            writer.write(request("/healthz", "GET", {}, b""))
            head = await soon(reader.readuntil(b"\r\n\r\n"))
            assert head.startswith(b"HTTP/1.1 200")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            await soon(reader.readexactly(length))
            await until(lambda: patience._timer is None, "nobody is waited for")
            assert not patience._since
        # But half a second request is.
        writer.write(b"GET / HTTP/1.1\r\n")
        assert b"HTTP/1.1 200" not in await soon(reader.read())
        writer.close()


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("around", [plain, based])
async def test_nor_does_a_stream(stage: Stage, around: Callable[[App], App]) -> None:
    run = await stage.start()
    async with hosted(around(stage.runs.asgi)) as server, watchers() as party:
        watcher = await Client.open(server.port, f"/runs/{run}/events")
        party.append(watcher)
        await watcher.told(b"I am")
        patience = Patience.here()
        await until(lambda: patience._timer is None, "nobody is waited for")
        assert (await told(stage, watcher, run)).endswith(END)


@pytest.mark.usefixtures("hasty")
async def test_nor_does_a_web_socket() -> None:
    # Whichever is there; the rest of the tests needs none.
    ways = {"websockets": "websockets-sansio", "wsproto": "wsproto"}
    found = [way for module, way in ways.items() if find_spec(module)]
    if not found:
        pytest.skip("no library for web sockets here")
    accepted = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "websocket"
        assert DIRECT not in scope.get("extensions", {})
        await receive()
        await send({"type": "websocket.accept"})
        accepted.set()
        while (await receive())["type"] != "websocket.disconnect":
            pass

    async with hosted(app, ws=found[0]) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        key = base64.b64encode(b"0123456789abcdef").decode()
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        writer.write(request("/", "GET", {**upgrade, "sec-websocket-key": key}, b""))
        assert (await soon(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 101")
        await soon(accepted.wait())
        patience = Patience.here()
        await until(lambda: patience._timer is None, "nobody is waited for")
        assert not patience._since
        assert not reader.at_eof()
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_one_who_leaves_is_not_waited_for(stage: Stage) -> None:
    async with hosted(stage.runs.asgi) as server:
        patience = Patience.here()
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"GET / HT")
        await until(lambda: patience._since)
        writer.close()
        await until(lambda: not patience._since)
        await until(lambda: patience._timer is None)


# --- too many --------------------------------------------------------------------------


async def test_no_more_connections_than_it_takes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "max_connections", 3)
    run = await stage.start()
    target = f"/runs/{run}/events"
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        for _ in range(2):
            party.append(await Client.open(server.port, target))
            await party[-1].told(b"I am")
        await until(lambda: not server.server_state.connections, "handed over")
        _, idle = await asyncio.open_connection("127.0.0.1", server.port)
        await until(lambda: len(server.server_state.connections) == 1)
        refused = await Client.open(server.port, target)
        party.append(refused)
        await refused.over()
        assert refused.status == 503
        assert b"as many connections" in refused.body
        idle.close()
        await until(lambda: not server.server_state.connections)
        last = await Client.open(server.port, target)
        party.append(last)
        await last.told(b"I am")
        # Now three were handed over, and the server counts none itself.
        refused = await Client.open(server.port, "/healthz")
        party.append(refused)
        await refused.over()
        assert refused.status == 503
        party[0].leave()
        await until(lambda: len(Sockets.here()) == 2)
        again = await Client.open(server.port, "/healthz")
        party.append(again)
        await again.over()
        assert again.status == 200


async def test_a_seat_is_free_when_a_handed_over_socket_is_gone(stage: Stage) -> None:
    seats = stage.runs.hub.seats = Limits(streams=3, streams_each=3).seats()
    run, other = await stage.start(), await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        for target in (run, run, other):
            party.append(await Client.open(server.port, f"/runs/{target}/events"))
            await party[-1].told(b"I am")
        assert len(Sockets.here()) == seats.taken == 3
        refused = await Client.open(server.port, f"/runs/{run}/events")
        party.append(refused)
        await refused.over()
        assert (refused.status, refused.headers["retry-after"]) == (429, "5")
        party[0].leave()
        await until(lambda: seats.taken == 2)
        stage.finish(other)
        await until(lambda: seats.taken == 1)
        stage.runs.hub.drain()
        await until(lambda: seats.taken == 0)
        assert len(seats) == 0


# --- heads ---------------------------------------------------------------------------------


def head(sizes: Sequence[int] = (), target: str = "/healthz", end: bytes = b"\r\n") -> bytes:
    """A request with headers of these sizes, name and value, besides three of its own."""
    named = (b"x%04d" % number for number in range(len(sizes)))
    given = b"".join(
        b"%b: %b\r\n" % (name, b"y" * (size - 5)) for name, size in zip(named, sizes, strict=True)
    )
    return (
        b"GET %b HTTP/1.1\r\nhost: x\r\naccept: */*\r\nconnection: close\r\n" % target.encode()
        + given
        + end
    )


# Of the target and the three.
OWN: Final = len("/healthzhostxaccept*/*connectionclose")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head(), 200),
        (head([HEAD_BYTES - OWN]), 200),
        (head([HEAD_BYTES - OWN + 1]), 431),
        (head([1000] * 60 + [HEAD_BYTES - OWN - 60_000]), 200),
        (head([1000] * 60 + [HEAD_BYTES - OWN - 60_000 + 1]), 431),
        (head([10] * (MAX_HEADERS - 3)), 200),
        (head([10] * (MAX_HEADERS - 2)), 431),
        (head(target="/healthz?" + "x" * 60_000), 200),
        (head(target="/healthz?" + "x" * HEAD_BYTES), 431),
        # What never comes to its end is refused before it does.
        (head([HEAD_BYTES - OWN + 2000], end=b""), 431),
        (head([10] * 150, end=b""), 431),
        (b"GET /" + b"x" * (HEAD_BYTES + 2000), 431),
        (head(end=b"x: " + b"y" * (HEAD_BYTES + 2000)), 431),
        (head(end=b"x" * (HEAD_BYTES + 2000)), 431),
    ],
)
@pytest.mark.parametrize("piece", [10**9, 10_000, 701])
async def test_a_head_has_a_bound(
    stage: Stage, request_: bytes, status: int, piece: int, caplog: pytest.LogCaptureFixture
) -> None:
    parts = [request_[at : at + piece] for at in range(0, len(request_), piece)]
    async with hosted(stage.runs.asgi) as server:
        answer = await answered(server.port, *parts, every=0.0001)
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        if status == 431:
            assert b"65536 bytes" in answer.body
        await until(lambda: not server.server_state.connections, "closed")
        assert not Patience.here()._since


async def test_headers_after_a_body_have_one_as_well(stage: Stage) -> None:
    """RFC 9112 §7.1.2: trailers are kept beside the headers."""
    chunked = POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"
    endless = [b"x%04d: %b\r\n" % (number, b"y" * 1000) for number in range(200)]
    many = [b"x: y\r\n" * 150]
    async with hosted(stage.runs.asgi) as server:
        for trailers in (endless, many):
            answer = await answered(server.port, chunked, *trailers, every=0.0001)
            assert answer.status == 431
        few = await answered(
            server.port, chunked.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + b"x: y\r\n\r\n"
        )
        assert few.status == 422


async def test_a_large_body_is_no_head(stage: Stage) -> None:
    """Nor are many small ones, one after the other on one connection."""
    body = b'{"operation":"count","input":{}}'.ljust(300_000)
    whole = POST + b"content-length: %d\r\n\r\n" % len(body) + body
    async with hosted(stage.runs.asgi) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):
            writer.write(whole + POST[:20])
            await soon(reader.readuntil(b"HTTP/1.1 201"))
            writer.write(POST[20:] + b"content-length: 1\r\n\r\n{")
            await soon(reader.readuntil(b"HTTP/1.1 422"))
            await soon(reader.readuntil(b"\r\n\r\n"))
        for _ in range(300):
            writer.write(request("/healthz", "GET", {"x": "y" * 1000}, b""))
            await soon(reader.readuntil(b"HTTP/1.1 200"))
            await soon(reader.readuntil(b"\r\n\r\n"))
        writer.close()


# --- half-open connections -----------------------------------------------------------------


HALVES: Final = [b"", b"GET / HT", b"GET /healthz HTTP/1.1\r\nhost: x\r\n"]


@pytest.fixture
async def halves(anyio_backend: Any) -> AsyncIterator[Callable[..., Awaitable[list[Client]]]]:
    """Opens connections with half a request each."""
    opened: list[Client] = []

    async def open_(port: int, count: int) -> list[Client]:
        loop = asyncio.get_running_loop()
        made = []
        for number in range(count):
            _, client = await loop.create_connection(Client, "127.0.0.1", port)
            client.transport.write(HALVES[number % 3])
            made.append(client)
        opened.extend(made)
        return made

    yield open_
    for client in opened:
        client.transport.abort()


async def test_beyond_the_bound_the_one_that_owes_the_longest_is_ended(
    stage: Stage, halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "max_half_open", 5)
    monkeypatch.setattr(protocol, "_FRESH_SECONDS", 0.0)
    # At once, not when it is looked who is late.
    monkeypatch.setattr(protocol, "_LOOK_SECONDS", 1000.0)
    run = await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        # This one owes a body, and of that the app knows.
        _, posting = await asyncio.open_connection("127.0.0.1", server.port)
        posting.write(POST + b"content-length: 100\r\n\r\n{")
        [waited] = await connections(server)
        # What has come whole owes nothing, however old it is.
        party.append(await Client.open(server.port, f"/runs/{run}/events"))
        reader, resting = await asyncio.open_connection("127.0.0.1", server.port)
        resting.write(request("/healthz", "GET", {}, b""))
        await soon(reader.readuntil(b"\r\n\r\n"))
        clients = await halves(server.port, 20)
        await until(lambda: sum(client.is_closed for client in clients) == 15)
        assert all(client.status == 408 for client in clients[:15])
        assert not any(client.is_closed for client in clients[15:])
        # These may still become whole.
        clients[16].transport.write(b"TP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        clients[17].transport.write(b"connection: close\r\n\r\n")
        for client in clients[16:18]:
            await client.over()
            assert client.status in (200, 404)
        resting.write(request("/healthz", "GET", {}, b""))
        assert (await soon(reader.readuntil(b"HTTP/1.1 200"))).endswith(b"200")
        resting.close()
        assert waited in server.server_state.connections
        assert waited in Patience.here()._since
        posting.close()
        assert (await told(stage, party[0], run)).endswith(END)


async def test_those_who_have_just_come_may_be_more(
    stage: Stage, halves: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowd that connects at once sends its requests a moment later."""
    monkeypatch.setattr(Protocol, "max_half_open", 5)
    monkeypatch.setattr(protocol, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "_FRESH_SECONDS", 1000.0)
    async with hosted(stage.runs.asgi) as server:
        clients = await halves(server.port, 30)
        await until(lambda: len(Patience.here()._heads) == 30)
        for client in clients[2::3]:
            client.transport.write(b"connection: close\r\n\r\n")
            await client.over()
            assert client.status == 200
        # Until they have had their time.
        monkeypatch.setattr(protocol, "_FRESH_SECONDS", 0.0)
        await until(lambda: len(Patience.here()._heads) == 5)


@pytest.mark.parametrize("fresh", [0.0, 1000.0])
async def test_half_a_request_takes_no_place_of_a_whole_one(
    stage: Stage, halves: Any, monkeypatch: pytest.MonkeyPatch, fresh: float
) -> None:
    monkeypatch.setattr(Protocol, "max_connections", 10)
    monkeypatch.setattr(Protocol, "max_half_open", 4)
    monkeypatch.setattr(protocol, "_FRESH_SECONDS", fresh)
    run = await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        for _ in range(3):
            flood = await halves(server.port, 12)
            party.append(await Client.open(server.port, f"/runs/{run}/events"))
            await party[-1].told(b"I am")
            assert party[-1].status == 200
            assert flood
        assert not any(watcher.is_closed for watcher in party)


async def test_a_server_full_of_whole_requests_is_full(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Protocol, "max_connections", 2)
    run = await stage.start()
    async with hosted(stage.runs.asgi) as server, watchers() as party:
        for _ in range(2):
            party.append(await Client.open(server.port, f"/runs/{run}/events"))
            await party[-1].told(b"I am")
        refused = await Client.open(server.port, "/healthz")
        party.append(refused)
        await refused.over()
        assert refused.status == 503

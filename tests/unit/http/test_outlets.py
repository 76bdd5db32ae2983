"""The two ways to send, seen from the hub's side: a send that is stepped, and what it may meet."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import anyio
import pytest
from starlette.middleware.gzip import GZipMiddleware

from tailrace.http.outlets import DIRECT, AsgiOutlet, opened, step
from tailrace.http.sockets import Sockets
from tailrace.outlet import End, Frame
from tailrace.projections import stream
from tests.stage import Stage
from tests.visitor import WAIT_SECONDS, Visit, Visitor
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio

OPENING: Final = stream("events").opening
END: Final = b": end\n"
HEAD: Final = (200, [(b"content-type", b"text/event-stream")])


App = Callable[[Any, Any, Any], Awaitable[None]]


# --- step ------------------------------------------------------------------------------


async def test_what_does_not_wait_is_over_at_once() -> None:
    said: list[str] = []

    async def send() -> None:
        said.append("sent")

    assert step(send()) is None
    assert said == ["sent"]


async def test_what_waits_goes_on_where_it_was() -> None:
    said: list[object] = []
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send() -> None:
        said.append("began")
        said.append(await first)
        await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.sleep(0.001), 1)
        said.append("ended")

    rest = step(send())
    assert rest is not None
    assert said == ["began"]
    first.set_result("told")
    await soon(rest)
    assert said == ["began", "told", "ended"]


async def test_a_rest_that_is_awaited_when_its_wait_is_over() -> None:
    """Before the task that waits for it has begun."""
    first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    said: list[str] = []

    async def send() -> None:
        said.append(await first)

    rest = step(send())
    assert rest is not None
    first.set_result("told")
    await turns()

    async def finish() -> None:
        await rest

    await soon(asyncio.create_task(finish()))
    assert said == ["told"]


async def test_a_fault_at_once() -> None:
    async def send() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step(send())


async def test_a_fault_afterwards() -> None:
    async def send() -> None:
        await asyncio.sleep(0)
        raise ConnectionResetError

    rest = step(send())
    assert rest is not None
    with pytest.raises(ConnectionResetError):
        await soon(rest)


async def test_what_it_waits_for_fails() -> None:
    waited: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    caught: list[Exception] = []

    async def send() -> None:
        try:
            await waited
        except ZeroDivisionError as error:
            caught.append(error)

    rest = step(send())
    assert rest is not None
    waited.set_exception(ZeroDivisionError())
    await soon(rest)
    assert len(caught) == 1


async def test_a_rest_can_be_cancelled() -> None:
    said: list[str] = []

    async def send() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("cancelled")
            raise
        finally:
            said.append("closed")

    async def finish(rest: Awaitable[None]) -> None:
        await rest

    rest = step(send())
    assert rest is not None
    task = asyncio.create_task(finish(rest))
    await turns()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert said == ["cancelled", "closed"]


async def test_a_rest_that_takes_its_cancellation_amiss() -> None:
    async def send() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    async def finish(rest: Awaitable[None]) -> str:
        await rest
        return "sent all the same"

    rest = step(send())
    assert rest is not None
    task = asyncio.create_task(finish(rest))
    await turns()
    task.cancel()
    assert await soon(task) == "sent all the same"


async def test_a_rest_nobody_waits_for_is_closed() -> None:
    said: list[str] = []

    async def send() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            said.append("closed")

    rest = step(send())
    assert rest is not None
    del rest
    gc.collect()
    assert said == ["closed"]


# --- a server --------------------------------------------------------------------------


class Server:
    """A request's server side: what was sent, and how it was."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.tasks: list[asyncio.Task[Any] | None] = []
        self.fault: Exception | None = None
        self.has_left = asyncio.Event()
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def receive(self) -> dict[str, Any]:
        await self.has_left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.tasks.append(asyncio.current_task())
        self.sent.append(message)
        if self.fault is not None:
            raise self.fault
        await self.may_send.wait()

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.sent[1:]]


async def begin(
    server: Server, scope: dict[str, Any] | None = None, send: Any = None
) -> AsgiOutlet:
    outlet = await opened(scope or {}, server.receive, send or server.send, *HEAD, OPENING)
    assert isinstance(outlet, AsgiOutlet)
    return outlet


def bare(outlet: AsgiOutlet, frame: Frame) -> list[Awaitable[None] | None]:
    """Push as the hub does: from no task."""
    answers: list[Awaitable[None] | None] = []
    asyncio.get_running_loop().call_soon(lambda: answers.append(outlet.push(frame)))
    return answers


async def test_a_send_that_is_plain_is_stepped() -> None:
    server = Server()
    outlet = await begin(server)
    assert server.sent[0] == {
        "type": "http.response.start", "status": 200, "headers": [*HEAD[1]],
    }  # fmt: skip
    answers = [*[bare(outlet, Frame(b"one")), bare(outlet, Frame(b"two", is_last=True))]]
    await turns()
    assert answers == [[None], [None]]
    assert server.sent[1:] == [
        {"type": "http.response.body", "body": OPENING, "more_body": True},
        {"type": "http.response.body", "body": b"one", "more_body": True},
        {"type": "http.response.body", "body": b"two", "more_body": False},
    ]
    # Within `send` it is the request's own task, as it always was.
    assert set(server.tasks) == {asyncio.current_task()}


async def test_a_send_that_waits_is_the_callers_to_await() -> None:
    server = Server()
    outlet = await begin(server)
    server.may_send.clear()
    answers = bare(outlet, Frame(b"one"))
    await turns()
    [rest] = answers
    assert rest is not None
    waiting = asyncio.ensure_future(rest)
    await turns()
    assert not waiting.done()
    server.may_send.set()
    await soon(waiting)
    assert server.bodies == [OPENING, b"one"]


@pytest.mark.parametrize("where", [1, 2])
async def test_whoever_waits_at_the_head_is_never_stepped(where: int) -> None:
    """Middleware that hands on by a queue needs a task for each send."""
    server = Server()
    sends = 0

    async def send(message: Any) -> None:
        nonlocal sends
        sends += 1
        if sends == where:
            await asyncio.sleep(0)
        await server.send(message)

    outlet = await begin(server, send=send)
    [answer] = [outlet.push(Frame(b"one"))]
    assert answer is not None
    assert server.bodies == [OPENING], "nothing is sent before somebody awaits it"
    task = asyncio.ensure_future(answer)
    await soon(task)
    assert server.bodies == [OPENING, b"one"]
    assert server.tasks[-1] is task


async def test_the_bytes_are_shared_and_the_message_is_not() -> None:
    servers = [Server(), Server()]
    frame = Frame(b"one")
    for server in servers:
        outlet = await begin(server)
        assert outlet.push(frame) is None
    one, two = (server.sent[-1] for server in servers)
    assert one == two
    assert one is not two
    assert one["body"] is two["body"] is frame.body


async def test_a_client_that_is_gone_is_no_fault() -> None:
    server = Server()
    outlet = await begin(server)
    server.fault = ConnectionResetError()
    dropped: list[Any] = []
    outlet.holder = Holds(dropped)
    answers = bare(outlet, Frame(b"one"))
    await turns()
    assert answers == [None]
    assert dropped == [outlet]
    assert outlet.push(Frame(b"two")) is None
    assert server.bodies == [OPENING, b"one"]
    # Nothing is left to wait for.
    await soon(outlet.listen())


class Holds:
    def __init__(self, dropped: list[Any]) -> None:
        self._dropped = dropped

    def drop(self, outlet: Any) -> None:
        self._dropped.append(outlet)


async def test_any_other_fault_is_told_and_the_watcher_dropped() -> None:
    told: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, why: told.append(why["exception"]))
    server = Server()
    outlet = await begin(server)
    server.fault = ZeroDivisionError()
    dropped: list[Any] = []
    outlet.holder = Holds(dropped)
    answers = bare(outlet, Frame(b"one"))
    await turns()
    loop.set_exception_handler(None)
    assert answers == [None]
    assert (dropped, told) == ([outlet], [server.fault])


async def test_which_task_it_is_in_is_put_back() -> None:
    """Also after a fault, or nothing on this loop would go on."""
    server = Server()
    outlet = await begin(server)
    server.fault = OSError()
    bare(outlet, Frame(b"one"))
    current: list[Any] = []
    asyncio.get_running_loop().call_soon(lambda: current.append(asyncio.current_task()))
    mine = asyncio.current_task()
    await turns()
    assert current == [None]
    assert asyncio.current_task() is mine


# --- the end of the request ------------------------------------------------------------


async def test_listening_ends_when_the_client_leaves() -> None:
    server = Server()
    outlet = await begin(server)
    dropped: list[Any] = []
    outlet.holder = Holds(dropped)
    listening = asyncio.create_task(outlet.listen())
    await turns()
    server.has_left.set()
    await soon(listening)
    assert dropped == [outlet]


async def test_a_server_that_does_not_say_that_it_is_over() -> None:
    """As granian: its `receive` returns when the client leaves, and not before."""
    server = Server()
    ended: list[str] = []

    async def request() -> None:
        outlet = await begin(server)
        asyncio.get_running_loop().call_soon(outlet.left)
        await outlet.listen()
        # Not cancelled, just over: middleware around it goes on.
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        ended.append("ended")

    await soon(asyncio.create_task(request()))
    assert ended == ["ended"]


async def test_a_server_that_says_so_is_not_cancelled() -> None:
    server = Server()
    cancels: list[str] = []

    async def receive() -> dict[str, Any]:
        try:
            return await server.receive()
        except asyncio.CancelledError:
            cancels.append("cancelled")
            raise

    async def request() -> None:
        outlet = await opened({}, receive, server.send, *HEAD, OPENING)
        assert isinstance(outlet, AsgiOutlet)

        def end() -> None:
            outlet.left()
            server.has_left.set()

        asyncio.get_running_loop().call_soon(end)
        await outlet.listen()

    await soon(asyncio.create_task(request()))
    assert not cancels


@pytest.mark.parametrize("is_over", [False, True])
async def test_somebody_elses_cancellation_is_passed_on(is_over: bool) -> None:
    server = Server()
    outlets: list[AsgiOutlet] = []

    async def request() -> None:
        outlets.append(await begin(server))
        await outlets[0].listen()

    task = asyncio.create_task(request())
    await turns()
    if is_over:
        outlets[0].left()
    task.cancel()
    await turns()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_receive_that_fails_lets_the_watcher_go() -> None:
    server = Server()

    async def receive() -> dict[str, Any]:
        raise ConnectionResetError

    outlet = await opened({}, receive, server.send, *HEAD, OPENING)
    assert isinstance(outlet, AsgiOutlet)
    dropped: list[Any] = []
    outlet.holder = Holds(dropped)
    with contextlib.suppress(ConnectionResetError):
        await soon(outlet.listen())
    assert dropped == [outlet]


async def test_an_offer_that_is_not_taken() -> None:
    server = Server()
    asked: list[bytes] = []

    offer = {"hold": lambda: asked.append(b"hold"), "take": asked.append}
    outlet = await begin(server, {"extensions": {DIRECT: offer}})
    assert asked == [b"hold", OPENING]
    # Whether it will be is not known when the head is sent.
    assert server.sent[0]["headers"] == [*HEAD[1], (b"connection", b"close")]
    assert outlet.push(Frame(b"one")) is None
    assert server.bodies == [OPENING, b"one"]
    assert not len(Sockets.here())


@pytest.mark.parametrize("fault", [None, RuntimeError()])
async def test_an_offer_is_not_taken_where_sends_wait(fault: Exception | None) -> None:
    server = Server()
    asked: list[bytes] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        if fault is not None:
            raise fault
        await server.send(message)

    offer = {"hold": lambda: None, "take": asked.append}
    with contextlib.suppress(RuntimeError):
        await begin(server, {"extensions": {DIRECT: offer}}, send)
    # What was held goes, and no more is taken than nothing.
    assert asked == [b""]


# --- middleware, in the whole ----------------------------------------------------------


@contextlib.asynccontextmanager
async def watching(
    stage: Stage, app: App, count: int = 1
) -> AsyncIterator[tuple[str, list[Visit]]]:
    """A run that goes on, and so many who watch it through `app`."""
    run = await stage.start()
    visitor = Visitor(app)
    visits = [visitor.open("GET", f"/runs/{run}/events") for _ in range(count)]
    try:
        for visit in visits:
            await visit.told(b"I am")
        await turns()
        yield run, visits
    finally:
        for visit in visits:
            visit.leave()
            await visit.over()
    assert stage.runs.hub.is_idle


async def finished(stage: Stage, run: str, visits: list[Visit]) -> None:
    stage.finish(run)
    for visit in visits:
        await visit.over()
        assert visit.body.endswith(END)


def sending(stage: Stage, around: Callable[[Any, Any], Awaitable[None]]) -> App:
    """Middleware around each `send`."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await stage.runs.asgi(scope, receive, lambda message: around(send, message))

    return app


@pytest.mark.parametrize(
    ("bound", "stalls"),
    [
        ("asyncio", False),
        ("asyncio", True),
        ("anyio", False),
        ("anyio", True),
    ],
)
async def test_middleware_may_bound_its_sends_in_time(
    stage: Stage, stalls: bool, bound: str
) -> None:
    """`asyncio.timeout` and its kin ask which task they are in."""
    tasks: list[Any] = []

    async def around(send: Any, message: Any) -> None:
        tasks.append(asyncio.current_task())
        if bound == "anyio":
            with anyio.fail_after(WAIT_SECONDS):
                await send(message)
        else:
            async with asyncio.timeout(WAIT_SECONDS):
                await send(message)

    async with watching(stage, sending(stage, around), 2) as (run, visits):
        if stalls:
            visits[0].stall()
        for number in range(5):
            stage.emit(run, "log", message=f"number {number};")
        await visits[1].told(b"number 4;")
        visits[0].go_on()
        await visits[0].told(b"number 4;")
        await finished(stage, run, visits)
        assert visits[0].body == visits[1].body
        assert None not in tasks


asked: contextvars.ContextVar[str] = contextvars.ContextVar("asked")


@pytest.mark.parametrize("stalls", [False, True])
@pytest.mark.parametrize("waits", [False, True])
async def test_middleware_finds_its_context(stage: Stage, stalls: bool, waits: bool) -> None:
    """What it set for its request, and no other's, in every send."""
    found: list[tuple[str, str]] = []
    visits_of: dict[str, int] = {}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        name = f"request {len(visits_of)}"
        visits_of[name] = 1
        asked.set(name)

        async def around(message: Any) -> None:
            if waits:
                await asyncio.sleep(0)
            found.append((name, asked.get("nobody's")))
            await send(message)
            found.append((name, asked.get("nobody's")))

        await stage.runs.asgi(scope, receive, around)

    async with watching(stage, app, 3) as (run, visits):
        if stalls:
            visits[0].stall()
        for number in range(5):
            stage.emit(run, "log", message=f"number {number};")
        await visits[1].told(b"number 4;")
        visits[0].go_on()
        await finished(stage, run, visits)
    assert len(visits_of) == 3
    assert [pair for pair in found if pair[0] != pair[1]] == []


@pytest.mark.parametrize("stalls", [False, True])
async def test_middleware_may_set_and_reset_in_a_send(stage: Stage, stalls: bool) -> None:
    """A token can be given back only in the context it was made in."""
    told: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, why: told.append(why["exception"]))

    async def around(send: Any, message: Any) -> None:
        token = asked.set("within")
        try:
            await send(message)
        finally:
            asked.reset(token)

    async with watching(stage, sending(stage, around), 2) as (run, visits):
        if stalls:
            visits[0].stall()
        stage.emit(run, "log", message="number 1;")
        await visits[1].told(b"number 1;")
        visits[0].go_on()
        stage.finish(run)
        await visits[1].over()
        await visits[0].over()
    gc.collect()
    loop.set_exception_handler(None)
    assert told == []
    assert visits[0].body == visits[1].body


async def test_middleware_that_writes_into_messages_harms_nobody_else(stage: Stage) -> None:
    async def around(send: Any, message: Any) -> None:
        if message["type"] == "http.response.body":
            message["body"] = message["body"].upper()
        await send(message)

    run = await stage.start()
    plain, loud = stage.visitor, Visitor(sending(stage, around))
    visits = [each.open("GET", f"/runs/{run}/events") for each in (plain, loud, plain, loud)]
    for visit in visits:
        await visit.until(lambda v: b"i am" in v.body.lower())
    await turns()
    stage.emit(run, "log", message="number 1;")
    stage.finish(run)
    for visit in visits:
        await visit.over()
    assert visits[0].body == visits[2].body
    assert visits[1].body == visits[3].body == visits[0].body.upper()
    assert b"number 1;" in visits[0].body


async def test_some_are_compressed_and_others_are_not(stage: Stage) -> None:
    run = await stage.start()
    visitor = Visitor(GZipMiddleware(stage.runs.asgi, minimum_size=1))
    target = f"/runs/{run}/events?format=ndjson"
    plain, packed = (
        visitor.open("GET", target, {"accept-encoding": encoding})
        for encoding in ("identity", "gzip")
    )
    await plain.told(b"I am")
    await packed.until(lambda v: len(v.chunks) > 1)
    stage.emit(run, "log", message="number 1;")
    stage.finish(run)
    await plain.over()
    await packed.over()
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body


async def test_a_server_that_cancels_a_request_is_obeyed(stage: Stage) -> None:
    run = await stage.start()
    visit = stage.visitor.open("GET", f"/runs/{run}/events")
    await visit.told(b"I am")
    visit.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await visit.task
    await until(lambda: stage.runs.hub.is_idle)


async def test_a_goodbye_that_is_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts: list[Any] = []
    monkeypatch.setattr("tailrace.http.outlets.LEAVE_SECONDS", 0.001)
    monkeypatch.setattr("tailrace.http.cut.cut_unless_read", cuts.append)
    scope: dict[str, Any] = {"client": ("127.0.0.1", 5)}
    outlet = await begin(Server(), scope)
    outlet.close(End.FINISHED)
    await turns()
    outlet.close(End.SHUTDOWN)
    await until(lambda: cuts)
    assert cuts == [scope]

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.sse import ServerSentEvent as FastApiEvent

from tailrace.errors import RunCancelled
from tailrace.http.items import JSONServerSentEvent
from tailrace.http.items import ServerSentEvent as OurEvent
from tailrace.runners import function
from tailrace.runners.contract import Sink
from tailrace.runners.function import Kind, kind, run, yielded
from tests.waiting import soon, turns, until

pytestmark = pytest.mark.anyio


class Notes(Sink):
    """What was emitted, and from which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()
        self.ebbs = 0
        self._home = threading.get_ident()

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        self.threads.add(threading.get_ident())
        if threading.get_ident() != self._home:
            self._tell_once()
        self.told.append((type, fields or payload))

    async def ebb(self) -> None:
        self.ebbs += 1

    async def drain(self) -> None:
        return


@pytest.fixture
def sink() -> Notes:
    return Notes()


async def ran(work: Callable[..., Any], sink: Notes) -> Any:
    return await soon(run(kind(work), work, sink, "tailrace-test"))


def begun(work: Callable[..., Any], sink: Notes) -> asyncio.Task[Any]:
    return asyncio.create_task(run(kind(work), work, sink, "tailrace-test"))


async def stopped(task: asyncio.Task[Any]) -> None:
    with pytest.raises(asyncio.CancelledError):
        await soon(task)


# --- kinds -----------------------------------------------------------------------------


async def coroutine() -> None: ...
def plain() -> None: ...
def generator() -> Iterator[None]:
    yield


async def async_generator() -> AsyncIterator[None]:
    yield


class Object:
    def __call__(self) -> None: ...
    async def coroutine(self) -> None: ...
    async def generator(self) -> AsyncIterator[None]:
        yield


class AsyncObject:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (coroutine, Kind.COROUTINE),
        (plain, Kind.FUNCTION),
        (generator, Kind.GENERATOR),
        (async_generator, Kind.ASYNC_GENERATOR),
        (lambda: None, Kind.FUNCTION),
        (print, Kind.FUNCTION),
        (Object, Kind.FUNCTION),
        (Object(), Kind.FUNCTION),
        (AsyncObject(), Kind.COROUTINE),
        (Object().coroutine, Kind.COROUTINE),
        (Object().generator, Kind.ASYNC_GENERATOR),
        (functools.partial(coroutine), Kind.COROUTINE),
        (functools.partial(AsyncObject()), Kind.COROUTINE),
        (functools.partial(functools.partial(Object().generator)), Kind.ASYNC_GENERATOR),
    ],
)
async def test_what_a_callable_is(what: Callable[..., Any], expected: Kind) -> None:
    assert kind(what) is expected


# --- running ---------------------------------------------------------------------------


async def test_a_coroutine_runs_on_the_loop(sink: Notes) -> None:
    async def work() -> int:
        sink.emit("log")
        return 3

    assert await ran(work, sink) == 3
    assert sink.threads == {threading.get_ident()}


async def test_a_function_runs_in_a_thread_of_its_own(sink: Notes) -> None:
    def work() -> str:
        sink.emit("log")
        return threading.current_thread().name

    assert await ran(work, sink) == "tailrace-test"
    assert threading.get_ident() not in sink.threads


async def test_the_context_is_the_caller_s(sink: Notes) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    variable.set(5)

    def numbers() -> Iterator[int]:
        yield variable.get()

    assert await ran(lambda: variable.get(), sink) == 5  # noqa: PLW0108 - in the thread
    await ran(numbers, sink)
    assert sink.told == [("message", 5)]


async def test_a_generator_tells_what_it_yields(sink: Notes) -> None:
    def numbers() -> Generator[Any, None, int]:
        yield 1
        yield "log", {"message": "two"}
        return 3

    assert await ran(numbers, sink) == 3
    assert sink.told == [("message", 1), ("log", {"message": "two"})]
    assert threading.get_ident() not in sink.threads


async def test_an_async_generator_tells_what_it_yields(sink: Notes) -> None:
    seen: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for number in range(3):
            yield number
            seen.append(len(sink.told))

    assert await ran(numbers, sink) is None
    assert sink.told == [("message", 0), ("message", 1), ("message", 2)]
    assert seen == [1, 2, 3], "each was told before the next was asked for"


async def test_what_an_async_generator_has_at_once_is_taken_at_once(sink: Notes) -> None:
    seen: list[int] = []

    async def numbers() -> AsyncIterator[int]:
        for number in range(10):
            yield number
        await asyncio.sleep(0)
        for number in range(10):
            yield number

    async def look() -> None:
        while True:
            seen.append(len(sink.told))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    began = time.monotonic()
    await ran(numbers, sink)
    looking.cancel()
    if time.monotonic() - began < function.TURN_SECONDS:
        assert set(seen) <= {0, 10, 20}
    assert len(sink.told) == 20


async def test_an_async_generator_that_never_waits_lets_others_go_on(
    sink: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    others, now = 0, 0.0
    monkeypatch.setattr(function, "monotonic", lambda: now)

    async def numbers() -> AsyncIterator[int]:
        nonlocal now
        for number in range(50):
            now += function.TURN_SECONDS / 4.5
            yield number

    async def count() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await ran(numbers, sink)
    counting.cancel()
    assert 10 <= others <= 12, "a turn for everybody else whenever its own is over"


async def test_an_async_generator_heeds_the_ebb(sink: Notes) -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(160):
            yield number

    await ran(numbers, sink)
    assert sink.ebbs >= 10


async def test_a_coroutine_behind_a_careless_decorator(sink: Notes) -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        sink.emit("log")
        return 3

    @functools.wraps(work)
    def decorated() -> Awaitable[int]:
        return work()

    class Wrapper:
        def __call__(self) -> Awaitable[int]:
            return work()

    assert await ran(Wrapper(), sink) == 3
    assert await ran(lambda: decorated(), sink) == 3  # noqa: PLW0108 - it hides the kind
    assert sink.threads == {threading.get_ident()}


# --- raising ---------------------------------------------------------------------------


class Base(BaseException):
    pass


def by_coroutine(error: BaseException) -> Callable[..., Any]:
    async def work() -> None:
        raise error

    return work


def by_function(error: BaseException) -> Callable[..., Any]:
    def work() -> None:
        raise error

    return work


def by_generator(error: BaseException) -> Callable[..., Any]:
    def work() -> Iterator[int]:
        yield 1
        raise error

    return work


def by_async_generator(error: BaseException) -> Callable[..., Any]:
    async def work() -> AsyncIterator[int]:
        yield 1
        raise error

    return work


WAYS = [by_coroutine, by_function, by_generator, by_async_generator]
THREADS = [by_function, by_generator]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        ExceptionGroup("two", [ValueError("a"), TypeError("b")]),
        BaseExceptionGroup("one", [Base("a")]),
        Base("no"),
        TimeoutError(),
        GeneratorExit("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_the_work_raises_is_raised(
    sink: Notes, way: Callable[..., Any], error: BaseException
) -> None:
    task = begun(way(error), sink)
    await soon(asyncio.wait((task,)))
    assert task.exception() is error


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [StopIteration(5), SystemExit(3)], ids=["stop", "exit"])
async def test_what_no_task_may_carry_becomes_an_error(
    sink: Notes, way: Callable[..., Any], error: BaseException
) -> None:
    """A `sys.exit()` in somebody's function must not end the server."""
    task = begun(way(error), sink)
    await soon(asyncio.wait((task,)))
    raised = task.exception()
    assert isinstance(raised, RuntimeError)
    cause: BaseException | None = raised
    while cause is not None and cause is not error:
        cause = cause.__cause__
    assert cause is error


@pytest.mark.parametrize("way", THREADS)
async def test_ctrl_c_raised_in_a_thread_is_an_error(sink: Notes, way: Callable[..., Any]) -> None:
    task = begun(way(KeyboardInterrupt()), sink)
    await soon(asyncio.wait((task,)))
    assert isinstance(task.exception(), RuntimeError)
    assert "KeyboardInterrupt" in str(task.exception())


@pytest.mark.parametrize("way", THREADS)
@pytest.mark.parametrize("error", [RunCancelled("stop"), asyncio.CancelledError()])
async def test_a_thread_may_give_itself_up(
    sink: Notes,
    way: Callable[..., Any],
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await stopped(begun(way(error), sink))
    assert caplog.messages == []


# --- stopping --------------------------------------------------------------------------


async def test_a_coroutine_is_cancelled(sink: Notes) -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append("up")

    task = begun(work, sink)
    await turns()
    task.cancel()
    await stopped(task)
    assert cleaned == ["up"]


async def test_an_async_generator_is_closed(sink: Notes) -> None:
    cleaned: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            sink.emit("log", {"message": "bye"})
            cleaned.append("up")

    task = begun(numbers, sink)
    await until(lambda: sink.told)
    await turns()
    task.cancel()
    await stopped(task)
    assert cleaned == ["up"]
    assert sink.told[-1] == ("log", {"message": "bye"})


async def test_a_thread_learns_of_it_by_its_emits(sink: Notes) -> None:
    is_over = threading.Event()

    def work() -> None:
        try:
            while not is_over.wait(0.001):
                sink.emit("log")
        finally:
            sink.emit("bye")

    task = begun(work, sink)
    await until(lambda: sink.told)
    task.cancel()
    await stopped(task)
    is_over.set()
    assert sink.cancelled
    assert sink.told[-1] == ("bye", None)


async def test_a_generator_is_closed_in_its_thread(sink: Notes) -> None:
    cleaned: list[int] = []

    def numbers() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            cleaned.append(threading.get_ident())

    task = begun(numbers, sink)
    await until(lambda: sink.told)
    task.cancel()
    await stopped(task)
    assert len(cleaned) == 1
    assert cleaned[0] != threading.get_ident()


async def test_a_thread_that_looks_may_end_in_its_own_time(sink: Notes) -> None:
    def work() -> str:
        assert sink.wait_cancelled(10)
        return "partial"

    task = begun(work, sink)
    await turns()
    task.cancel()
    assert await soon(task) == "partial"


async def test_a_thread_that_ignores_it_is_given_up_and_told_of(
    sink: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    is_over = threading.Event()

    def work() -> None:
        is_over.wait()
        raise ValueError("late")

    task = begun(work, sink)
    await turns()
    task.cancel()
    await turns()
    assert not task.done()
    task.cancel()
    await stopped(task)
    assert caplog.messages == ["The thread tailrace-test ignores that it should stop, and goes on"]
    is_over.set()
    await until(lambda: not any(t.name == "tailrace-test" for t in threading.enumerate()))
    await turns()


async def test_a_thread_that_outlives_the_loop_disturbs_nobody() -> None:
    is_over = threading.Event()
    running: list[threading.Thread] = []

    def work() -> None:
        running.append(threading.current_thread())
        is_over.wait()

    def other_loop() -> None:
        async def main() -> None:
            task = asyncio.create_task(function.in_thread(work, Notes(), "tailrace-orphan"))
            await until(lambda: running)
            for _ in range(2):
                task.cancel()
                await turns()

        asyncio.run(main())

    await asyncio.to_thread(other_loop)
    is_over.set()
    await until(lambda: not running[0].is_alive())


# --- what generators yield -------------------------------------------------------------


class ServerSentEvent:
    def __repr__(self) -> str:
        # For the test's name, which must be the same in every process.
        return f"sse-starlette {vars(self)}"

    """The shape of sse-starlette's."""

    def __init__(self, data: Any = None, *, event: str | None = None, comment: Any = None) -> None:
        self.data = data
        self.event = event
        self.id = "5"
        self.retry = 10
        self.comment = comment


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (5, ("message", 5)),
        (None, ("message", None)),
        ("text", ("message", "text")),
        ({"a": 1}, ("message", {"a": 1})),
        (("log", {"message": "m"}), ("log", {"message": "m"})),
        (("token", "a"), ("token", "a")),
        (("a", "b", "c"), ("message", ("a", "b", "c"))),
        ((1, 2), ("message", (1, 2))),
        ({"event": "log", "data": {"a": 1}, "id": "5"}, ("log", {"a": 1})),
        ({"data": '{"a": 1}'}, ("message", {"a": 1})),
        ({"data": "{broken"}, ("message", "{broken")),
        ({"data": "5", "retry": 3}, ("message", "5")),
        ({"event": None, "data": "[1]"}, ("message", [1])),
        ({"data": 1, "more": 2}, ("message", {"data": 1, "more": 2})),
        (ServerSentEvent({"a": 1}, event="log"), ("log", {"a": 1})),
        (ServerSentEvent("[1, 2]"), ("message", [1, 2])),
        (JSONServerSentEvent({"a": 1}, event="log"), ("log", {"a": 1})),
        (JSONServerSentEvent("hi"), ("message", "hi")),
        (JSONServerSentEvent(5, event="n"), ("n", 5)),
        ({"data": "5", "sep": "\n"}, ("message", "5")),
        ({"comment": "x"}, ("message", {"comment": "x"})),
        (FastApiEvent(data={"a": 1}, event="log", id="5"), ("log", {"a": 1})),
        (FastApiEvent(raw_data="plain"), ("message", "plain")),
        (FastApiEvent(event="done"), ("done", None)),
        (SimpleNamespace(data=1).__dict__, ("message", 1)),
    ],
    ids=str,
)
async def test_what_is_yielded(sink: Notes, item: Any, expected: tuple[str, Any]) -> None:
    yielded(sink, item)
    assert sink.told == [expected]


@pytest.mark.parametrize(
    "item",
    [
        FastApiEvent(comment="ping"),
        ServerSentEvent(comment="ping"),
        OurEvent(comment="ping"),
        OurEvent(retry=5),
    ],
)
async def test_a_comment_is_no_event(sink: Notes, item: Any) -> None:
    yielded(sink, item)
    assert sink.told == []


async def test_a_fault_in_telling_ends_the_generator(sink: Notes) -> None:
    cleaned: list[str] = []

    class Refusing(Notes):
        def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
            raise ValueError(type)

    def numbers() -> Iterator[Any]:
        try:
            yield "bad type", 1
        finally:
            cleaned.append("up")

    with pytest.raises(ValueError, match="bad type"):
        await ran(numbers, Refusing())
    assert cleaned == ["up"]

    async def others() -> AsyncIterator[Any]:
        with contextlib.suppress(GeneratorExit):
            yield "bad type", 1
        cleaned.append("too")

    with pytest.raises(ValueError, match="bad type"):
        await ran(others, Refusing())
    assert cleaned == ["up", "too"]

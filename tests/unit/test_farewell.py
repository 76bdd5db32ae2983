import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from tailrace.farewell import chained, signs, stopped

pytestmark = pytest.mark.anyio


@pytest.fixture
def told() -> Iterator[list[int]]:
    """The signals that the server's own handler got."""
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, _: heard.append(number))
    yield heard
    for number, handler in before.items():
        signal.signal(number, handler)


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_we_hear_it_and_so_does_the_server(number: signal.Signals, told: list[int]) -> None:
    heard: list[int] = []
    with chained(lambda: heard.append(1)):
        signal.raise_signal(number)
        assert told == [number]
        await asyncio.sleep(0)
        assert heard == [1]
    signal.raise_signal(number)
    await asyncio.sleep(0)
    assert (told, heard) == ([number, number], [1])


async def test_a_loop_that_handles_the_signal_still_does() -> None:
    loop = asyncio.get_running_loop()
    heard: list[str] = []
    stopped = asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    try:
        with chained(lambda: heard.append("we")):
            signal.raise_signal(signal.SIGTERM)
            await asyncio.wait_for(stopped.wait(), 5)
            assert heard == ["we"]
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


async def test_what_others_took_over_stays_theirs(told: list[int]) -> None:
    def theirs(number: int, frame: Any) -> None:
        pass

    with chained(lambda: None):
        signal.signal(signal.SIGTERM, theirs)
    assert signal.getsignal(signal.SIGTERM) is theirs


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.default_int_handler])
async def test_what_does_not_stop_the_process_is_left_alone(handler: Any, told: list[int]) -> None:
    signal.signal(signal.SIGINT, handler)
    with chained(lambda: None):
        assert signal.getsignal(signal.SIGINT) is handler
    assert signal.getsignal(signal.SIGINT) is handler


async def test_a_thread_has_no_signals(told: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[Any] = []

    async def enter() -> None:
        with chained(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=lambda: asyncio.run(enter()))
    thread.start()
    thread.join(10)
    assert seen == [before]


async def test_a_signal_without_a_handler_does_what_it_does() -> None:
    script = (
        "import asyncio, signal\n"
        "from tailrace.farewell import chained\n"
        "async def main():\n"
        "    with chained(lambda: None):\n"
        "        signal.raise_signal(signal.SIGTERM)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await process.wait() == -signal.SIGTERM


# --- signs ------------------------------------------------------------------------------------


class Listener:
    def __init__(self) -> None:
        self.serving = True

    def is_serving(self) -> bool:
        return self.serving


class Server:
    """uvicorn's, as far as it is looked at."""

    def __init__(self) -> None:
        self.should_exit = False
        self.servers = [Listener()]

    async def serve(self) -> None:
        await self._inner()

    async def _inner(self) -> None:
        await asyncio.Event().wait()


class WorkerContext:
    """hypercorn's."""

    def __init__(self) -> None:
        self.terminated = asyncio.Event()


async def worker_serve(context: WorkerContext) -> None:
    await asyncio.Event().wait()


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("uvicorn", Server), ("hypercorn.asyncio.worker_context", WorkerContext)):
        module = ModuleType(name)
        setattr(module, kind.__name__, kind)
        monkeypatch.setitem(sys.modules, name, module)


def tell_server(server: Server) -> None:
    server.should_exit = True


def stop_listening(server: Server) -> None:
    server.servers[0].serving = False


@pytest.mark.parametrize("end", [tell_server, stop_listening])
async def test_uvicorn_shows_it(end: Callable[[Server], None], modules: None) -> None:
    server = Server()
    task = asyncio.create_task(server.serve())
    looks = signs()
    await asyncio.sleep(0)
    assert not any(look() for look in looks)
    end(server)
    assert any(look() for look in looks)
    task.cancel()


async def test_hypercorn_shows_it(modules: None) -> None:
    context = WorkerContext()
    task = asyncio.create_task(worker_serve(context))
    looks = signs()
    await asyncio.sleep(0)
    assert not any(look() for look in looks)
    context.terminated.set()
    assert any(look() for look in looks)
    task.cancel()


async def test_a_server_that_comes_late_is_found(modules: None) -> None:
    looks = signs()
    assert not any(look() for look in looks)
    server = Server()
    task = asyncio.create_task(server.serve())
    await asyncio.sleep(0)
    assert not any(look() for look in looks)
    server.should_exit = True
    assert any(look() for look in looks)
    task.cancel()


async def test_where_there_is_none_the_search_ends(
    modules: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = signs()
    for _ in range(20):
        assert not any(look() for look in looks)
    monkeypatch.setattr(asyncio, "all_tasks", lambda: pytest.fail("it still searches"))
    assert not any(look() for look in looks)


async def test_a_server_that_is_gone_says_nothing(modules: None) -> None:
    looks = signs()
    task = asyncio.create_task(Server().serve())
    await asyncio.sleep(0)
    assert not any(look() for look in looks)
    task.cancel()
    await asyncio.wait([task])
    del task
    assert not any(look() for look in looks)


async def test_other_objects_of_the_name_are_not_asked(modules: None) -> None:
    class Other(Server):
        async def unrelated(self) -> None:
            await asyncio.Event().wait()

    other = Other()
    other.should_exit = True
    task = asyncio.create_task(other.unrelated())
    await asyncio.sleep(0)
    assert not any(look() for look in signs())
    task.cancel()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_and_does_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    calls: list[str] = []
    with stopped(lambda: calls.append("stop")):
        signal.raise_signal(number)
        assert calls == ["stop"]
    assert signal.getsignal(number) is before


def test_a_terminal_that_may_close_stops_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped(lambda: pytest.fail("it was to go on")):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_elsewhere_than_in_the_main_thread_it_leaves_signals_alone() -> None:
    seen: list[bool] = []

    def enter() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with stopped(lambda: None):
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(10)
    assert seen == [True]

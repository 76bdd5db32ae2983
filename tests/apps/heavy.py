"""Operations with a process of their own. It must be found under its name: tests.apps.heavy."""

from __future__ import annotations

import asyncio
import ctypes
import datetime as dt
import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tailrace import RunCancelled, RunContext, TailraceError, current
from tailrace.engine import Engine

# Without its HTTP face, which takes half of the time that a new process needs to start.
runs = Engine("memory:", grace=1.0)


class Point(BaseModel):
    x: int
    at: dt.date


class Refused(TailraceError):
    """Somebody's own kind."""


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


@runs.operation(process=True)
def firehose(run: RunContext, events: int = 1000, size: int = 100) -> int:
    text = "x" * size
    for number in range(events):
        run.emit("drop", number=number, text=text)
    return os.getpid()


@runs.operation(process=True)
async def coroutine(run: RunContext, point: Point, when: dt.datetime) -> dict[str, Any]:
    """Everything a context can do."""
    assert current() is run
    run.emit("typed", {"x": point.x, "year": when.year, "kind": type(point).__name__})
    run.progress(1, 4, "a quarter")
    run.log("told", "warning", number=1)
    run.output("text\n")
    run.result({"early": True})
    async for _ in run.track(range(3), "Tracking"):
        await run.ebb()
    await run.drain()
    return {"pid": os.getpid(), "point": point, "id": run.id, "attempt": run.attempt}


@runs.operation(process=True)
def function(text: str) -> tuple[str, str]:
    current().log(text)
    return text, threading.current_thread().name


@runs.operation(process=True)
def generator(count: int) -> Generator[Any, None, str]:
    for number in range(count):
        yield "number", {"n": number}
    yield "text"
    return "the end"


@runs.operation(process=True)
async def async_generator(run: RunContext, count: int) -> AsyncIterator[Any]:
    for number in range(count):
        yield {"event": "number", "data": f'{{"n": {number}}}'}
    run.log("over")


@runs.operation(process=True)
async def drains(run: RunContext, count: int) -> int:
    """Each event is kept before the next is told."""
    for number in range(count):
        run.emit("number", n=number)
        await run.drain()
    return count


@runs.operation(process=True)
def drains_in_thread(run: RunContext) -> None:
    async def inner() -> None:
        run.emit("number", n=1)
        await run.drain()

    asyncio.run(inner())


@runs.operation(process=True)
def fails(how: str) -> Any:
    match how:
        case "plain":
            raise ValueError("It has\ntwo lines, ä and \x00")
        case "ours":
            raise Refused("Not so.", fix="So.", limit=7)
        case "mute":
            raise Mute
        case "exit":
            sys.exit(3)
        case "cancelled":
            raise RunCancelled("enough")
        case "result":
            return object()
        case "large":
            return "x" * 1_000_000
        case "event":
            current().emit("no type!")
    return None


@runs.operation(process=True)
async def interrupts() -> None:
    raise KeyboardInterrupt


@runs.operation(process=True)
def dies(run: RunContext, how: str) -> None:
    run.emit("last", words=True)
    asyncio.run(run.drain())
    run.emit("unkept", text="x" * 100_000)
    if how == "exit":
        time.sleep(0.05)
        os._exit(3)
    elif how == "zero":
        os._exit(0)
    elif how == "segfault":
        ctypes.string_at(0)
    os.kill(os.getpid(), getattr(signal, how))


@runs.operation(process=True)
def loops(run: RunContext, *, told: bool = True) -> str:
    """Pure Python that looks now and then."""
    run.emit("begun", pid=os.getpid())
    while not run.cancelled:
        pass
    if told:
        try:
            run.emit("unheard")
        except RunCancelled:
            run.emit("cleaning")
            raise
    return "stopped"


@runs.operation(process=True)
def checks(run: RunContext) -> None:
    run.emit("begun")
    while True:
        run.check()


@runs.operation(process=True)
def waits(run: RunContext) -> bool:
    run.emit("begun")
    return run.wait_cancelled(60)


@runs.operation(process=True)
async def awaits(run: RunContext) -> None:
    run.emit("begun")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        run.emit("cleaning", cancelled=run.cancelled)
        await asyncio.sleep(0)
        run.emit("cleaned")
        raise


@runs.operation(process=True)
async def hogs(run: RunContext) -> None:
    """A coroutine that never awaits, and tells what it does all the same."""
    run.emit("begun", pid=os.getpid())
    while not run.cancelled:
        pass
    run.emit("cleaning")


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


@runs.operation(process=True)
def stubborn(run: RunContext, *, end: bool = False) -> None:
    """It heeds nothing, and has children of three kinds."""
    hidden = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    forked = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    forked.start()
    told = [os.getpid(), sleeper().pid, hidden.pid, forked.pid]
    run.emit("begun", pid=os.getpid(), pids=told)
    if end:
        asyncio.run(run.drain())
        os._exit(0)
    while True:
        pass


def never_ready(uplink: object) -> Any:
    """A job whose imports take for ever."""
    os.write(2, b"importing")
    time.sleep(600)


def squared(number: int) -> int:
    return number * number


@runs.operation(process=True)
def pools() -> list[int]:
    """Whoever ends its pool with SIGTERM must be heard by it."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        forked = pool.map(squared, range(3))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return forked + pool.map(squared, range(3))


@runs.operation(process=True)
def terminates() -> int:
    child = sleeper()
    child.terminate()
    return child.wait(10)


@runs.operation(process=True)
def prints() -> None:
    print("to the terminal")
    print("and here", file=sys.stderr)


@runs.operation(process=True)
def lingers() -> int:
    """A thread that is left over does not hold up the end."""
    threading.Thread(target=time.sleep, args=(600,)).start()
    return 1


@runs.operation(process=True)
def surroundings() -> dict[str, Any]:
    return {
        "cwd": str(Path.cwd()),
        "path": sys.path,
        "argv": sys.argv,
        "mark": os.environ.get("TAILRACE_RUN"),
        "utf8": sys.flags.utf8_mode,
        "leader": os.getsid(0) == os.getpid(),
        "descriptors": sorted(int(place.name) for place in Path("/proc/self/fd").iterdir()),
    }


def aside(number: int) -> int:
    """Registered without `@`, so its name is the function's."""
    return number + 1


plus_one = runs.operation(name="plus_one", process=True)(aside)


class Grouped:
    @classmethod
    def made(cls, number: int) -> str:
        return f"{cls.__name__} {number}"


grouped = runs.operation(name="grouped", process=True)(Grouped.made)


def twice(inner: Callable[[int], int]) -> Callable[[int], int]:
    @functools.wraps(inner)
    def outer(number: int) -> int:
        return 2 * inner(number)

    return outer


# Under its name there is `aside`, which is another function.
hidden = runs.operation(name="hidden", process=True)(twice(aside))

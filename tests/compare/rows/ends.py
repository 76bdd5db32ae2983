"""Servers that end, with a stream open."""

from __future__ import annotations

import time

from tests.compare.lab import Lab, happens
from tests.compare.rows.lives import ABSENT
from tests.compare.table import Section

row = Section("The server ends, with a stream open")

PATIENCE = 12.0


async def ended(lab: Lab, kind: str, *more: str) -> str:
    """What becomes of the process, and of the stream."""
    async with lab.another(kind, *more) as own:
        watcher = await own.begun(f"/one?mark={own.mark()}")
        began = time.monotonic()
        own.server.terminate()
        is_over = await happens(lambda: own.server.process.poll() is not None, PATIENCE)
        took = time.monotonic() - began
        end = "the stream has a proper end" if watcher.is_complete else "the stream is cut"
        if not is_over:
            return f"not within {PATIENCE:g} s"
        return f"within {2 if took <= 2 else 5} s, {end}"


BEST = "within 2 s, the stream has a proper end"


@row("SIGTERM to uvicorn: it is gone", BEST, is_long=True)
async def uvicorn(lab: Lab) -> str:
    return await ended(lab, "uvicorn")


@row("uvicorn in a thread, `should_exit`", BEST, is_long=True)
async def uvicorn_thread(lab: Lab) -> str:
    return await ended(lab, "thread")


@row("SIGTERM to granian", BEST, is_long=True)
async def granian(lab: Lab) -> str:
    return await ended(lab, "granian")


@row("SIGTERM to hypercorn", BEST, is_long=True)
async def hypercorn(lab: Lab) -> str:
    return await ended(lab, "hypercorn")


@row("the client is told to come back soon", "yes, after 500 ms", is_long=True)
async def hint(lab: Lab) -> str:
    async with lab.another() as own:
        watcher = await own.begun("/one")
        before = len(watcher.body)
        own.server.terminate()
        await happens(lambda: watcher.is_closed or watcher.is_complete, PATIENCE)
        hints = [line for line in watcher.body[before:].splitlines() if line.startswith(b"retry:")]
        return f"yes, after {int(hints[0][6:])} ms" if hints else "no"


@row("uvicorn with `--timeout-graceful-shutdown 2`: `finally`", "runs", is_long=True)
async def forced(lab: Lab) -> str:
    async with lab.another("uvicorn", "--timeout-graceful-shutdown", "2") as own:
        mark = own.mark()
        await own.begun(f"/one?mark={mark}")
        own.server.terminate()
        await happens(lambda: own.server.process.poll() is not None, PATIENCE)
        return "runs" if own.noted(f"{mark} finally") else "does not run"


@row("a generator that wants to say goodbye (`shutdown_event`)", "is heard", is_long=True)
async def goodbye(lab: Lab) -> str:
    if not await lab.offers("shutdown_event"):
        return ABSENT
    async with lab.another() as own:
        watcher = await own.begun("/goodbye")
        own.server.terminate()
        heard = await happens(lambda: watcher.events[-1].data == "goodbye", PATIENCE)
        return "is heard" if heard else "is not heard"

"""The app that the fault tests serve. The environment says where its log is and its shape."""

import asyncio
import gc
import os
import sys
import time
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from tailrace.facade import Tailrace
from tailrace.mcp.address import address
from tailrace.mcp.upstream import Upstream
from tailrace.pulse import Pulse
from tailrace.run import RunContext

PREFIX = "/inner"

runs = Tailrace(os.environ["TAILRACE_TEST_LOG"], grace=float(os.environ["TAILRACE_TEST_GRACE"]))
runs.allow_scripts(
    os.environ["TAILRACE_TEST_SCRIPTS"], survives=bool(os.environ["TAILRACE_TEST_SURVIVES"])
)
if "TAILRACE_TEST_MARKET" in os.environ:
    market = address("market", {"url": os.environ["TAILRACE_TEST_MARKET"]})
    runs.companions.append(Upstream(runs, market).life)
Pulse.write_deadline = float(os.environ["TAILRACE_TEST_WRITE_DEADLINE"])


@runs.operation
async def count(run: RunContext, events: int, every: float = 0.01, size: int = 10) -> int:
    text = "x" * size
    for number in range(events):
        run.emit("count", number=number, text=text, sent=time.time())
        await asyncio.sleep(every)
    return events


@runs.operation
def count_in_thread(run: RunContext, events: int, every: float = 0.01) -> int:
    for number in range(events):
        run.emit("count", number=number, sent=time.time())
        if run.wait_cancelled(every):
            break
    return events


@runs.operation
async def burst(run: RunContext, events: int, size: int = 100, *, hold: bool = False) -> int:
    """As fast as the log takes it; with `hold` it does not end."""
    text = "x" * size
    for number in range(events):
        run.emit("burst", number=number, text=text)
        if number % 500 == 0:
            await run.ebb()
            await asyncio.sleep(0)
    await run.drain()
    if hold:
        run.emit("held")
        await asyncio.Event().wait()
    return events


@runs.operation
async def elsewhere(run: RunContext) -> Any:
    """Its work is done by another process."""
    return (await run.heard("done")).payload["result"]


def probed() -> dict[str, Any]:
    """What a leak would show in."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return {
        "connections": runs.hub.connections,
        "channels": runs.hub.channels,
        "executing": runs.executing,
        "tasks": len(asyncio.all_tasks()),
        "descriptors": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "resident_kib": int(status.partition("VmRSS:")[2].split()[0]),
        "loop": type(asyncio.get_running_loop()).__module__,
        "pid": os.getpid(),
    }


def alone() -> FastAPI:
    return runs.asgi


def mounted() -> FastAPI:
    host = FastAPI(lifespan=runs.lifespan)
    host.mount(PREFIX, runs.asgi)
    return host


def unwired() -> FastAPI:
    """Nobody runs the engine's lifespan."""
    host = FastAPI()
    host.mount(PREFIX, runs.asgi)
    return host


def wrapped() -> FastAPI:
    """Behind the middleware that is known for harming streams."""

    async def passed_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    host = FastAPI(lifespan=runs.lifespan)
    host.mount(PREFIX, runs.asgi)
    host.add_middleware(CORSMiddleware, allow_origins=["https://page.example"])
    host.add_middleware(GZipMiddleware, minimum_size=1)
    host.add_middleware(BaseHTTPMiddleware, dispatch=passed_on)
    return host


async def probe() -> dict[str, Any]:
    return probed()


runs.asgi.add_api_route("/probe", probe)
app = getattr(sys.modules[__name__], os.environ["TAILRACE_TEST_SHAPE"])()

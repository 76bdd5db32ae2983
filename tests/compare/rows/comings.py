"""Middleware in between, and who comes back."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from tests.compare.lab import Lab, happens
from tests.compare.table import ORIGIN, Section
from tests.processes import ROOT

between = Section("Beside other things")
back = Section("Who comes back")

MODULES = {"tailrace": "tailrace", "sse-starlette": "sse_starlette", "fastapi.sse": "fastapi.sse"}


@between("within `GZipMiddleware` an event arrives", "at once, uncompressed", is_long=True)
async def gzip(lab: Lab) -> str:
    async with lab.another(middleware="gzip") as within:
        watcher = await within.open("/one", headers={"accept-encoding": "gzip"})
        if not await happens(lambda: watcher.body, 2):
            return "late"
        return f"at once, {watcher.headers.get('content-encoding', 'uncompressed')}"


@between("within `CORSMiddleware` its headers", "are there", is_long=True)
async def cors(lab: Lab) -> str:
    async with lab.another(middleware="cors") as within:
        watcher = await within.begun("/one", headers={"origin": ORIGIN})
        allowed = watcher.headers.get("access-control-allow-origin")
        return "are there" if allowed == ORIGIN else "are not there"


@between("to import it replaces in uvicorn", "nothing", is_long=True)
async def replaced(lab: Lab) -> str:
    code = (
        "import uvicorn; before = dict(vars(uvicorn.Server));"
        f"import {MODULES[lab.library]} as it; getattr(it, 'EventSourceResponse');"
        "print(*[name for name in before if vars(uvicorn.Server)[name] is not before[name]])"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    names = done.stdout.split()
    return f"`Server.{'`, `Server.'.join(names)}`" if names else "nothing"


async def until_three(lab: Lab, mark: str) -> str:
    """Watch three of ten events, and leave; the last id."""
    watcher = await lab.open(f"/ten?mark={mark}")
    await watcher.until(lambda seen: len(numbers(seen.events)) >= 3, "three of ten")
    id_ = watcher.events[-1].id
    watcher.leave()
    return id_


def numbers(events: object) -> list[int]:
    found = [each.data for each in events]  # type: ignore[attr-defined]
    return [int(each) for each in found if each.isdigit()]


@back("cut after three of ten events, an `EventSource` gets, of `runs.stream(…)`", "the rest")
async def rest(lab: Lab) -> str:
    mark = lab.mark()
    seen_id = await until_three(lab, mark)
    watcher = await lab.whole(f"/ten?mark={mark}", headers={"last-event-id": seen_id})
    found = numbers(watcher.events)
    if found == list(range(1, 11)):
        return "all ten again, of a second generator"
    return "the rest" if found == list(range(found[0], 11)) and found[0] > 3 else str(found)


@back("meanwhile the work", "goes on")
async def meanwhile(lab: Lab) -> str:
    mark = lab.mark()
    await until_three(lab, mark)
    return "goes on" if await happens(lambda: lab.noted(f"{mark} 10"), 3) else "has ended"


@back("and at the end, when it asks again", "204, and it stops")
async def stop(lab: Lab) -> str:
    mark = lab.mark()
    watcher = await lab.whole(f"/ten?mark={mark}")
    # Also that of an event without data: the client keeps it, and tells of nothing.
    ids = [line[4:] for line in bytes(watcher.body).splitlines() if line.startswith(b"id: ")]
    again = await lab.open(f"/ten?mark={mark}", headers={"last-event-id": ids[-1].decode()})
    await again.until(lambda seen: seen.status, "it answers")
    await happens(lambda: lab.noted(f"{mark} begun") > 1)
    if lab.noted(f"{mark} begun") > 1:
        return "the work is done again"
    return "204, and it stops" if again.status == 204 else f"{again.status}"

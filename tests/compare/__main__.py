"""`python -m tests.compare`: asks every row of every library, and writes docs/compared.md."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.compare.asked import ROWS
from tests.compare.lab import Lab
from tests.compare.table import LIBRARIES, Row, is_good, page, relative
from tests.processes import ROOT

PAGE: Final = ROOT / "docs" / "compared.md"
PACKAGES: Final = {
    "tailrace": "tailrace",
    "sse-starlette": "sse-starlette",
    "fastapi.sse": "fastapi",
}

# Those that take long mostly wait; more at a time, and what they wait for comes late.
_AT_ONCE: Final = 4

LEAD: Final = """
# Compared

`EventSourceResponse` beside those of sse-starlette and of FastAPI (`fastapi.sse`): one app, the
same generators, a real server for each library. Every answer was measured by `make compare`, which
wrote this page; ✓ is an answer that is as wanted. The questions are ours, and so is what is wanted;
where others are ahead, that stands here as well. How to come from one of them is in
[migrate.md](migrate.md), speed in [bench/RESULTS.md](../bench/RESULTS.md).

    make compare      # {seconds} s; {versions}

The server is uvicorn with uvloop and httptools where nothing else is said. For `fastapi.sse` an
endpoint is a path operation that yields, as its documentation has it; for the other two it
answers `EventSourceResponse(generator())`. Of Tailrace's, the rows with a `response_class` are
`JSONEventSourceResponse`, and those of who comes back `await runs.stream(generator(), request)`.
"""


def version(package: str) -> str:
    return importlib.metadata.version(package)


async def measured(
    rows: Iterable[Row], libraries: Iterable[str] = LIBRARIES
) -> Mapping[str, Mapping[str, str]]:
    """Each row's answers, by library."""
    rows, libraries = list(rows), list(libraries)
    found: dict[str, dict[str, str]] = {row.name: {} for row in rows}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        labs = [stack.enter_context(Lab.of(library, Path(folder))) for library in libraries]

        async def ask(row: Row, lab: Lab) -> None:
            # A view of the same server, whose watchers are the row's own.
            own = Lab(lab.library, lab.folder, lab.server, lab.diary)
            async with own.visited():
                found[row.name][lab.library] = await row.ask(own)

        async def ask_all(row: Row) -> None:
            await asyncio.gather(*(ask(row, lab) for lab in labs))
            say(row, found[row.name])

        gate = asyncio.Semaphore(_AT_ONCE)

        async def ask_when_free(row: Row) -> None:
            async with gate:
                await ask_all(row)

        # One after the other where the log of the server is looked at, or where every bit counts.
        for row in rows:
            if not row.is_long and not row.is_alone:
                await ask_all(row)
        await asyncio.gather(*(ask_when_free(row) for row in rows if row.is_long))
        for row in rows:
            if row.is_alone:
                for lab in labs:
                    await ask(row, lab)
                say(row, found[row.name])
    return {row.name: relative(row, found[row.name]) for row in rows}


def say(row: Row, answers: Mapping[str, str]) -> None:
    print(
        f"{row.name}: " + "; ".join(f"{name} {said}" for name, said in answers.items()),
        file=sys.stderr,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.compare", description=__doc__)
    parser.add_argument("--only", metavar="ROWS", help="names, with commas between; writes nothing")
    asked = parser.parse_args()
    began = time.monotonic()
    if asked.only:
        asyncio.run(measured(ROWS[name] for name in asked.only.split(",")))
        return 0
    answers = asyncio.run(measured(ROWS.values()))
    servers = ", ".join(
        f"{name} {version(name)}" for name in ("uvicorn", "granian", "hypercorn", "starlette")
    )
    lead = LEAD.format(
        seconds=f"{time.monotonic() - began:.0f}",
        versions=f"Python {platform.python_version()}, {servers}",
    )
    versions = {library: version(PACKAGES[library]) for library in LIBRARIES}
    PAGE.write_text(page(lead, versions, ROWS.values(), answers), encoding="utf-8")
    missed = [
        row.name for row in ROWS.values() if not is_good(row, answers[row.name], LIBRARIES[0])
    ]
    print(f"Not as wanted, of ours: {', '.join(missed) or 'nothing'}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

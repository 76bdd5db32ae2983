"""A long process in a thread, with a progress logger, behind a key.

    PROCESS_KEY=secret tailrace serve examples.process:app

    curl -N -H 'X-API-Key: secret' 'http://127.0.0.1:4000/api/process/stream?rows=50000'

Without PROCESS_KEY nobody is let in.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse

from tailrace import ProgressLogger, Tailrace
from tailrace.errors import Unauthorized

HERE = Path(__file__).parent
KEY = os.environ.get("PROCESS_KEY", "")


def visitor(request: Request) -> str:
    """Who asks. An EventSource sends no headers, but its cookies."""
    sent = request.headers.get("x-api-key") or request.cookies.get("process", "")
    if not KEY or not hmac.compare_digest(sent.encode(), KEY.encode()):
        raise Unauthorized("This server wants its key.", fix="Send it as X-API-Key.")
    return "visitor"


runs = Tailrace(os.environ.get("PROCESS_LOG", "memory:"), principal=visitor)
app = FastAPI(title="Process", lifespan=runs.lifespan)
app.include_router(runs.router)


@runs.operation
def process(rows: int, broken: bool = False) -> dict[str, int]:
    """A plain function, which runs in a thread of its own: it may block as long as it likes."""
    steps = ProgressLogger(total_steps=3)
    steps.set_step(1, "Make rows")
    table = [f"row {number}" for number in range(rows)]
    steps.log(f"{rows} rows are there", details={"rows": rows})

    steps.next_step("Hash them")
    found = 0
    for number, row in enumerate(table):
        digest = hashlib.sha256(row.encode()).hexdigest()
        if digest.startswith("000"):
            found += 1
            steps.log(f"{row} has a nice hash", "debug", {"hash": digest[:12]})
        if number % 1000 == 0:
            steps.update(number / rows)

    steps.next_step("Check")
    if broken:
        steps.log("The check failed", "error")
        raise ValueError("Something is wrong with these rows.")
    steps.log("All is well", "success")
    steps.complete()
    return {"rows": rows, "found": found}


@app.get("/api/process/stream")
async def stream(
    request: Request,
    rows: Annotated[int, Query(ge=1, le=10_000_000)] = 100_000,
    broken: bool = False,
) -> Response:
    """The process, live: progress, log, and its result or error."""
    return await runs.stream(process, request, {"rows": rows, "broken": broken})


@app.get("/", include_in_schema=False)
@app.get("/{name}", include_in_schema=False)
async def page(name: str = "process.html", key: str | None = None) -> Response:
    """The page; /?key=… lets a browser in."""
    if name not in ("process.html", "process.js"):
        return Response(status_code=404)
    answer = FileResponse(HERE / name, headers={"content-security-policy": "default-src 'self'"})
    if key is not None:
        answer.set_cookie("process", key, httponly=True, samesite="strict")
    return answer

"""Tailrace as an application sees it: the engine, with its HTTP face."""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

from fastapi import APIRouter, FastAPI, Request

from tailrace.engine import Engine
from tailrace.http import app, runs
from tailrace.http.asking import asked
from tailrace.http.stream import RunStream, Telling
from tailrace.projections import stream


class Tailrace(Engine):
    """Run anything long, watch it live, lose nothing.

        runs = Tailrace()

        @runs.operation
        async def crunch(run: RunContext, rows: int = 100) -> dict: ...

        app = FastAPI(lifespan=runs.lifespan)
        app.mount("/tailrace", runs.asgi)        # or: app.include_router(runs.router)

    The parameters are those of `Engine`.
    """

    @cached_property
    def asgi(self) -> FastAPI:
        """The ASGI app, to be served or mounted."""
        return app.build(self)

    @cached_property
    def router(self) -> APIRouter:
        """The runs' endpoints, to be included in a FastAPI app."""
        return runs.router(self)

    def respond(self, run: str, request: Request | Any) -> RunStream:
        """A response that streams a run, as the request asks: cursor, format, types, tick.

        Raises CursorMalformed, FormatUnknown, InputInvalid.
        """
        wish = asked(request.headers, request.query_params)
        telling = Telling(
            cursor=wish.cursor,
            projection=wish.projection or stream("events"),
            types=wish.types,
            tick=wish.tick,
            # Ticks tell how long this watcher has waited: usually it started the run as well.
            began=time.time(),
        )
        return RunStream(self.hub, run, telling)

"""Tailrace as an application sees it: the engine, with its HTTP face."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tailrace import time
from tailrace.agent.chat import Chat
from tailrace.agent.routes import router as chat_routes
from tailrace.cohort import Manner
from tailrace.engine import Engine
from tailrace.errors import FormatUnknown, LogError, RunUnknown, TailraceError
from tailrace.eventlog.contract import EventLog
from tailrace.generated import discard, is_generated
from tailrace.generated import operation as generated
from tailrace.http import app, problems, runs, scripts
from tailrace.http.access import Admitted, admit, asker, identified
from tailrace.http.asking import asked
from tailrace.http.audit import audited
from tailrace.http.begin import begun
from tailrace.http.limits import Limits, Rates
from tailrace.http.stream import RunStream, Telling
from tailrace.mcp.address import address
from tailrace.mcp.face import McpFace
from tailrace.mcp.upstream import Upstream
from tailrace.operations import Operation
from tailrace.projections import stream
from tailrace.projections.contract import ServerSent
from tailrace.projections.named import Named
from tailrace.protocol.access import RUN, WATCH, Access
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.runs import RunRecord
from tailrace.protocol.wire import RUN as RUN_HEADER

Identify = Callable[[Request], str | Access | Awaitable[str | Access]]
"""Finds out who asks."""


class Tailrace(Engine):
    """Run anything long, watch it live, lose nothing.

        runs = Tailrace("runs.db")

        @runs.operation
        async def crunch(run: RunContext, rows: int = 100) -> dict: ...

        app = FastAPI(lifespan=runs.lifespan)
        app.mount("/tailrace", runs.asgi)        # or: app.include_router(runs.router)

    `log`: a path of a SQLite file, `memory:`, or an `EventLog`. Without one it is `tailrace.db` in
    the platform's folder for state, which this user's terminal tool and all others that name none
    share, and whoever sees its runs sees everybody's there: right for one server per user. Give an
    app of yours a file of its own.

    The others are those of `Engine`, and `principal`: who is asking, from the request. It
    answers a name (or an `Access`, with scopes), may be a coroutine function, and may raise what
    refuses the request (`tailrace.errors.Unauthorized`, starlette's HTTPException). Runs belong
    to whoever starts them; to everybody else they do not exist. Without it, all requests are of
    one principal. `limits`: how often each may ask, and how many streams may be open; without
    it there are no bounds. `link`: where a person watches a run, from its id, for MCP clients.
    `mcp_guest`: an `MCPServer` of the SDK whose tools, prompts and resources `mcp` has as well.

        runs = Tailrace("runs.db", principal=lambda request: request.state.user.name)
    """

    def __init__(
        self,
        log: str | Path | EventLog | None = None,
        *,
        principal: Identify | None = None,
        limits: Limits | None = None,
        link: Callable[[str], str] | None = None,
        mcp_guest: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(log, **options)
        self.identify = principal
        self._link = link
        self._mcp_guest = mcp_guest
        self._further: list[APIRouter] = []
        if limits is not None:
            self.hub.seats = limits.seats()
            self.rates = Rates(limits) if limits.rates or limits.keyed else None

    @cached_property
    def asgi(self) -> FastAPI:
        """The ASGI app, to be served or mounted. With `tailrace[mcp]` it has `/mcp`, too."""
        made = app.build(self, *self._further)
        if find_spec("mcp") is not None:
            made.router.routes.append(Route("/mcp", self.mcp, include_in_schema=False))
        return made

    @cached_property
    def mcp(self) -> McpFace:
        """The operations as tools of an MCP server: an ASGI app, which knows who asks as the other
        routes do. `app.add_route("/mcp", runs.mcp)`, before the engine starts; in `asgi` it is
        there already. Needs `tailrace[mcp]`.
        """
        face = _Mcp(self, link=self._link, guest=self._mcp_guest, note=audited)
        self.companions.append(face.life)
        return face

    @cached_property
    def router(self) -> APIRouter:
        """The runs' endpoints, and the scripts', to be included in a FastAPI app."""
        routes = runs.router(self)
        routes.include_router(scripts.router(self))
        for further in self._further:
            routes.include_router(further)
        return routes

    def chat(self, **options: Any) -> Chat:
        """Offer a language model with tools: its turns are runs of the operation `chat`, and its
        endpoints stand beside those of the runs, for clients of its own (`POST /mcp/chat/stream`),
        of AG-UI, of the AI SDK and of OpenAI's Responses.

            runs.chat(model="openai:gpt-5", tools=[weather], instructions="Be brief.")

        The options are those of `tailrace.agent.chat.Chat`. Without any there is a built-in model,
        which needs no key and says that it is none. Before `asgi` or `router` is used, which have
        the endpoints. Needs `tailrace[agent]`. Raises SettingsInvalid, ValueError.
        """
        if {"asgi", "router"} & vars(self).keys():
            raise ValueError("The endpoints are made already: call chat() before asgi or router.")
        made = Chat(self, **options)
        self._further.append(chat_routes(made))
        return made

    def upstream(self, name: str, **where: Any) -> None:
        """Offer the tools of another MCP server as operations called NAME.TOOL, as soon as it
        answers: `url=` of its Streamable HTTP endpoint, or `command=`, the words of a program that
        speaks MCP over stdin and stdout, and what else [mcp.upstreams.NAME] takes in a settings
        file. Before the engine starts. Needs `tailrace[mcp]`. Raises SettingsInvalid.
        """
        self.companions.append(Upstream(self, address(name, where)).life)

    async def stream(
        self,
        work: str | Operation[Any, Any] | AsyncIterable[Any] | Iterable[Any],
        request: Request,
        input: Mapping[str, Any] | None = None,
        *,
        format: str | None = None,
        tick: float | None = None,
        timeout: float | None = None,
        abandon_after: float | None = None,
        thread: str | None = None,
        key: str | None = None,
    ) -> Response:
        """Start a run and stream it, in an endpoint of your own that a browser may repeat.

            @app.get("/crunch")
            async def crunch(request: Request, rows: int = 100):
                return await runs.stream("crunch", request, {"rows": rows})

        `work` is an operation, with its `input`, or a generator: `runs.stream(count(), request)`.
        What that one yields is told as `EventSourceResponse` would tell it, unless another `format`
        is asked for (a tuple `(type, payload)` is that event of the run, of at most 256 KiB like
        all others); but now it is a run, which goes on when the client leaves. What it needs it
        must open itself: a dependency of the endpoint may be closed by then.

        The run belongs to whoever asks (`principal=`), needs the scope `run`, and counts against
        the limits. An `EventSource` that is cut repeats its request with the last id it has, which
        names the run: then that goes on, and nothing is started. `format`: one of those of
        `GET /runs/{id}/events`; None: what `?format=` says, or `events`; for a generator `plain`.
        `tick`: tell the elapsed time after so many seconds of silence. The others are those of
        `submit`. What is wrong is answered as a problem; a function that was not called, or a
        coroutine, is a mistake of the endpoint's: TypeError.
        """
        operation: Any = generated(work, self.start_operation) if is_generated(work) else work
        usual = "plain" if is_generated(work) else "events"
        is_begun = False

        async def told(request: Request) -> Response:
            fields = await admit(self, request, RUN)
            projection = stream(format or request.query_params.get("format") or usual)

            async def start() -> RunRecord:
                nonlocal is_begun
                who = asker(request).principal
                record, is_begun = await self.submit(
                    operation, input or {}, principal=who, timeout=timeout,
                    abandon_after=abandon_after, thread=thread, key=key,
                )  # fmt: skip
                return record

            answer = await begun(self, request, projection, start, tick=tick)
            answer.raw_headers.extend(fields)
            return answer

        try:
            return await problems.guarded(told)(request)
        finally:
            if is_generated(work) and not is_begun:
                await discard(work)

    @staticmethod
    async def problem(request: Request, error: Exception) -> Response:
        """Tailrace's errors as problem documents in a host's own endpoints:
        `app.add_exception_handler(TailraceError, runs.problem)`.
        """
        del request
        return problems.response(cast("TailraceError", error))

    async def asker(self, request: Request) -> Access:
        """Who asks, as `principal=` says: for endpoints of your own, which may depend on it.

            User = Annotated[Access, Depends(runs.asker)]

            @app.post("/reports")
            async def start(user: User, rows: int = 100) -> str:
                return (await crunch.by(user).start(rows=rows)).id

            @app.get("/reports/{run}")
            async def watch(request: Request, user: User, run: str):
                return runs.run(run, user).response(request)

        Raises Unauthorized, or what else `principal=` does: see `problem`. It is found out once for
        each request; the limits do not count it.
        """
        return await identified(self, request.scope)

    def respond(self, run: str, request: Request | Any, who: Access | None = None) -> Response:
        """A response that streams a run, as the request asks: cursor, format, types, tick. `who`:
        for whom; see `Run`.

        What is wrong with the request is answered as a problem: an endpoint of the host has
        nothing to catch. The header `Tailrace-Run` names the run, for coming back to it, and so
        does each id: an address may have another run later, and who comes back from this one then
        gets the whole of that.
        """
        try:
            if who is not None:
                who.check(WATCH)
            return _Answer(self, run, _telling(run, request), who and who.sees)
        except TailraceError as error:
            return problems.response(error)


class _Answer(RunStream):
    """A run's stream in an endpoint of the host, where there may be another one tomorrow."""

    def __init__(self, runs: Tailrace, run: str, telling: Telling, principal: str | None) -> None:
        super().__init__(runs.hub, run, telling, headers={RUN_HEADER: run})
        self._runs = runs
        self._principal = principal

    def named(self, cursor: Cursor) -> str:
        """The run, and the cursor."""
        return f"{self._run}:{cursor}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._principal is not None:
            try:
                await self._runs.watchable(self._run, self._principal)
            except (RunUnknown, LogError) as error:
                await problems.response(error)(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


class _Mcp(McpFace):
    """The MCP face, behind the door that the routes are behind."""

    def __init__(self, runs: Tailrace, **options: Any) -> None:
        super().__init__(runs, **options)
        self._door = Admitted(runs, super().__call__)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        await self._door(scope, receive, send)


def _telling(run: str, request: Request) -> Telling:
    offered = ("events", "ndjson")
    wish = asked(request.headers, request.query_params, offered=offered, run=run, changes=True)
    if wish.projection is None or wish.speed is not None:
        raise FormatUnknown(
            "This response streams a run live; it is no page and has no speed.",
            fix=f"GET /runs/{run}/events takes format=json and speed.",
        )
    # What a POST answers with was not there before: whatever id the client sends, it is that of
    # another run.
    cursor = wish.cursor if request.method in ("GET", "HEAD") else Cursor(0, 0)
    told = wish.projection
    if isinstance(told, ServerSent):
        told = Named(told)
    # Ticks tell how long this watcher has waited: usually it started the run as well.
    return Telling(cursor, Manner(told, wish.types, wish.tick, time.time()))

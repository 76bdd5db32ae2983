"""The page at `/`: how to get in, and what can be done then; and the links that log in."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from tailrace.engine import Engine
from tailrace.errors import Conflict, ScopeMissing, TailraceError
from tailrace.http.access import asker, guarding, identified
from tailrace.http.audit import audited
from tailrace.http.problems import PRIVATE
from tailrace.http.runs import answer
from tailrace.protocol.access import OPEN, Access
from tailrace.server import launch
from tailrace.server.entrance import LAUNCHER, Entrance
from tailrace.server.listener import bracketed
from tailrace.server.settings import Settings

_SCRIPTS: Final = ("*.py", "*.sh")

# What a Host header may bring into the commands of the index, which people paste into a shell.
_ADDRESS: Final = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/-]*)?", re.ASCII)

_INDEX: Final = """\
Tailrace: run anything long, watch it live, lose nothing.

What can be run:

  curl{key} {base}/operations

Start a run and watch it:

  curl -N{key} {base}/runs -H 'Accept: text/event-stream' -H 'Content-Type: application/json' \
-d '{body}'
{script}
The runs so far (add /RUN_ID/events?format=text to watch one of them, from its beginning):

  curl{key} {base}/runs

The endpoints: {base}/docs
"""

# Between quotes: a shell would take the question mark for a pattern.
_RUN_FILE: Final = """
Or a script, in one breath:

  curl -N{key} '{base}/run_file?file_path={name}'
"""

_CLOSED: Final = """\
Tailrace: run anything long, watch it live, lose nothing.

This server wants to know who asks.{said}

Whoever started it was shown a link for the browser; this prints another:

  tailrace login --url {base}

Everybody else needs a key:

  curl -H "Authorization: Bearer $TAILRACE_KEY" {base}/operations
"""

# Not a redirect: to one of them a browser does not send the cookie if the link was on another
# site's page, as in a terminal in a browser. And so the link is in no history.
_WELCOME: Final = """\
<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={here}">
<title>Tailrace</title>
"""


def router(settings: Settings, engine: Engine, entrance: Entrance | None) -> APIRouter:
    """The routes."""
    routes = APIRouter(include_in_schema=False)
    name = _example(settings.allow_root)
    body = '{"operation": "NAME", "input": {}}'
    if name is not None:
        body = f'{{"operation": "script", "input": {{"file": "{name}"}}}}'

    def address(request: Request) -> str:
        base = str(request.base_url).rstrip("/")
        if _ADDRESS.fullmatch(base) is None:
            base = f"http://{bracketed(settings.host)}:{settings.port}"
        return base

    @routes.get("/")
    async def index(request: Request) -> Response:
        base = address(request)
        word = request.query_params.get("login")
        if word is not None and entrance is not None and entrance.launch is not None:
            is_secure = request.url.scheme == "https"
            cookie = entrance.launch.redeem(word, is_secure=is_secure)
            if cookie is not None:
                audited(LAUNCHER, "GET", "/", None, 200, request.client)
                page = _WELCOME.format(here=f"{base}/")
                return HTMLResponse(page, headers={**PRIVATE, "set-cookie": cookie})
        try:
            access = await identified(engine, request.scope)
        except (TailraceError, HTTPException):
            said = "" if word is None else " The link that you came by was used, or is too old."
            page = _CLOSED.format(base=base, said=said)
            return PlainTextResponse(page, 401, {**PRIVATE, "www-authenticate": "Bearer"})
        key = _sent(access)
        script = "" if name is None else _RUN_FILE.format(base=base, name=name, key=key)
        page = _INDEX.format(base=base, body=body, script=script, key=key)
        return PlainTextResponse(page, headers=PRIVATE)

    guarded = APIRouter(route_class=guarding(engine), include_in_schema=False)

    # Not in the table of what routes need, so for `admin` alone; and of those for one.
    @guarded.post("/login")
    async def login(request: Request) -> Response:
        if asker(request) != LAUNCHER:
            # A session is nobody's key: it would go on when that is revoked.
            raise ScopeMissing(
                "Links are for whoever started the server.",
                fix="Send your key with each request instead.",
            )
        if entrance is None or entrance.launch is None:
            raise Conflict(
                "This server gives out no links.", fix="Send a key with each request instead."
            )
        return answer({"url": f"{address(request)}/?login={entrance.launch.link()}"}, 201)

    routes.include_router(guarded)
    return routes


def _sent(access: Access) -> str:
    """How curl says who asks."""
    if access == OPEN:
        return ""
    if access == LAUNCHER:
        return f" -H @{shlex.quote(str(launch.place()))}"
    return ' -H "Authorization: Bearer $TAILRACE_KEY"'


def _example(roots: Sequence[Path]) -> str | None:
    """A script of these folders, if there is one that can be shown."""
    for root in roots:
        for pattern in _SCRIPTS:
            for script in sorted(root.glob(pattern)):
                if re.fullmatch(r"[A-Za-z0-9._-]+", script.name, re.ASCII):
                    return script.name
    return None

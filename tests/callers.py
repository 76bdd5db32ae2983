"""An engine behind its MCP face, over real HTTP, and the SDK's client at the other end."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, MutableMapping
from typing import Any, Final

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from tailrace import Access, Tailrace
from tailrace.mcp.face import McpFace
from tailrace.protocol.access import WHO
from tests.host import hosted

LEGACY: Final = "legacy"
MODERN: Final = "2026-07-28"
ERAS: Final = (LEGACY, MODERN)


class Named:
    """Knows who asks, by a header; what is in front of the face does it in earnest."""

    def __init__(self, app: McpFace, known: dict[str, Access] | None = None) -> None:
        self._app = app
        self._known = known or {}

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        name = dict(scope["headers"]).get(b"x-who", b"").decode()
        if name:
            scope[WHO] = self._known.get(name) or Access.of(name)
        await self._app(scope, receive, send)


@contextlib.asynccontextmanager
async def served(runs: Tailrace, face: McpFace, **known: Access) -> AsyncIterator[int]:
    """The port that the face is at."""
    if face.life not in runs.companions:
        runs.companions.append(face.life)
    async with runs, hosted(Named(face, known)) as port:
        yield port


@contextlib.asynccontextmanager
async def client(port: int, era: str, who: str = "", **options: Any) -> AsyncIterator[Client]:
    """A client of the SDK's."""
    headers = {"x-who": who} if who else {}
    async with httpx2.AsyncClient(headers=headers, timeout=30) as http:
        transport = streamable_http_client(f"http://127.0.0.1:{port}/", http_client=http)
        async with Client(transport, mode=era, **options) as connected:
            yield connected


def text(result: Any) -> str:
    """What a tool has answered, as text."""
    return "\n".join(content.text for content in result.content)

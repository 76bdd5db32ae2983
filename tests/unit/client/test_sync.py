"""The synchronous client: against a real server, and as the translation of `aio`."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path
from typing import Any

import httpx2
import pytest

import tailrace.client
from tailrace.client import Client
from tests.unit.client.scripted import CLOSING, OPENING, RUN, events, reply, scripted, stream
from tests.unit.client.suite import Face, Suite


class SyncFace:
    """Calls a Client."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    def _client(self, url: str) -> Client:
        return Client(url, token="s3cret", silence=0.3, sleep=self.pauses.append)

    def collect(self, url: str, verb: str, *args: Any, **options: Any) -> list[Any]:
        with self._client(url) as client:
            return list(getattr(client, verb)(*args, **options))

    def call(self, url: str, verb: str, *args: Any, **options: Any) -> Any:
        with self._client(url) as client:
            return getattr(client, verb)(*args, **options)


class TestClient(Suite):
    @pytest.fixture
    def face(self) -> Face:
        return SyncFace()


def test_leaving_frees_the_connection() -> None:
    answers = [stream(OPENING, events(1, 3), end="hang"), reply(200, {"id": RUN})]
    with scripted(*answers) as server, Client(server.url) as client:
        with contextlib.closing(client.watch(RUN)) as told:
            assert next(told).id == "1"
        # The server answers one connection at a time: it must have seen the first one end.
        assert client.run(RUN) == {"id": RUN}


def test_somebody_elses_http_client_is_used_and_left_open() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        wire = OPENING + events(1, 1) + CLOSING
        return httpx2.Response(200, content=wire, headers={"content-type": "text/event-stream"})

    with httpx2.Client(transport=httpx2.MockTransport(answer), headers={"x-mine": "1"}) as http:
        with Client("http://somewhere", http=http) as client:
            assert next(client.watch(RUN)).id == "1"
        assert not http.is_closed
    assert asked[0].headers["x-mine"] == "1"


# ------------------------------------------------------------------ one source, two clients

NAMES = {
    "AsyncClient": "Client",
    "AsyncGenerator": "Generator",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclose": "close",
    "aclosing": "closing",
    "aiter_bytes": "iter_bytes",
}
TEXTS = {
    "httpx2.AsyncClient": "httpx2.Client",
    "contextlib.aclosing": "contextlib.closing",
    "A client of one server, for asyncio.": "A client of one server; threads may share it.",
    "AsyncClient": "Client",
}


class Translator(ast.NodeTransformer):
    """Takes the awaits out."""

    def visit(self, node: ast.AST) -> Any:
        node = self.generic_visit(node)
        match node:
            case ast.Await(value=value):
                return value
            case ast.AsyncFunctionDef():
                node = ast.FunctionDef(**vars(node))
            case ast.AsyncFor():
                node = ast.For(**vars(node))
            case ast.AsyncWith():
                node = ast.With(**vars(node))
            case ast.Constant(value=str(text)):
                for a, b in TEXTS.items():
                    text = text.replace(a, b)
                node.value = text
        for name in ("id", "attr", "name"):
            if getattr(node, name, None) in NAMES:
                setattr(node, name, NAMES[getattr(node, name)])
        return node


# What differs by more than a name: unparsed, so formatting does not count.
PHRASES = {
    "import asyncio\n": "",
    "Generator, Awaitable, Callable, Iterable": "Callable, Generator, Iterable",
    "Generator[WatchedEvent, None]": "Generator[WatchedEvent, None, None]",
    "Generator[bytes, None]": "Generator[bytes, None, None]",
    "Generator[Json, None]": "Generator[Json, None, None]",
    "Callable[[float], Awaitable[None]]=asyncio.sleep": "Callable[[float], None]=time.sleep",
}


def test_it_is_the_translation_of_the_asynchronous_client() -> None:
    folder = Path(str(tailrace.client.__file__)).parent
    aio = ast.parse((folder / "aio.py").read_text(encoding="utf-8"))
    sync = ast.parse((folder / "sync.py").read_text(encoding="utf-8"))
    # Their own first words are the modules' own affair.
    del aio.body[0], sync.body[0]
    translated = ast.unparse(Translator().visit(aio))
    for a, b in PHRASES.items():
        assert a in translated, f"{a!r} is no longer in aio.py"
        translated = translated.replace(a, b)
    assert translated == ast.unparse(sync)

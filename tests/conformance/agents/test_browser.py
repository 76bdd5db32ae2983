"""The JavaScript client in a page: what a browser's `fetch` does differently."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from tests.browser import chromium
from tests.conformance.agents.run import CLIENT
from tests.needs import needs

pytestmark = [pytest.mark.slow, needs("chromium")]

FRAMES = [f"id: {n}\ndata: žluťoučký 🐎 {n}\n\n".encode() for n in range(1, 6)]


class Page(BaseHTTPRequestHandler):
    """A page, the client, and a stream that ends after `cut` frames: without a word, as what a
    proxy has lost does.
    """

    asked: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/stream":
            self._stream(int(query or len(FRAMES)), int(self.headers["last-event-id"] or 0))
        elif path.startswith("/src/"):
            self._answer((CLIENT / path[1:]).read_bytes(), "text/javascript")
        else:
            self._answer(b"<!doctype html><title>A page</title>", "text/html")

    do_POST = do_GET  # noqa: N815 - the base class wants it so

    def _answer(self, body: bytes, type_: str) -> None:
        self.send_response(200)
        self.send_header("content-type", type_)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, cut: int, after: int) -> None:
        self.rfile.read(int(self.headers["content-length"] or 0))
        self.asked.append((self.command, self.path, self.headers["x-key"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-location", f"/stream?{cut}")
        self.end_headers()
        told = FRAMES[after : after + cut]
        self.wfile.write(b": tailrace\nretry: 1\n" + b"".join(told))
        if after + cut >= len(FRAMES):
            self.wfile.write(b": end\n")
        self.close_connection = True

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def served() -> Iterator[str]:
    Page.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


ASKS = """async ([address, options]) => {
    const { healingFetch } = await import("/src/index.js");
    const seen = [];
    const fetch = healingFetch({ longestPause: 5, onReconnect: (about) => seen.push(about) });
    const response = await fetch(address, options);
    return [await response.text(), seen.map((about) => about.lastEventId), response.url];
}"""

LEAVES = """async () => {
    const { healingFetch } = await import("/src/index.js");
    const leaving = new AbortController();
    const onReconnect = () => leaving.abort(new Error("enough"));
    const fetch = healingFetch({ firstPause: 60_000, onReconnect });
    const response = await fetch("/stream?2", { signal: leaving.signal });
    const reader = response.body.getReader();
    await reader.read();
    // Not by text(): Chromium has an error of its own for whatever ends a body.
    return reader.read().catch((error) => error.message);
}"""


@pytest.mark.parametrize("cut", [1, 2, 4])
def test_a_page_has_all_of_a_stream_that_is_cut(cut: int) -> None:
    with served() as url, chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        # An address as pages write it: without an origin.
        asked = {"method": "POST", "body": "{}", "headers": {"x-key": "secret"}}
        text, seen, address = page.evaluate(ASKS, [f"/stream?{cut}", asked])
    assert text == b"".join(FRAMES).decode()
    assert seen == [str(n) for n in range(cut, len(FRAMES), cut)]
    assert address == f"{url}/stream?{cut}"
    first, *others = Page.asked
    assert first == ("POST", f"/stream?{cut}", "secret")
    assert set(others) == {("GET", f"/stream?{cut}", "secret")}


def test_a_page_that_leaves_is_not_held_up() -> None:
    with served() as url, chromium() as browser:
        page = browser.new_page()
        page.goto(url)
        assert page.evaluate(LEAVES) == "enough"
    assert len(Page.asked) == 1

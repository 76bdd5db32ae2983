"""A browser at a closed door: with the link, without it, and on a page of somebody else's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser import chromium
from tests.closed import House
from tests.needs import needs
from tests.processes import until

pytestmark = [pytest.mark.slow, needs("chromium")]

# Starts a script, and says what an EventSource tells of it, to its end.
WATCHED = """async () => {
    const body = JSON.stringify({operation: "script", input: {file: "hello.sh"}});
    const headers = {"Content-Type": "application/json"};
    const run = await (await fetch("/runs", {method: "POST", headers, body})).json();
    return await new Promise((resolve) => {
        const seen = [];
        const source = new EventSource(run.links.events);
        const types = ["start", "output", "complete", "error"];
        for (const type of types)
            source.addEventListener(type, (event) => {
                seen.push([type, event.lastEventId]);
                if (type === "complete" || type === "error") {
                    source.close();
                    resolve(seen);
                }
            });
    });
}"""

# All the ways that a page has to make a browser ask: what came of each.
TRICKS = """async (base) => {
    const path = base + "/run_file?file_path=hello.sh";
    const body = JSON.stringify({operation: "script", input: {file: "hello.sh"}});
    const came = {};
    const ask = (name, how) => fetch(how.url || path, {credentials: "include", ...how}).then(
        (answer) => { came[name] = answer.type === "opaque" ? "opaque" : answer.status; },
        () => { came[name] = "refused"; });
    await ask("cors", {});
    await ask("no-cors", {mode: "no-cors"});
    await ask("post", {url: base + "/runs", method: "POST", body,
                       headers: {"Content-Type": "application/json"}});
    await ask("simple post", {url: base + "/runs", method: "POST", body, mode: "no-cors",
                              headers: {"Content-Type": "text/plain"}});
    await ask("reading", {url: base + "/runs"});
    const loaded = (element, name) => new Promise((resolve) => {
        element.onload = () => { came[name] = "loaded"; resolve(); };
        element.onerror = () => { came[name] = "refused"; resolve(); };
        element.src = path;
        document.body.append(element);
    });
    await loaded(document.createElement("img"), "img");
    await loaded(document.createElement("script"), "script");
    await new Promise((resolve) => {
        const source = new EventSource(path, {withCredentials: true});
        source.onerror = () => { source.close(); came["event source"] = "refused"; resolve(); };
        source.onmessage = () => { source.close(); came["event source"] = "told"; resolve(); };
    });
    const frame = document.createElement("iframe");
    frame.src = path;
    document.body.append(frame);
    await new Promise((resolve) => { frame.onload = resolve; });
    return came;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium("--host-resolver-rules=MAP *.example 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    # The policy of the page at `/` lets no script ask for anything: it has none. These do.
    context = browser.new_context(bypass_csp=True)
    yield context.new_page()
    context.close()


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """Another server of this machine, with an empty page; its port."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><body>")

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def enter(page: Page, house: House) -> str:
    """Come by the link; the address where the page is then."""
    link = house.tailrace("login").stdout.strip()
    page.goto(link)
    page.wait_for_url(f"http://127.0.0.1:{house.port}/")
    return link


def test_the_link_lets_it_in(page: Page, house: House) -> None:
    link = enter(page, house)
    assert "What can be run" in page.inner_text("body")
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert page.evaluate("document.cookie") == ""
    seen = page.evaluate(WATCHED)
    assert seen[-1][0] == "complete"
    assert [int(id) for _, id in seen] == sorted({int(id) for _, id in seen})
    # Nor can it be found again with the key to the history.
    page.go_back()
    assert "login" not in page.url
    house.restart()
    page.goto(f"http://127.0.0.1:{house.port}/")
    assert "What can be run" in page.inner_text("body")
    other = page.context.browser.new_context().new_page()  # type: ignore[union-attr]
    other.goto(link)
    assert "wants to know who asks" in other.inner_text("body")
    other.context.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "evil.example"])
def test_a_page_of_somebody_else(page: Page, house: House, elsewhere: int, host: str) -> None:
    """The same machine at another port is the same site, so the cookie comes along."""
    enter(page, house)
    page.goto(f"http://{host}:{elsewhere}/")
    came = page.evaluate(TRICKS, f"http://127.0.0.1:{house.port}")
    assert {name for name, what in came.items() if what in ("told", "loaded", 200, 201)} == set()
    assert came["cors"] == came["post"] == came["reading"] == came["event source"] == "refused"
    assert house.tailrace("runs", "ls", "--json").stdout == "", "nothing was started"


def test_a_name_that_turns_into_this_machine(page: Page, house: House) -> None:
    answer = page.goto(f"http://evil.example:{house.port}/runs")
    assert answer is not None
    assert answer.status == 403
    assert "evil.example" in answer.text()


def test_a_link_on_a_page_of_somebody_else_works(page: Page, house: House, elsewhere: int) -> None:
    """As in a terminal that is itself in a browser."""
    link = house.tailrace("login").stdout.strip()
    page.goto(f"http://terminal.example:{elsewhere}/")
    page.evaluate("(link) => { location.href = link; }", link)
    page.wait_for_url(f"http://127.0.0.1:{house.port}/")
    until(lambda: "What can be run" in page.inner_text("body"), "it is let in")

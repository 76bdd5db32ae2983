"""From sse-starlette to Tailrace by one line: the same tests of the app before, and after."""

from __future__ import annotations

import contextlib
import difflib
import http.client
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.host import hosted
from tests.processes import ROOT, SERVERS, START_SECONDS, eventually, free_port, until
from tests.watching import Stalled, Watcher, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

FOLDER: Final = ROOT / "examples" / "migration"
BOTH: Final = ("before", "after")


class App:
    """One of the three, on uvicorn, as one would start it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.port = free_port()
        module = f"examples.migration.{name}:app"
        words = [word.format(app=module, port=self.port) for word in SERVERS["uvicorn"]]
        self.said = folder / f"{name}-{self.port}.txt"
        with self.said.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env={**os.environ, "XDG_STATE_HOME": str(folder)},
            )  # fmt: skip

    def happened(self) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/happened", headers={"connection": "close"})
            return list(json.loads(connection.getresponse().read()))

    @property
    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said.read_text()
        with contextlib.suppress(OSError):
            self.happened()
            return True
        return False


@contextlib.contextmanager
def served(name: str, folder: Path) -> Iterator[App]:
    app = App(name, folder)
    try:
        until(lambda: app.is_ready, f"{name} answers", START_SECONDS)
        yield app
    finally:
        app.process.kill()
        app.process.wait()


@pytest.fixture(scope="module", params=BOTH)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with served(request.param, tmp_path_factory.mktemp("migration")) as app:
        yield app


async def whole(app: App, target: str, **asked: Any) -> Watcher:
    """What a stream tells, to its end."""
    async with watchers() as party:
        party.append(await Watcher.open(app.port, target, **asked))
        watcher = await party[0].over()
    assert watcher.is_complete
    assert watcher.headers["content-type"].startswith("text/event-stream")
    return watcher


def told(watcher: Watcher) -> list[tuple[str, str, str]]:
    return [(event.id, event.event, event.data) for event in watcher.events]


COUNTDOWN: Final = [
    ("n3", "number", "3"),
    ("n2", "number", "2"),
    ("n1", "number", "1"),
    ("n0", "end", "Lift-off!\nWe have a lift-off."),
]

# --- the same before and after -------------------------------------------------------------------


async def test_a_clock_goes_until_one_leaves(app: App) -> None:
    before = app.happened().count("clock: left")
    async with watchers() as party:
        party.append(await Watcher.open(app.port, "/clock?pause=0.02"))
        await party[0].until(lambda seen: len(seen.events) >= 3, "three ticks")
        assert told(party[0])[:3] == [(str(n), "tick", f"tick {n}") for n in (1, 2, 3)]
        party[0].leave()
        left = before + 1
        await eventually(lambda: app.happened().count("clock: left") == left, "it was noticed")


async def test_a_countdown(app: App) -> None:
    watcher = await whole(app, "/countdown/3?pause=0.01")
    assert told(watcher) == COUNTDOWN
    lines = bytes(watcher.body).splitlines()
    assert b": here it goes" in lines
    assert b"retry: 3000" in lines


async def test_an_answer_to_a_post(app: App) -> None:
    body = json.dumps({"lines": ["tea", "cake"]}).encode()
    headers = {"content-type": "application/json"}
    watcher = await whole(app, "/orders", method="POST", headers=headers, body=body)
    assert (watcher.status, watcher.headers["x-orders"]) == (201, "2")
    assert [(type, json.loads(data)) for _, type, data in told(watcher)] == [
        ("line", {"line": "tea", "number": 1}),
        ("line", {"line": "cake", "number": 2}),
        ("end", {"lines": 2}),
    ]


async def test_a_plain_generator(app: App) -> None:
    watcher = await whole(app, "/lines?count=4")
    assert [event.data for event in watcher.events] == [f"line {n}" for n in range(4)]


async def test_what_somebody_else_feeds(app: App) -> None:
    watcher = await whole(app, "/fed?count=5")
    assert [event.data for event in watcher.events] == [f"item {n}" for n in range(5)]


async def test_a_sign_of_life_of_ones_own(app: App) -> None:
    async with watchers() as party:
        party.append(await Watcher.open(app.port, "/quiet"))
        await party[0].told(b": still here")
        assert not party[0].events


async def test_one_who_does_not_read_is_let_go(app: App) -> None:
    before = app.happened().count("heavy: over")
    with contextlib.closing(Stalled(app.port, "/heavy")):
        await eventually(lambda: app.happened().count("heavy: over") > before, "it is over", 20)


async def test_one_who_leaves_a_session(app: App) -> None:
    async with watchers() as party:
        party.append(await Watcher.open(app.port, "/session"))
        await party[0].told(b"event: hello")
        party[0].leave()
        await eventually(
            lambda: {"session: http.disconnect", "session: over"} <= {*app.happened()}, "it is told"
        )


@pytest.mark.parametrize("name", BOTH)
async def test_goodbye(name: str, tmp_path: Path) -> None:
    with served(name, tmp_path) as app:
        async with watchers() as party:
            party.append(await Watcher.open(app.port, "/session"))
            await party[0].told(b"event: hello")
            app.process.terminate()
            await party[0].told(b"event: goodbye")
            # The one says it only when the connection is over.
            await party[0].over()
            assert told(party[0])[-1] == ("", "goodbye", "come back soon")
            await eventually(lambda: app.process.poll() is not None, "the server has ended")


# --- what differs --------------------------------------------------------------------------------


def changes(old: str, new: str) -> list[str]:
    """The lines that were taken and added."""
    was, is_now = ((FOLDER / f"{name}.py").read_text(encoding="utf-8") for name in (old, new))
    lines = difflib.unified_diff(was.splitlines(), is_now.splitlines(), lineterm="", n=0)
    return [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]


IMPORT: Final = "import EventSourceResponse, JSONServerSentEvent, ServerSentEvent"


def test_one_line_differs() -> None:
    assert changes("before", "after") == [
        f"-from sse_starlette {IMPORT}",
        f"+from tailrace {IMPORT}",
    ]


def test_and_one_more_for_each_stream_that_is_to_last() -> None:
    assert changes("after", "durable") == [
        f"-from tailrace {IMPORT}",
        f"+from tailrace {IMPORT}, Tailrace",
        "-app = FastAPI()",
        "+runs = Tailrace()",
        "+app = FastAPI(lifespan=runs.lifespan)",
        "-    return EventSourceResponse(numbers())",
        "+    return await runs.stream(numbers(), request)",
    ]


async def test_what_that_is_good_for(tmp_path: Path) -> None:
    with served("durable", tmp_path) as app:
        target = "/countdown/20?pause=0.02"
        async with watchers() as party:
            party.append(await Watcher.open(app.port, target))
            first = await party[0].until(lambda seen: len(seen.events) >= 5, "five events")
            first.leave()
        # As an EventSource does it: the same request, with the last id.
        rest = await whole(app, target, headers={"last-event-id": first.last_event_id})
        found = [event.data for event in (*first.events, *rest.events)]
        assert found == [*map(str, range(20, 0, -1)), COUNTDOWN[-1][2]]
        assert [event.event for event in rest.events[-2:]] == ["number", "end"]
        # What the page need not know: the end is an id without an event.
        last = bytes(rest.body).rpartition(b"id: ")[2].splitlines()[0].decode()
        async with watchers() as party:
            party.append(await Watcher.open(app.port, target, headers={"last-event-id": last}))
            assert (await party[0].over()).status == 204
        # The others are as they were.
        assert (await whole(app, "/lines")).events[0].data == "line 0"


async def test_before_it_was_not_so(tmp_path: Path) -> None:
    with served("before", tmp_path) as app:
        target = "/countdown/20?pause=0.02"
        async with watchers() as party:
            party.append(await Watcher.open(app.port, target))
            first = await party[0].until(lambda seen: len(seen.events) >= 5, "five events")
            first.leave()
        again = await whole(app, target, headers={"last-event-id": first.last_event_id})
        assert again.events[0].data == "20"


# --- docs/migrate.md -----------------------------------------------------------------------------

PAGE: Final = (ROOT / "docs" / "migrate.md").read_text(encoding="utf-8")

FASTAPI_IMPORTS: Final = (
    "from fastapi.sse import ServerSentEvent\n",
    "from tailrace import JSONEventSourceResponse as EventSourceResponse\n",
)


def code(section: str) -> str:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.split(f"## {section}\n")[1], re.DOTALL)[:1]
    return str(block)


async def streamed(code: str) -> list[tuple[str, str, str]]:
    """What the app of a page says at /stream."""
    space: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "docs/migrate.md", "exec", dont_inherit=True), space)
    async with hosted(space["app"]) as port, watchers() as party:
        party.append(await Watcher.open(port, "/stream"))
        return told(await party[0].over())


async def test_the_page_about_fastapi() -> None:
    after = code("From fastapi.sse")
    before = after.replace(FASTAPI_IMPORTS[0], "").replace(
        FASTAPI_IMPORTS[1], "from fastapi.sse import EventSourceResponse, ServerSentEvent\n"
    )
    assert before.count("import") == after.count("import") - 1
    found = await streamed(after)
    assert [(id, type) for id, type, _ in found] == [
        ("", "message"),
        ("1", "end"),
        ("1", "message"),
    ]
    # One of them writes blanks into its JSON.
    assert [(*each[:2], each[2].replace(" ", "")) for each in await streamed(before)] == [
        (*each[:2], each[2].replace(" ", "")) for each in found
    ]


async def test_the_page_about_streaming_responses() -> None:
    found = await streamed(code("From StreamingResponse"))
    numbers = [("", "number", f'{{"number":{number}}}') for number in range(3)]
    assert found == [*numbers, ("", "message", "already a frame")]


def test_the_page_has_every_parameter() -> None:
    import sse_starlette

    import tailrace

    theirs = inspect.signature(sse_starlette.EventSourceResponse).parameters
    assert list(theirs) == list(inspect.signature(tailrace.EventSourceResponse).parameters)
    table = PAGE.split("| parameter |")[1].split("\n\n")[0]
    named = [
        name
        for line in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    ]
    assert sorted(named) == sorted(theirs)

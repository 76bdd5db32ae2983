"""Ask for employees, and watch how it is found out: over HTTP, by curl, through cuts and kills."""

from __future__ import annotations

import http.client
import json
import random
import re
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tailrace.agent.demo.staff import LAST_YEAR, staff
from tailrace.protocol.sse import Decoder
from tests.door import UNBOUND, Door, opened
from tests.exampled import Example, example
from tests.needs import needs
from tests.processes import until
from tests.readers import Told, events

pytestmark = pytest.mark.slow

QUESTION = "give me the list of employees with 5–10% increment"
ENDS = ("complete", "cancelled", "error")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("chat")
    with opened(folder, "--no-auth", *UNBOUND, "--chat", "demo") as door:
        yield door


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Example]:
    env = {"CHATTY_GATE": str(tmp_path / "gate"), "CHATTY_LOG": str(tmp_path / "log.db")}
    with example("tests.apps.chatty", tmp_path, **env) as running:
        yield running


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **more}


def curl(port: int, target: str, body: Any = None, *options: str) -> bytes:
    """What curl prints."""
    words = ["curl", "-sS", "-N", "--fail-with-body", "--max-time", "60", *options]
    if body is not None:
        words += ["-H", "content-type: application/json", "-d", json.dumps(body)]
    done = subprocess.run(
        [*words, f"http://127.0.0.1:{port}{target}"], capture_output=True, check=False
    )
    assert done.returncode == 0, (done.stderr, done.stdout)
    return done.stdout


def said(told: list[Told]) -> list[dict[str, Any]]:
    return [json.loads(one.data) for one in told]


def increments(low: float, high: float) -> dict[str, tuple[str, float, int, int]]:
    """Who got how much in the last year, by SQL of our own over the bare table of people."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE pay (name TEXT, department TEXT, year INTEGER, pay INTEGER)")
    for one in staff():
        rows = [(one.name, one.department, year, pay) for year, pay in one.salaries.items()]
        connection.executemany("INSERT INTO pay VALUES (?, ?, ?, ?)", rows)
    found = connection.execute(
        "SELECT b.name, b.department, round((b.pay * 100.0 / a.pay) - 100, 1) AS percent, a.pay, "
        "b.pay FROM pay a, pay b WHERE a.name = b.name AND a.year = ? AND b.year = ? "
        "AND percent BETWEEN ? AND ?",
        (LAST_YEAR - 1, LAST_YEAR, low, high),
    )
    return {name: (where, percent, old, new) for name, where, percent, old, new in found}


def rows(text: str) -> dict[str, tuple[str, float, int, int]]:
    """The table in an answer."""
    lines = [line for line in text.splitlines() if line.startswith("|") and "€" in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {
        name: (where, float(percent.removesuffix(" %")), euros(old), euros(new))
        for name, where, percent, old, new in cells
    }


def euros(text: str) -> int:
    return int(text.replace("€", "").replace(",", ""))


@needs("curl")
def test_the_list_of_employees(door: Door) -> None:
    told = said(events(curl(door.port, "/mcp/chat/stream", asked(QUESTION))))
    types = [one["type"] for one in told]
    assert types[0] == "session_start"
    assert "no real language model" in told[0]["note"]
    assert (types.count("complete"), types[-1]) == (1, "complete")
    truth = increments(5, 10)
    assert len(truth) > 10
    last = told[-1]
    assert rows(last["totalText"]) == truth
    assert f"{len(truth)} of {len(staff())} employees" in last["totalText"]
    # It was found out in several iterations, by tools that were called.
    assert types.count("iteration_start") == last["iterations"] >= 3
    assert types.index("text_chunk") < types.index("tool_detected") < types.index("tools_executing")
    done = [one for one in told if one["type"] == "tool_progress" and one["status"] == "completed"]
    assert "increments" in {one["toolName"] for one in done}
    assert all(one["executionTime"] >= 0 and one["resultPreview"] for one in done)
    assert sum(one["totalCount"] for one in told if one["type"] == "tools_completed") == len(done)
    chunks = [one for one in told if one["type"] == "text_chunk"]
    assert "".join(one["chunk"] for one in chunks) == last["totalText"]
    assert chunks[-1]["accumulated"] == last["totalText"]
    assert last["textLength"] == len(last["totalText"])


@needs("curl")
def test_a_question_that_follows(door: Door) -> None:
    thread = "follows"
    first = said(events(curl(door.port, "/mcp/chat/stream", asked(QUESTION, thread=thread))))
    more = asked("And how many of them are in Sales?", thread=thread)
    second = said(events(curl(door.port, "/mcp/chat/stream", more)))
    sales = [one for one in increments(5, 10).values() if one[0] == "Sales"]
    assert re.search(rf"\b{len(sales)}\b", second[-1]["totalText"]), second[-1]["totalText"]
    assert first[-1]["thread"] == second[-1]["thread"] == thread


@needs("curl")
def test_beforehand(door: Door) -> None:
    curl(door.port, "/mcp/chat/stream", asked(QUESTION))
    told = json.loads(curl(door.port, "/mcp/analyze-query", {"query": QUESTION}))
    assert "increments" in told["toolsNeeded"]
    assert told["reasons"]
    assert told["estimatedTime"][told["route"]]["runs"] >= 1


# --- cut, and gone on with ----------------------------------------------------------------------


class Cut:
    """A watcher whose connection is cut after so many bytes, again and again."""

    def __init__(self, port: int, dice: random.Random) -> None:
        self._port, self._dice = port, dice
        self.told: list[tuple[str, str]] = []
        self.cuts = 0
        self.there = ""

    def watch(self, target: str, body: Any = None) -> None:
        while not self._once(target, body):
            self.cuts += 1
            target, body = self.there, None

    def _once(self, target: str, body: Any) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        decoder, left = Decoder(), self._dice.randint(200, 12_000)
        headers = {"content-type": "application/json"}
        if self.told:
            headers["last-event-id"] = self.told[-1][0]
        try:
            sent = None if body is None else json.dumps(body)
            connection.request("GET" if body is None else "POST", target, sent, headers)
            answer = connection.getresponse()
            if answer.status == 204:
                return True
            assert answer.status == 200, answer.read()
            self.there = answer.headers["content-location"] or target
            while left > 0 and (part := answer.read1(min(left, 997))):
                left -= len(part)
                self.told += [(one.id, one.data) for one in decoder.feed(part)]
            return left > 0
        finally:
            connection.close()


FORMATS = {
    "/mcp/chat/stream": asked(QUESTION, accumulated=False),
    "/agui": {"threadId": "{}", "messages": [{"id": "1", "role": "user", "content": QUESTION}]},
    "/api/chat": {"id": "{}", "messages": [{"id": "1", "role": "user", "content": QUESTION}]},
    "/v1/responses": {"input": QUESTION, "stream": True},
}


@pytest.mark.parametrize("target", FORMATS)
def test_cut_anywhere(door: Door, target: str) -> None:
    seed = random.randrange(10**6)
    cuts = 0
    for number in range(3):
        dice = random.Random(seed + number)
        body = json.loads(json.dumps(FORMATS[target]).replace("{}", f"{target}-{number}-{seed}"))
        watcher = Cut(door.port, dice)
        watcher.watch(target, body)
        whole = [(one.id, one.data) for one in events(door.ask("GET", watcher.there).body)]
        assert watcher.told == whole, f"seed {seed}"
        cuts += watcher.cuts
    assert cuts > 3


# --- killed and stopped in mid-turn --------------------------------------------------------------


class Watching:
    """Reads a stream in a thread."""

    def __init__(self, port: int, body: Any) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.run = ""
        self.is_over = False
        self._decoder = Decoder()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {"content-type": "application/json"}
        self._connection.request("POST", "/mcp/chat/stream", json.dumps(body), headers)
        answer = self._connection.getresponse()
        self.run = str(answer.headers["tailrace-run"])
        self._thread = threading.Thread(target=self._read, args=(answer,), daemon=True)
        self._thread.start()

    def _read(self, answer: http.client.HTTPResponse) -> None:
        try:
            while part := answer.read1(65536):
                for one in self._decoder.feed(part):
                    self.told.append((one.id, json.loads(one.data)))
        except (OSError, http.client.HTTPException):
            pass
        finally:
            self.is_over = True
            self._connection.close()

    @property
    def text(self) -> str:
        return "".join(one.get("chunk", "") for _, one in list(self.told))

    def until(self, text: str) -> None:
        until(lambda: text in self.text, f"the model has said {text!r}", 20)

    def over(self) -> None:
        self._thread.join(20)
        assert self.is_over


def test_killed_in_mid_turn(slow: Example) -> None:
    seen = Watching(slow.port, asked("go", thread="t", accumulated=False))
    seen.until("word29")
    slow.kill()
    seen.over()
    slow.start()
    until(lambda: slow.ask("GET", f"/runs/{seen.run}").json()["ended_at"], "it has ended", 20)
    shown = slow.ask("GET", f"/runs/{seen.run}").json()
    assert (shown["state"], shown["error"]["reason"]) == ("lost", "lost")
    there = f"/mcp/chat/{seen.run}/stream?accumulated=false"
    whole = [(one.id, json.loads(one.data)) for one in slow.told(there).events]
    # Every token that was seen is there, under the same id, and nothing but the end is new.
    assert whole[: len(seen.told)] == seen.told
    (end,) = whole[len(seen.told) :]
    assert (end[1]["type"], end[1]["reason"]) == ("error", "lost")
    rest = slow.told(there, headers={"last-event-id": seen.told[-1][0]})
    assert [one.id for one in rest.events] == [end[0]]
    assert slow.ask("GET", there, headers={"last-event-id": end[0]}).status_code == 204
    # The conversation goes on, and each dialect knows what was said.
    response = slow.ask("GET", f"/v1/responses/{seen.run.replace('run_', 'resp_')}").json()
    assert response["status"] == "failed"
    assert "word29" in json.dumps(response["output"])
    after = slow.ask("GET", "/api/chat/t").json()["messages"]
    assert "word29" in json.dumps(after)
    other = Watching(slow.port, asked("again", thread="t"))
    other.until("word29")
    stopped = slow.ask("POST", "/api/chat/t/stop")
    assert stopped.status_code == 204
    other.over()


def test_cancelled_in_mid_turn(slow: Example) -> None:
    seen = Watching(slow.port, asked("go", thread="t"))
    seen.until("word29")
    busy = slow.ask("POST", "/mcp/chat/stream", json=asked("and?", thread="t"))
    assert (busy.status_code, busy.json()["code"]) == (409, "thread-busy")
    began = time.monotonic()
    assert slow.ask("POST", f"/runs/{seen.run}/cancel").status_code == 202
    seen.over()
    assert time.monotonic() - began < 2
    assert seen.told[-1][1]["type"] == "cancelled"
    assert seen.text.endswith("word29 ")
    assert slow.ask("GET", f"/runs/{seen.run}").json()["state"] == "cancelled"


def test_leaving_is_not_cancelling(slow: Example, tmp_path: Path) -> None:
    target = "/mcp/chat/stream"
    first = slow.told(target, "POST", most=6, json=asked("go", accumulated=False))
    (tmp_path / "gate").touch()
    there, last = first.headers["content-location"], first.events[-1].id
    rest = slow.told(there, headers={"last-event-id": last})
    told = [json.loads(one.data) for one in [*first.events, *rest.events]]
    assert told[-1]["type"] == "complete"
    assert "".join(one.get("chunk", "") for one in told) == told[-1]["totalText"]
    assert told[-1]["totalText"].endswith("the end")


# --- many -----------------------------------------------------------------------------------------


def test_a_hundred_at_once(door: Door) -> None:
    began = time.monotonic()

    def one(number: int) -> dict[str, Any]:
        seen = Watching(door.port, asked(QUESTION, accumulated=False, thread=f"many-{number}"))
        until(lambda: seen.is_over, f"turn {number} is over", 120)
        assert seen.text == seen.told[-1][1]["totalText"]
        return seen.told[-1][1]

    with ThreadPoolExecutor(100) as pool:
        ends = list(pool.map(one, range(100)))
    assert {end["type"] for end in ends} == {"complete"}
    assert len({end["totalText"] for end in ends}) == 1
    assert rows(ends[0]["totalText"]) == increments(5, 10)
    print(f"100 turns at once in {time.monotonic() - began:.1f} s")

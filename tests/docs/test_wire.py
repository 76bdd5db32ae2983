"""A client that was written from docs/wire.md alone: it is cut anywhere, and misses nothing."""

from __future__ import annotations

import http.client
import json
import random
from pathlib import Path

import pytest

from tests.docs.playing import Stage, played
from tests.docs.snippets import DOCS, Block
from tests.needs import needs

pytestmark = [pytest.mark.slow, needs("curl")]

MORE = """
import asyncio

@runs.operation
async def count(run: RunContext, to: int) -> int:
    for number in range(to):
        run.emit("number", number=number, text="a\\u2028b\\r\\nc")
        if number % 50 == 0:
            await asyncio.sleep(0.01)
    return to
"""
Told = list[tuple[str, str, str]]


class Client:
    """Knows one run, and the last id that it has of it."""

    def __init__(self, port: int, run: str) -> None:
        self._port, self._run = port, run
        self.last = ""
        self.told: Told = []
        self.connections = 0

    def ask(self, cut_after: int | None) -> int:
        """One connection, cut by the client after so many bytes; its status."""
        self.connections += 1
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        headers = {"Last-Event-ID": self.last} if self.last else {}
        connection.request("GET", f"/runs/{self._run}/events", headers=headers)
        answer = connection.getresponse()
        body = b"" if answer.status != 200 else answer.read(cut_after)
        connection.close()
        # What has no blank line behind it is dropped.
        for block in body.split(b"\n\n")[:-1]:
            self.take(block.decode())
        return answer.status

    def take(self, block: str) -> None:
        id_, type_, data = "", "message", ""
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name == "id":
                id_ = value
            elif name == "event":
                type_ = value
            elif name == "data":
                data = value
        if id_:
            self.last = id_
            self.told.append((id_, type_, data))


def started(stage: Stage, **given: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", stage.port, timeout=10)
    body = json.dumps({"operation": "count", "input": given})
    connection.request("POST", "/runs", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 201
    run = json.loads(answer.read())["id"]
    connection.close()
    return str(run)


def test_a_client_from_the_page(tmp_path: Path) -> None:
    dice = random.Random(7)
    with played(DOCS / "wire.md", tmp_path) as stage:
        main = stage.folder / "main.py"
        # The page's log forgets early, to show a gap; this one is to have all.
        main.write_text(main.read_text(encoding="utf-8").replace("run_events=20", ""), "utf-8")
        stage.play(Block("wire.md", 0, "python", MORE, "append", "main.py"))
        stage.play(Block("wire.md", 0, "sh", "tailrace serve main:app --port 4000", "serve"))
        client = Client(stage.port, run := started(stage, to=500))
        while client.ask(dice.randrange(1, 4000)) != 204:
            assert client.connections < 2000
        whole = Client(stage.port, run)
        whole.ask(None)
        assert client.told == whole.told
        assert client.connections > 20
        assert [id_ for id_, _, _ in client.told] == [str(n) for n in range(1, 503)]
        assert client.told[-1][1] == "complete"
        assert json.loads(client.told[1][2])["text"] == "a\u2028b\r\nc"

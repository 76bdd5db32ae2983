"""The local model, where `make local-llm` has put it: it calls a tool where one helps."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from examples.local_llm import run
from tailrace.agent.chat import Chat
from tailrace.agent.models import Endpoint
from tailrace.engine import Engine
from tests.nesting import check
from tests.processes import free_port, until

# Unlike other programs it is not asked for in CI either: it takes a gigabyte and ten minutes.
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    pytest.mark.skipif(
        not run.usual().is_installed, reason="`make local-llm` installs what this needs"
    ),
]

LOAD_SECONDS = 60.0


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The model's server; where it is."""
    run.verify(run.usual().model)
    port = free_port()
    said = tmp_path_factory.mktemp("local_llm") / "said.txt"
    with said.open("wb") as out:
        process = subprocess.Popen(
            run.command(run.usual(), port), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        until(lambda: is_loaded(process, port, said), "the model is loaded", LOAD_SECONDS)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def is_loaded(process: subprocess.Popen[bytes], port: int, said: Path) -> bool:
    assert process.poll() is None, said.read_text(errors="replace")[-3000:]
    with contextlib.suppress(httpx2.HTTPError):
        answer = httpx2.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=5)
        return answer.status_code == 200
    return False


@dataclass
class Talk:
    """Turns of our chat with the model, and the calls that it made."""

    engine: Engine
    calls: list[str] = field(default_factory=list)

    async def turn(self, message: str, thread: str | None = None) -> dict[str, Any]:
        """What a turn came to. What was told of it is well nested."""
        record, _ = await self.engine.submit("chat", {"message": message}, thread=thread)
        going = self.engine.run(record.id)
        check([(event.type, event.payload) async for event in going.events()])
        result: dict[str, Any] = await going.result()
        return result


@pytest.fixture
async def talk(base: str) -> AsyncIterator[Talk]:
    async with Engine("memory:") as engine:
        talk = Talk(engine)

        def count_employees(department: str) -> int:
            """Count the employees of a department."""
            talk.calls.append(department.casefold())
            return {"sales": 12, "engineering": 30}.get(department.casefold(), 0)

        Chat(
            engine,
            model="local",
            endpoints={"local": Endpoint(run.NAME, f"{base}/v1")},
            tools=[count_employees],
        )
        yield talk


async def test_it_calls_a_tool_and_says_what_came_of_it(talk: Talk) -> None:
    result = await talk.turn("How many employees are in sales?")
    assert talk.calls == ["sales"]
    assert "12" in result["text"]
    assert "```" not in result["text"]
    assert result["iterations"] == 2
    assert [part["type"] for part in result["parts"]] == ["tool", "text"]
    assert result["parts"][0]["status"] == "completed"


async def test_it_remembers_what_was_said(talk: Talk) -> None:
    await talk.turn("How many employees are in sales?", thread="t")
    result = await talk.turn("And in engineering?", thread="t")
    assert talk.calls == ["sales", "engineering"]
    assert "30" in result["text"]


async def test_it_writes_a_poem_without_a_tool(talk: Talk) -> None:
    result = await talk.turn("Write a haiku about autumn.")
    assert talk.calls == []
    assert result["iterations"] == 1
    assert len(result["text"].splitlines()) >= 3

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tailrace import Access, RunContext, Tailrace
from tailrace.mcp.face import McpFace
from tailrace.protocol.access import RUN
from tests.callers import served
from tests.waiting import until

pytestmark = pytest.mark.anyio

NAME = "io.modelcontextprotocol/tasks"


class App:
    def __init__(self, log: Path | str = "memory:", **options: Any) -> None:
        self.runs = Tailrace(log)
        self.face = McpFace(self.runs, link=lambda run: f"https://here/{run}", **options)
        for work in (self.quick, self.slow, self.fail, self.confirm, self.detached):
            self.runs.operation(work)
        self.go = asyncio.Event()

    async def quick(self) -> str:
        return "done"

    async def slow(self, run: RunContext) -> dict[str, int]:
        run.progress(1, 2, "half way")
        await self.go.wait()
        return {"n": 1}

    async def fail(self) -> None:
        await self.go.wait()
        raise OSError("No disk")

    async def confirm(self, run: RunContext) -> Any:
        await self.go.wait()
        return await self.face.asks.ask(run, "Sure?")

    async def detached(self) -> None:
        await self.go.wait()


class Caller:
    """Sends requests of 2026-07-28."""

    def __init__(self, port: int, http: httpx2.AsyncClient, who: str = "ann") -> None:
        self._url = f"http://127.0.0.1:{port}/"
        self._http = http
        self._who = who
        self.knows: dict[str, Any] = {"extensions": {NAME: {}}, "elicitation": {}}

    async def __call__(self, method: str, headers: Any = (), **params: Any) -> dict[str, Any]:
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": self.knows,
            "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        }
        sent = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            "x-who": self._who,
            "mcp-name": params.get("name") or params.get("taskId") or "",
        }
        if not sent["mcp-name"]:
            del sent["mcp-name"]
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = await self._http.post(self._url, json=body, headers=sent | dict(headers))
        told: dict[str, Any] = answer.json()
        return told.get("result") or told["error"]  # type: ignore[no-any-return]

    async def call(self, name: str, **arguments: Any) -> dict[str, Any]:
        return await self("tools/call", name=name, arguments=arguments)

    async def get(self, task: str) -> dict[str, Any]:
        return await self("tasks/get", taskId=task)

    async def until(self, task: str, status: str) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while (found := await self.get(task))["status"] != status:
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
async def caller(app: App) -> AsyncIterator[Caller]:
    async with served(app.runs, app.face) as port, httpx2.AsyncClient() as http:
        yield Caller(port, http)


async def test_what_is_quick_is_no_task(caller: Caller) -> None:
    result = await caller.call("quick")
    assert result["resultType"] == "complete"
    assert result["content"][0]["text"] == "done"


async def test_a_call_that_takes_a_while_is_a_task(app: App, caller: Caller) -> None:
    made = await caller.call("slow")
    assert made["resultType"] == "task"
    assert made["status"] == "working"
    assert made["ttlMs"] == 3_600_000
    assert made["_meta"]["tailrace/link"] == f"https://here/{made['taskId']}"
    working = await caller.get(made["taskId"])
    assert working["status"] == "working"
    assert working["statusMessage"] == "half way"
    assert working["resultType"] == "complete"
    assert "result" not in working
    app.go.set()
    done = await caller.until(made["taskId"], "completed")
    assert done["result"]["structuredContent"] == {"n": 1}
    assert done["createdAt"] <= done["lastUpdatedAt"]
    assert "statusMessage" not in done


async def test_a_tool_that_fails_has_completed(app: App, caller: Caller) -> None:
    made = await caller.call("fail")
    app.go.set()
    done = await caller.until(made["taskId"], "completed")
    assert done["result"]["isError"]
    assert done["statusMessage"] == "No disk"


async def test_a_task_is_cancelled(app: App, caller: Caller) -> None:
    made = await caller.call("slow")
    for _ in range(2):
        ack = await caller("tasks/cancel", taskId=made["taskId"])
        assert ack["resultType"] == "complete"
        assert "status" not in ack
        done = await caller.until(made["taskId"], "cancelled")
    assert "result" not in done
    await until(lambda: not app.runs.executing)


async def test_a_client_that_leaves_its_task_leaves_it_going(app: App, caller: Caller) -> None:
    made = await caller.call("slow")
    await asyncio.sleep(0)
    assert app.runs.executing == 1
    assert (await caller.get(made["taskId"]))["status"] == "working"


async def test_a_task_asks_and_is_answered(app: App, caller: Caller) -> None:
    made = await caller.call("confirm")
    app.go.set()
    asked = await caller.until(made["taskId"], "input_required")
    [(key, request)] = asked["inputRequests"].items()
    assert request["method"] == "elicitation/create"
    wrong = await caller("tasks/update", taskId=made["taskId"], inputResponses={key: 3})
    assert wrong["code"] == -32602
    answers = {key: {"action": "accept", "content": {"n": 1}}, "unknown": {}}
    ack = await caller("tasks/update", taskId=made["taskId"], inputResponses=answers)
    assert ack["resultType"] == "complete"
    done = await caller.until(made["taskId"], "completed")
    assert done["result"]["structuredContent"] == {"n": 1}


async def test_who_does_not_know_tasks_has_none(app: App, caller: Caller) -> None:
    made = await caller.call("slow")
    caller.knows = {}
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        refused = await caller(method, taskId=made["taskId"])
        assert refused["code"] == -32021
        assert NAME in refused["data"]["requiredCapabilities"]["extensions"]
    app.go.set()
    assert (await caller.call("slow"))["resultType"] == "complete"


async def test_what_is_for_tasks_alone_is_not_called_otherwise() -> None:
    app = App(tasks_only={"quick"})
    async with served(app.runs, app.face) as port, httpx2.AsyncClient() as http:
        caller = Caller(port, http)
        assert (await caller.call("quick"))["resultType"] == "complete"
        caller.knows = {}
        assert (await caller.call("quick"))["code"] == -32021


async def test_a_task_of_somebody_else_is_unknown(app: App) -> None:
    admin, starter = Access.of("root", ["admin"]), Access.of("bob", [RUN])
    async with (
        served(app.runs, app.face, root=admin, bob=starter) as port,
        httpx2.AsyncClient() as http,
    ):
        task = (await Caller(port, http).call("slow"))["taskId"]
        carl = Caller(port, http, "carl")
        refused = [
            await carl(method, taskId=task, inputResponses={})
            for method in ("tasks/get", "tasks/cancel", "tasks/update")
        ]
        assert {one["code"] for one in refused} == {-32602}
        assert {one["message"] for one in refused} == {f"There is no task {task!r}."}
        assert (await Caller(port, http, "root").get(task))["status"] == "working"
        bob = Caller(port, http, "bob")
        mine = (await bob.call("slow"))["taskId"]
        assert "'watch'" in (await bob.get(mine))["message"]
        assert "'cancel'" in (await bob("tasks/cancel", taskId=mine))["message"]


async def test_the_header_names_the_task(caller: Caller) -> None:
    task = (await caller.call("slow"))["taskId"]
    refused = await caller("tasks/get", {"mcp-name": "another"}, taskId=task)
    assert refused["code"] == -32020


async def test_the_versions_before_know_no_such_methods(app: App) -> None:
    async with served(app.runs, app.face) as port, httpx2.AsyncClient() as http:
        headers = {"accept": "application/json, text/event-stream"}
        hello = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"extensions": {NAME: {}}},
            "clientInfo": {"name": "t", "version": "1"},
        }
        url = f"http://127.0.0.1:{port}/"
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        opened = await http.post(url, json=body, headers=headers)
        headers["mcp-session-id"] = opened.headers["mcp-session-id"]
        body = {"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": {"taskId": "x"}}
        answer = await http.post(url, json=body, headers=headers)
        assert '"code":-32601' in answer.text


async def test_a_task_outlives_the_server_and_is_known_to_others(tmp_path: Path) -> None:
    log = tmp_path / "runs.db"
    first = App(log)
    first.go.set()
    async with served(first.runs, first.face) as port, httpx2.AsyncClient() as http:
        first.go.clear()
        caller = Caller(port, http)
        made = await caller.call("slow")
        second = App(log)
        async with served(second.runs, second.face) as other:
            there = Caller(other, http)
            assert (await there.get(made["taskId"]))["status"] == "working"
            await there("tasks/cancel", taskId=made["taskId"])
            await caller.until(made["taskId"], "cancelled")
            first.go.set()
            done = (await caller.call("slow")).get("_meta", {})["tailrace/run"]
    third = App(log)
    async with served(third.runs, third.face) as port, httpx2.AsyncClient() as http:
        caller = Caller(port, http)
        assert (await caller.get(made["taskId"]))["status"] == "cancelled"
        assert (await caller.get(done))["result"]["structuredContent"] == {"n": 1}


async def test_a_task_whose_process_died_has_failed(app: App, caller: Caller) -> None:
    from tailrace.outcome import Outcome, settle
    from tailrace.protocol.lifecycle import Signal

    made = await caller.call("slow")
    record = await app.runs.record(made["taskId"])
    await settle(app.runs.log, record, Outcome(Signal.LOSE))
    lost = await caller.until(made["taskId"], "failed")
    assert lost["error"]["code"] == -32603
    assert "lost" in lost["error"]["message"]
    assert "result" not in lost

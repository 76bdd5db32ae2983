import asyncio
from typing import Any

import httpx2
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ElicitResult

from tailrace import Access, Limits, RunContext, Tailrace
from tailrace.eventlog.contract import Append
from tailrace.mcp.face import McpFace
from tailrace.mcp.server import RunServer
from tailrace.protocol.access import RUN, WATCH
from tailrace.protocol.events import emitted
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery
from tests.callers import ERAS, LEGACY, MODERN, client, served, text
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

eras = pytest.mark.parametrize("era", ERAS)


class App:
    """Some operations, and what their runs have come to."""

    def __init__(self, **options: Any) -> None:
        self.runs = Tailrace("memory:", **options)
        self.face = McpFace(self.runs, link=lambda run: f"https://here/{run}")
        self.began: list[str] = []
        self.ended: list[str] = []
        self.runs.operation(self.count)
        self.runs.operation(self.hang)
        self.runs.operation(name="hang on", detach=True)(self.hang)
        self.runs.operation(self.fail)
        self.runs.operation(self.confirm)

    async def count(self, run: RunContext, to: int = 3) -> dict[str, int]:
        """Counts."""
        for number in range(1, to + 1):
            run.progress(number, to, "counting")
            run.log(f"at {number}")
        return {"to": to}

    async def hang(self, run: RunContext) -> None:
        """Never ends by itself."""
        self.began.append(run.operation)
        try:
            run.progress(message="hanging")
            await asyncio.Event().wait()
        finally:
            self.ended.append(run.operation)

    async def fail(self) -> None:
        """Fails."""
        raise OSError("No disk")

    async def confirm(self, run: RunContext, times: int = 1) -> str:
        """Asks."""
        answers = [await self.face.asks.ask(run, f"Sure {n}?") for n in range(times)]
        return f"{answers}"


@pytest.fixture
def app() -> App:
    return App()


@eras
async def test_a_call_is_a_run(app: App, era: str) -> None:
    told: list[Any] = []
    logged: list[Any] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def log(params: Any) -> None:
        logged.append(params.data)

    async with served(app.runs, app.face) as port:
        async with client(port, era, logging_callback=log, log_level="info") as mcp:
            names = [tool.name for tool in (await mcp.list_tools()).tools]
            result = await mcp.call_tool("count", {"to": 3}, progress_callback=progress)
        [record] = await app.runs.find(RunQuery())
    assert names == [
        "count", "hang", "hang_on", "fail", "confirm", "run_get", "run_events", "run_cancel",
    ]  # fmt: skip
    assert result.structured_content == {"to": 3}
    assert result.meta is not None
    assert result.meta["tailrace/run"] == record.id
    assert result.meta["tailrace/link"] == f"https://here/{record.id}"
    assert told[0] == (0, None, f"{record.id}, https://here/{record.id}")
    assert told[1:] == [(n, 3, "counting") for n in (1, 2, 3)]
    assert logged == ["at 1", "at 2", "at 3"]


@eras
async def test_progress_zero_comes_before_the_work_says_anything(app: App, era: str) -> None:
    heard = asyncio.Event()

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        del progress, total, message
        heard.set()

    async with served(app.runs, app.face) as port, client(port, era) as mcp:
        call = asyncio.create_task(mcp.call_tool("hang", progress_callback=progress))
        await asyncio.wait_for(heard.wait(), 5)
        call.cancel()


@eras
async def test_a_failure_is_the_tools(app: App, era: str) -> None:
    async with served(app.runs, app.face) as port, client(port, era) as mcp:
        failed = await mcp.call_tool("fail")
        refused = await mcp.call_tool("count", {"to": "many"})
        with pytest.raises(MCPError, match="no tool 'nonsense'"):
            await mcp.call_tool("nonsense")
    assert failed.is_error
    assert text(failed).startswith("No disk (run_")
    assert refused.is_error
    assert text(refused).startswith("count does not take this input: to:")


@eras
async def test_a_client_that_gives_up_cancels_its_run(app: App, era: str) -> None:
    async with served(app.runs, app.face) as port, client(port, era) as mcp:
        for number in range(1, 6):
            call = asyncio.create_task(mcp.call_tool("hang"))
            await until(lambda n=number: len(app.began) == n)  # type: ignore[misc]
            call.cancel()
            await until(lambda n=number: len(app.ended) == n, within=2)  # type: ignore[misc]
        for record in await app.runs.find(RunQuery()):
            assert (await soon(app.runs.run(record.id).wait())).state is State.CANCELLED


async def test_before_2026_a_stream_that_breaks_is_no_wish(app: App) -> None:
    """Then a client says so, or comes back with a question for the run."""
    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    headers = {"accept": "application/json, text/event-stream"}
    async with served(app.runs, app.face) as port, httpx2.AsyncClient() as http:
        url = f"http://127.0.0.1:{port}/"
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        opened = await http.post(url, json=body, headers=headers)
        headers["mcp-session-id"] = opened.headers["mcp-session-id"]
        call = {"name": "hang", "arguments": {}, "_meta": {"progressToken": 1}}
        body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
        async with http.stream("POST", url, json=body, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if "progress" in line:
                    break
        await until(lambda: app.began)
        # What it tells meanwhile is for nobody, and holds nobody up.
        [record] = await app.runs.find(RunQuery())
        for _ in range(100):
            draft = emitted("progress", {"current": 1}, 1.0)
            await app.runs.append(Append(record.id, [draft]))
        await until(lambda: not app.runs.hub.connections)
        assert app.runs.executing == 1
        gone = {"requestId": 2}
        body = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": gone}
        await http.post(url, json=body, headers=headers)
        await until(lambda: app.ended)


@eras
async def test_what_is_detached_goes_on(app: App, era: str) -> None:
    async with served(app.runs, app.face) as port:
        async with client(port, era) as mcp:
            call = asyncio.create_task(mcp.call_tool("hang_on"))
            await until(lambda: app.began)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            assert not (await mcp.call_tool("count")).is_error
        assert app.runs.executing == 1
        assert app.ended == []


@eras
async def test_runs_are_looked_after(app: App, era: str) -> None:
    async with served(app.runs, app.face) as port, client(port, era) as mcp:
        run = (await mcp.call_tool("count", {"to": 3})).meta["tailrace/run"]  # type: ignore[index]
        got = (await mcp.call_tool("run_get", {"run": run})).structured_content
        assert got is not None
        assert got["state"] == "completed"
        assert got["link"] == f"https://here/{run}"
        page = (await mcp.call_tool("run_events", {"run": run, "limit": 3})).structured_content
        assert page is not None
        assert [event["type"] for event in page["events"]] == ["start", "progress", "log"]
        assert page["how_to_go_on"] == "run_events with after='3'"
        rest = await mcp.call_tool("run_events", {"run": run, "after": page["next"]})
        assert rest.structured_content is not None
        assert rest.structured_content["finished"]
        assert "how_to_go_on" not in rest.structured_content
        for odd in ({}, {"run": "nonsense"}, {"run": run, "after": "x"}, {"run": run, "after": 99}):
            assert (await mcp.call_tool("run_events", odd)).is_error

        handle = await app.runs.start_operation(app.runs.operations.get("hang"), {})
        await until(lambda: app.began)
        await mcp.call_tool("run_cancel", {"run": handle.id})
        await until(lambda: app.ended)


@eras
async def test_a_run_is_its_owners(app: App, era: str) -> None:
    admin = Access.of("root", ["admin"])
    async with served(app.runs, app.face, root=admin) as port:
        async with client(port, era, "ann") as mcp:
            run = (await mcp.call_tool("count")).meta["tailrace/run"]  # type: ignore[index]
        assert (await app.runs.record(run)).principal == "ann"
        async with client(port, era, "bob") as mcp:
            for tool in ("run_get", "run_events", "run_cancel"):
                refused = await mcp.call_tool(tool, {"run": run})
                assert refused.is_error
                assert text(refused).startswith(f"There is no run {run}")
        async with client(port, era, "root") as mcp:
            assert not (await mcp.call_tool("run_get", {"run": run})).is_error


@eras
async def test_scopes_are_told_apart(app: App, era: str) -> None:
    watcher, starter = Access.of("ann", [WATCH]), Access.of("bob", [RUN])
    async with served(app.runs, app.face, ann=watcher, bob=starter) as port:
        async with client(port, era, "ann") as mcp:
            names = [tool.name for tool in (await mcp.list_tools()).tools]
            assert names == ["run_get", "run_events"]
            with pytest.raises(MCPError, match="not the scope 'run'"):
                await mcp.call_tool("count")
            with pytest.raises(MCPError, match="not the scope 'cancel'") as refused:
                await mcp.call_tool("run_cancel", {"run": "run_" + "a" * 26})
        assert refused.value.error.data["code"] == "scope-missing"
        async with client(port, era, "bob") as mcp:
            assert not (await mcp.call_tool("count")).is_error
            with pytest.raises(MCPError, match="not the scope 'watch'"):
                await mcp.call_tool("run_get", {"run": "run_" + "a" * 26})
    assert len(await app.runs.find(RunQuery())) == 1


@eras
async def test_calls_are_counted(era: str) -> None:
    app = App(limits=Limits(keyed={"run": "2/minute"}))
    async with served(app.runs, app.face) as port, client(port, era, "ann") as mcp:
        for _ in range(2):
            assert not (await mcp.call_tool("count")).is_error
        with pytest.raises(MCPError, match="2") as refused:
            await mcp.call_tool("count")
        assert refused.value.error.data["code"] == "too-many-requests"
        # What only looks is not counted with them.
        assert (await mcp.call_tool("run_get", {"run": "run_" + "a" * 26})).is_error


@eras
async def test_a_run_asks_who_called(app: App, era: str) -> None:
    asked: list[str] = []

    async def answer(_: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept", content={"n": len(asked)})

    async with served(app.runs, app.face) as port:
        async with client(port, era, elicitation_callback=answer) as mcp:
            result = await mcp.call_tool("confirm", {"times": 2})
        assert len(await app.runs.find(RunQuery())) == 1
    assert asked == ["Sure 0?", "Sure 1?"]
    assert text(result) == "[{'n': 1}, {'n': 2}]"


async def test_a_run_that_ends_while_it_asks_does_not_keep_its_call(app: App) -> None:
    asked = asyncio.Event()

    async def never(*_: Any) -> ElicitResult:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with (
        served(app.runs, app.face) as port,
        client(port, LEGACY, elicitation_callback=never) as mcp,
    ):
        call = asyncio.create_task(mcp.call_tool("confirm"))
        await soon(asked.wait())
        [record] = await app.runs.find(RunQuery())
        await app.runs.cancel(record.id)
        result = await soon(call)
    assert text(result).startswith("The run was cancelled.")


@eras
async def test_who_cannot_be_asked_is_not(app: App, era: str) -> None:
    async with served(app.runs, app.face) as port, client(port, era) as mcp:
        result = await mcp.call_tool("confirm")
    assert result.is_error
    assert "The client does not know elicitation/create" in text(result)


@eras
async def test_who_did_what_is_written_down(era: str) -> None:
    app, told = App(), []
    app.face = McpFace(app.runs, note=lambda *one: told.append(one))
    watcher = Access.of("ann", [WATCH])
    async with served(app.runs, app.face, ann=watcher) as port:
        async with client(port, era, "bob") as mcp:
            run = (await mcp.call_tool("count")).meta["tailrace/run"]  # type: ignore[index]
            await mcp.read_resource(f"run://{run}")
        async with client(port, era, "ann") as mcp:
            await mcp.call_tool("run_get", {"run": run})
            with pytest.raises(MCPError):
                await mcp.call_tool("count")
    assert [(who.principal, *rest) for who, *rest, _ in told] == [
        ("bob", "MCP", "tools/call count", run, 200),
        ("bob", "MCP", "resources/read", run, 200),
        ("ann", "MCP", "tools/call run_get", run, 404),
        ("ann", "MCP", "tools/call count", None, 403),
    ]
    assert {client.host for *_, client in told} == {"127.0.0.1"}


async def test_an_answer_is_taken_from_nobody_else(app: App) -> None:
    async def answer(*_: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={})

    async with served(app.runs, app.face) as port:
        async with client(port, MODERN, "ann", elicitation_callback=answer) as mcp:
            asked: Any = await mcp.session.call_tool("confirm", allow_input_required=True)
        state, [key] = asked.request_state, list(asked.input_requests or ())
        async with client(port, MODERN, "bob", elicitation_callback=answer) as mcp:
            given: Any = {key: ElicitResult(action="accept", content={"n": 1})}
            stolen: Any = await mcp.session.call_tool(
                "confirm", request_state=state, input_responses=given, allow_input_required=True
            )
            assert stolen.is_error
            assert "There is no run" in text(stolen)
        async with client(port, MODERN, "ann", elicitation_callback=answer) as mcp:
            other: Any = await mcp.session.call_tool(
                "count", request_state=state, input_responses=given, allow_input_required=True
            )
            assert other.is_error
            mine = await mcp.session.call_tool(
                "confirm", request_state=state, input_responses=given, allow_input_required=True
            )
            assert text(mine) == "[{'n': 1}]"


async def test_a_run_that_asked_nothing_is_not_gone_on_with(app: App) -> None:
    starter = Access.of("ann", [RUN])
    async with served(app.runs, app.face, ann=starter) as port:
        record, _ = await app.runs.submit(app.runs.operations.get("hang"), {}, principal="ann")
        async with client(port, MODERN, "ann") as mcp:
            for state in (record.id, f"{record.id}:", f"{record.id}:key", "x", ""):
                guessed: Any = await mcp.session.call_tool(
                    "hang", request_state=state, allow_input_required=True
                )
                assert guessed.is_error
                assert "no" in text(guessed)
        assert not (await app.runs.record(record.id)).ended
        await app.runs.cancel(record.id)


async def test_names_are_made_anew_when_there_are_others(app: App) -> None:
    async with app.runs:
        calls = RunServer(app.runs).calls
        before = calls.operations
        assert calls.operations is before
        app.runs.operations.remove(app.runs.operations.get("hang"))
        assert before.keys() - calls.operations.keys() == {"hang"}


async def test_a_call_that_breaks_off_while_it_begins_leaves_no_run(app: App) -> None:
    began = asyncio.Event()
    create = app.runs.log.create

    def slow(record: Any) -> Any:
        began.set()

        async def later() -> Any:
            await asyncio.sleep(0.1)
            return await create(record)

        return asyncio.ensure_future(later())

    async with served(app.runs, app.face) as port, client(port, LEGACY) as mcp:
        app.runs.log.create = slow  # type: ignore[method-assign, assignment]
        call = asyncio.create_task(mcp.call_tool("hang"))
        await began.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        async with asyncio.timeout(5):
            while not (await app.runs.find(RunQuery(states=frozenset({State.CANCELLED})))):
                await asyncio.sleep(0.01)

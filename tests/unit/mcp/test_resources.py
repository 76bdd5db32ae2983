import asyncio
import json
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError
from mcp_types import ResourceUpdatedNotification

from tailrace import Access, RunContext, Tailrace
from tailrace.mcp import resources
from tailrace.mcp.face import McpFace
from tailrace.protocol.access import RUN
from tests.callers import ERAS, LEGACY, MODERN, client, served
from tests.waiting import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

eras = pytest.mark.parametrize("era", ERAS)


class App:
    def __init__(self) -> None:
        self.runs = Tailrace("memory:")
        self.face = McpFace(self.runs, link=lambda run: f"https://here/{run}")
        self.go = asyncio.Event()
        self.step = self.runs.operation(self._step)

    async def _step(self, run: RunContext) -> str:
        await self.go.wait()
        for number in range(50):
            run.progress(number, 50)
        return "done"

    async def run(self, who: str) -> str:
        return (await self.runs.submit(self.step, {}, principal=who))[0].id


@pytest.fixture
def app() -> App:
    return App()


@eras
async def test_runs_can_be_read(app: App, era: str) -> None:
    async with served(app.runs, app.face) as port, client(port, era, "ann") as mcp:
        run = await app.run("ann")
        other = await app.run("bob")
        listed = (await mcp.list_resources()).resources
        assert [one.uri for one in listed] == [f"run://{run}"]
        assert listed[0].name == "_step"
        [template] = (await mcp.list_resource_templates()).resource_templates
        assert template.uri_template == "run://{id}"
        [content] = (await mcp.read_resource(f"run://{run}")).contents
        told = json.loads(content.text)  # type: ignore[union-attr]
        assert told["id"] == run
        assert told["link"] == f"https://here/{run}"
        for uri in (f"run://{other}", "run://nonsense", "file:///etc/passwd"):
            with pytest.raises(MCPError, match="There is no") as refused:
                await mcp.read_resource(uri)
            assert refused.value.error.data == {"uri": uri}


@eras
async def test_many_runs_come_in_pages(app: App, era: str) -> None:
    app.go.set()
    async with served(app.runs, app.face) as port, client(port, era, "ann") as mcp:
        started = [await app.run("ann") for _ in range(60)]
        first = await mcp.list_resources()
        rest = await mcp.list_resources(cursor=first.next_cursor)
        uris = [one.uri for one in first.resources + rest.resources]
        assert uris == [f"run://{run}" for run in reversed(started)]
        assert rest.next_cursor is None
        with pytest.raises(MCPError, match="no cursor"):
            await mcp.list_resources(cursor="²")


@eras
async def test_who_may_not_watch_sees_none(app: App, era: str) -> None:
    async with served(app.runs, app.face, ann=Access.of("ann", [RUN])) as port:
        run = await app.run("ann")
        async with client(port, era, "ann") as mcp:
            assert (await mcp.list_resources()).resources == []
            with pytest.raises(MCPError, match="'watch'"):
                await mcp.read_resource(f"run://{run}")


async def test_a_session_hears_of_changes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PAUSE_SECONDS", 0.05)
    heard: list[str] = []

    async def hear(message: Any) -> None:
        if isinstance(message, ResourceUpdatedNotification):
            heard.append(str(message.params.uri))

    async with served(app.runs, app.face) as port:
        run, left = await app.run("ann"), await app.run("ann")
        other = await app.run("bob")
        async with client(port, LEGACY, "ann", message_handler=hear) as mcp:
            await mcp.subscribe_resource(f"run://{run}")
            await mcp.subscribe_resource(f"run://{run}")
            await mcp.subscribe_resource(f"run://{left}")
            await mcp.unsubscribe_resource(f"run://{left}")
            for uri in (f"run://{other}", "file:///etc/passwd"):
                with pytest.raises(MCPError, match="There is no"):
                    await mcp.subscribe_resource(uri)
            app.go.set()
            await until(lambda: heard)
            await app.runs.run(run).wait()
            # 50 steps, and the end, are not 51 changes.
            assert 1 <= len(heard) <= 3
            assert set(heard) == {f"run://{run}"}


async def test_a_session_follows_only_so_many(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "MOST_SUBSCRIPTIONS", 1)
    async with served(app.runs, app.face) as port:
        run, one_more = await app.run("ann"), await app.run("ann")
        async with client(port, LEGACY, "ann") as mcp:
            await mcp.subscribe_resource(f"run://{run}")
            with pytest.raises(MCPError, match="subscribed to 1"):
                await mcp.subscribe_resource(f"run://{one_more}")


async def test_a_session_that_ends_follows_nothing(app: App) -> None:
    async with served(app.runs, app.face) as port:
        run = await app.run("ann")
        async with client(port, LEGACY, "ann") as mcp:
            await mcp.subscribe_resource(f"run://{run}")
            await until(lambda: app.runs.hub.channels == 1)
        await until(lambda: app.runs.hub.channels == 0)


async def test_who_listens_hears_of_changes(app: App) -> None:
    async with served(app.runs, app.face) as port:
        run, other = await app.run("ann"), await app.run("bob")
        async with client(port, MODERN, "ann") as mcp:
            wanted = [f"run://{run}", f"run://{other}", "file:///etc/passwd"]
            async with mcp.listen(resource_subscriptions=wanted) as heard:
                assert heard.honored.resource_subscriptions == [f"run://{run}"]
                app.go.set()
                async with asyncio.timeout(5):
                    async for event in heard:
                        assert event.uri == f"run://{run}"  # type: ignore[union-attr]
                        break

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tailrace.builtin import Terminal
from tailrace.engine import Engine
from tailrace.errors import PathForbidden, RunFailed
from tailrace.protocol.events import Event, loads
from tailrace.protocol.lifecycle import State
from tailrace.protocol.output import raw
from tailrace.protocol.runs import RunQuery
from tests.waiting import soon

pytestmark = pytest.mark.anyio


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    async with Engine("memory:", grace=0.1) as engine:
        engine.allow_scripts(tmp_path)
        terminal = Terminal(spools=engine.spools, cwd=tmp_path)
        engine.offer(terminal.command, name="command")
        yield engine


async def told(engine: Engine, operation: str, **given: object) -> list[Event]:
    record, _ = await engine.submit(operation, given)
    return await soon(collected(engine, record.id))


async def collected(engine: Engine, run: str) -> list[Event]:
    return [event async for event in engine.run(run).events()]


def written(events: list[Event]) -> bytes:
    told = (event.payload for event in events if event.type == "output")
    # A shell may have its own words, on stderr, for what becomes of its children.
    return b"".join(raw(payload) for payload in told if payload["stream"] == "stdout")


async def test_a_script_runs_in_its_own_folder(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "where.sh").write_text('pwd; echo "$@"; echo "$TAILRACE_RUN"')
    events = await told(engine, "script", file="sub/where.sh", args=["a b", "c"])
    run = events[0].payload["run"]
    assert written(events).decode() == f"{(tmp_path / 'sub').resolve()}\na b c\n{run}\n"
    assert events[-1].payload["result"] == {"exit_code": 0}


async def test_a_script_that_fails_says_its_code(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "fails.sh").write_text("echo before; exit 7")
    events = await told(engine, "script", file="fails.sh")
    assert written(events) == b"before\n"
    last = events[-1].payload
    assert (last["type"], last["exit_code"], last["reason"]) == ("ScriptFailed", 7, "failed")
    record = await engine.record(events[0].payload["run"])
    assert loads(record.error)["exit_code"] == 7
    with pytest.raises(RunFailed, match="exited with code 7"):
        await engine.run(record.id).result()


@pytest.mark.parametrize("file", ["../escape.sh", "missing.sh", "/etc/passwd"])
async def test_no_script_outside(engine: Engine, tmp_path: Path, file: str) -> None:
    (tmp_path.parent / "escape.sh").write_text("echo out")
    with pytest.raises(PathForbidden) as refused:
        await told(engine, "script", file=file)
    assert str(refused.value) == f"{file!r} is not a file below an allowed folder."
    assert await engine.find(RunQuery()) == []


async def test_what_a_script_is_asked_with(engine: Engine) -> None:
    script = engine.operations.get("script")
    assert script.description.startswith("Run a script below one of")
    schema = script.parameters
    assert list(schema["properties"]) == ["file", "args", "profile", "stderr"]
    assert schema["required"] == ["file"]


async def test_a_command_is_the_caller_s_own(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_OWN", "yes")
    events = await told(engine, "command", argv=["/bin/sh", "-c", 'echo "$MY_OWN"; pwd'])
    assert written(events).decode() == f"yes\n{tmp_path}\n"


async def test_a_command_that_is_not_there(engine: Engine) -> None:
    events = await told(engine, "command", argv=["/no/such/program"])
    assert (events[-1].payload["exit_code"], events[-1].payload["type"]) == (127, "ScriptFailed")


async def test_a_cancelled_script(engine: Engine, tmp_path: Path) -> None:
    code = "trap 'echo bye; exit' TERM; echo on; while :; do sleep .01; done"
    (tmp_path / "long.sh").write_text(code)
    record, _ = await engine.submit("script", {"file": "long.sh"})
    events: list[Event] = []

    async def watch() -> None:
        async for event in engine.run(record.id).events():
            events.append(event)
            if event.type == "output" and event.payload["text"] == "on\n":
                await engine.cancel(record.id)

    await soon(watch())
    assert written(events) == b"on\nbye\n"
    assert (await engine.record(record.id)).state is State.CANCELLED


async def test_a_script_that_ignores_it(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "deaf.sh").write_text("trap '' TERM; echo on; while :; do sleep .01; done")
    record, _ = await engine.submit("script", {"file": "deaf.sh"}, timeout=0.3)
    events = await soon(collected(engine, record.id))
    assert (events[-1].payload["reason"], events[-1].payload["forced"]) == ("timed_out", True)

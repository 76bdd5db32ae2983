"""Lives that an engine in somebody's app has, and that are none of the usual ones."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, SecretStr

from tailrace import RunRecord, State, Tailrace, TailraceError
from tailrace.errors import InputInvalid, LogClosed
from tailrace.eventlog.sqlite import SqliteLog
from tests.waiting import until


class Login(BaseModel):
    password: SecretStr


async def numbers(rows: int = 3) -> AsyncIterator[int]:
    for row in range(rows):
        yield row


@pytest.mark.parametrize("place", ["memory:", "log.db"])
def test_a_test_client_makes_an_event_loop_for_each_request(tmp_path: Path, place: str) -> None:
    runs = Tailrace(place if place == "memory:" else tmp_path / place)
    runs.operation(numbers)
    app = FastAPI()
    app.mount("/tailrace", runs.asgi)
    client = TestClient(app)
    assert client.get("/tailrace/runs").json() == {"runs": [], "next": None}
    started = client.post("/tailrace/runs", json={"operation": "numbers"})
    assert started.status_code == 201
    # The loop has ended, and what ran in it: honestly lost, unless it was quick enough.
    state = client.get(f"/tailrace/runs/{started.json()['id']}").json()["state"]
    assert state in ("lost", "completed")
    headers = {"accept": "text/event-stream"}
    stream = client.post("/tailrace/runs", json={"operation": "numbers"}, headers=headers)
    assert "event: complete" in stream.text


@pytest.mark.anyio
async def test_another_event_loop_is_refused_while_this_one_lives() -> None:
    async with Tailrace("memory:") as runs:
        operation = runs.operation(numbers)
        with pytest.raises(LogClosed, match="another event loop"):
            await asyncio.to_thread(lambda: asyncio.run(operation.start()))
        run = await operation.start()
        assert (await run.wait()).state is State.COMPLETED
        assert (await run.snapshot())["input"] == {"rows": 3}


@pytest.mark.anyio
async def test_who_comes_by_a_link_finds_the_same_workers(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "real.db")
    async with Tailrace(tmp_path / "real.db") as runs:

        @runs.operation
        async def forever() -> None:
            await asyncio.Event().wait()

        run = await forever.start()
        while (await run.record()).state is not State.RUNNING:
            await asyncio.sleep(0)
        async with Tailrace(link) as other:
            assert await other.log.orphans() == []
            assert (await other.record(run.id)).state is State.RUNNING


@pytest.mark.anyio
async def test_each_life_has_a_name_of_its_own(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    names = set()
    for _ in range(2):
        await log.open()
        names.add(log.worker)
        await log.close()
    assert len(names) == 2


@pytest.mark.anyio
async def test_a_caller_who_gives_up_leaves_no_run_that_never_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Tailrace("memory:") as runs:
        runs.operation(numbers)
        create, gate = runs.log.create, asyncio.Event()

        def slowly(record: RunRecord) -> Any:
            async def later() -> RunRecord:
                await gate.wait()
                return await create(record)

            return asyncio.ensure_future(later())

        monkeypatch.setattr(runs.log, "create", slowly)
        caller = asyncio.create_task(runs.submit("numbers", {}, key="k"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.set()
        record, is_new = await runs.submit("numbers", {}, key="k")
        assert not is_new
        assert (await runs.run(record.id).wait()).state is State.COMPLETED


@pytest.mark.anyio
async def test_input_that_the_log_would_change_is_refused() -> None:
    async with Tailrace("memory:") as runs:

        @runs.operation
        async def enter(login: Login) -> None: ...

        with pytest.raises(InputInvalid, match="cannot be kept in the log unchanged"):
            await runs.submit("enter", {"login": {"password": "hunter2"}})
        assert await runs.submit("enter", {"login": {"password": ""}})


def test_errors_in_a_host_s_endpoint_are_problems() -> None:
    runs = Tailrace("memory:")
    operation = runs.operation(numbers)
    app = FastAPI(lifespan=runs.lifespan)
    app.add_exception_handler(TailraceError, runs.problem)

    @app.post("/reports")
    async def report(rows: str) -> dict[str, str]:
        return {"id": (await operation.start(rows=rows)).id}  # type: ignore[arg-type]

    with TestClient(app) as client:
        refused = client.post("/reports?rows=x")
        assert (refused.status_code, refused.json()["code"]) == (422, "input-invalid")
        assert client.post("/reports?rows=2").json()["id"].startswith("run_")


_PROGRAM = """
import asyncio, sys
from tailrace import Tailrace
async def main():
    runs = Tailrace(sys.argv[1] + "/log.db")
    runs.allow_scripts(sys.argv[1])
    async with runs:
        record, _ = await runs.submit("script", {"file": "long.sh"})
        async for event in runs.run(record.id).events():
            print(event.type, flush=True)
asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.anyio
async def test_a_signal_that_nobody_handles_leaves_no_script(tmp_path: Path) -> None:
    script = tmp_path / "long.sh"
    script.write_text("echo $$ > pid\necho up\nsleep 300\n", encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        while "output" not in program.stdout.readline():
            assert program.poll() is None
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == -signal.SIGTERM
        assert "error" in program.stdout.read()
    child = int((tmp_path / "pid").read_text(encoding="utf-8"))

    def is_gone() -> bool:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return True
        return False

    await until(is_gone)

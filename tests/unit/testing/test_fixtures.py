"""The fixtures are used as a project of somebody else uses them: in a pytest of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CONFTEST = 'pytest_plugins = ["tailrace.testing.fixtures"]\n'

TESTS = """
import asyncio
import contextlib

import pytest
from fastapi import FastAPI

from tailrace import RunContext, Tailrace
from tailrace.testing import ManualClock, assert_events

pytestmark = pytest.mark.anyio
said = []


@contextlib.asynccontextmanager
async def life(app):
    said.append("up")
    yield
    said.append("down")


@pytest.fixture
def hello(runs):
    @runs.operation
    async def hello(run: RunContext, seconds: float = 0):
        await asyncio.sleep(seconds)

    return hello


@pytest.mark.parametrize("number", [1, 2])
async def test_the_log_is_empty(runs, hello, number):
    assert isinstance(runs, Tailrace)
    from tailrace.protocol.runs import RunQuery
    assert await runs.find(RunQuery()) == []
    await assert_events(await hello.start(), ["start", "complete"])


async def test_apps_are_started_up(stream_client):
    client = await stream_client(FastAPI(lifespan=life), within=1)
    await stream_client(FastAPI(lifespan=life))
    assert said == ["up", "up"]
    assert (await client.get("/nothing")).status == 404


async def test_apps_are_shut_down():
    assert said == ["up", "up", "down", "down"]


async def test_a_clock_and_a_run(manual_clock, runs, hello):
    assert isinstance(manual_clock, ManualClock)
    run = await hello.start(seconds=50)
    await manual_clock.advance(51)
    await assert_events(run, ["start", "complete"])


async def test_in_any_order(hello, runs, stream_client, manual_clock):
    client = await stream_client(runs.asgi)
    run = await hello.start(seconds=50)
    async with client.stream("GET", f"/runs/{run.id}/events") as stream:
        await manual_clock.advance(16)
        assert "keep-alive" in stream.comments
        await manual_clock.advance(35)
        await assert_events(stream, ["start", "complete"])


async def test_a_run_that_goes_on_is_ended_after_the_clock(hello, manual_clock):
    await hello.start(seconds=5000)
    await manual_clock.advance(1000)
"""


def reported(folder: Path, conftest: str = CONFTEST, tests: str = TESTS) -> str:
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_it.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    # Whatever plugins there are here, theirs is anyio's.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-p", "no:schemathesis", folder],
        check=False,
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.stdout + done.stderr


def test_a_project_with_the_fixtures(tmp_path: Path) -> None:
    said = reported(tmp_path)
    assert re.search(r"^7 passed in", said, re.MULTILINE), said


def test_a_fixture_of_one_s_own_comes_first(tmp_path: Path) -> None:
    own = (
        "import pytest\n\n"
        "@pytest.fixture(params=['asyncio', 'asyncio'])\n"
        "def anyio_backend(request):\n"
        "    return request.param\n"
    )
    tests = "import pytest\n\n@pytest.mark.anyio\nasync def test_one(runs):\n    assert runs\n"
    said = reported(tmp_path, CONFTEST + own, tests)
    assert re.search(r"^2 passed in", said, re.MULTILINE), said


def test_the_kit_itself_needs_no_pytest() -> None:
    code = "import sys, tailrace.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

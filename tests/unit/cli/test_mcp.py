import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.runs import RunQuery
from tests.callers import text
from tests.processes import marked, until

pytestmark = pytest.mark.anyio

_COMMAND = ("-c", "import sys; from tailrace.cli.mcp import mcp; mcp(sys.argv[1:])")

_HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


def started(*options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *_COMMAND, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_a_desktop_client_runs_scripts(tmp_path: Path, era: str) -> None:
    (tmp_path / "hello.py").write_text("print('hello')\n")
    log = tmp_path / "runs.db"
    options = ["--log", str(log), "--allow-root", str(tmp_path)]
    place = StdioServerParameters(command=sys.executable, args=[*_COMMAND, *options])
    told: list[Any] = []

    async def progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with Client(stdio_client(place), mode=era) as mcp:
        assert (await mcp.list_tools()).tools[0].name == "script"
        arguments = {"file": "hello.py"}
        result = await mcp.call_tool("script", arguments, progress_callback=progress)
        assert not result.is_error, text(result)
        assert result.content[0].text == "hello\n"  # type: ignore[union-attr]
        assert told
        run = (result.meta or {})["tailrace/run"]
        page = (await mcp.call_tool("run_events", {"run": run})).structured_content
        assert page is not None
        assert "hello\n" in [event["data"].get("text") for event in page["events"]]
    kept = SqliteLog(log)
    await kept.open()
    [record] = await kept.find(RunQuery())
    await kept.close()
    assert (record.id, record.principal) == (run, "local")


def test_stdout_is_the_protocols_alone(tmp_path: Path) -> None:
    process = started("--log", "memory:", "--allow-root", str(tmp_path))
    out, _ = process.communicate(json.dumps(_HELLO).encode() + b"\nnonsense\n", timeout=30)
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0]["result"]["serverInfo"]["name"] == "tailrace"
    assert all(line["jsonrpc"] == "2.0" for line in lines)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("how", ["stdin", "signal"])
def test_what_it_runs_ends_with_it(tmp_path: Path, how: str) -> None:
    (tmp_path / "long.sh").write_text("exec sleep 1000\n")
    process = started("--log", str(tmp_path / "runs.db"), "--allow-root", str(tmp_path))
    assert process.stdin is not None
    assert process.stdout is not None
    call = {"name": "script", "arguments": {"file": "long.sh"}, "_meta": {"progressToken": 1}}
    begun = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    asked = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}
    try:
        for message in (_HELLO, begun, asked):
            process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        while b"progressToken" not in (line := process.stdout.readline()):
            assert line
        run = json.loads(line)["params"]["message"].partition(",")[0]
        until(lambda: bool(marked(run)), "started")
        if how == "stdin":
            process.stdin.close()
        else:
            os.kill(process.pid, signal.SIGTERM)
        process.wait(20)
        until(lambda: not marked(run), "ended")
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            assert stream is not None
            stream.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--log", "redis://place"], "redis"),
        (["--at-once", "0"], "--at-once"),
        (["--config", "there-is-none.toml"], "there-is-none.toml"),
    ],
)
def test_settings_that_make_no_sense(options: list[str], said: str) -> None:
    process = started(*options)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert said.encode() in err


def test_without_the_package_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['mcp.server.stdio'] = None\n"
        "from tailrace.cli.main import _report\n"
        "from tailrace.cli.mcp import mcp\n"
        "try: mcp(['--log', 'memory:'], standalone_mode=False)\n"
        "except Exception as error: _report(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert b"pip install 'tailrace[mcp]'" in said.stderr


def test_an_app_has_a_face_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "tailrace.toml"
    config.write_text('[server]\napp = "main:app"\n')
    process = started("--config", str(config))
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert b"main:app is an app" in err

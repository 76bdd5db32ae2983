"""What is published: the wheel, in an empty environment, with the least that one can write."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.processes import ROOT, free_port, until

pytestmark = pytest.mark.slow

LIBRARY: Final = """\
from fastapi import FastAPI, Request
from tailrace import RunContext, Tailrace
runs = Tailrace("memory:")
app = FastAPI(lifespan=runs.lifespan)
@runs.operation
async def crunch(run: RunContext, rows: int = 100) -> dict:
    async for row in run.track(range(rows), "Crunching"): ...
    return {"rows": rows}
@app.get("/reports")
async def report(request: Request): return await runs.stream(crunch, request, {"rows": 50})
"""

WHEN_IT_IS_NOT_THERE: Final = "import tailrace; tailrace.Tailrace('memory:').chat()"


def _run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=170)


def _asked(port: int, path: str, last: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers={"last-event-id": last} if last else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def _answers(port: int) -> bool:
    try:
        return _asked(port, "/docs")[0] == 200
    except OSError:
        return False


def test_the_wheel_in_an_empty_environment(tmp_path: Path) -> None:
    assert len(LIBRARY.splitlines()) <= 10
    built = _run(
        sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), ROOT, cwd=ROOT
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert _run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path).returncode == 0
    python = tmp_path / "venv" / "bin" / "python"
    pins = ROOT / "constraints.txt"
    installed = _run(python, "-m", "pip", "install", "-qq", "-c", pins, wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    (tmp_path / "main.py").write_text(LIBRARY)
    port = free_port()
    server = subprocess.Popen(
        [python.with_name("uvicorn"), "main:app", "--port", str(port), "--log-level", "error"],
        cwd=tmp_path,
    )
    try:
        until(lambda: _answers(port), "the app answers", 20)
        status, body = _asked(port, "/reports")
        assert status == 200
        told = re.findall(r"^data: (.*)$", body, re.MULTILINE)
        assert json.loads(told[-1])["result"] == {"rows": 50}
        ids = re.findall(r"^id: (.*)$", body, re.MULTILINE)
        rest = _asked(port, "/reports", ids[1])[1]
        assert re.findall(r"^id: (.*)$", rest, re.MULTILINE) == ids[2:]
        assert _asked(port, "/reports", ids[-1])[0] == 204
    finally:
        server.terminate()
        # uvicorn ends by the signal itself, once all is done.
        assert server.wait(20) in (0, -signal.SIGTERM)
    # What an extra would bring is named where it is missing.
    missing = _run(python, "-c", WHEN_IT_IS_NOT_THERE, cwd=tmp_path)
    assert "pip install 'tailrace[agent]'" in missing.stderr

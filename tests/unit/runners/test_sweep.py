from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest

from tailrace.runners import sweep as sweeping
from tailrace.runners.script import environment
from tailrace.runners.sweep import sweep
from tests.waiting import soon

pytestmark = pytest.mark.anyio


@pytest.fixture
def mark() -> str:
    return f"run_{uuid.uuid4().hex}"


async def test_who_carries_the_mark_is_found(mark: str) -> None:
    env = environment(mark, {})
    ends = [
        await asyncio.create_subprocess_exec("/bin/sleep", "60", env=env, start_new_session=True)
        for _ in range(3)
    ]
    other = await asyncio.create_subprocess_exec(
        "/bin/sleep", "60", env=environment(f"{mark}x", {}), start_new_session=True
    )
    try:
        assert sweep(mark) == 3
        assert [await soon(one.wait()) for one in ends] == [-9, -9, -9]
        assert sweep(mark) == 0
        assert other.returncode is None
    finally:
        other.kill()
        await other.wait()


async def test_without_a_proc_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "Path", lambda _: Path("/nowhere"))
    assert sweep("run_a") == 0

"""Fixtures for pytest: `pytest_plugins = ["tailrace.testing.fixtures"]` in your `conftest.py`.

They are asynchronous, so a test that uses one is, too: `@pytest.mark.anyio`, whose plugin comes
with anyio, or pytest-asyncio in its auto mode.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any, Protocol

import pytest
from starlette.types import ASGIApp

from tailrace import Tailrace
from tailrace.testing.client import StreamClient
from tailrace.testing.clock import ManualClock


class StreamClientFactory(Protocol):
    """Makes clients, and shuts their apps down after the test."""

    def __call__(self, app: ASGIApp, **options: Any) -> Awaitable[StreamClient]:
        """A client of `app`, which has started up. `options`: those of `StreamClient`."""


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tailrace works on asyncio. Your own fixture of this name comes before this one."""
    return "asyncio"


@pytest.fixture
async def manual_clock() -> AsyncIterator[ManualClock]:
    """A `ManualClock` that begins now."""
    with ManualClock() as clock:
        yield clock


@pytest.fixture
async def runs() -> AsyncIterator[Tailrace]:
    """A `Tailrace` that keeps its runs in memory, and ends them with the test."""
    async with Tailrace("memory:", grace=0.1) as runs:
        yield runs


@pytest.fixture
async def stream_client() -> AsyncIterator[StreamClientFactory]:
    """A factory of clients, of apps that are started up and shut down."""
    async with contextlib.AsyncExitStack() as stack:

        async def made(app: ASGIApp, **options: Any) -> StreamClient:
            return await stack.enter_async_context(StreamClient(app, **options))

        yield made

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.parlour import Parlour, opened


@pytest.fixture
async def parlour(anyio_backend: str) -> AsyncIterator[Parlour]:
    async with opened() as parlour:
        yield parlour

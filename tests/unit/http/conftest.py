from collections.abc import AsyncIterator

import pytest

from tests.stage import Stage, staged
from tests.visitor import Visitor


@pytest.fixture
async def stage(anyio_backend: str) -> AsyncIterator[Stage]:
    async with staged() as stage:
        yield stage


@pytest.fixture
def visitor(stage: Stage) -> Visitor:
    return stage.visitor

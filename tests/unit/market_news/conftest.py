from collections.abc import Iterator

import pytest

from tests.newsstand import Newsstand


@pytest.fixture
def stand() -> Iterator[Newsstand]:
    with Newsstand().open() as opened:
        yield opened

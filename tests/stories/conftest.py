from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.closed import House


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    try:
        yield house
    finally:
        house.process.terminate()
        house.process.wait(20)

import os
from collections.abc import Iterator

import pytest

from tests.conformance.mcp import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not run.is_installed():
        if not os.environ.get("CI"):
            pytest.skip("`make conformance` installs what this needs")
        run.install()
    with run.served() as (url, _):
        yield url


@pytest.mark.parametrize("name", run.SUITES)
def test_the_official_suite_passes_in_full(url: str, name: str) -> None:
    passed, said = run.checked(url, name)
    assert passed, said


@pytest.mark.parametrize("era", run.ERAS)
def test_the_inspector_works(url: str, era: str) -> None:
    run.looked(url, era)

"""What Node's official clients make of a chat, also where connections are lost."""

from __future__ import annotations

import pytest

from tests.conformance.agents import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("clients"),
]


@pytest.mark.parametrize("script", run.SCRIPTS)
def test_an_official_client_has_every_turn_as_it_was(chat_url: str, script: str) -> None:
    passed, said = run.tried(run.HERE, [script], chat_url)
    assert passed == run.SCRIPTS[script], said


def test_types_are_right_and_fit_those_of_the_official_clients() -> None:
    assert run.typed() == ""

"""The official Python client of OpenAI."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ANSWER = "Lund has 94393 people, and the weather is not known. 你好"


@pytest.fixture
def client(chat_url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=f"{chat_url}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def model(client: openai.OpenAI) -> str:
    return client.models.list().data[0].id


def ask(client: openai.OpenAI, model: str, text: str) -> Any:
    return client.responses.create(model=model, input=text, stream=True, background=True)


def types(events: list[Any]) -> list[str]:
    # Calls that run at the same time may be over in either order.
    return [event.type for event in events if ".mcp_call." not in event.type]


def test_left_after_every_event_in_turn_it_is_gone_on_with(
    client: openai.OpenAI, model: str
) -> None:
    whole = list(ask(client, model, "look it up"))
    assert whole[-1].type == "response.completed"
    assert whole[-1].response.output_text.endswith(ANSWER)

    def left(count: int) -> None:
        events: list[Any] = []
        with ask(client, model, "look it up") as stream:
            for event in stream:
                events.append(event)
                if len(events) == count:
                    break
        run, last = events[0].response.id, events[-1].sequence_number
        events += client.responses.retrieve(run, stream=True, starting_after=last)
        assert types(events) == types(whole), f"left after {count}"
        numbers = [event.sequence_number for event in events]
        assert numbers == sorted(set(numbers))
        assert events[-1].response.output_text.endswith(ANSWER)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(left, range(1, len(whole))))
    assert len(whole) > 25


def test_the_accumulating_client_has_it_all(client: openai.OpenAI, model: str) -> None:
    with client.responses.stream(model=model, input="look it up") as stream:
        response = stream.get_final_response()
    assert response.status == "completed"
    assert response.output_text.endswith(ANSWER)


def test_an_answer_that_is_not_streamed(client: openai.OpenAI, model: str) -> None:
    response = client.responses.create(model=model, input="look it up")
    assert response.status == "completed"
    assert response.output_text.endswith(ANSWER)


@pytest.mark.parametrize("text", ["long text", "long tool"])
def test_a_turn_that_is_cancelled_ends_clean(client: openai.OpenAI, model: str, text: str) -> None:
    events: list[Any] = []
    kind = {"long text": "output_text.delta", "long tool": "mcp_call.in_progress"}[text]
    for event in ask(client, model, text):
        if event.type == f"response.{kind}" and events[-1].type != event.type:
            client.responses.cancel(events[0].response.id)
        events.append(event)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.status == "cancelled"
    run = events[0].response.id
    until(lambda: client.responses.retrieve(run).status == "cancelled", "it is cancelled")


def test_a_conversation_goes_on_after_an_answer(client: openai.OpenAI, model: str) -> None:
    first = client.responses.create(model=model, input="look it up")
    second = client.responses.create(model=model, input="how often", previous_response_id=first.id)
    assert second.output_text == "You asked 2 times."

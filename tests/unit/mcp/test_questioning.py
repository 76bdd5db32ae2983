import asyncio
from types import SimpleNamespace
from typing import Any, cast

import mcp_types as types
import pytest
from mcp.shared.exceptions import MCPError

from tailrace.mcp.asker import Context
from tailrace.mcp.asks import ANSWER, ASK, Asks, Questions
from tailrace.mcp.questioning import Questioning, asked, dumped, responses
from tailrace.protocol.events import Event, to_json
from tests.waiting import soon, until

pytestmark = pytest.mark.anyio

ELICIT = {
    "method": "elicitation/create",
    "params": {
        "mode": "form",
        "message": "Sure?",
        "requestedSchema": {"type": "object", "properties": {}},
    },
}
ROOTS = {"method": "roots/list", "params": {}}
ODD = {"method": "nonsense", "params": {}}


class Fakes:
    """Asks, and a client, that remember what they were told."""

    def __init__(self, *, is_modern: bool = False, **knows: Any) -> None:
        self.questions: Questions = {}
        self.answers: dict[str, Any] = {}
        self.sent: list[Any] = []
        self.result: Any = types.ElicitResult(action="accept", content={"n": 1})
        self.can_send_request = not is_modern
        self.client_capabilities = types.ClientCapabilities(**knows)

    async def waiting(self, run: str) -> Questions:
        return self.questions

    async def answer(self, run: str, answers: dict[str, Any]) -> None:
        self.answers |= answers

    async def send_request(self, request: Any, model: Any, metadata: Any) -> Any:
        assert metadata.related_request_id == 7
        self.sent.append(request)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    @property
    def asks(self) -> Asks:
        return cast("Asks", self)

    @property
    def ctx(self) -> Context:
        return cast("Context", SimpleNamespace(session=self, request_id=7))

    def ask(self, key: str, told: dict[str, Any]) -> Event:
        self.questions[key] = told
        return Event(1, ASK, to_json({"key": key, **told}))


async def test_a_client_that_takes_requests_is_asked_at_once() -> None:
    fakes = Fakes(elicitation=types.ElicitationCapability())
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(fakes.ask("k", ELICIT))
    await until(lambda: fakes.answers)
    assert fakes.sent[0].params.message == "Sure?"
    assert fakes.answers == {"k": {"response": {"action": "accept", "content": {"n": 1}}}}
    assert not one.asked.is_set()


async def test_a_client_that_refuses_is_a_problem_of_the_run() -> None:
    fakes = Fakes(elicitation=types.ElicitationCapability())
    fakes.result = MCPError(code=-1, message="I would rather not")
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(fakes.ask("k", ELICIT))
    await until(lambda: fakes.answers)
    assert fakes.answers["k"]["problem"].endswith("I would rather not")


async def test_what_a_client_does_not_know_it_is_not_asked() -> None:
    fakes = Fakes()
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(fakes.ask("k", ELICIT))
    one.take(fakes.ask("o", ODD))
    await until(lambda: fakes.answers)
    await soon(one.close())
    assert fakes.sent == []
    assert list(fakes.answers) == ["k"]
    assert fakes.answers["k"]["problem"] == "The client does not know elicitation/create."


async def test_a_call_that_is_over_asks_no_more() -> None:
    fakes = Fakes(elicitation=types.ElicitationCapability())
    begun, ended = asyncio.Event(), asyncio.Event()

    async def slow(*_: Any, **__: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    fakes.send_request = slow  # type: ignore[method-assign]
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(fakes.ask("k", ELICIT))
    await soon(begun.wait())
    await soon(one.close())
    assert ended.is_set()
    assert fakes.answers == {}


async def test_other_events_are_nothing_to_it() -> None:
    fakes = Fakes(is_modern=True)
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(Event(2, ANSWER, b'{"key":"k"}'))
    one.take(Event(3, "ask", to_json({"key": "k", **ELICIT})))
    assert not one.asked.is_set()


async def test_a_call_is_answered_with_what_is_asked_together() -> None:
    knows = {"elicitation": types.ElicitationCapability(), "roots": types.RootsCapability()}
    fakes = Fakes(is_modern=True, **knows)
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(fakes.ask("a", ELICIT))
    await soon(one.asked.wait())
    asking = asyncio.create_task(one.round())
    one.take(fakes.ask("b", ROOTS))
    found = await soon(asking)
    assert found is not None
    assert found.request_state == "run:a"
    assert {key: one.method for key, one in (found.input_requests or {}).items()} == {
        "a": "elicitation/create",
        "b": "roots/list",
    }


async def test_a_round_without_questions_is_none() -> None:
    fakes = Fakes(is_modern=True)
    one = Questioning(fakes.ctx, fakes.asks, "run")
    one.take(fakes.ask("a", ELICIT))
    assert await soon(one.round()) is None
    assert "problem" in fakes.answers["a"]


async def test_what_is_no_request_is_answered_with_that() -> None:
    fakes = Fakes(is_modern=True, roots=types.RootsCapability())
    fakes.questions = {"o": ODD, "r": ROOTS}
    assert list(await asked(fakes.asks, "run", fakes.ctx)) == ["r"]
    assert fakes.answers["o"]["problem"].startswith("This is no request of MCP's")


def test_responses_are_those_to_what_waits() -> None:
    given = {"k": {"action": "accept", "content": {"n": 1}}, "other": 3}
    assert responses(given, {"k": ELICIT}) == {"k": {"response": given["k"]}}
    assert responses({}, {"k": ELICIT}) == {}
    for wrong in (3, {"action": "maybe"}, None):
        with pytest.raises(MCPError, match="no answer to elicitation/create"):
            responses({"k": wrong}, {"k": ELICIT})


def test_models_are_dumped_as_they_are_sent() -> None:
    assert dumped(types.ListRootsResult(roots=[])) == {"roots": []}
    assert dumped(3) == 3

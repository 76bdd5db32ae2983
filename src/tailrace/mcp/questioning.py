"""One call whose run asks something: how its client is asked, in each version of the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from pydantic import BaseModel, TypeAdapter, ValidationError

from tailrace.mcp.asker import Context
from tailrace.mcp.asks import Asks, Questions, is_question
from tailrace.protocol.events import Event

_REQUESTS: Final[TypeAdapter[Any]] = TypeAdapter(types.InputRequest)
_RESULTS: Final[Mapping[str, type[BaseModel]]] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}
_CAPABILITIES: Final = {
    "elicitation/create": "elicitation",
    "sampling/createMessage": "sampling",
    "roots/list": "roots",
}
# What is asked at the same time is asked in one round.
_TOGETHER_SECONDS: Final = 0.05


class Questioning:
    """Asks one call's client what its run asks. `asked` is set where the call must be answered
    with it: since 2026-07-28 a server can send no requests.
    """

    def __init__(self, ctx: Context, asks: Asks, run: str) -> None:
        self._ctx = ctx
        self._asks = asks
        self._run = run
        self._sending: set[asyncio.Task[None]] = set()
        self.asked = asyncio.Event()

    def take(self, event: Event) -> None:
        """Take in what was asked or answered, and ask the client, where that can be done."""
        if not is_question(event):
            return
        if self._ctx.session.can_send_request:
            # Beside: whoever is asked may take his time, and the run may end meanwhile.
            sending = asyncio.create_task(self._send(event.payload))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)
        else:
            self.asked.set()

    async def close(self) -> None:
        """Ask no more: the call is over."""
        sending = tuple(self._sending)
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)

    async def _send(self, told: Mapping[str, Any]) -> None:
        key, method = str(told.get("key")), str(told.get("method"))
        answer: dict[str, Any]
        if not _can(self._ctx, method):
            answer = {"problem": f"The client does not know {method[:40]}."}
            await self._asks.answer(self._run, {key: answer})
            return
        try:
            request = _REQUESTS.validate_python(_request(told))
            result = await self._ctx.session.send_request(
                request,
                _RESULTS[method],
                metadata=ServerMessageMetadata(related_request_id=self._ctx.request_id),
            )
            answer = {"response": dumped(result)}
        except (MCPError, ValidationError, KeyError) as error:
            answer = {"problem": f"The client does not answer {method[:40]}: {str(error)[:200]}"}
        await self._asks.answer(self._run, {key: answer})

    async def round(self) -> types.InputRequiredResult | None:
        """What the client is to answer, before it calls again; None if that is nothing. It will
        be known again by the run's id and by what it was asked: the id alone is in many places.
        """
        await asyncio.sleep(_TOGETHER_SECONDS)
        self.asked.clear()
        requests = await asked(self._asks, self._run, self._ctx)
        if not requests:
            return None
        return types.InputRequiredResult(
            input_requests={key: _REQUESTS.validate_python(one) for key, one in requests.items()},
            request_state=f"{self._run}:{next(iter(requests))}",
        )


async def asked(asks: Asks, run: str, ctx: Context) -> dict[str, dict[str, Any]]:
    """What a run waits for, as requests of MCP's. What this client cannot answer is answered with
    that.
    """
    found, problems = {}, {}
    for key, told in (await asks.waiting(run)).items():
        try:
            request = dumped(_REQUESTS.validate_python(_request(told)))
        except ValidationError as error:
            problems[key] = {"problem": f"This is no request of MCP's: {str(error)[:200]}"}
            continue
        if _can(ctx, str(told["method"])):
            found[key] = request
        else:
            problems[key] = {"problem": f"The client does not know {told['method']}."}
    if problems:
        await asks.answer(run, problems)
    return found


def responses(given: Mapping[str, Any], waiting: Questions) -> dict[str, dict[str, Any]]:
    """A client's responses, by their keys, as answers to what waits. Raises MCPError for one that
    is none.
    """
    found = {}
    for key, told in waiting.items():
        if key not in given:
            continue
        try:
            response = _RESULTS[str(told["method"])].model_validate(dumped(given[key]))
        except (ValidationError, KeyError) as error:
            raise MCPError(
                code=types.INVALID_PARAMS, message=f"This is no answer to {told['method']}."
            ) from error
        found[key] = {"response": dumped(response)}
    return found


def _can(ctx: Context, method: str) -> bool:
    known = ctx.session.client_capabilities
    return getattr(known, _CAPABILITIES.get(method, ""), None) is not None


def dumped(model: Any) -> Any:
    """As it goes over the wire."""
    if not isinstance(model, BaseModel):
        return model
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


def _request(told: Mapping[str, Any]) -> dict[str, Any]:
    return {"method": told.get("method"), "params": told.get("params") or {}}

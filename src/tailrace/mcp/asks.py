"""Questions of a run to whoever called it, kept in its log: so the answer may come later, by
another connection, or to another process.

    ask     {"key": "…", "method": "elicitation/create", "params": {…}}
    answer  {"key": "…", "response": {…}}  or  {"key": "…", "problem": "why there is none"}
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from tailrace.engine import Engine
from tailrace.errors import RunEnded, TailraceError
from tailrace.eventlog.contract import Append
from tailrace.protocol.events import Event, emitted
from tailrace.run import RunContext

ASK: Final = "ask"
ANSWER: Final = "answer"

ANSWER_SECONDS: Final = 600.0
"""How long a question waits for its answer."""

_ELICIT: Final = "elicitation/create"
_MOST_REMEMBERED: Final = 1024

Questions = dict[str, dict[str, Any]]
"""What is not answered yet: by its key, the `method` and the `params` of the request."""


class Asks:
    """The questions of one engine's runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[str, tuple[int, Questions]] = OrderedDict()

    async def ask(
        self,
        run: RunContext,
        message: str,
        schema: Mapping[str, Any] | None = None,
        timeout: float = ANSWER_SECONDS,
    ) -> dict[str, Any] | None:
        """Ask the user who called; what they have filled in, by the properties of `schema` (a
        flat JSON Schema), or None if they do not want to answer.

        Raises TailraceError where nobody can be asked; TimeoutError.
        """
        wanted = schema or {"type": "object", "properties": {}}
        params = {"mode": "form", "message": message, "requestedSchema": dict(wanted)}
        response = await self.request(run, _ELICIT, params, timeout)
        if response.get("action") != "accept":
            return None
        content: dict[str, Any] = response.get("content") or {}
        return content

    async def request(
        self,
        run: RunContext,
        method: str,
        params: Mapping[str, Any],
        timeout: float = ANSWER_SECONDS,
    ) -> dict[str, Any]:
        """Ask the client itself: a request of MCP's and its parameters; the response. Raises as
        `ask` does.
        """
        key = secrets.token_urlsafe(9)
        known = (await self._engine.record(run.id)).last_seq
        run.emit(ASK, key=key, method=method, params=dict(params))
        async with asyncio.timeout(timeout):
            events = self._engine.run(run.id).events(known)
            async with contextlib.aclosing(events):  # type: ignore[type-var]
                async for event in events:
                    told = event.payload if event.type == ANSWER else {}
                    if told.get("key") != key:
                        continue
                    if "problem" in told:
                        raise TailraceError(
                            str(told["problem"]), fix="Call it with a client that can be asked."
                        )
                    response: dict[str, Any] = told["response"]
                    return response
        raise TimeoutError

    # --- the other side ----------------------------------------------------------------

    async def answer(self, run: str, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """Give answers, by the keys of their questions: each `{"response": …}` or
        `{"problem": …}`. Those to no question that waits are passed over.
        """
        waiting = await self.waiting(run)
        now = time.time()
        drafts = [
            emitted(ANSWER, {"key": key, **answer}, now)
            for key, answer in answers.items()
            if key in waiting
        ]
        if drafts:
            # It may have ended meanwhile: whoever asked has given up.
            with contextlib.suppress(RunEnded):
                await self._engine.append(Append(run, drafts))

    async def waiting(self, run: str) -> Questions:
        """What a run has asked, and nobody has answered. It looks at what is new alone."""
        after, questions = self._known.pop(run, (0, {}))
        while blocks := await self._engine.log.read(run, after):
            for block in blocks:
                # Most runs ask nothing; to find that out must not mean to take all apart.
                if b"\nevent: a" in block.wire:
                    fold(questions, block.events)
                after = block.last
        self._known[run] = (after, questions)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return questions


def fold(questions: Questions, events: Iterable[Event]) -> None:
    """Take in what was asked and answered."""
    for event in events:
        if event.type == ASK:
            told = event.payload
            key = str(told.get("key", ""))
            questions[key] = {"method": told.get("method"), "params": told.get("params")}
        elif event.type == ANSWER:
            questions.pop(str(event.payload.get("key")), None)

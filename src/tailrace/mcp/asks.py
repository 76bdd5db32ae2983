"""Questions of a run to whoever called it, kept in its log: so the answer may come later, by
another connection, or to another process.

    mcp.ask     {"key": "…", "method": "elicitation/create", "params": {…}}
    mcp.answer  {"key": "…", "response": {…}}  or  {"key": "…", "problem": "why there is none"}

What else an operation tells by these names is passed over.
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

ASK: Final = "mcp.ask"
ANSWER: Final = "mcp.answer"

METHODS: Final = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})
"""What a client can be asked."""

ANSWER_SECONDS: Final = 600.0
"""How long a question waits for its answer."""

_ELICIT: Final = "elicitation/create"
_MOST_REMEMBERED: Final = 1024
_OURS: Final = b"\nevent: mcp.a"

Questions = dict[str, dict[str, Any]]
"""What is not answered yet: by its key, the `method` and the `params` of the request."""


class Asks:
    """The questions of one engine's runs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._known: OrderedDict[str, tuple[int, Questions, set[str]]] = OrderedDict()

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
        if method not in METHODS:
            raise TailraceError(
                f"A client cannot be asked {method[:40]!r}.", fix=f"Use one of {sorted(METHODS)}."
            )
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
        """What a run has asked, and nobody has answered."""
        return (await self._asked(run))[0]

    async def has_asked(self, run: str, key: str) -> bool:
        """Whether a run has asked the question of that key, answered or not."""
        return key in (await self._asked(run))[1]

    async def _asked(self, run: str) -> tuple[Questions, set[str]]:
        # It looks at what is new alone.
        after, questions, keys = self._known.pop(run, (0, {}, set()))
        while blocks := await self._engine.log.read(run, after):
            for block in blocks:
                # Most runs ask nothing; to find that out must not mean to take all apart.
                if _OURS in block.wire:
                    keys.update(fold(questions, block.events))
                after = block.last
        self._known[run] = (after, questions, keys)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return questions, keys


def fold(questions: Questions, events: Iterable[Event]) -> set[str]:
    """Take in what was asked and answered. Answers the keys of what was asked."""
    keys = set()
    for event in events:
        told = event.payload
        if is_question(event):
            key = told["key"]
            keys.add(key)
            questions[key] = {"method": told["method"], "params": told.get("params")}
        elif event.type == ANSWER and isinstance(told.get("key"), str):
            questions.pop(told["key"], None)
    return keys


def is_question(event: Event) -> bool:
    """Whether an event asks something: anybody may tell events of any name."""
    if event.type != ASK:
        return False
    key, method = event.payload.get("key"), event.payload.get("method")
    return isinstance(key, str) and bool(key) and isinstance(method, str) and method in METHODS

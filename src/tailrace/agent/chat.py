"""A chat: what is configured of it, and the operation whose runs are its turns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast

from pydantic import BaseModel

from tailrace.agent import history as before
from tailrace.agent.models import DEMO, Endpoint, Models
from tailrace.agent.router import Router
from tailrace.agent.tools import Tool, of_functions, of_operations
from tailrace.engine import Engine
from tailrace.errors import InputInvalid, SettingsInvalid, TailraceError
from tailrace.operations import Traits
from tailrace.protocol import agent as words
from tailrace.protocol.problems import shortened
from tailrace.protocol.runs import RunRecord, check_run_id
from tailrace.run import RunContext

if TYPE_CHECKING:
    from pydantic_ai import Agent
    from pydantic_ai.models import Model

logger = logging.getLogger("tailrace.agent")

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_TURN: Final = "tailrace.agent.turn"
_TITLE: Final = 80
_DESCRIPTION: Final = (
    "Ask the language model of this server. Its answer comes as it is written, and so does each "
    "call of a tool that it makes."
)


class Message(BaseModel):
    """What was said before, as a client tells it."""

    role: Literal["user", "assistant"]
    content: str


class Chat:
    """A language model with tools, as the operation `chat` of an engine.

    `model`: the name of the model that is asked (or one of pydantic-ai's); `demo` is built in, and
    brings its own tools if the chat has no others.
    `models`: patterns of the names that requests may ask for ("openai:*"); `endpoints`: further
    models by the names that stand for them. `tools`: functions that it may call; `operations`:
    patterns of the operations that it may run ("market.*"). `instructions`: what it is told
    first. `iterations`: how often it is asked in one turn at the most; `timeout`: of a turn, in
    seconds; None: as long as it takes. `client_history`: a request may say what was said before,
    in place of the thread. `router`: chooses the model of requests that name none. `agent`: one of
    pydantic-ai, whose own model, tools and instructions count as well.

    Raises SettingsInvalid, if `tailrace[agent]` is not installed or a setting makes no sense;
    ValueError and TypeError for functions that cannot be tools, and for a second chat.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        model: str | Model = DEMO,
        models: Sequence[str] = (),
        endpoints: Mapping[str, Endpoint] = _NOTHING,
        tools: Sequence[Callable[..., Any]] = (),
        operations: Sequence[str] = (),
        instructions: str | None = None,
        iterations: int = 10,
        timeout: float | None = 600,
        client_history: bool = False,
        router: Router | None = None,
        agent: Any = None,
    ) -> None:
        if find_spec("pydantic_ai") is None:
            raise SettingsInvalid(
                "A chat needs pydantic-ai, which is not installed.",
                fix="pip install 'tailrace[agent]'",
            )
        if iterations < 1:
            raise SettingsInvalid(
                f"A turn cannot have {iterations} iterations.", fix="Give 1 or more."
            )
        if isinstance(operations, str):
            raise SettingsInvalid(
                "operations is one text, and must be a list of patterns.", fix='Give ["market.*"].'
            )
        if agent is not None and model == DEMO and agent.model is not None:
            model = agent.model
        self.engine = engine
        self.models = Models(model, models, endpoints)
        self.endpoints = self.models.endpoints
        self.model = self.models.default
        self.operations = tuple(operations)
        self.instructions = instructions
        self.iterations = iterations
        self.timeout = timeout
        self.client_history = client_history
        self.router = router
        self.agent = agent
        self._functions = of_functions(tools)
        # Only a chat that is nothing else has the built-in model's tools. Where a request or a
        # route chooses that model in another chat, it has that chat's tools, knows none of them,
        # and can but call them by name ("call NAME"): good for trying them, and it says so.
        if not tools and not operations and agent is None and self.model == DEMO:
            self._functions = of_functions(_demo().tools())
        twice = {tool.name for tool in self._functions} & {*own_names(agent)}
        if twice:
            raise ValueError(f"The agent has a tool {min(twice)!r} already; give one a name=.")
        self._made: Agent[Any, Any] | None = agent
        engine.offer(
            self._turn,
            name=words.CHAT,
            description=_DESCRIPTION,
            timeout=timeout,
            traits=Traits(title=_title, guard=self._check),
        )
        engine.companions.append(self._warm)

    @property
    def tools(self) -> list[Tool]:
        """What may be called now: operations come and go."""
        taken = [tool.name for tool in self._functions] + own_names(self.agent)
        return [*self._functions, *of_operations(self.engine, self.operations, taken)]

    @property
    def tool_names(self) -> list[str]:
        """The names of all of them, also of those that the agent itself brings."""
        return [*(tool.name for tool in self.tools), *own_names(self.agent)]

    @property
    def note(self) -> str | None:
        """What is to be said of the model, where it is the built-in one."""
        return str(_demo().NOTE) if self.model == DEMO else None

    # --- a turn ----------------------------------------------------------------------

    def _check(self, given: Mapping[str, Any]) -> None:
        """Refuse a turn before it begins."""
        if not str(given.get("message", "")).strip():
            raise _refused("message", "It must have some text")
        if given.get("history") is not None and not self.client_history:
            raise _refused("history", "This server keeps the history itself: give a thread")
        if given.get("regenerates") is not None:
            check_run_id(given["regenerates"])
        self.models.choose(given.get("model"))

    async def _turn(
        self,
        run: RunContext,
        message: str,
        model: str | None = None,
        history: list[Message] | None = None,
        regenerates: str | None = None,
    ) -> dict[str, Any]:
        tools, own = self.tools, own_names(self.agent)
        name, route = self.models.choose(model), None
        led: Sequence[RunRecord] = ()
        if history is None and run.thread is not None:
            led = await before.led(self.engine, run.principal, run.thread, run.id, regenerates)
        if self.router is not None and model is None:
            known = {tool.name: tool.description for tool in tools} | dict.fromkeys(own, "")
            turns = len(led) if history is None else len(history) // 2
            route = self.router.decide(message, known, turns)
            name = route.model or name
        session: dict[str, Any] = {
            "thread": run.thread,
            "model": name,
            "tools": [*(tool.name for tool in tools), *own],
            "max_iterations": self.iterations,
        }
        if name == DEMO:
            session["note"] = _demo().NOTE
        run.emit(words.SESSION_START, session)
        if route is not None:
            told = {key: getattr(route, key) for key in ("route", "reason", "score", "complexity")}
            run.emit(words.ROUTED, {**told, "model": name})
        turn, asked, agent = await self._ready(name)
        wish = turn.Wish(
            message=message,
            past=before.messages(await before.read(self.engine, led))
            if history is None
            else before.given((one.role, one.content) for one in history),
            model=asked,
            name=name,
            tools=tools,
            iterations=self.iterations,
            instructions=self.instructions,
            route=None if route is None else route.route,
            secrets=self.models.keys,
        )
        answer: dict[str, Any] = await turn.turn(run, agent, wish)
        return answer

    async def _ready(self, name: str) -> tuple[Any, Model, Agent[Any, Any]]:
        """What takes a turn, the model of that name, and the agent."""
        asked = self.models.known(name)
        if asked is None or self._made is None:
            asked = await asyncio.to_thread(self._make, name)
        return import_module(_TURN), asked, cast("Agent[Any, Any]", self._made)

    def _make(self, name: str) -> Model:
        """Import what a turn needs, which takes half a second the first time."""
        import_module(_TURN)
        if self._made is None:
            agent: Any = import_module("pydantic_ai").Agent
            self._made = agent(name=words.CHAT)
        return self.models.resolve(name)

    @contextlib.asynccontextmanager
    async def _warm(self) -> AsyncIterator[None]:
        """Have it imported when the first turn comes; nobody waits for that."""

        def make() -> None:
            try:
                self._make(self.model)
            except (TailraceError, ImportError) as error:
                # It may come to be: each turn that needs it says so, too.
                fix = getattr(error, "fix", "")
                logger.warning("The chat cannot ask %s: %s %s", self.model[:80], error, fix)

        making = asyncio.create_task(asyncio.to_thread(make))
        try:
            yield
        finally:
            await making


def own_names(agent: Any) -> list[str]:
    """The tools that an agent of pydantic-ai brings, as far as they are known before it runs."""
    found: list[str] = []
    for toolset in () if agent is None else agent.toolsets:
        found += getattr(toolset, "tools", {})
    return found


def _demo() -> Any:
    return import_module("tailrace.agent.demo")


def _title(given: Mapping[str, Any]) -> str:
    return shortened(" ".join(str(given.get("message", "")).split()), _TITLE)


def _refused(where: str, what: str) -> InputInvalid:
    return InputInvalid(
        f"A turn of the chat cannot have this {where}: {what}.",
        fix=f"Correct {where}, or leave it out.",
        errors=[{"where": where, "what": what}],
    )

"""The calls that one answer of a model asks for: who tells how far each of them is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from pydantic_core import PydanticSerializationError, to_jsonable_python

from tailrace.agent.parts import MAX_BYTES, cut_short, sayable, size
from tailrace.protocol import agent
from tailrace.protocol.problems import carried, shortened

MAX_ERROR: Final = 8000
"""How many characters of what a tool says of its failure are told."""

Say = Callable[[str, dict[str, Any]], None]


class Asked(NamedTuple):
    """A call as the model wrote it. `is_cut`: its input is the beginning of a text."""

    part: str
    item: int
    id: str
    name: str
    input: Any
    is_cut: bool = False


@dataclass(slots=True)
class Call:
    """One call: what was asked for, and how far it has come."""

    asked: Asked
    index: int
    began: float
    is_over: bool = False

    @property
    def id(self) -> str:
        """What it is called in its turn."""
        return self.asked.id

    @property
    def name(self) -> str:
        """That of the tool."""
        return self.asked.name


class Calls:
    """The calls of an iteration, told in the order in which they end. `finished` is called with
    the last of them.
    """

    def __init__(
        self,
        say: Say,
        iteration: int,
        asked: Sequence[Asked],
        finished: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._clock = clock
        self._finished = finished
        self._began = clock()
        self._iteration = iteration
        self._calls = {one.id: Call(one, index, self._began) for index, one in enumerate(asked, 1)}
        self._over = self._failed = 0
        self._is_executing = False

    def execute(self) -> None:
        """Tell that they are about to be made."""
        self._is_executing = True
        told: list[dict[str, Any]] = []
        left = MAX_BYTES
        for call in self._calls.values():
            one = {"id": call.id, "name": call.name, "input": call.asked.input}
            # Each of them was told whole when it was ready; together they must be one event.
            if (left := left - size(one)) < 0:
                one |= {"input": {}, "omitted": True}
            told.append(one)
        self._say(
            agent.TOOLS_EXECUTING,
            {"iteration": self._iteration, "count": len(told), "tools": told},
        )

    def find(self, id: str) -> Call | None:
        """The call of that name, unless it is over."""
        call = self._calls.get(id)
        return None if call is None or call.is_over else call

    @property
    def open(self) -> list[Call]:
        """Those that are not over."""
        return [call for call in self._calls.values() if not call.is_over]

    def begin(self, call: Call, **more: Any) -> None:
        """It begins. `more`: the `run` that makes it."""
        call.began = self._clock()
        if not call.is_over:
            self._tell(call, agent.EXECUTING, more)

    def progress(self, call: Call, told: Mapping[str, Any]) -> None:
        """How far it is; from any thread. What comes after its end is dropped."""
        if not call.is_over:
            self._tell(call, agent.PROGRESSING, told)

    def complete(self, call: Call, result: Any) -> None:
        """It has a result."""
        result, is_cut = cut_short(jsonable(result))
        more = {"truncated": True} if is_cut else {}
        self._end(call, agent.COMPLETED, {"result": result, **more})

    def fail(self, call: Call, error: str) -> None:
        """It has none."""
        if not call.is_over:
            self._failed += 1
        said = shortened(carried(error), MAX_ERROR) or "It failed, and says no more."
        self._end(call, agent.FAILED, {"error": said})

    def _end(self, call: Call, status: str, said: dict[str, Any]) -> None:
        if call.is_over:
            return
        call.is_over = True
        self._over += 1
        given: dict[str, Any] = {"input": call.asked.input}
        if call.asked.is_cut:
            given["input_truncated"] = True
        seconds = round(self._clock() - call.began, 3)
        over = {"finished": self._over, "duration_seconds": seconds}
        self._tell(call, status, {**given, **said, **over})
        # Calls that were never to be made end without having been executed.
        if self._is_executing and self._over == len(self._calls):
            self._say(
                agent.TOOLS_COMPLETED,
                {
                    "iteration": self._iteration,
                    "completed": self._over - self._failed,
                    "failed": self._failed,
                    "total": self._over,
                    "duration_seconds": round(self._clock() - self._began, 3),
                },
            )
            self._finished()

    def _tell(self, call: Call, status: str, more: Mapping[str, Any]) -> None:
        self._say(
            agent.TOOL_PROGRESS,
            {
                "part": call.asked.part,
                "item": call.asked.item,
                "id": call.id,
                "name": call.name,
                "status": status,
                "iteration": self._iteration,
                "index": call.index,
                "count": len(self._calls),
                **more,
            },
        )


def jsonable(result: Any) -> Any:
    """A tool's result in JSON's own types; text for what has no such form."""
    try:
        plain = to_jsonable_python(result, serialize_unknown=True, inf_nan_mode="null")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        plain = str(result)
    return sayable(plain)

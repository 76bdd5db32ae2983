"""Tells a turn: what a model's stream says becomes events, and what is open is closed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pydantic_ai import messages as said

from tailrace.agent.calls import Asked, Calls, Say
from tailrace.agent.parts import Parts, cut_short, parsed, repeated, sayable
from tailrace.errors import EventInvalid, TailraceError
from tailrace.protocol import agent
from tailrace.protocol.problems import carried

MOST_CHARACTERS: Final = 16 * 1024
"""Of a chunk: in UTF-8 it has at most 64 KiB. A longer one is split."""

STOPPED: Final = "The turn was stopped before this call was over."

_MAX_ID: Final = 200
_MAX_NAME: Final = 200
_NOTHING: Final = -1

# No subclass of them: what is one goes the longer way.
_Delta = said.PartDeltaEvent
_Text = said.TextPartDelta


@dataclass(slots=True)
class _Writing:
    """A call that the model is writing. What is told of it waits until its name is whole."""

    part: str
    id: str
    name: str
    item: int = _NOTHING
    """From when it is told."""
    written: list[str] = field(default_factory=list)
    is_ready: bool = False
    input: Any = None
    is_cut: bool = False

    @property
    def asked(self) -> Asked:
        return Asked(self.part, self.item, self.id, self.name, self.input, self.is_cut)


class Teller:
    """Tells one turn, by `emit`, from its first iteration to its last. In one event loop."""

    def __init__(self, emit: Say, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._clock = clock
        self._ids: set[str] = set()
        self._writing: dict[int, _Writing] = {}
        self._heard: set[int] = set()
        self._place = 0
        self._position = 0
        # The text or the thoughts that are open: the event's index (of thoughts apart, so that
        # the quick way is that of text), the part, its number, what there is of it.
        self._text = self._thought = _NOTHING
        self._part = ""
        self._item = self._items = 0
        self._chunks: list[str] = []
        self._is_open = self._is_closed = False
        self._usage = (0, 0)
        self.parts = Parts()
        self.calls: Calls | None = None
        self.iteration = 0
        """The iterations so far."""
        self.input_tokens = self.output_tokens = 0

    # --- an iteration ----------------------------------------------------------------

    def begin(self) -> None:
        """The model is asked."""
        if self._is_closed:
            return
        self._leave()
        self.iteration += 1
        self._place, self._usage = 0, (0, 0)
        self._writing, self._heard = {}, set()
        self.calls = None
        self._is_open = True
        self.say(agent.ITERATION_START, {"iteration": self.iteration})

    def hear(self, event: said.ModelResponseStreamEvent) -> None:
        """The next event of the model's stream."""
        if type(event) is _Delta and event.index == self._text:
            delta = event.delta
            if type(delta) is _Text and 0 < len(chunk := delta.content_delta) <= MOST_CHARACTERS:
                told = {
                    "part": self._part,
                    "item": self._item,
                    "chunk": chunk,
                    "position": self._position,
                }
                try:
                    self._emit(agent.TEXT_CHUNK, told)
                except EventInvalid:
                    # A lone surrogate: half of a character that was split.
                    chunk = carried(chunk)
                    self._emit(agent.TEXT_CHUNK, {**told, "chunk": chunk})
                self._chunks.append(chunk)
                self._position += len(chunk)
                return
        if self._is_closed:
            return
        if isinstance(event, said.PartDeltaEvent):
            self._more(event.index, event.delta)
        elif isinstance(event, said.PartStartEvent):
            self._start(event.index, event.part)
        elif isinstance(event, said.PartEndEvent):
            self._end(event.index, event.part)

    def answered(self, response: said.ModelResponse, known: Iterable[str]) -> said.ModelResponse:
        """The answer is whole; as the loop is to have it, where each call has an id of its own.
        `known`: what may be called.
        """
        if self._is_closed:
            return response
        self._close_text()
        for index, part in enumerate(response.parts):
            if index not in self._heard and not isinstance(part, said.ToolCallPart):
                self._start(index, part)
                self._close_text()
        parts: list[said.ModelResponsePart] = []
        asked: list[_Writing] = []
        for index, part in enumerate(response.parts):
            if isinstance(part, said.ToolCallPart):
                writing = self._writing.get(index) or self._call(index, part)
                self._ready(writing, part)
                asked.append(writing)
                if part.tool_call_id != writing.id:
                    part = replace(part, tool_call_id=writing.id)
            parts.append(part)
        usage = response.usage
        self._usage = (usage.input_tokens, usage.output_tokens)
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if not asked:
            self._over("answer")
        else:
            self._execute(asked, set(known))
        return response if parts == response.parts else replace(response, parts=parts)

    def _execute(self, asked: Sequence[_Writing], known: set[str]) -> None:
        wanted = [one.asked for one in asked]
        calls = self.calls = Calls(
            self.say, self.iteration, wanted, lambda: self._over("tools"), clock=self._clock
        )
        calls.execute()
        for call in calls.open:
            if call.name not in known:
                names = ", ".join(sorted(known)[:50]) or "none"
                calls.fail(call, f"There is no tool {call.name[:80]!r}. There are: {names}.")

    def settle(self, messages: Sequence[said.ModelMessage]) -> None:
        """Tell the results of calls that nobody has told of: the loop answered them itself."""
        calls = self.calls
        if self._is_closed or calls is None or not calls.open:
            return
        for message in reversed(messages):
            for part in message.parts:
                if not isinstance(part, said.ToolReturnPart):
                    continue
                call = calls.find(part.tool_call_id)
                if call is None:
                    continue
                if part.outcome == "success":
                    calls.complete(call, part.content)
                else:
                    calls.fail(call, agent.text_of(part.content))

    def close(self, error: str = STOPPED) -> None:
        """Close all that is open, because the turn ends; what comes after is not told."""
        with contextlib.suppress(TailraceError):
            self._leave(error)
        self._is_closed = True
        self._text = self._thought = _NOTHING

    def _leave(self, error: str = STOPPED) -> None:
        """Close what an iteration has left open."""
        if not self._is_open or self._is_closed:
            return
        self._close_text()
        unasked = [] if self.calls is not None else list(self._writing.values())
        for writing in unasked:
            self._ready(writing, None)
        calls = self.calls or Calls(
            self.say,
            self.iteration,
            [one.asked for one in unasked],
            lambda: None,
            clock=self._clock,
        )
        # They end for the same reason as the iteration does.
        self._is_open = False
        for call in calls.open:
            calls.fail(call, error)
        self._told_end("stopped")

    def _over(self, reason: str) -> None:
        if self._is_open:
            self._is_open = False
            self._told_end(reason)

    def _told_end(self, reason: str) -> None:
        tokens = dict(zip(("input_tokens", "output_tokens"), self._usage, strict=True))
        told = {"iteration": self.iteration, "reason": reason, "usage": tokens}
        self.say(agent.ITERATION_END, told)

    def say(self, type: str, told: dict[str, Any]) -> None:
        """Tell an event, unless the turn is closed."""
        if self._is_closed:
            return
        try:
            self._emit(type, told)
        except EventInvalid:
            told = sayable(told)
            self._emit(type, told)
        self.parts.add(type, told)

    # --- text and thoughts -----------------------------------------------------------

    def _start(self, index: int, part: said.ModelResponsePart) -> None:
        self._heard.add(index)
        if isinstance(part, said.TextPart | said.ThinkingPart):
            if index in (self._text, self._thought):
                # Begun anew, it takes the place of what there was.
                self._close_text()
            self._chunk(index, part.content, is_text=isinstance(part, said.TextPart))
        elif isinstance(part, said.ToolCallPart):
            self._close_text()
            writing = self._call(index, part)
            if isinstance(part.args, str):
                self._args(writing, part.args)

    def _more(self, index: int, delta: said.ModelResponsePartDelta) -> None:
        if isinstance(delta, said.ToolCallPartDelta):
            writing = self._writing.get(index)
            if writing is None or writing.is_ready:
                return
            writing.name = _name(writing.name + (delta.tool_name_delta or ""))
            if isinstance(delta.args_delta, str):
                self._args(writing, delta.args_delta)
        elif isinstance(delta, said.TextPartDelta | said.ThinkingPartDelta):
            is_text = isinstance(delta, said.TextPartDelta)
            self._chunk(index, delta.content_delta or "", is_text=is_text)

    def _end(self, index: int, part: said.ModelResponsePart) -> None:
        if index in (self._text, self._thought):
            self._close_text()
        writing = self._writing.get(index)
        if writing is not None and isinstance(part, said.ToolCallPart):
            self._detected(writing)
            # Some models write several calls at once: one that makes no sense yet may go on.
            if part.args and isinstance(parsed(part.args), dict):
                self._ready(writing, part)

    def _chunk(self, index: int, content: str, *, is_text: bool) -> None:
        if not content:
            return
        if index != (self._text if is_text else self._thought):
            self._close_text()
            self._open_text(index, is_text=is_text)
        for at in range(0, len(content), MOST_CHARACTERS):
            chunk = carried(content[at : at + MOST_CHARACTERS])
            told: dict[str, Any] = {"part": self._part, "item": self._item, "chunk": chunk}
            if is_text:
                told["position"] = self._position
                self._position += len(chunk)
            self._emit(agent.TEXT_CHUNK if is_text else agent.THINKING_CHUNK, told)
            self._chunks.append(chunk)

    def _open_text(self, index: int, *, is_text: bool) -> None:
        self._part, self._item = self._named(), self._counted()
        named = {"part": self._part, "item": self._item}
        self.say(agent.TEXT_START if is_text else agent.THINKING_START, named)
        self._text, self._thought = (index, _NOTHING) if is_text else (_NOTHING, index)
        self._chunks = self.parts.chunks(self._part)

    def _close_text(self) -> None:
        if self._text == self._thought == _NOTHING:
            return
        is_text = self._text != _NOTHING
        self._text = self._thought = _NOTHING
        whole = "".join(self._chunks)
        told: dict[str, Any] = {"part": self._part, "item": self._item}
        if is_text:
            told["length"] = len(whole)
        self.say(agent.TEXT_END if is_text else agent.THINKING_END, told | repeated(whole))

    def _named(self) -> str:
        name = f"{self.iteration}.{self._place}"
        self._place += 1
        return name

    def _counted(self) -> int:
        """The number of what is told next. A place is taken sooner: a call's name may be late."""
        self._items += 1
        return self._items - 1

    # --- calls being written ---------------------------------------------------------

    def _call(self, index: int, part: said.ToolCallPart) -> _Writing:
        self._heard.add(index)
        written = _Writing(self._named(), self._own(part.tool_call_id), _name(part.tool_name))
        self._writing[index] = written
        return written

    def _own(self, wished: str) -> str:
        """An id that no other call of the turn has."""
        base = own = carried(wished)[:_MAX_ID] or "call"
        count = 1
        while own in self._ids:
            count += 1
            own = f"{base}_{count}"
        self._ids.add(own)
        return own

    def _args(self, writing: _Writing, written: str) -> None:
        if not written:
            return
        told = self._detected(writing)
        writing.written.append(written)
        for at in range(0, len(written), MOST_CHARACTERS):
            chunk = carried(written[at : at + MOST_CHARACTERS])
            self.say(agent.TOOL_ARGS, {**told, "chunk": chunk})

    def _detected(self, writing: _Writing) -> dict[str, Any]:
        is_new = writing.item == _NOTHING
        if is_new:
            writing.item = self._counted()
        told = {
            "part": writing.part,
            "item": writing.item,
            "id": writing.id,
            "name": writing.name,
        }
        if is_new:
            self._close_text()
            self.say(agent.TOOL_DETECTED, told)
        return told

    def _ready(self, writing: _Writing, part: said.ToolCallPart | None) -> None:
        """The call is written, as `part` has it; None: as far as it was told."""
        if writing.is_ready:
            return
        writing.is_ready = True
        if part is not None:
            writing.name = _name(part.tool_name)
            if not writing.written and part.args:
                whole = part.args if isinstance(part.args, str) else sayable(part.args)
                self._args(writing, agent.text_of(whole))
        told = self._detected(writing)
        args = "".join(writing.written) if part is None else part.args
        writing.input, writing.is_cut = cut_short(parsed(args))
        more = {"truncated": True} if writing.is_cut else {}
        self.say(agent.TOOL_READY, {**told, "input": writing.input, **more})


def _name(written: str) -> str:
    """A tool's name as a model wrote it, which is repeated in each event of the call."""
    return carried(written[:_MAX_NAME])

"""What events were expected, and how it is said that others came."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, Final

from tailrace.protocol.events import loads
from tailrace.run import Run
from tailrace.testing.bounds import WITHIN_SECONDS, soon
from tailrace.testing.reading import Reading, clipped

Expected = str | tuple[str, Any] | EllipsisType
"""An event's type; its type and what its payload must hold; or `...`, any number of others."""

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class _Came:
    """An event of any kind: of a run, of a stream, of a client, of a line of NDJSON."""

    type: str
    payload: Any
    raw: Any

    @classmethod
    def of(cls, event: Any) -> _Came:
        if isinstance(event, Mapping):
            kind, raw = event.get("type") or event.get("event"), event.get("data")
        else:
            kind = getattr(event, "type", None) or getattr(event, "event", None)
            raw = getattr(event, "data", None)
        if not isinstance(kind, str):
            raise TypeError(f"{event!r} is no event: it has neither a type nor an event.")
        return cls(kind, _decoded(raw) if isinstance(raw, str | bytes) else raw, raw)

    def __str__(self) -> str:
        payload = self.payload
        if isinstance(payload, Mapping):
            payload = {key: value for key, value in payload.items() if key != "timestamp"}
        return clipped(f"{self.type} {_shown(payload)}")


async def assert_events(
    source: Run | Reading | AsyncIterable[Any] | Iterable[Any],
    expected: Sequence[Expected],
    *,
    within: float | None = None,
) -> None:
    """Assert that these events come, in this order.

        await assert_events(run, ["start", ("progress", {"percent": 50.0}), ..., "complete"])

    `expected`: types, or types with what the payload must hold. Keys that are not named, such as
    the timestamp, may be anything, also deep inside, and so may a value that is given as `...`.
    Among the events, `...` stands for any number of others.

    `source` is a run, which is compared to its end; events that were collected, all of them; or a
    stream, a watch or any other async iterable, of which no more is read than it takes. After a
    last `...` a run is not waited for either. `within`: real seconds for all of it; None: what the
    stream has, or 5.

    Raises AssertionError, which shows what was expected and what came; TypeError for what is no
    event.
    """
    pattern = _Pattern(expected)
    came: list[_Came] = []
    bound = getattr(source, "within", WITHIN_SECONDS) if within is None else within
    try:
        why = await soon(_compared(source, pattern, came, bound), bound)
    except TimeoutError:
        why = f"in {bound:g} s there was not more"
    if why:
        raise AssertionError(pattern.told(came, why))


async def _compared(source: Any, pattern: _Pattern, came: list[_Came], bound: float) -> str:
    """Why the events are not what was expected; empty if they are."""
    is_open = pattern.ends_open if isinstance(source, Run) else isinstance(source, AsyncIterable)
    async with contextlib.aclosing(_read(source, bound)) as events:
        while not (is_open and pattern.is_met):
            event = await anext(events, _MISSING)
            if event is _MISSING:
                return "" if pattern.is_met else "there was not more"
            came.append(_Came.of(event))
            if why := pattern.step(came[-1]):
                return why
    return ""


async def _read(source: Any, bound: float) -> AsyncGenerator[Any, None]:
    """Whatever there is, one by one."""
    if isinstance(source, Run):
        async with contextlib.aclosing(source.events()) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
    elif isinstance(source, Reading):
        while (read := await source.read(bound)) is not None:
            yield read
    elif isinstance(source, AsyncIterable):
        async for event in source:
            yield event
    else:
        for event in source:
            yield event


class _Pattern:
    """Where in what was expected the events that came can be, which `...` makes several places."""

    def __init__(self, expected: Sequence[Expected]) -> None:
        self._expected = [*expected]
        self._furthest = 0
        self._is_refused = False
        self._places = self._reached({0})

    @property
    def is_met(self) -> bool:
        """Whether all of it has come."""
        return len(self._expected) in self._places

    @property
    def ends_open(self) -> bool:
        """Whether anything may follow."""
        return bool(self._expected) and self._expected[-1] is ...

    def step(self, came: _Came) -> str:
        """Go on by an event; why that is not possible, if it is not."""
        after: set[int] = set()
        why = "nothing more was expected"
        for place in self._places - {len(self._expected)}:
            if self._expected[place] is ...:
                after.add(place)
            elif not (why := _mismatch(self._expected[place], came)):
                after.add(place + 1)
        self._is_refused = not after
        self._places = self._reached(after)
        return "" if after else why

    def _reached(self, places: set[int]) -> set[int]:
        """These places, and those that may be gone to from there without an event."""
        for place in sorted(places):
            at = place
            while at < len(self._expected) and self._expected[at] is ...:
                at += 1
                places.add(at)
        self._furthest = max(self._furthest, *places, 0)
        return places

    def told(self, came: Sequence[_Came], why: str) -> str:
        """The message of a failure."""
        wanted = [*map(_said, self._expected), "(the end)"]
        events = [*map(str, came)]
        if not self._is_refused:
            events.append("(nothing more)")
        lines = [f"These are not the events that were expected: {why}.", "expected:"]
        lines += [*_marked(wanted, self._furthest), "came:", *_marked(events, len(events) - 1)]
        return "\n".join(lines)


def _marked(lines: Sequence[str], mark: int) -> list[str]:
    return [f"{'>' if at == mark else ' '} {line}" for at, line in enumerate(lines)]


def _mismatch(expected: Expected, came: _Came) -> str:
    """Why an event is not as expected; empty if it is."""
    if isinstance(expected, EllipsisType):
        return ""
    kind: str
    payload: Any = ...
    if isinstance(expected, str):
        kind = expected
    elif isinstance(expected, tuple) and len(expected) == 2:
        kind, payload = expected
    else:
        raise TypeError(f"{expected!r} is no expectation: give a type, (type, payload), or ....")
    if kind != came.type:
        return f"it was {came.type!r}, not {kind!r}"
    if isinstance(payload, str) and payload == came.raw:
        return ""
    return _lacks(payload, came.payload, came.type)


def _lacks(expected: Any, came: Any, where: str) -> str:
    """Where and how `came` does not hold what is expected of it."""
    if expected is ...:
        return ""
    if isinstance(expected, Mapping) and isinstance(came, Mapping):
        for key, value in expected.items():
            if key not in came:
                return f"{where} has no {key!r}"
            if why := _lacks(value, came[key], f"{where}.{key}"):
                return why
        return ""
    if isinstance(expected, list | tuple) and isinstance(came, list):
        if len(expected) != len(came):
            return f"{where} has {len(came)} elements, not {len(expected)}"
        pairs = enumerate(zip(expected, came, strict=True))
        return next(filter(None, (_lacks(a, b, f"{where}[{at}]") for at, (a, b) in pairs)), "")
    return "" if expected == came else f"{where} is {_shown(came)}, not {_shown(expected)}"


def _said(expected: Expected) -> str:
    if isinstance(expected, EllipsisType):
        return "..."
    return (
        expected if isinstance(expected, str) else clipped(f"{expected[0]} {_shown(expected[1])}")
    )


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        return repr(value)


def _decoded(text: str | bytes) -> Any:
    """Data that is JSON, decoded, and any other as it is."""
    try:
        return loads(text.encode() if isinstance(text, str) else text)
    except ValueError:
        return text


__all__ = ["Expected", "assert_events"]

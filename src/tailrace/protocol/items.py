"""What a generator may yield, and which server-sent event it is.

The rules are those of sse-starlette (`framed`) and of FastAPI (`framed_as_json`), as far as they
agree with the standard: line ends are LF, and an id or event type that has one is refused. What is
sent at once (`framed`) and what a run keeps of it (`Reader`) are read by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from tailrace.errors import EventInvalid
from tailrace.protocol import events, sse
from tailrace.protocol.events import to_json

_KEYS: Final = frozenset({"data", "event", "id", "retry", "comment"})
_FIELDS: Final = _KEYS | {"sep"}

# What the house says of a run by itself. A generator's word of that name is another.
_HOUSE: Final = frozenset({events.START, events.STATUS})

# Two line ends, the last of them a lone CR or not.
_SETTLED: Final = (b"\n\n", b"\r\r", b"\n\r", b"\n\r\n", b"\r\r\n")


class Fields(NamedTuple):
    """An event's. `data`: text, bytes of text, or what is told as JSON."""

    data: Any = None
    event: Any = None
    id: Any = None
    retry: Any = None
    comment: Any = None

    @property
    def is_event(self) -> bool:
        """Whether clients tell of it: it is not a comment, nor a reconnection time, alone."""
        return self.data is not None or self.event is not None or self.id is not None


def fields(item: Any) -> Fields | None:
    """Those of a mapping that has nothing else, and of a `ServerSentEvent` of FastAPI's, of
    sse-starlette's or of ours; None for what is no event, but told in one.
    """
    if isinstance(item, Mapping):
        if not item or not item.keys() <= _FIELDS:
            return None
        if item.keys() == {"data"} and item["data"] is None:
            return Fields(b"null")
        return Fields(*map(item.get, Fields._fields))
    return _members(item)


def _members(item: Any) -> Fields | None:
    if not hasattr(item, "data") or not any(
        base.__name__ == "ServerSentEvent" for base in type(item).__mro__
    ):
        return None
    found = Fields(*(getattr(item, name, None) for name in Fields._fields))
    # Those of FastAPI have a second place, for text that is not to be made JSON.
    raw = getattr(item, "raw_data", None)
    if raw is not None:
        return found._replace(data=raw)
    if hasattr(item, "raw_data") and isinstance(found.data, str | bytes):
        return found._replace(data=to_json(found.data))
    return found


def framed(item: Any) -> bytes:
    """An item as the bytes that are sent: text is data, bytes are sent as they are, a mapping of an
    event's fields is that event, all else is told as JSON. Raises FieldInvalid, EventInvalid.
    """
    # By its very type first: most items are of these two, and to ask an ABC takes longer than
    # the rest.
    kind = type(item)
    if kind is str or isinstance(item, str):
        return sse.encode(item)
    if kind is dict and len(item) == 1 and "data" in item:
        return sse.encode(_text(item["data"]))
    if isinstance(item, bytes | bytearray | memoryview):
        # Whoever yields bytes has framed them.
        return bytes(item)
    found = fields(item)
    return sse.encode(to_json(item)) if found is None else _event(found)


def framed_as_json(item: Any) -> bytes:
    """An item as the bytes that are sent: an event of FastAPI's, of sse-starlette's or of ours is
    that event, and all else is told as JSON, also text. Raises FieldInvalid, EventInvalid.
    """
    found = _members(item)
    return sse.encode(to_json(item)) if found is None else _event(found)


def _event(found: Fields) -> bytes:
    lead = b""
    if found.comment is not None:
        lead = b"".join(map(sse.comment, str(found.comment).splitlines()))
    if not found.is_event:
        return lead + (b"" if found.retry is None else sse.retry(found.retry))
    return lead + sse.encode(
        b"" if found.data is None else _text(found.data),
        id=None if found.id is None else str(found.id),
        event=found.event,
        retry=found.retry,
    )


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else to_json(value)


class Reader:
    """The items of one generator, in their order, as events of a run that tell the same."""

    def __init__(self) -> None:
        self._decoder = sse.Decoder()
        # A stream never begins with an item, so the byte order mark of one is none.
        self._decoder.feed(b":\n")
        # What was yielded in bytes, at its end, as long as an event in it may be unfinished.
        self._tail = b""

    def read(self, item: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Its events: the type, and the payload `{"value": …}`, which is text, or what is told as
        JSON. A name that may be no type of a run's events stands beside the value, as `event`, in
        one of type `message`. Ids, comments and reconnection times are not kept.

        Raises FieldInvalid for a name that cannot be sent, StreamTooLarge.
        """
        if self._tail or isinstance(item, bytes | bytearray | memoryview):
            # Behind an unfinished event, whatever follows is a part of it.
            yield from self._decoded(framed(item))
            return
        found = None if isinstance(item, str) else fields(item)
        if found is None:
            yield _named(None, item)
        elif found.is_event:
            yield _named(found.event, "" if found.data is None else found.data)

    def _decoded(self, chunk: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
        tail = (self._tail + chunk)[-3:]
        self._tail = b"" if tail.endswith(_SETTLED) else tail
        for told in self._decoder.feed(chunk):
            yield _named(told.event, told.data)


def _named(name: Any, value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if name is None or name in ("", events.MESSAGE):
        return events.MESSAGE, {"value": value}
    # Whoever could place a line end in it would forge whole events.
    sse.encode(b"", event=name)
    if _is_type(name):
        return name, {"value": value}
    return events.MESSAGE, {"value": value, "event": name}


@lru_cache(1024)
def _is_type(name: str) -> bool:
    """Whether an event of a run may have this type."""
    try:
        events.emitted(name, {}, 0.0)
    except EventInvalid:
        return False
    return name not in _HOUSE


__all__ = ["Fields", "Reader", "fields", "framed", "framed_as_json"]

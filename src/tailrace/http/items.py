"""What a generator may yield to be told as server-sent events, and generators that block.

The rules are those of sse-starlette (`framed`) and of FastAPI (`framed_as_json`), as far as they
agree with the standard: line ends are LF, and an id or event type that has one is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from tailrace.protocol import sse
from tailrace.protocol.events import to_json

# How much a thread is ahead of a client that does not read, at the most, in items.
_AHEAD: Final = 1000

_KEYS: Final = frozenset({"data", "event", "id", "retry", "comment"})
_FIELDS: Final = _KEYS | {"sep"}


@dataclass(slots=True)
class ServerSentEvent:
    """One event, to be yielded by a generator: `data` is text, or what is told as JSON. `retry` is
    in milliseconds. `sep`, which others take, means nothing here.
    """

    data: Any = None
    _: KW_ONLY
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None
    sep: str | None = None


class JSONServerSentEvent(ServerSentEvent):
    """A `ServerSentEvent` whose data is told as JSON, also where it is text."""

    def __init__(self, data: Any = None, **fields: Any) -> None:
        super().__init__(None if data is None else to_json(data), **fields)


def framed(item: Any) -> bytes:
    """An item as the bytes that are sent: text is data, bytes are sent as they are, a mapping of an
    event's fields is that event, all else is told as JSON. Raises FieldInvalid, EventInvalid.
    """
    # By its very type first: most items are of these two, and to ask an ABC takes longer than
    # the rest.
    kind = type(item)
    if kind is str or isinstance(item, str):
        return sse.encode(item)
    if kind is dict or isinstance(item, Mapping):
        if "data" in item and len(item) == 1:
            return sse.encode(_text(item["data"]))
        return _event(item) if item and item.keys() <= _FIELDS else sse.encode(to_json(item))
    if isinstance(item, bytes | bytearray | memoryview):
        # Whoever yields bytes has framed them.
        return bytes(item)
    return _event(_members(item)) if _is_event(item) else sse.encode(to_json(item))


def framed_as_json(item: Any) -> bytes:
    """An item as the bytes that are sent: an event of FastAPI's, of sse-starlette's or of ours is
    that event, and all else is told as JSON, also text. Raises FieldInvalid, EventInvalid.
    """
    return _event(_members(item)) if _is_event(item) else sse.encode(to_json(item))


def _is_event(item: Any) -> bool:
    return hasattr(item, "data") and any(
        base.__name__ == "ServerSentEvent" for base in type(item).__mro__
    )


def _members(item: Any) -> Mapping[str, Any]:
    members = {name: getattr(item, name, None) for name in _KEYS}
    # Those of FastAPI have a second place, for text that is not to be made JSON.
    raw = getattr(item, "raw_data", None)
    if raw is not None:
        members["data"] = raw
    elif hasattr(item, "raw_data") and members["data"] is not None:
        members["data"] = to_json(members["data"])
    return members


def _event(item: Mapping[str, Any]) -> bytes:
    data, comment = item.get("data"), item.get("comment")
    lead = b"".join(map(sse.comment, str(comment).splitlines())) if comment is not None else b""
    if data is None and item.get("event") is None:
        id_, retry = item.get("id"), item.get("retry")
        if id_ is None:
            return lead + (b"" if retry is None else sse.retry(retry))
    id_ = item.get("id")
    return lead + sse.encode(
        b"" if data is None else _text(data),
        id=None if id_ is None else str(id_),
        event=item.get("event"),
        retry=item.get("retry"),
    )


def _text(value: Any) -> str | bytes:
    return value if isinstance(value, str | bytes) else to_json(value)


async def threaded(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Walk a plain iterable in a thread of its own, with the present context variables."""
    walk = _Walk(items)
    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(walk.go,), name="tailrace-items", daemon=True
    )
    thread.start()
    try:
        while True:
            for item in walk.taken():
                yield item
            if walk.is_over:
                break
            await walk.more()
    finally:
        walk.stop()
    if walk.error is not None:
        raise walk.error


class _Walk:
    """A thread that goes ahead of its reader, but not too far."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self._found: deque[Any] = deque()
        self._changed = threading.Condition()
        self._is_ended = self._is_stopped = False
        self._news = asyncio.Event()
        self.error: BaseException | None = None

    def go(self) -> None:
        """What the thread does."""
        try:
            iterator = iter(self._items)
            try:
                for item in iterator:
                    if not self._put(item):
                        break
            finally:
                close = getattr(iterator, "close", None)
                if close is not None:
                    close()
        except BaseException as error:  # noqa: BLE001 - it is handed to whoever reads
            self.error = error
        with self._changed:
            self._is_ended = True
        self._tell()

    def _put(self, item: Any) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._found) < _AHEAD or self._is_stopped)
            self._found.append(item)
            is_first = len(self._found) == 1
        if is_first:
            self._tell()
        return not self._is_stopped

    def _tell(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is gone: so is whoever waited
            self._loop.call_soon_threadsafe(self._news.set)

    def taken(self) -> list[Any]:
        """All that is there."""
        with self._changed:
            found = list(self._found)
            self._found.clear()
            self._changed.notify_all()
        return found

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        with self._changed:
            return self._is_ended and not self._found

    async def more(self) -> None:
        """Wait for more, or for the end."""
        await self._news.wait()
        self._news.clear()

    def stop(self) -> None:
        """Take no more: after its next item the thread ends."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

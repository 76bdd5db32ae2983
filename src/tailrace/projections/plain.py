"""`plain`: server-sent events as a generator yielded them, which tell nothing of runs.

For an `EventSource` that was written for a stream without a log: text is text, what has a name is
an event of that name, and the end is only learnt by the stream being over. Of a generator that was
made a run it is what `EventSourceResponse` would have sent, but for ids, comments and `retry`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from tailrace.projections.contract import ServerSent, Types, chosen, cursor
from tailrace.protocol import events, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, to_json

# What the house says of the run. It moves the cursor, and dispatches nothing (HTML, 9.2.6).
_QUIET: Final = frozenset({events.START, events.STATUS, events.COMPLETE, events.CANCELLED})

_LEAD: Final = b'{"value":'

# A name that no generator could have sent: somebody else has written it.
_UNTOLD: Final = re.compile("[\r\n\0\ud800-\udfff]")


class Plain(ServerSent):
    """`data` as it was yielded, and `event` where it is not a `message`; with an id."""

    name = "plain"

    def tell(self, block: Block, types: Types) -> bytes:
        """One event for each."""
        return b"".join(_framed(cursor(block, event), event) for event in chosen(block, types))


def _framed(cursor: str, event: Event) -> bytes:
    if event.type in _QUIET:
        return f"id: {cursor}\n\n".encode()
    name, data = _told(event)
    return sse.encode(data, id=cursor, event=None if name == events.MESSAGE else name)


def _told(event: Event) -> tuple[str, str | bytes]:
    """The name it goes by, and its data."""
    # What is no object was kept as one (see `events.draft`), and so is all that a generator which
    # was made a run yields (see `items.Reader`).
    if not event.data.startswith(_LEAD):
        return event.type, event.data
    payload = event.payload
    name = event.type
    if payload.keys() == {"value", "event", "timestamp"} and name == events.MESSAGE:
        name = payload["event"]
        if not isinstance(name, str) or not name or _UNTOLD.search(name):
            return event.type, event.data
    elif payload.keys() != {"value", "timestamp"}:
        return event.type, event.data
    value = payload.pop("value")
    return name, value if isinstance(value, str) else _written(event.data, value, payload)


def _written(data: bytes, value: Any, rest: Mapping[str, Any]) -> bytes:
    """The value as it was written, where it stands before the rest: a number of many digits, or a
    key that is there twice, would not come back from being read.
    """
    tail = b"," + to_json(rest)[1:]
    return data[len(_LEAD) : -len(tail)] if data.endswith(tail) else to_json(value)

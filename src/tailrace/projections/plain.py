"""`plain`: server-sent events as a generator yielded them, which tell nothing of runs.

For an `EventSource` that was written for a stream without a log: text is text, what has a type is
an event of that type, and the end is only learnt by the stream being over.
"""

from __future__ import annotations

from tailrace.projections.contract import ServerSent, Types, chosen, cursor
from tailrace.protocol import events, sse
from tailrace.protocol.blocks import Block
from tailrace.protocol.events import Event, to_json

# What the house says of the run. It moves the cursor, and dispatches nothing (HTML, 9.2.6).
_QUIET = frozenset({events.START, events.STATUS, events.COMPLETE, events.CANCELLED})


class Plain(ServerSent):
    """`data` as it was yielded, and `event` where it is not a `message`; with an id."""

    name = "plain"

    def tell(self, block: Block, types: Types) -> bytes:
        """One event for each."""
        return b"".join(_framed(cursor(block, event), event) for event in chosen(block, types))


def _framed(cursor: str, event: Event) -> bytes:
    if event.type in _QUIET:
        return f"id: {cursor}\n\n".encode()
    type = None if event.type == events.MESSAGE else event.type
    return sse.encode(_data(event), id=cursor, event=type)


def _data(event: Event) -> str | bytes:
    # What is no object was kept as one (see `events.draft`).
    if not event.data.startswith(b'{"value":'):
        return event.data
    payload = event.payload
    if payload.keys() != {"value", "timestamp"}:
        return event.data
    value = payload["value"]
    return value if isinstance(value, str) else to_json(value)

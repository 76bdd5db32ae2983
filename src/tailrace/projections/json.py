"""`json`: a page of events, for those who poll."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from tailrace.projections.contract import Types, chosen, cursor
from tailrace.protocol.blocks import Block
from tailrace.protocol.cursor import Cursor, Extent, Resume
from tailrace.protocol.events import to_json


def page(blocks: Sequence[Block], start: Resume, types: Types, limit: int, extent: Extent) -> bytes:
    """`{"events": […], "next": cursor, "finished": bool, "gap": {from, to}?}`.

    At most `limit` events; `next` is what to ask for next (`?after=`), and `finished`
    says that nothing will ever come after it.
    """
    events: list[dict[str, Any]] = []
    after, full = start.after, False
    for block in blocks:
        for event in chosen(block, types):
            if len(events) >= limit:
                full = True
                break
            events.append(
                {
                    "id": cursor(block, event),
                    "type": event.type,
                    "data": orjson.Fragment(event.data),
                }
            )
            after = event.seq
        if full:
            break
        after = block.last
    body: dict[str, Any] = {
        "events": events,
        "next": str(Cursor(extent.epoch, after)),
        "finished": extent.ended and after >= extent.last,
    }
    if start.lost is not None:
        body["gap"] = {"from": start.lost[0], "to": start.lost[1]}
    return to_json(body)

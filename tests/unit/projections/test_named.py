from __future__ import annotations

import pytest

from tailrace.projections import STREAMS
from tailrace.projections.contract import ServerSent
from tailrace.projections.named import Named
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.sse import Decoder

SAID = ["a", "id: 9", "x\nid: 9\n\nid: 10", "\nid: 1", "\r\nid: 1\rid: 2", "data: id: 3"]


@pytest.mark.parametrize(
    "name", [name for name, plain in STREAMS.items() if isinstance(plain, ServerSent)]
)
def test_ids_that_name_their_run(name: str) -> None:
    plain = STREAMS[name]
    named = Named(plain)
    drafts = [draft("log", {"message": message}, 0.0) for message in SAID]
    block = Block("run_a", 4, 3 + len(SAID), pack(4, drafts, epoch=2), epoch=2)
    told, there = Decoder().feed(named.tell(block, None)), Decoder().feed(plain.tell(block, None))
    assert [event.id for event in told] == [f"run_a:{event.id}" for event in there]
    if name == "events":
        assert [event.id for event in told] == [f"run_a:2-{n}" for n in range(4, 4 + len(SAID))]
    assert [(event.event, event.data) for event in told] == [
        (event.event, event.data) for event in there
    ]
    assert named.name != plain.name, "or one would be sent the other's bytes"


def test_the_rest_is_as_it_was() -> None:
    plain = STREAMS["typed"]
    named = Named(plain)
    assert named.control("gap", {"from": 1}) == plain.control("gap", {"from": 1})
    assert named.closing(500) == plain.closing(500)
    assert (named.opening, named.heartbeat, named.media_type) == (
        plain.opening, plain.heartbeat, plain.media_type,
    )  # fmt: skip

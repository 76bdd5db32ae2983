from __future__ import annotations

from tailrace.projections.events import Events
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft

DRAFTS = [
    draft("start", {"operation": "crunch"}, 0.0),
    draft("output", {"text": "id: 9\r\n\nevent: complete\n\n"}, 0.0),
    draft("log", {"message": "é\u2028"}, 0.0),
    draft("complete", {"status": "completed"}, 0.0),
]


def block(epoch: int = 0) -> Block:
    return Block("run_a", 7, 10, pack(7, DRAFTS, epoch), epoch)


def test_all_is_the_stored_object_itself() -> None:
    some = block()
    assert Events().tell(some, None) is some.wire


def test_a_filter_keeps_the_bytes_of_what_passes() -> None:
    for epoch, lead in ((0, b""), (3, b"3-")):
        told = Events().tell(block(epoch), frozenset({"output"}))
        assert told == b"".join(
            b"id: %b%d\nevent: %b\ndata: %b\n\n" % (lead, seq, one.type.encode(), one.data)
            for seq, one in zip((8, 10), (DRAFTS[1], DRAFTS[3]), strict=True)
        )
        assert all(frame + b"\n\n" in block(epoch).wire for frame in told.split(b"\n\n")[:-1])


def test_a_control_frame_is_typed() -> None:
    frame = Events().control("tick", {"elapsed_seconds": 2.5})
    assert frame == b'event: tick\ndata: {"elapsed_seconds":2.5}\n\n'

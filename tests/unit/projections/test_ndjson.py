from __future__ import annotations

import json

from tailrace.projections.ndjson import Ndjson
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft

DRAFTS = [
    draft("log", {"message": 'é\n"\u2028'}, 0.0),
    draft("progress", {"current": 1}, 0.0),
    draft("complete", {"status": "completed"}, 0.0),
]


def test_each_event_is_a_line() -> None:
    told = Ndjson().tell(Block("run_a", 7, 9, pack(7, DRAFTS, 2), 2), None)
    assert told.endswith(b"\n")
    assert [json.loads(line) for line in told.splitlines()] == [
        {"id": f"2-{seq}", "type": one.type, "data": json.loads(one.data)}
        for seq, one in enumerate(DRAFTS, 7)
    ]


def test_a_filter_passes_the_end() -> None:
    told = Ndjson().tell(Block("run_a", 7, 9, pack(7, DRAFTS)), frozenset({"progress"}))
    assert [json.loads(line)["id"] for line in told.splitlines()] == ["8", "9"]


def test_what_is_sent_around_the_lines_is_no_line() -> None:
    one = Ndjson()
    assert one.media_type == "application/x-ndjson"
    around = one.opening + one.heartbeat + one.closing(500) + one.closing(None)
    assert around.strip() == b""
    assert one.opening, "the first byte comes at once"


def test_a_control_line_has_no_id() -> None:
    frame = Ndjson().control("gap", {"from": 1, "to": 2})
    assert json.loads(frame) == {"type": "gap", "data": {"from": 1, "to": 2}}
    assert frame.endswith(b"\n")

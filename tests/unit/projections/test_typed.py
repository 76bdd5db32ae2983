from __future__ import annotations

from typing import Any

import orjson
import pytest

from tailrace.projections.typed import Typed
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.sse import Decoder


def told(type_: str, payload: Any, epoch: int = 0) -> tuple[str, str, dict[str, Any]]:
    some = Block("run_a", 5, 5, pack(5, [draft(type_, payload, 0.0)], epoch), epoch)
    (event,) = Decoder().feed(Typed().tell(some, None))
    return event.id, event.event, orjson.loads(event.data)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"current": 3},
        {"text": '"type":"forged"'},
        {"nested": {"type": "inner"}, "list": [{"type": 1}]},
        {"timestamp": "mine"},
        {"message": 'é\n"\\'},
    ],
)
def test_the_type_joins_the_payload(payload: dict[str, Any]) -> None:
    id_, kind, body = told("progress", payload)
    assert (id_, kind) == ("5", "message")
    assert body.pop("type") == "progress"
    assert body.pop("timestamp")
    assert body == {key: value for key, value in payload.items() if key != "timestamp"}


def test_a_type_of_the_payload_gives_way() -> None:
    payload = {"a": 1, "type": "mine", "b": 2}
    some = Block("run_a", 5, 5, pack(5, [draft("tool", payload, 0.0)]))
    wire = Typed().tell(some, None)
    assert wire.count(b'"type"') == 1
    assert told("tool", payload)[2]["type"] == "tool"


def test_an_id_has_its_epoch() -> None:
    assert told("log", {}, 4)[0] == "4-5"


def test_a_control_frame_has_the_same_shape() -> None:
    frame = Typed().control("gap", {"from": 1, "to": 2})
    assert frame == b'data: {"type":"gap","from":1,"to":2}\n\n'

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tailrace.projections.jsonrpc import JsonRpc
from tailrace.protocol.blocks import Block, pack
from tailrace.protocol.events import draft
from tailrace.protocol.sse import Decoder, ServerSentEvent

RUN = "run_" + "a" * 26


def told(type_: str, payload: Any, seq: int = 5, epoch: int = 0) -> ServerSentEvent:
    some = Block(RUN, seq, seq, pack(seq, [draft(type_, payload, 0.0)], epoch), epoch)
    (event,) = Decoder().feed(JsonRpc().tell(some, None))
    return event


def test_the_first_frame() -> None:
    some = Block(RUN, 1, 1, pack(1, [draft("start", {"run": RUN}, 0.0)]))
    assert JsonRpc().tell(some, None) == (
        b'id: 1\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":'
        b'{"progressToken":"%b","progress":0,"message":"connected"}}\n\n' % RUN.encode()
    )


@pytest.mark.parametrize("text", ["line\nline", 'a "quote"', "\u2028", "é😀", '{"news": []}'])
def test_a_message_stays_the_text_that_it_is(text: str) -> None:
    event = told("progress", {"current": 0.25, "message": text})
    assert event.event == "message", "the type that MCP's clients read"
    assert orjson.loads(event.data)["params"]["message"] == text


def test_an_id_has_its_epoch() -> None:
    assert told("log", {}, epoch=4).id == "4-5"


def test_a_control_frame_is_a_notification() -> None:
    assert JsonRpc().control("gap", {"from": 1, "to": 2}) == (
        b'data: {"jsonrpc":"2.0","method":"notifications/message","params":'
        b'{"level":"warning","logger":"gap","data":{"from":1,"to":2}}}\n\n'
    )

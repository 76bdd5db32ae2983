"""Whatever an event says, it can be told as one JSON-RPC message."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tailrace.protocol.events import CONTROL_TYPES, TERMINAL_TYPES, to_json
from tailrace.protocol.jsonrpc import control, message

RUN = "run_" + "a" * 26

KEYS = (
    *("current", "total", "percent", "step", "message", "level", "details", "logger"),
    *("stream", "text", "result", "error", "reason", "status", "timestamp", "type", "content"),
)
TYPES = ("start", "status", "progress", "log", "output", "result", "message", "x:own")

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=3)
    ),
    max_leaves=8,
)
blocks = st.lists(st.fixed_dictionaries({"type": values}), min_size=1, max_size=2)
payloads = (
    st.dictionaries(st.sampled_from(KEYS), values, max_size=6)
    | st.fixed_dictionaries({"result": blocks})
).map(
    # As it comes out of the log.
    lambda payload: json.loads(to_json(payload))
)
types = st.sampled_from((*TYPES, *sorted(TERMINAL_TYPES)))


@given(st.integers(1, 5), types, payloads)
def test_every_event_is_one_message(seq: int, type_: str, payload: dict[str, Any]) -> None:
    told = message(RUN, seq, type_, payload)
    wire = to_json(told)
    assert b"\n" not in wire
    assert json.loads(wire)["jsonrpc"] == "2.0"
    is_end = type_ in TERMINAL_TYPES
    assert sum(key in told for key in ("result", "error", "method")) == 1
    assert ("id" in told) == is_end == ("method" not in told)
    params = told.get("params", {})
    if told.get("method") == "notifications/progress":
        assert params["progressToken"] == RUN
        assert isinstance(params["progress"], int | float)
        assert isinstance(params.get("message", ""), str)
        assert isinstance(params.get("total", 0), int | float)
    elif not is_end:
        assert isinstance(params["logger"], str)
    if "error" in told:
        assert isinstance(told["error"]["code"], int)
        assert isinstance(told["error"]["message"], str)
    if "result" in told:
        assert all(isinstance(block, dict) for block in told["result"]["content"])


@given(st.sampled_from(sorted(CONTROL_TYPES)), payloads)
def test_every_control_frame_is_one_too(type_: str, payload: dict[str, Any]) -> None:
    told = json.loads(to_json(control(type_, payload)))
    assert told["method"] == "notifications/message"
    assert "id" not in told

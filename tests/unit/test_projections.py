"""The formats there are."""

from __future__ import annotations

import pytest

from tailrace.errors import FormatUnknown
from tailrace.projections import STREAMS, stream

NAMES = [
    *("events", "text", "typed", "ndjson", "jsonrpc", "plain"),
    *("chat", "ag-ui", "ai-sdk", "responses"),
]


def test_all_of_them_have_a_name() -> None:
    assert sorted(STREAMS) == sorted(NAMES)
    assert all(stream(name) is STREAMS[name] for name in NAMES)
    assert all(projection.name == name for name, projection in STREAMS.items())


def test_another_name_is_told_the_others() -> None:
    with pytest.raises(FormatUnknown) as unknown:
        stream("x" * 100)
    assert len(str(unknown.value)) < 80
    assert all(name in unknown.value.fix for name in (*NAMES, "json"))

from __future__ import annotations

from typing import Any

import pytest

from tailrace.runners.markers import LINE, MARKER, marked
from tailrace.runners.output import Reading


@pytest.mark.parametrize(
    ("word", "text", "type", "payload"),
    [
        ("progress", "3/10 loading", "progress",
         {"current": 3, "total": 10, "percent": 30.0, "message": "loading"}),
        ("progress", "45%", "progress", {"percent": 45}),
        ("progress", "7", "progress", {"current": 7}),
        ("log", "warn low on disk", "log", {"level": "warning", "message": "low on disk"}),
        ("log", "ERROR", "log", {"level": "error", "message": ""}),
        ("result", '{"rows": [1, null]}', "result", {"result": {"rows": [1, None]}}),
        ("result", "12345678901234567890", "result", {"result": 12345678901234567890}),
    ],
)  # fmt: skip
def test_what_a_marker_stands_for(word: str, text: str, type: str, payload: dict[str, Any]) -> None:
    assert marked(word, text) == (type, payload)


@pytest.mark.parametrize(
    ("word", "text"),
    [("progress", ""), ("progress", "soon"), ("progress", "101%"), ("log", ""), ("log", "loud x"),
     ("result", ""), ("result", "{"), ("result", "NaN"), ("result", "1e999"),
     ("result", "[" * 5000)],
)  # fmt: skip
def test_one_that_is_wrong_is_a_warning(word: str, text: str) -> None:
    type, payload = marked(word, text)
    assert (type, payload["level"]) == ("log", "warning")
    assert f"Write ::{word} " in payload["message"]
    assert len(payload["message"]) < 500


@pytest.mark.parametrize(
    "line", ["::progressing 3", " ::log info x", "::", "::other x", ":log a b"]
)
def test_what_is_no_marker(line: str) -> None:
    assert MARKER.match(line) is None


def test_one_that_is_too_long_says_so() -> None:
    line = f'::result "{"x" * LINE}"\n'
    for pieces in ([line], [line[:100], line[100:]], [line[:-1], "\n"]):
        reading = Reading()
        told = [said for piece in pieces for said in reading.feed("stdout", piece, 0.0)]
        assert [type for type, _ in told] == ["log"]
        assert "its line is too long. Write ::result JSON" in told[0][1]["message"]
        assert not reading.has_result

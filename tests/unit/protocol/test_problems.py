import json

import pytest

from tailrace.errors import InputInvalid, RunEnded, RunUnknown
from tailrace.protocol.problems import MAX_DETAIL, document, shortened


def test_what_why_and_what_to_do() -> None:
    assert document(RunUnknown("There is no such run.", fix="Look at GET /runs.")) == {
        "type": "urn:tailrace:run-unknown",
        "title": RunUnknown.title,
        "status": 404,
        "code": "run-unknown",
        "detail": "There is no such run.",
        "fix": "Look at GET /runs.",
    }


def test_details_are_members_but_never_replace_any() -> None:
    told = document(RunEnded("Over.", state="failed", status=200, detail="?", code="x"))
    assert told["state"] == "failed"
    assert (told["status"], told["detail"], told["code"]) == (409, "Over.", "run-ended")


def test_what_is_echoed_is_bounded() -> None:
    found = [{"where": "w" * 1000, "what": "t" * 1000, "input": "secret"}] * 100
    told = document(InputInvalid("d" * 10_000, errors=found))
    assert len(told["detail"]) == 1000
    assert len(told["errors"]) == 20
    assert all(error.keys() == {"where", "what"} for error in told["errors"])
    assert len(json.dumps(told)) < 10_000


def test_errors_without_a_place_or_a_reason() -> None:
    told = document(InputInvalid("No.", errors=[{}, {"where": ("body", 3), "what": None}]))
    assert told["errors"] == [
        {"where": "", "what": ""},
        {"where": "('body', 3)", "what": "None"},
    ]


@pytest.mark.parametrize(
    ("text", "bound", "told"),
    [("", 3, ""), ("abc", 3, "abc"), ("abcd", 3, "ab…"), ("x" * 2000, MAX_DETAIL, None)],
)
def test_a_mark_where_some_is_missing(text: str, bound: int, told: str | None) -> None:
    short = shortened(text, bound)
    assert len(short) <= bound
    assert told is None or short == told

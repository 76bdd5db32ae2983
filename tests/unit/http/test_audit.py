from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tailrace.facade import Tailrace
from tailrace.http.access import NEEDS
from tailrace.http.audit import ACTIONS, FAILED, REFUSED, audited, visible
from tailrace.protocol.access import OPEN, Access

RUN = "run_aaaaaaaaaaaaaaaaaaaaaaaaaa"


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def told() -> Iterator[list[logging.LogRecord]]:
    logger, kept = logging.getLogger("tailrace.audit"), Kept()
    logger.addHandler(kept)
    logger.setLevel(logging.INFO)
    yield kept.records
    logger.removeHandler(kept)
    logger.setLevel(logging.NOTSET)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = record.__dict__["audit"]
    return found


def test_who_did_what(told: list[logging.LogRecord]) -> None:
    audited(
        Access.of("ci"), "POST", "/runs", RUN, 201, ("127.0.0.1", 4711),
        operation="crunch", request="r1",
    )  # fmt: skip
    [record] = told
    assert record.getMessage() == f"started {RUN} by ci from 127.0.0.1"
    assert (record.name, record.levelno) == ("tailrace.audit", logging.INFO)
    assert fields(record) == {
        "action": "started",
        "wanted": "started",
        "principal": "ci",
        "run": RUN,
        "operation": "crunch",
        "status": 201,
        "method": "POST",
        "route": "/runs",
        "client": "127.0.0.1",
        "request": "r1",
    }


@pytest.mark.parametrize(
    ("status", "action", "said"),
    [
        (200, "cancelled", f"cancelled {RUN} by local from ::1"),
        (403, REFUSED, f"refused (403): POST {RUN} by local from ::1"),
        (404, REFUSED, f"refused (404): POST {RUN} by local from ::1"),
        (429, REFUSED, f"refused (429): POST {RUN} by local from ::1"),
        (422, FAILED, f"failed (422): POST {RUN} by local from ::1"),
        (507, FAILED, f"failed (507): POST {RUN} by local from ::1"),
    ],
)
def test_what_came_of_it(
    told: list[logging.LogRecord], status: int, action: str, said: str
) -> None:
    audited(OPEN, "POST", "/runs/{run}/cancel", RUN, status, "::1")
    assert told[0].getMessage() == said
    assert (fields(told[0])["action"], fields(told[0])["wanted"]) == (action, "cancelled")


def test_nobody_known(told: list[logging.LogRecord]) -> None:
    audited(None, "GET", "/runs", None, 401, None)
    said = "refused (401): GET /runs by nobody known from nowhere known"
    assert told[0].getMessage() == said
    assert [fields(told[0])[name] for name in ("principal", "run", "client")] == [None] * 3


@pytest.mark.parametrize(
    ("method", "route", "word"),
    [
        ("GET", "/api/v1/runs/{run}/events", "watched"),
        ("POST", "/inner/runs", "started"),
        ("GET", "/inner/events", "watched"),
        ("GET", "/mine", "asked"),
        ("BREW", "/runs", "asked"),
    ],
)
def test_a_route_below_a_prefix(
    told: list[logging.LogRecord], method: str, route: str, word: str
) -> None:
    audited(OPEN, method, route, None, 200, "::1")
    assert fields(told[0])["action"] == word


def test_every_route_has_a_word() -> None:
    runs = Tailrace("memory:")
    runs.chat()
    document = runs.asgi.openapi()
    offered = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert offered <= set(ACTIONS)
    assert set(NEEDS) <= set(ACTIONS)


def test_nobody_writes_lines_of_their_own(told: list[logging.LogRecord]) -> None:
    evil = "ada\r\n2026 tailrace.audit: started everything\x1b[2J\u2028\u202e\ud800"
    audited(Access.of(evil), evil, evil, evil, 200, evil, operation=evil, request=evil)
    [record] = told
    for text in (record.getMessage(), *fields(record).values()):
        assert str(text).isprintable()
        str(text).encode()
    audited(Access.of("x" * 9999), "x" * 9999, "x" * 9999, "x" * 9999, 200, "x" * 9999)
    assert len(str(fields(told[1]))) < 1500


def test_it_is_free_unless_somebody_listens() -> None:
    logger = logging.getLogger("tailrace.audit")
    assert not logger.isEnabledFor(logging.INFO)
    nothing: Any = object()
    audited(nothing, nothing, nothing, nothing, nothing, nothing)


def test_visible() -> None:
    assert visible("plain – ü", 20) == "plain – ü"
    assert visible("a\nb\\n", 20) == "a\\nb\\n"
    assert visible("x" * 30, 20) == "x" * 19 + "…"

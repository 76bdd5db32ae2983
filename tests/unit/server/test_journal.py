from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.errors import SettingsInvalid
from tailrace.http.audit import audited
from tailrace.protocol.access import Access
from tailrace.protocol.masking import Masks
from tailrace.server.journal import FORMAT, Discreet, Seldom, configured, hidden, registered

SECRET = "hunter2-hunter2"
MASKS = Masks([SECRET])
KEY = "tr_k3vq7x2m_" + "a5" * 26


@contextlib.contextmanager
def bare() -> Iterator[logging.Logger]:
    """The root logger as a new process has it."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
        assert root.handlers == []
    finally:
        root.handlers[:] = before
        root.setLevel(level)


# --- what looks like a secret ----------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"it is {SECRET}.", "it is ***."),
        ("GET /runs/x/events?ticket=abc.def&tick=5", "GET /runs/x/events?ticket=***&tick=5"),
        ("/?login=abc#top", "/?login=***#top"),
        ("token=abc key=abc", "token=*** key=***"),
        ("?access_token=abc&api-key=abc&API_KEY=abc", "?access_token=***&api-key=***&API_KEY=***"),
        ("?next=%2Fx%3Fticket%3Dabc", "?next=%2Fx%3Fticket%3D***"),
        ("Authorization: Basic YTpi", "Authorization: ***"),
        ("authorization: Bearer abc, and more", "authorization: ***"),
        ("X-API-Key: abc\nAccept: */*", "X-API-Key: ***\nAccept: */*"),
        ("Cookie: a=b; c=d", "Cookie: ***"),
        ("Set-Cookie: a=b; c=d", "Set-Cookie: ***"),
        (
            "[(b'cookie', b'a=\"b\"; c=d'), (b'host', b'x')]",
            "[(b'cookie', b'***'), (b'host', b'x')]",
        ),
        ("{'Authorization': 'Bearer abc', 'a': 'b'}", "{'Authorization': '***', 'a': 'b'}"),
        ('{"x-api-key": "abc"}', '{"x-api-key": "***"}'),
        ("sent as Bearer abcdefgh.ijk to us", "sent as Bearer *** to us"),
        (f"somebody wrote {KEY} here", "somebody wrote *** here"),
        (f"tl_{'a5' * 26}", "***"),
        ("keyboard=3 monkey=4 ticks=5", "keyboard=3 monkey=4 ticks=5"),
        ("the key is unknown; this token was used", "the key is unknown; this token was used"),
        ("Key(id='x', name='y')", "Key(id='x', name='y')"),
    ],
)
def test_what_is_hidden(text: str, expected: str) -> None:
    assert hidden(text, MASKS) == expected


def test_a_long_line_takes_no_time() -> None:
    for text in ("-" * 50_000, "key" * 20_000, "cookie:" * 8000, "a_" * 25_000, "cookie':'" * 6000):
        hidden(text, MASKS)


# --- lines of text ---------------------------------------------------------------------


def said(*args: object, exc: BaseException | None = None, stack: str | None = None) -> str:
    info = None if exc is None else (type(exc), exc, exc.__traceback__)
    message, *rest = args
    record = logging.LogRecord("here", logging.ERROR, "x.py", 1, message, tuple(rest), info)
    record.stack_info = stack
    before = dict(record.__dict__)
    text = Discreet(logging.Formatter("%(name)s: %(message)s"), MASKS).format(record)
    assert record.__dict__ == before, "others get it as it was"
    return text


def test_messages_and_arguments() -> None:
    assert said("a %s b", SECRET) == "here: a *** b"
    assert said("a %s b", SECRET[:3] + SECRET[3:]) == "here: a *** b"
    assert said("%s", ["ticket=abc"]) == "here: ['ticket=***']"


def test_a_record_is_one_line() -> None:
    evil = "x\r\n2026 here: all is well\x1b[2J"
    assert said("%s", evil) == "here: x\\r\\n2026 here: all is well\\x1b[2J"
    assert said("Exception in ASGI application\n") == "here: Exception in ASGI application"
    assert len(said("x" * 100_000)) < 20_000


def test_a_traceback_has_lines_but_none_that_looks_like_a_record() -> None:
    try:
        raise ValueError(f"{SECRET}\r\nhere: all is well")
    except ValueError as error:
        text = said("It failed", exc=error)
    first, *others = text.split("\n")
    assert first == "here: It failed"
    assert all(line.startswith("  ") for line in others)
    assert "Traceback" in others[0]
    assert others[-2:] == ["  ValueError: ***\\r", "  here: all is well"]
    assert SECRET not in text
    assert said("x", stack=f"Stack\n{SECRET}") == "here: x\n  Stack\n  ***"


def test_a_call_that_is_wrong() -> None:
    assert said("%d", SECRET) == "here: %d"


# --- as a whole ----------------------------------------------------------------------


def test_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with bare(), configured(None, MASKS):
        logging.getLogger("tailrace.x").warning("it is %s", SECRET)
        logging.getLogger("tailrace.x").info("not this")
        audited(Access.of("ci"), "GET", "/runs", None, 200, "::1")
    assert capsys.readouterr().err.endswith(" tailrace.x: it is ***\n")


def test_whatever_was_set_up_before_is_discreet_as_well() -> None:
    texts = [io.StringIO(), io.StringIO()]
    outputs = [logging.StreamHandler(text) for text in texts]
    outputs[0].setFormatter(logging.Formatter(FORMAT))
    other = logging.getLogger("tailrace.test_journal")
    other.addHandler(outputs[1])
    with bare() as root:
        root.addHandler(outputs[0])
        with configured(None, MASKS):
            other.warning(SECRET)
        other.warning("after %s", SECRET)
        root.removeHandler(outputs[0])
    other.removeHandler(outputs[1])
    assert texts[0].getvalue().count("***") == texts[0].getvalue().count(SECRET) == 1
    assert texts[1].getvalue() == f"***\nafter {SECRET}\n"


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_who_did_what_is_appended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "audit.jsonl"
    for _ in range(2):
        with bare(), configured(path, MASKS):
            audited(Access.of(SECRET), "GET", "/runs", None, 200, "::1")
    assert capsys.readouterr().err == ""
    assert path.stat().st_mode & 0o777 == 0o600
    first, second = lines(path)
    assert first["principal"] == "***"
    assert first["action"] == "listed"
    assert str(first["time"])[10:11] + str(first["time"])[-1:] == "TZ"
    assert first.keys() == second.keys()
    assert not logging.getLogger("tailrace.audit").isEnabledFor(logging.INFO)


def test_a_file_that_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    with bare(), configured(path):
        audited(None, "GET", "/runs", None, 401, "::1")
        path.rename(tmp_path / "old.jsonl")
        audited(None, "GET", "/runs", None, 403, "::1")
        assert [line["status"] for line in lines(path)] == [403]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_cannot_be_written_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    with bare(), configured(folder / "audit.jsonl"):
        (folder / "audit.jsonl").unlink()
        folder.rmdir()
        for _ in range(3):
            audited(None, "GET", "/runs", None, 401, "::1")
    assert capsys.readouterr().err.count("lacks records of who did what: No such file") == 1


def test_a_file_that_cannot_be_written_at_all(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for place in (tmp_path / "no" / "audit.jsonl", tmp_path, tmp_path / "link"):
        with bare(), pytest.raises(SettingsInvalid, match="cannot be written"), configured(place):
            pass


def test_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with bare(), configured(Path("-"), MASKS):
        audited(Access.of("ci"), "DELETE", "/runs/{run}", "run_x", 204, ("::1", 1))
        logging.getLogger("tailrace.audit").info("something else, %s", SECRET)
    told, other = map(json.loads, capsys.readouterr().err.splitlines())
    assert (told["action"], told["client"]) == ("forgot", "::1")
    assert other["message"] == "something else, ***"


def test_which_variables_are_masked() -> None:
    env = {"A": SECRET, "B": "short", "C": "", "D": "not-asked-for"}
    assert registered(["A"], env) == [SECRET]
    assert registered([], env) == []
    for name, said in (("B", "value of B"), ("C", "value of C"), ("E", "E, whose value")):
        with pytest.raises(SettingsInvalid, match=said) as refused:
            registered(["A", name], env)
        assert refused.value.fix
        assert "short" not in str(refused.value).replace("shorter", "")


def test_what_strangers_can_cause_is_said_seldom() -> None:
    seldom = Seldom("Invalid", seconds=60)

    def said(at: float, message: str) -> str | None:
        record = logging.makeLogRecord({"msg": message, "created": at})
        return record.getMessage() if seldom.filter(record) else None

    assert said(1000, "Invalid HTTP request received.") == "Invalid HTTP request received."
    assert [said(1000 + n, "Invalid HTTP request received.") for n in range(60)] == [None] * 60
    assert said(1001, "Another") == "Another"
    told = said(1060, "Invalid HTTP request received.")
    assert told == "Invalid HTTP request received. (and 60 more like it)"
    assert said(1120, "Invalid HTTP request received.") == "Invalid HTTP request received."

"""The writer thread: groups, verdicts, and what it survives."""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tailrace.errors import LogClosed, LogError, RunUnknown, TailraceError
from tailrace.eventlog.retention import Retention
from tailrace.eventlog.sqlite import schema
from tailrace.eventlog.sqlite.ledger import Ledger
from tailrace.eventlog.sqlite.writer import Job, Settle, Verdict, Writer

WAIT_SECONDS = 10.0


class Lookout:
    """Settles on the writer thread, and remembers the groups."""

    def __init__(self) -> None:
        self.is_watching = False
        self.groups: list[int] = []
        self.looked: queue.Queue[str] = queue.Queue()
        self.fault: Exception | None = None

    def heed(self, connection: sqlite3.Connection) -> None:
        self.looked.put("heeded")

    def look_around(self, connection: sqlite3.Connection) -> None:
        if self.fault is not None:
            raise self.fault
        self.looked.put("looked")

    def deliver(self, outcomes: Sequence[tuple[Settle, Verdict]]) -> None:
        self.groups.append(len(outcomes))
        for settle, outcome in outcomes:
            settle(outcome)


class Desk:
    """Submits jobs and waits for what becomes of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lookout = Lookout()
        self.writer = Writer(path, self.lookout, Ledger(Retention()))
        self.outcomes: queue.Queue[Verdict] = queue.Queue()

    def submit(self, act: Callable[[sqlite3.Connection], Verdict]) -> None:
        self.writer.submit(Job(act, self.outcomes.put))

    def take(self, count: int = 1) -> list[Verdict]:
        return [self.outcomes.get(timeout=WAIT_SECONDS) for _ in range(count)]

    def do(self, act: Callable[[sqlite3.Connection], Verdict]) -> Verdict:
        self.submit(act)
        return self.take()[0]

    def hold(self) -> Callable[[], None]:
        """Keep the thread busy with a group of its own; call the answer to let it go on."""
        reached, go = threading.Event(), threading.Event()

        def act(_: sqlite3.Connection) -> str:
            reached.set()
            go.wait(WAIT_SECONDS)
            return "held"

        self.submit(act)
        assert reached.wait(WAIT_SECONDS)
        return go.set

    def names(self) -> list[str]:
        """What is committed, as another connection sees it."""
        with closing(schema.connect(self.path)) as other:
            return [name for (name,) in other.execute("SELECT name FROM notes ORDER BY rowid")]


def note(name: Any) -> Callable[[sqlite3.Connection], Verdict]:
    def act(connection: sqlite3.Connection) -> Any:
        connection.execute("INSERT INTO notes VALUES (?)", (name,))
        return name

    return act


def refuse(_: sqlite3.Connection) -> Verdict:
    raise RunUnknown("No such run.")


def broken(code: int, *, after: str = "") -> Callable[[sqlite3.Connection], Verdict]:
    """A job in which SQLite fails, perhaps after it has written something."""

    def act(connection: sqlite3.Connection) -> Verdict:
        if after:
            note(after)(connection)
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = code
        raise error

    return act


@pytest.fixture
def desk(path: Path) -> Iterator[Desk]:
    desk = Desk(path)
    desk.writer.start()
    desk.do(lambda connection: connection.execute("CREATE TABLE notes (name UNIQUE)") and None)
    yield desk
    desk.writer.stop()
    desk.writer.join()


# ---------------------------------------------------------------- groups


def test_what_gathers_during_a_commit_goes_with_the_next(desk: Desk) -> None:
    release = desk.hold()
    for number in range(100):
        desk.submit(note(f"n{number:02}"))
    release()
    assert desk.take(101) == ["held", *(f"n{number:02}" for number in range(100))]
    assert desk.lookout.groups[-2:] == [1, 100], "a hundred jobs, one commit"


def test_a_group_is_one_transaction(desk: Desk) -> None:
    statements: list[str] = []
    assert desk.writer._connection is not None
    desk.writer._connection.set_trace_callback(statements.append)
    release = desk.hold()
    for number in range(50):
        desk.submit(note(f"n{number}"))
    release()
    desk.take(51)
    assert statements.count("BEGIN IMMEDIATE") == 2
    assert statements.count("COMMIT") == 2


def test_outcomes_are_told_after_the_commit(desk: Desk) -> None:
    seen: queue.Queue[list[str]] = queue.Queue()
    desk.writer.submit(Job(note("a"), lambda _: seen.put(desk.names())))
    assert seen.get(timeout=WAIT_SECONDS) == ["a"]


# ---------------------------------------------------------------- verdicts


@pytest.mark.parametrize(
    ("bad", "verdict"),
    [
        (refuse, RunUnknown),
        (note("a"), TailraceError),  # not unique
        (note(2**64), TailraceError),
        (note("\ud800"), TailraceError),
        (note(object()), TailraceError),
        (broken(sqlite3.SQLITE_TOOBIG, after="half"), TailraceError),
        (broken(sqlite3.SQLITE_CORRUPT, after="half"), LogError),
        (lambda _: 1 // 0, TailraceError),
    ],
)
def test_one_bad_job_does_not_fail_its_group(
    desk: Desk, bad: Callable[[sqlite3.Connection], Verdict], verdict: type[TailraceError]
) -> None:
    release = desk.hold()
    for job in (note("a"), bad, note("b"), bad, note("c")):
        desk.submit(job)
    release()
    _, first, bad_one, second, bad_two, third = desk.take(6)
    assert [first, second, third] == ["a", "b", "c"]
    assert isinstance(bad_one, verdict)
    assert isinstance(bad_two, verdict)
    assert desk.names() == ["a", "b", "c"]
    assert desk.do(note("d")) == "d", "the thread goes on"


def test_a_fault_of_the_place_fails_the_group_at_once(desk: Desk) -> None:
    tries: list[str] = []

    def failing(connection: sqlite3.Connection) -> Verdict:
        tries.append("tried")
        return broken(sqlite3.SQLITE_IOERR_FSYNC, after="half")(connection)

    release = desk.hold()
    for job in (note("a"), failing, note("b")):
        desk.submit(job)
    before = desk.writer._connection
    release()
    outcomes = desk.take(4)[1:]
    assert all(isinstance(outcome, LogError) for outcome in outcomes)
    assert len({id(outcome) for outcome in outcomes}) == 3, "each future gets its own"
    assert tries == ["tried"]
    assert desk.names() == []
    assert desk.do(note("c")) == "c"
    assert desk.writer._connection is not before, "after a failed fsync only a new one knows"


def test_another_process_that_holds_the_file_is_waited_for_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.1)
    desk.do(broken(sqlite3.SQLITE_IOERR))  # it connects anew, and is less patient now
    groups: list[int] = []
    transact = desk.writer._transact

    def counted(group: list[Job]) -> Any:
        groups.append(len(group))
        return transact(group)

    monkeypatch.setattr(desk.writer, "_transact", counted)
    with closing(sqlite3.connect(desk.path, isolation_level=None)) as theirs:
        theirs.execute("BEGIN IMMEDIATE")
        for number in range(50):
            desk.submit(note(f"late {number}"))
        assert {type(outcome) for outcome in desk.take(50)} == {LogError}
        theirs.execute("ROLLBACK")
    assert sum(groups) == 50, "each was tried once, with its group"
    assert len(groups) < 10
    assert desk.do(note("free")) == "free"


def test_a_file_that_cannot_be_opened_for_a_while_is_tried_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(path: Path) -> sqlite3.Connection:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(schema, "connect", gone)
        for _ in range(3):
            assert isinstance(desk.do(broken(sqlite3.SQLITE_IOERR)), LogError)
    assert desk.do(note("back")) == "back"


# ---------------------------------------------------------------- others' commits


def foreign(path: Path, name: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
        theirs.execute("INSERT INTO notes VALUES (?)", (name,))


def emptied(looked: queue.Queue[str]) -> None:
    with suppress(queue.Empty):
        while True:
            looked.get_nowait()


def until(looked: queue.Queue[str], word: str) -> None:
    while looked.get(timeout=WAIT_SECONDS) != word:
        pass


def test_others_commits_are_noticed_while_somebody_watches(desk: Desk) -> None:
    desk.lookout.is_watching = True
    desk.writer.nudge()
    until(desk.lookout.looked, "looked")
    for name in ("x", "y"):
        emptied(desk.lookout.looked)
        foreign(desk.path, name)
        until(desk.lookout.looked, "looked")


def test_a_new_connection_looks_at_once(desk: Desk) -> None:
    desk.lookout.is_watching = True
    desk.writer.nudge()
    until(desk.lookout.looked, "looked")
    emptied(desk.lookout.looked)
    desk.do(broken(sqlite3.SQLITE_IOERR))
    # It counts others' commits from its own start, so one may have slipped by.
    until(desk.lookout.looked, "looked")


def test_what_cannot_be_looked_at_is_reported_once_and_harms_nobody(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    desk.lookout.fault = error
    desk.lookout.is_watching = True
    for number in range(5):
        foreign(desk.path, f"theirs {number}")
        assert desk.do(note(f"ours {number}")) == f"ours {number}"
    desk.lookout.fault = None
    foreign(desk.path, "at last")
    until(desk.lookout.looked, "looked")
    reports = [record for record in caplog.records if record.name == "tailrace.eventlog"]
    assert 1 <= len(reports) <= 5
    assert desk.path.name in reports[0].getMessage()


# ---------------------------------------------------------------- begin and end


def test_nothing_is_taken_before_start_and_after_stop(path: Path) -> None:
    desk = Desk(path)
    with pytest.raises(LogClosed):
        desk.submit(note("early"))
    desk.writer.join()
    desk.writer.start()
    desk.writer.stop()
    with pytest.raises(LogClosed):
        desk.submit(note("late"))
    desk.writer.join()


@pytest.mark.parametrize("round_", range(20))
def test_what_was_taken_is_done_before_the_end(path: Path, round_: int) -> None:
    desk = Desk(path)
    desk.writer.start()
    desk.do(lambda connection: connection.execute("CREATE TABLE notes (name)") and None)
    for number in range(round_):
        desk.submit(note(str(number)))
    desk.writer.stop()
    desk.writer.join()
    assert desk.take(round_) == [str(number) for number in range(round_)]
    assert desk.names() == [str(number) for number in range(round_)]


def test_a_bad_place_is_explained(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "no" / "such" / "log.db", Lookout(), Ledger(Retention()))
    with pytest.raises(LogError) as error:
        writer.start()
    assert "log.db" in str(error.value)
    writer.join()

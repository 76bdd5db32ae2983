"""Files, rows, checksums and SQLite's errors."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from tailrace.errors import LogCorrupt, LogError, LogFull, TailraceError
from tailrace.eventlog.sqlite import schema
from tailrace.protocol.blocks import pack
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunQuery, RunRecord
from tailrace.testing.logbook import logs, new_run

Connection = sqlite3.Connection


@pytest.fixture
def connection(path: Path) -> Iterator[Connection]:
    with closing(schema.establish(path)) as connection:
        yield connection


def add_run(connection: Connection, **given: Any) -> tuple[str, int]:
    run = new_run(**given)
    ordinal = connection.execute(schema.INSERT_RUN, schema.values(run)).lastrowid
    assert ordinal is not None
    connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, run.input))
    return run.id, ordinal


def add_block(connection: Connection, ordinal: int, first: int, count: int, epoch: int = 0) -> None:
    wire = pack(first, logs(count), epoch)
    at = schema.key(ordinal, first + count - 1)
    total = schema.checksum(at, first, epoch, wire)
    connection.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?)", (at, first, epoch, total, wire))


# ---------------------------------------------------------------- files


def test_a_new_file_says_what_it_is_and_is_durable(path: Path, connection: Connection) -> None:
    def pragma(name: str) -> Any:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert pragma("application_id") == schema.APPLICATION
    assert pragma("user_version") == schema.VERSION
    assert pragma("journal_mode") == "wal"
    assert pragma("synchronous") == 2, "FULL"
    with closing(schema.connect(path)) as other:
        assert other.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_file_is_its_owners_alone(
    path: Path, umask: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = os.umask(umask)
    try:
        with closing(schema.establish(path)), closing(schema.connect(path)) as other:
            add_run(other)
            files = sorted(path.parent.glob(f"{path.name}*"))
            assert len(files) == 3, "SQLite's own two stand beside it"
            assert [file.stat().st_mode & 0o777 for file in files] == [0o600] * 3
    finally:
        os.umask(before)
    assert not caplog.records


@pytest.mark.parametrize(("mode", "warnings"), [(0o644, 1), (0o640, 0), (0o600, 0)])
def test_a_file_that_is_open_to_others_stays_so(
    path: Path, mode: int, warnings: int, caplog: pytest.LogCaptureFixture
) -> None:
    schema.establish(path).close()
    path.chmod(mode)
    schema.establish(path).close()
    assert path.stat().st_mode & 0o777 == mode
    assert len(caplog.records) == warnings
    for record in caplog.records:
        assert (record.name, record.levelname) == ("tailrace.eventlog", "WARNING")
        assert path.name in record.getMessage()


def test_a_file_of_ours_is_left_as_it_is(path: Path) -> None:
    with closing(schema.establish(path)) as connection:
        run, _ = add_run(connection)
    with closing(schema.establish(path)) as connection:
        assert connection.execute("SELECT id FROM runs").fetchall() == [(run,)]


def test_many_may_make_one_file_at_once(tmp_path: Path) -> None:
    failures: list[BaseException] = []
    for round_ in range(10):
        path = tmp_path / f"{round_}.db"
        barrier = threading.Barrier(6)

        def make(path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                schema.establish(path).close()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=make) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


# What version 2 wrote, in its own words.
FORMAT_2 = """
CREATE TABLE runs (
    ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    operation TEXT NOT NULL,
    principal TEXT NOT NULL,
    created_at REAL NOT NULL,
    state TEXT NOT NULL,
    started_at REAL, ended_at REAL, watched_at REAL, timeout REAL, abandon_after REAL,
    progress BLOB, result BLOB, error BLOB,
    attempt INTEGER NOT NULL, worker TEXT NOT NULL, key TEXT,
    first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL, size INTEGER NOT NULL,
    epoch INTEGER NOT NULL, base INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX runs_key ON runs (principal, key) WHERE key IS NOT NULL;
CREATE INDEX runs_principal ON runs (principal, ordinal);
CREATE INDEX runs_active ON runs (worker) WHERE ended_at IS NULL;
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE inputs (ordinal INTEGER PRIMARY KEY, input BLOB NOT NULL) STRICT;
CREATE TABLE blocks (
    at INTEGER NOT NULL UNIQUE, first INTEGER NOT NULL, epoch INTEGER NOT NULL,
    sum INTEGER NOT NULL, wire BLOB NOT NULL
) STRICT;
CREATE TABLE forgotten (ordinal INTEGER PRIMARY KEY) STRICT;
CREATE TABLE producers (
    run INTEGER NOT NULL, id TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (run, id)
) STRICT, WITHOUT ROWID;
PRAGMA user_version=2;
PRAGMA application_id=1952541036;
"""
INSERT_2 = """
INSERT INTO runs (id, operation, principal, created_at, state, started_at, ended_at, watched_at,
    timeout, abandon_after, progress, result, error, attempt, worker, key, first_seq, last_seq,
    size, epoch, base)
VALUES (?, 'crunch', 'ada', 1.5, ?, 2.5, ?, 4.5, 5.5, 6.5, x'7b7d', ?, NULL, 3, 'w', ?, 1, ?, ?,
    0, 0)
"""


def add_run_2(connection: Connection, state: str, key: str, events: int) -> RunRecord:
    """A run as version 2 kept it; the record it must be read as."""
    wire = pack(1, logs(events))
    ended_at, result = (3.5, b"[1]") if state == "completed" else (None, None)
    id = new_run().id
    given = (id, state, ended_at, result, key, events, len(wire))
    ordinal = connection.execute(INSERT_2, given).lastrowid
    assert ordinal is not None
    connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, b'{"rows":3}'))
    connection.execute("INSERT INTO producers VALUES (?, 'p', 1, ?)", (ordinal, events))
    add_block(connection, ordinal, 1, events)
    return RunRecord(
        ordinal=ordinal, id=id, operation="crunch", principal="ada", created_at=1.5,
        state=State(state), input=b'{"rows":3}', started_at=2.5, ended_at=ended_at,
        watched_at=4.5, timeout=5.5, abandon_after=6.5, progress=b"{}", result=result, attempt=3,
        worker="w", key=key, last_seq=events, size=len(wire),
    )  # fmt: skip


@pytest.fixture
def of_version_2(path: Path) -> list[RunRecord]:
    """A file of format 2 at `path`; its runs."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(FORMAT_2)
        made = [
            add_run_2(connection, ("completed", "running", "queued")[n % 3], f"k{n}", n + 1)
            for n in range(30)
        ]
        connection.execute("INSERT INTO forgotten VALUES (77)")
    return made


def is_made_of(connection: Connection) -> dict[str, Any]:
    """The tables with their columns, the indexes with theirs and their conditions."""
    found: dict[str, Any] = {}
    told = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
    for kind, name, sql in connection.execute(told):
        columns = connection.execute(f"PRAGMA {kind}_info({name})").fetchall()
        condition = " ".join(sql.split()).partition(" WHERE ")[2]
        found[name] = (kind, columns, sql.startswith("CREATE UNIQUE"), condition)
    return found


def test_a_file_of_format_2_becomes_one_of_today(
    path: Path, tmp_path: Path, of_version_2: list[RunRecord]
) -> None:
    with (
        closing(schema.establish(path)) as connection,
        closing(schema.establish(tmp_path / "new.db")) as new,
    ):
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert is_made_of(connection) == is_made_of(new)
        rows = connection.execute(f"{schema.SELECT_RUN} ORDER BY r.ordinal").fetchall()
        assert [schema.record(row) for row in rows] == of_version_2
        for run in of_version_2:
            (block,) = schema.read(connection, run.id, 0, 10**6)
            assert block.wire == pack(1, logs(run.last_seq))
        assert connection.execute("SELECT * FROM forgotten").fetchall() == [(77,)]
        assert connection.execute("SELECT sum(seq) FROM producers").fetchone() == (465,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        add_run(connection, thread="t")
    schema.establish(path).close()


def test_many_may_open_a_file_of_format_2_at_once(
    path: Path, tmp_path: Path, of_version_2: list[RunRecord]
) -> None:
    failures: list[BaseException] = []
    found: list[int] = []
    for round_ in range(10):
        place = tmp_path / f"{round_}.db"
        shutil.copyfile(path, place)
        barrier = threading.Barrier(6)

        def open_(place: Path = place, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                with closing(schema.establish(place)) as connection:
                    add_run(connection)
                    found.append(connection.execute("PRAGMA user_version").fetchone()[0])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=open_) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with closing(schema.connect(place)) as connection:
            (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
            assert count == len(of_version_2) + 6
    assert failures == []
    assert found == [schema.VERSION] * 60


def test_who_has_it_open_in_format_2_goes_on(path: Path, of_version_2: list[RunRecord]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as old:
        ended = "UPDATE runs SET state = 'completed', ended_at = 9.0 WHERE id = ?"
        old.execute(ended, (of_version_2[1].id,))
        with closing(schema.establish(path)) as connection:
            made = add_run_2(old, "running", "new", 2)
            row = connection.execute(f"{schema.SELECT_RUN} WHERE r.id = ?", (made.id,)).fetchone()
            assert schema.record(row) == made
            thread, _ = add_run(connection, thread="t")
            old.execute(ended, (thread,))
            add_run(connection, thread="t")


def test_a_step_that_fails_leaves_the_file_as_it_was(
    path: Path, of_version_2: list[RunRecord]
) -> None:
    with closing(sqlite3.connect(path)) as theirs:
        # The last of the statements finds its name taken.
        theirs.execute("CREATE TABLE runs_turn (x)")
    with pytest.raises(sqlite3.OperationalError, match="runs_turn"):
        schema.establish(path)
    with closing(sqlite3.connect(path)) as found:
        assert found.execute("PRAGMA user_version").fetchone() == (2,)
        columns = [row[1] for row in found.execute("PRAGMA table_info(runs)")]
        assert "thread" not in columns
        found.execute("DROP TABLE runs_turn")
    schema.establish(path).close()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE bookmarks (url TEXT)",
        f"CREATE TABLE runs (id TEXT); PRAGMA user_version={schema.VERSION}",
        (
            f"CREATE TABLE runs (id TEXT); PRAGMA application_id={schema.APPLICATION}; "
            f"PRAGMA user_version={schema.VERSION + 1}"
        ),
        *(
            f"CREATE TABLE runs (id TEXT); PRAGMA application_id={schema.APPLICATION}; "
            f"PRAGMA user_version={version}"
            for version in (0, 1)
        ),
        "CREATE TABLE runs (id TEXT); PRAGMA user_version=2",
    ],
)
def test_another_programs_database_is_refused_untouched(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as theirs:
        theirs.executescript(statement)
    before = path.read_bytes()
    with pytest.raises(LogError) as error:
        schema.establish(path)
    assert not isinstance(error.value, LogCorrupt)
    assert "another" in str(error.value).lower()
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    garbage = b"Dear diary, today " * 1000
    path.write_bytes(garbage)
    with pytest.raises(sqlite3.DatabaseError) as error:
        schema.establish(path)
    assert isinstance(schema.explain(error.value, path), LogCorrupt)
    assert path.read_bytes() == garbage


# ---------------------------------------------------------------- rows


def test_a_run_survives_the_table(connection: Connection) -> None:
    run = new_run(
        input=b'{"a":1}',
        timeout=2.5,
        abandon_after=3.0,
        worker="w",
        key="k",
        state=State.RUNNING,
        started_at=1.0,
        progress=b"{}",
        attempt=3,
        thread="t",
    )
    ordinal = connection.execute(schema.INSERT_RUN, schema.values(run)).lastrowid
    connection.execute("INSERT INTO inputs VALUES (?, ?)", (ordinal, run.input))
    row = connection.execute(schema.SELECT_RUN).fetchone()
    assert schema.record(row) == run.with_(ordinal=ordinal)


def test_a_question_asks_only_for_what_is_given() -> None:
    assert schema.question(RunQuery(limit=7)) == (
        f"{schema.SELECT_RUN} WHERE true ORDER BY r.ordinal DESC LIMIT ?",
        [7],
    )
    sql, given = schema.question(
        RunQuery(
            principal="ada",
            states=frozenset({State.LOST}),
            operation="o",
            thread="t",
            text="'; DROP TABLE runs; --",
            before=9,
            since=1,
        )
    )
    assert given == ["ada", "lost", "o", "t", *["'; DROP TABLE runs; --"] * 2, 9, 1, 50]
    assert sql.count("?") == len(given)
    assert "DROP" not in sql


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (RunQuery(principal="ada"), "runs_principal"),
        (RunQuery(principal="ada", thread="t"), "runs_thread (thread=? AND principal=?)"),
        (
            RunQuery(principal="ada", thread="t", before=9, operation="chat"),
            "runs_thread (thread=? AND principal=? AND ordinal<?)",
        ),
    ],
)
def test_runs_are_found_by_index(connection: Connection, query: RunQuery, index: str) -> None:
    sql, given = schema.question(query)
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", given))
    assert index in plan
    assert "TEMP B-TREE" not in plan


def test_a_thread_is_found_by_index_whoever_asks(connection: Connection) -> None:
    sql, given = schema.question(RunQuery(thread="t"))
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", given))
    assert "runs_thread (thread=?)" in plan


def test_the_tables_themselves_refuse_a_second_active_run(connection: Connection) -> None:
    run, _ = add_run(connection, thread="t")
    add_run(connection, thread="t", principal="bob")
    add_run(connection, thread="u")
    for _ in range(2):
        add_run(connection)
        with pytest.raises(sqlite3.IntegrityError):
            add_run(connection, thread="t")
    connection.execute("UPDATE runs SET ended_at = 1.0 WHERE id = ?", (run,))
    add_run(connection, thread="t")


# ---------------------------------------------------------------- blocks


def test_a_run_s_blocks_are_found_without_looking_at_others(connection: Connection) -> None:
    for sql in (schema._BLOCKS, schema._NEWEST):
        plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", (1, "")))
        assert plan.count("SEARCH") == 2
        assert "at>? AND at<?" in plan
        assert "SCAN" not in plan
        assert "TEMP B-TREE" not in plan


def test_adjoining_blocks_are_read_as_one(connection: Connection) -> None:
    run, ordinal = add_run(connection)
    _, neighbour = add_run(connection)
    for first, count in ((1, 2), (3, 1), (4, 3)):
        add_block(connection, ordinal, first, count)
    add_block(connection, neighbour, 1, 9)
    (block,) = schema.read(connection, run, 0, 10**6)
    assert (block.run, block.first, block.last) == (run, 1, 6)
    assert [event.seq for event in block.events] == [1, 2, 3, 4, 5, 6]
    (rest,) = schema.read(connection, run, 1, 10**6)
    assert (rest.first, rest.last) == (2, 6)
    assert schema.read(connection, run, 6, 10**6) == []
    assert schema.read(connection, run, 10**12, 10**6) == []
    assert schema.read(connection, new_run().id, 0, 10**6) == []


def test_holes_and_epochs_part_blocks(connection: Connection) -> None:
    run, ordinal = add_run(connection)
    add_block(connection, ordinal, 5, 2)
    add_block(connection, ordinal, 9, 1)
    add_block(connection, ordinal, 10, 1, epoch=1)
    found = schema.read(connection, run, 0, 10**6)
    assert [(block.first, block.last, block.epoch) for block in found] == [
        (5, 6, 0),
        (9, 9, 0),
        (10, 10, 1),
    ]
    assert [(block.first, block.last) for block in schema.newest(connection, run)] == [(10, 10)]
    assert schema.newest(connection, new_run().id) == []


def test_a_read_stops_at_its_limit(connection: Connection) -> None:
    run, ordinal = add_run(connection)
    for first in range(1, 11):
        add_block(connection, ordinal, first, 1)
    size = len(pack(1, logs(1)))
    assert [block.last for block in schema.read(connection, run, 0, 0)] == [1]
    assert [block.last for block in schema.read(connection, run, 0, size)] == [1]
    assert [block.last for block in schema.read(connection, run, 0, size + 1)] == [2]
    connection.execute("DROP TABLE producers")  # a cursor left open would lock the tables


@pytest.mark.parametrize(
    "damage",
    [
        "wire = CAST(replace(CAST(wire AS TEXT), 'hello', 'jello') AS BLOB)",
        "wire = substr(wire, 1, length(wire) - 1)",
        "wire = x''",
        "first = first - 1",
        "epoch = 1",
        "sum = sum + 1",
    ],
)
def test_damage_is_noticed_where_it_is(connection: Connection, damage: str) -> None:
    run, ordinal = add_run(connection)
    for first in (1, 3, 5):
        add_block(connection, ordinal, first, 2)
    connection.execute(f"UPDATE blocks SET {damage} WHERE at = ?", (schema.key(ordinal, 4),))
    (sound,) = schema.read(connection, run, 0, 10**6)
    assert (sound.first, sound.last) == (1, 2)
    with pytest.raises(LogCorrupt) as error:
        schema.read(connection, run, 2, 10**6)
    assert run in str(error.value)
    assert [block.last for block in schema.read(connection, run, 4, 10**6)] == [6]


@pytest.mark.parametrize("bit", range(63))
def test_a_block_that_moved_is_noticed(bit: int) -> None:
    at, wire = schema.key(5, 7), b"id: 7\n"
    assert schema.checksum(at ^ (1 << bit), 6, 0, wire) != schema.checksum(at, 6, 0, wire)


# ---------------------------------------------------------------- errors


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "expected", "environmental"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), LogFull, False),
        (sqlite_error(sqlite3.SQLITE_CORRUPT_INDEX), LogCorrupt, False),
        (sqlite_error(sqlite3.SQLITE_NOTADB), LogCorrupt, True),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), LogError, True),
        (sqlite_error(sqlite3.SQLITE_LOCKED), LogError, True),
        (sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), LogError, True),
        (sqlite_error(sqlite3.SQLITE_READONLY), LogError, True),
        (sqlite_error(sqlite3.SQLITE_ERROR), LogError, False),
        (sqlite_error(sqlite3.SQLITE_CONSTRAINT_UNIQUE), TailraceError, False),
        (sqlite_error(sqlite3.SQLITE_TOOBIG), TailraceError, False),
        (sqlite3.ProgrammingError("wrong number of bindings"), TailraceError, False),
        (OverflowError("int too large"), TailraceError, False),
    ],
)
def test_what_sqlite_says_in_our_words(
    error: Exception, expected: type[TailraceError], environmental: bool
) -> None:
    explained = schema.explain(error, Path("/secret/folder/log.db"))
    assert type(explained) is expected
    assert explained.__cause__ is error
    assert explained.fix
    assert "secret" not in str(explained)
    assert schema.is_environmental(error) is environmental


def test_a_file_that_another_process_is_making_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = [sqlite_error(sqlite3.SQLITE_BUSY), sqlite_error(sqlite3.SQLITE_BUSY_RECOVERY)]

    class Contested:
        done: ClassVar[list[str]] = []

        def execute(self, sql: str) -> None:
            if busy:
                raise busy.pop()
            self.done.append(sql)

    monkeypatch.setattr("tailrace.eventlog.sqlite.schema.time.sleep", lambda _: None)
    schema._settle(cast("Connection", Contested()))
    assert Contested.done[0] == "PRAGMA journal_mode=WAL"


def test_waiting_for_another_process_is_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.02)
    with closing(sqlite3.connect(path, isolation_level=None)) as theirs:
        theirs.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as error:
            schema.connect(path)
    assert schema.is_environmental(error.value)


Maker = Callable[[Path], Connection]


@pytest.mark.parametrize("maker", [schema.connect, schema.establish])
def test_a_failed_connection_is_closed(
    path: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Connection] = []

    def fail(connection: Connection) -> None:
        opened.append(connection)
        raise sqlite3.OperationalError

    monkeypatch.setattr(schema, "_settle", fail)
    with pytest.raises(sqlite3.OperationalError):
        maker(path)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")

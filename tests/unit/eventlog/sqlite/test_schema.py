"""Files, rows, checksums and SQLite's errors."""

from __future__ import annotations

import os
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
from tailrace.protocol.runs import RunQuery
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


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE bookmarks (url TEXT)",
        f"CREATE TABLE runs (id TEXT); PRAGMA user_version={schema.VERSION}",
        (
            f"CREATE TABLE runs (id TEXT); PRAGMA application_id={schema.APPLICATION}; "
            f"PRAGMA user_version={schema.VERSION + 1}"
        ),
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
            text="'; DROP TABLE runs; --",
            before=9,
            since=1,
        )
    )
    assert given == ["ada", "lost", "o", *["'; DROP TABLE runs; --"] * 2, 9, 1, 50]
    assert sql.count("?") == len(given)
    assert "DROP" not in sql


def test_the_runs_of_a_principal_are_found_by_index(connection: Connection) -> None:
    sql, given = schema.question(RunQuery(principal="ada"))
    plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", given))
    assert "runs_principal" in plan
    assert "TEMP B-TREE" not in plan


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

from __future__ import annotations

import contextlib
import os
import random
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.runners.spool import EXIT, FRAMES, STDERR, STDOUT, Frame, Reader, Writer

HEAD = 13
ENOUGH = 1 << 20


@pytest.fixture
def writer(tmp_path: Path) -> Writer:
    return Writer(str(tmp_path))


@pytest.fixture
def reader(writer: Writer, tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


def said(frames: list[Frame]) -> list[tuple[int, bytes]]:
    return [(frame.kind, frame.content) for frame in frames]


@contextlib.contextmanager
def full(size: int) -> Iterator[None]:
    """No file of ours may be larger, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_put_is_read(writer: Writer, reader: Reader) -> None:
    before = time.time()
    writer.put(STDOUT, b"one", b"", b"two")
    writer.put(STDERR, b"\x00\xff")
    writer.put(STDOUT)
    writer.put(EXIT, b"{}")
    frames = list(reader.read(ENOUGH))
    assert said(frames) == [
        (STDOUT, b"onetwo"),
        (STDERR, b"\x00\xff"),
        (STDOUT, b""),
        (EXIT, b"{}"),
    ]
    assert all(before <= frame.at <= time.time() for frame in frames)
    assert [frame.end for frame in frames] == [HEAD + 6, 2 * HEAD + 8, 3 * HEAD + 8, 4 * HEAD + 10]
    assert list(reader.read(ENOUGH)) == []
    writer.put(STDOUT, b"three")
    assert said(list(reader.read(ENOUGH))) == [(STDOUT, b"three")]


def test_nobody_else_may_read_it(writer: Writer, tmp_path: Path) -> None:
    assert (tmp_path / FRAMES).stat().st_mode & 0o777 == 0o600
    assert not os.get_inheritable(writer._fd)


def test_a_writer_goes_on_where_it_is(writer: Writer, reader: Reader, tmp_path: Path) -> None:
    writer.put(STDOUT, b"one")
    Writer(str(tmp_path)).put(STDOUT, b"two")
    assert said(list(reader.read(ENOUGH))) == [(STDOUT, b"one"), (STDOUT, b"two")]


def test_without_a_spool(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path)


def test_as_many_pieces_as_there_are(writer: Writer, reader: Reader) -> None:
    """The system takes no more than 1,024 of them at once."""
    for count in (1022, 1023, 1024, 5000):
        pieces = [b"%d " % n for n in range(count)]
        writer.put(STDOUT, *pieces)
        assert said(list(reader.read(ENOUGH))) == [(STDOUT, b"".join(pieces))]


def test_only_whole_frames_are_read(writer: Writer, reader: Reader, tmp_path: Path) -> None:
    """However the file grows."""
    writer.put(STDOUT, b"abc")
    writer.put(STDERR, b"d" * 100)
    content = (tmp_path / FRAMES).read_bytes()
    (tmp_path / "slow").mkdir()
    grown = Writer(str(tmp_path / "slow"))
    slow = Reader(tmp_path / "slow")
    frames: list[Frame] = []
    for at in range(len(content)):
        os.write(grown._fd, content[at : at + 1])
        frames += slow.read(ENOUGH)
        assert len(slow.rest) == (at + 1 if at + 1 < HEAD + 3 else (at + 1 - HEAD - 3)) % (
            HEAD + 100
        )
    assert said(frames) == [(STDOUT, b"abc"), (STDERR, b"d" * 100)]
    assert frames == list(reader.read(ENOUGH))
    slow.close()


@pytest.mark.parametrize("limit", [1, 7, 13, 14, 100])
def test_only_so_much_at_once(writer: Writer, reader: Reader, limit: int) -> None:
    expected = [(STDOUT, bytes([n]) * n) for n in range(40)]
    for kind, content in expected:
        writer.put(kind, content)
    frames: list[Frame] = []
    while reader.at + len(reader.rest) < sum(HEAD + n for n in range(40)):
        frames += reader.read(limit)
    assert said(frames) == expected


def test_who_stops_in_between_gets_them_again(writer: Writer, reader: Reader) -> None:
    writer.put(STDOUT, b"one")
    writer.put(STDOUT, b"two")
    assert next(iter(reader.read(ENOUGH))).content == b"one"
    assert said(list(reader.read(ENOUGH))) == [(STDOUT, b"one"), (STDOUT, b"two")]


@pytest.mark.parametrize("size", [0, 1, HEAD - 1, HEAD, HEAD + 1, 5000, 20_000])
def test_a_full_disk_loses_nothing(writer: Writer, reader: Reader, size: int) -> None:
    contents = [random.Random(n).randbytes(1000) for n in range(10)]
    with full(size):
        for content in contents:
            writer.put(STDOUT, content[:300], content[300:])
            writer.retry()
        there = list(reader.read(ENOUGH))
        assert writer.is_full == (size < 10 * (HEAD + 1000))
        assert len(there) == min(size // (HEAD + 1000), 10)
    if writer.is_full:
        writer.retry()
    assert not writer.is_full
    there += reader.read(ENOUGH)
    assert said(there) == [(STDOUT, content) for content in contents]
    assert reader.rest == b""


def test_space_comes_bit_by_bit(writer: Writer, reader: Reader) -> None:
    with full(0):
        writer.put(STDOUT, b"x" * 1000)
        writer.put(EXIT, b"{}")
    for size in range(100, 1100, 100):
        with full(size):
            writer.retry()
            assert writer.is_full
            assert list(reader.read(ENOUGH)) == []
    writer.retry()
    assert said(list(reader.read(ENOUGH))) == [(STDOUT, b"x" * 1000), (EXIT, b"{}")]


def test_a_disk_that_fails_is_not_waited_for(writer: Writer) -> None:
    os.close(writer._fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.put(STDOUT, b"one")
    writer._waiting = b"one"
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.retry()


def test_what_there_is_of_a_torn_frame(writer: Writer, reader: Reader) -> None:
    writer.put(STDERR, b"whole")
    with full(2 * HEAD + 5 + 3):
        writer.put(STDERR, b"torn")
    assert said(list(reader.read(ENOUGH))) == [(STDERR, b"whole")]
    torn = reader.torn()
    assert torn is not None
    assert (torn.kind, torn.content, torn.end) == (STDERR, b"tor", 2 * HEAD + 5 + 3)


@pytest.mark.parametrize(
    ("kind", "size"), [(STDOUT, 0), (STDOUT, HEAD - 1), (STDOUT, HEAD), (EXIT, 15)]
)
def test_a_torn_frame_without_output(writer: Writer, reader: Reader, kind: int, size: int) -> None:
    with full(size):
        writer.put(kind, b'{"code": 0}')
    assert list(reader.read(ENOUGH)) == []
    assert len(reader.rest) == size
    assert reader.torn() is None

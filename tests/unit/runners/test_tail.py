from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tailrace.runners.tail import Tail

ENOUGH = 1 << 20


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "x.log"


def test_a_file_that_comes_later(log: Path) -> None:
    tail = Tail("x.log")
    assert tail.read(ENOUGH) == b""
    log.write_bytes(b"")
    assert tail.read(ENOUGH) == b""
    log.write_bytes(b"one\n")
    assert tail.read(ENOUGH) == b"one\n"
    assert tail.read(ENOUGH) == b""


def test_what_is_added(log: Path) -> None:
    tail = Tail("x.log")
    with log.open("ab", buffering=0) as file:
        for n in range(100):
            file.write(b"%d\n" % n)
            assert tail.read(ENOUGH) == b"%d\n" % n


def test_no_more_than_asked_for(log: Path) -> None:
    tail = Tail("x.log")
    log.write_bytes(b"abcdefgh")
    assert [tail.read(3) for _ in range(4)] == [b"abc", b"def", b"gh", b""]


def test_a_file_of_an_earlier_run_is_not_told(log: Path) -> None:
    log.write_bytes(b"old\n")
    tail = Tail("x.log")
    assert tail.read(ENOUGH) == b""
    assert tail.read(ENOUGH) == b""


def append(log: Path) -> bytes:
    with log.open("ab") as file:
        file.write(b"more\n")
    return b"old\nmore\n"


def rewrite(log: Path) -> bytes:
    log.write_bytes(b"new\n")
    # A clock that does not move on between two writes would hide this one.
    os.utime(log, ns=(1, 1))
    return b"new\n"


def replace(log: Path) -> bytes:
    other = log.with_suffix(".new")
    other.write_bytes(b"new\n")
    other.rename(log)
    return b"new\n"


def unlink(log: Path) -> bytes:
    log.unlink()
    log.write_bytes(b"new and longer\n")
    return b"new and longer\n"


@pytest.mark.parametrize("touch", [append, rewrite, replace, unlink])
def test_once_touched_it_counts_from_its_beginning(
    log: Path, touch: Callable[[Path], bytes]
) -> None:
    log.write_bytes(b"old\n")
    tail = Tail("x.log")
    assert tail.read(ENOUGH) == b""
    expected = touch(log)
    assert tail.read(ENOUGH) == expected
    assert tail.read(ENOUGH) == b""


def test_one_that_is_cut_begins_anew(log: Path) -> None:
    tail = Tail("x.log")
    log.write_bytes(b"a long line\n")
    assert tail.read(ENOUGH) == b"a long line\n"
    log.write_bytes(b"short\n")
    assert tail.read(ENOUGH) == b"short\n"
    os.truncate(log, 0)
    assert tail.read(ENOUGH) == b""
    append(log)
    assert tail.read(ENOUGH) == b"more\n"


def test_one_that_is_replaced_is_read_to_its_end(log: Path) -> None:
    tail = Tail("x.log")
    log.write_bytes(b"abcdef")
    assert tail.read(4) == b"abcd"
    replace(log)
    assert tail.read(4) == b"ef"
    assert tail.read(4) == b"new\n"
    assert tail.read(4) == b""


def test_one_without_a_name_goes_on(log: Path) -> None:
    tail = Tail("x.log")
    with log.open("wb", buffering=0) as file:
        file.write(b"one\n")
        assert tail.read(ENOUGH) == b"one\n"
        log.unlink()
        file.write(b"two\n")
        assert tail.read(ENOUGH) == b"two\n"
        assert tail.read(ENOUGH) == b""
    log.write_bytes(b"three\n")
    assert tail.read(ENOUGH) == b"three\n"


def test_it_holds_one_descriptor(log: Path) -> None:
    tail = Tail("x.log")
    log.write_bytes(b"0\n")
    assert tail.read(ENOUGH) == b"0\n"
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        replace(log)
        assert tail.read(ENOUGH) == b"new\n"
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert not os.get_inheritable(tail._fd)


def test_nobody_is_waited_for(log: Path) -> None:
    """A FIFO without a writer would hold up whoever opens it."""
    tail = Tail("x.log")
    os.mkfifo(log)
    with pytest.raises(OSError, match="seek"):
        tail.read(ENOUGH)


def test_the_folder_is_the_one_we_are_in(log: Path, tmp_path: Path) -> None:
    tail = Tail("x.log")
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)
    try:
        (moved / "x.log").write_bytes(b"one\n")
        assert tail.read(ENOUGH) == b"one\n"
    finally:
        moved.rename(tmp_path)

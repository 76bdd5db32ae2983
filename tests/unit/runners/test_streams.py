from __future__ import annotations

import fcntl
import os
import struct
import termios

import pytest

from tailrace.runners.spool import STDERR, STDOUT
from tailrace.runners.streams import GATHER_BYTES, Streams

SIZE = [24, 80]


def closed(streams: Streams) -> bool:
    return not streams.open


@pytest.mark.parametrize("terminal", [None, SIZE])
@pytest.mark.parametrize("merge", [False, True])
def test_what_is_written_is_taken(terminal: list[int] | None, merge: bool) -> None:
    streams = Streams()
    out, err = streams.make(terminal, merge=merge)
    assert (out == err) is merge
    assert os.isatty(out) is (terminal is not None)
    assert os.isatty(err) is (merge and terminal is not None)
    kinds = {kind: fd for fd, kind in streams.open.items()}
    assert set(kinds) == ({STDOUT} if merge else {STDOUT, STDERR})
    assert all(streams.take(fd) == [] for fd in kinds.values())
    os.write(out, b"one\n")
    os.write(err, b"two\n")
    if merge:
        assert b"".join(streams.take(kinds[STDOUT])) == b"one\ntwo\n"
    else:
        assert streams.take(kinds[STDOUT]) == [b"one\n"]
        assert streams.take(kinds[STDERR]) == [b"two\n"]
    assert len(streams.open) == len(kinds)
    os.write(out, b"end")
    for fd in {out, err}:
        os.close(fd)
    assert streams.take(kinds[STDOUT]) == [b"end"]
    for fd in tuple(streams.open):
        assert streams.take(fd) == []
    assert streams.open == {}


def test_nothing_is_inherited() -> None:
    streams = Streams()
    ends = {*streams.make(SIZE, merge=False), *streams.open}
    try:
        assert len(ends) == 4
        assert not any(map(os.get_inheritable, ends))
    finally:
        for fd in ends:
            os.close(fd)


def test_a_terminal_as_it_should_be() -> None:
    streams = Streams()
    out, _ = streams.make([7, 33], merge=True)
    [ours] = streams.open
    try:
        size = fcntl.ioctl(out, termios.TIOCGWINSZ, bytes(8))
        assert struct.unpack("HHHH", size)[:2] == (7, 33)
        content = bytes(range(256)) + b"\n\r\t\x00"
        os.write(out, content)
        assert b"".join(streams.take(ours)) == content
        # Nor is anything that comes the other way put among it.
        os.write(ours, b"typed\n")
        assert streams.take(ours) == []
    finally:
        os.close(out)
        os.close(ours)


def test_only_so_much_at_once() -> None:
    streams = Streams()
    out, _ = streams.make(None, merge=True)
    [ours] = streams.open
    os.set_blocking(out, False)
    written = os.write(out, bytes(GATHER_BYTES))
    taken = sum(map(len, streams.take(ours)))
    assert taken == written <= GATHER_BYTES
    written = os.write(out, b"x" * GATHER_BYTES)
    os.close(out)
    assert sum(map(len, streams.take(ours))) == written
    while not closed(streams):
        assert streams.take(ours) == []

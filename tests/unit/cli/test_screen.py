import contextlib
import os
import pty
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tailrace.cli.screen import Screen, Telling

TERM = {"TERM": "xterm"}


@dataclass
class Ends:
    """What a screen writes to, and the other ends to read it from."""

    out: int
    err: int
    read_out: int
    read_err: int

    def said(self, end: int, within: float = 5.0, until: bytes = b"") -> bytes:
        got = b""
        deadline = time.monotonic() + within
        os.set_blocking(end, False)
        while time.monotonic() < deadline:
            try:
                piece = os.read(end, 65_536)
                got += piece
                if not piece:
                    break
            except BlockingIOError:
                if until in got:
                    return got
                time.sleep(0.005)
            except OSError:
                break
        return got


@pytest.fixture
def make() -> Iterator[Callable[..., Ends]]:
    opened: list[int] = []

    def ends(*, terminal: bool) -> Ends:
        if terminal:
            master, slave = pty.openpty()
            opened.extend((master, slave))
            return Ends(slave, slave, master, master)
        (read_out, out), (read_err, err) = os.pipe(), os.pipe()
        opened.extend((read_out, out, read_err, err))
        return Ends(out, err, read_out, read_err)

    yield ends
    for descriptor in opened:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def screen(ends: Ends, env: dict[str, str] | None = None, **options: Any) -> Screen:
    return Screen(out=ends.out, err=ends.err, env=TERM if env is None else env, **options)


# ------------------------------------------------------------------ what a terminal can do


def test_pipes_are_not_drawn_on(make: Callable[..., Ends]) -> None:
    told = screen(make(terminal=False))
    assert not told.draws
    assert not told.look.colour


def test_a_terminal_is(make: Callable[..., Ends]) -> None:
    told = screen(make(terminal=True))
    assert told.draws
    assert told.look.colour


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {}])
def test_a_dumb_terminal_is_not(make: Callable[..., Ends], env: dict[str, str]) -> None:
    told = screen(make(terminal=True), env)
    assert not told.draws
    assert not told.look.colour


def test_no_color(make: Callable[..., Ends]) -> None:
    told = screen(make(terminal=True), {**TERM, "NO_COLOR": "1"})
    assert told.draws
    assert not told.look.colour
    assert screen(make(terminal=True), {**TERM, "NO_COLOR": ""}).look.colour


def test_quiet(make: Callable[..., Ends]) -> None:
    ends = make(terminal=True)
    told = screen(ends, quiet=True)
    assert not told.draws
    told.note("nothing of this")
    told.write("stdout", b"but this\n")
    assert ends.said(ends.read_out, until=b"this") == b"but this\r\n"


def test_its_size(make: Callable[..., Ends]) -> None:
    ends = make(terminal=True)
    assert screen(ends).size == (24, 80), "nobody has said how large it is"
    termios.tcsetwinsize(ends.out, (33, 111))
    assert screen(ends).size == (33, 111)
    assert screen(make(terminal=False)).size == (24, 80)


# ------------------------------------------------------------------ writing


def test_bytes_are_written_as_they_are(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    told = screen(ends)
    told.write("stdout", bytes(range(256)))
    told.write("stderr", b"\xff\0")
    told.write("another", b"more")
    told.note("a line")
    assert ends.said(ends.read_out, until=b"more") == bytes(range(256)) + b"more"
    assert ends.said(ends.read_err, until=b"line\n") == b"\xff\0a line\n"


def test_nobody_reads(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    os.close(ends.read_out)
    with pytest.raises(BrokenPipeError):
        screen(ends).write("stdout", b"x")


def test_a_full_pipe_that_does_not_block(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    os.set_blocking(ends.out, False)
    whole = os.urandom(1024 * 1024)
    writing = threading.Thread(target=screen(ends).write, args=("stdout", whole))
    writing.start()
    got = b""
    while len(got) < len(whole):
        got += os.read(ends.read_out, 65_536)
    writing.join(10)
    assert got == whole


# ------------------------------------------------------------------ the status line


def test_it_is_drawn_and_erased(make: Callable[..., Ends]) -> None:
    ends = make(terminal=True)
    told = screen(ends)
    with told.status(lambda _: "busy"):
        got = ends.said(ends.read_err, until=b"busy")
        assert got == b"\r\x1b[2Kbusy"
        told.write("stdout", b"line\n")
        got = ends.said(ends.read_err, until=b"busy")
        assert got == b"\r\x1b[2Kline\r\n\r\x1b[2Kbusy"
    assert ends.said(ends.read_err, until=b"K") == b"\r\x1b[2K"


def test_it_keeps_away_from_an_unfinished_line(make: Callable[..., Ends]) -> None:
    ends = make(terminal=True)
    told = screen(ends)
    told.write("stdout", b"50% \r")
    asked = threading.Event()
    times: list[int] = []

    def tell(columns: int) -> str:
        times.append(columns)
        if len(times) > 2:
            asked.set()
        return f"busy {len(times)}"

    with told.status(tell):
        assert asked.wait(10)
    told.note("over")
    assert ends.said(ends.read_err, until=b"over") == b"50% \r\r\nover\r\n"
    assert times[0] > 0


def test_a_pipe_gets_none(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    told = screen(ends)
    with told.status(lambda _: pytest.fail("nobody could see it")):
        told.note("a line")
    assert ends.said(ends.read_err, until=b"\n") == b"a line\n"


def test_a_terminal_that_is_gone(make: Callable[..., Ends]) -> None:
    ends = make(terminal=True)
    told = screen(ends)
    with told.status(lambda _: "busy"):
        ends.said(ends.read_err, until=b"busy")
        os.close(ends.read_err)


# ------------------------------------------------------------------ telling


def told_by(ends: Ends, events: list[tuple[str, dict[str, Any]]], **options: Any) -> None:
    telling = Telling(screen(ends), **options)
    for type, payload in events:
        telling.event(type, payload)
    telling.close()
    for end in {ends.out, ends.err}:
        os.close(end)


RUN: list[tuple[str, dict[str, Any]]] = [
    ("start", {"operation": "crunch"}),
    ("output", {"stream": "stdout", "text": "out\x1b]0;t\x07\n"}),
    ("output", {"stream": "stderr", "text": "err\n"}),
    ("output", {"stream": "stdout", "text": "\ufffd", "bytes": "/w=="}),
    ("progress", {"current": 1, "total": 2}),
    ("log", {"level": "warning", "message": "careful\nnow"}),
    ("thought", {"text": "hm"}),
    ("message", {"value": 4}),
    ("gap", {"from": 3, "to": 4}),
    ("complete", {"duration_seconds": 1}),
]


def test_output_and_lines(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    told_by(ends, RUN)
    assert ends.said(ends.read_out) == "out\n\ufffd".encode()
    assert ends.said(ends.read_err).decode().splitlines() == [
        "Starting execution of crunch…",
        "err",
        "[1/2]",
        "[warning] careful now",
        '[thought] {"text":"hm"}',
        '{"value":4}',
        "[events 3 to 4 are no longer kept]",
    ]


def test_exact_and_quiet(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    told_by(ends, RUN, exact=True, quiet=True)
    assert ends.said(ends.read_out) == b"out\x1b]0;t\x07\n\xff"
    assert ends.said(ends.read_err) == b"err\n"


def test_types_that_are_not_told(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    told_by(ends, RUN[:1], without=("start",))
    assert ends.said(ends.read_err) == b""


def test_progress_goes_to_the_status_line(make: Callable[..., Ends]) -> None:
    telling = Telling(screen(make(terminal=True)))
    telling.event("progress", {"percent": 4})
    assert telling.progress == {"percent": 4}


def test_a_colour_that_is_left_on_is_switched_off(make: Callable[..., Ends]) -> None:
    red = [("output", {"stream": "stdout", "text": "\x1b[31mred"})]
    ends = make(terminal=True)
    told_by(ends, red)
    assert ends.said(ends.read_out) == b"\x1b[31mred\x1b[0m"
    ends = make(terminal=False)
    told_by(ends, red)
    assert ends.said(ends.read_out) == b"\x1b[31mred"


def test_an_escape_that_is_split_between_events(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    pieces = [("output", {"stream": "stdout", "text": text}) for text in ("a\x1b]52;c;", "x\x07b")]
    told_by(ends, pieces)
    assert ends.said(ends.read_out) == b"ab"


@pytest.mark.parametrize(
    ("type", "payload"),
    [("tick", {"elapsed_seconds": "soon"}), ("progress", {"message": 4}), ("output", {"text": 4})],
)
def test_payloads_of_another_shape(
    make: Callable[..., Ends], type: str, payload: dict[str, Any]
) -> None:
    ends = make(terminal=False)
    told_by(ends, [(type, payload)])
    assert ends.said(ends.read_out) + ends.said(ends.read_err)


QUEUED = ("status", {"status": "queued", "position": 3})


def test_a_place_in_the_queue_is_for_the_status_line(make: Callable[..., Ends]) -> None:
    ends = make(terminal=True)
    telling = Telling(screen(ends))
    telling.event(*QUEUED)
    assert telling.progress == {"message": "queued, 3rd"}
    telling.event("status", {"status": "cancelling"})
    assert ends.said(ends.read_err, until=b"\n") == b"[cancelling]\r\n"
    telling.event("start", {"operation": "crunch"})
    assert telling.progress is None


def test_where_there_is_none_it_is_a_line(make: Callable[..., Ends]) -> None:
    ends = make(terminal=False)
    told_by(ends, [QUEUED])
    assert ends.said(ends.read_err) == b"[queued, 2 before it]\n"

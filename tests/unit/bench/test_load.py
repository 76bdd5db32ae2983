"""The load client notices what a server does wrong, however the bytes are cut."""

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.client import Load, Wrong

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSED = HEAD + b"Connection: close\r\n\r\n"


def event(n: int, publisher: int = 0, end: str = "\n") -> bytes:
    told = json.dumps({"p": publisher, "n": n, "t": 1, "pad": 'a "quoted" }'})
    return f"id: {n}{end}event: message{end}data: {told}{end}{end}".encode()


def chunks(*bodies: bytes, is_ended: bool = True) -> bytes:
    framed = b"".join(b"%X\r\n%b\r\n" % (len(body), body) for body in bodies)
    return framed + (b"0\r\n\r\n" if is_ended else b"")


class Script:
    """A server that answers each connection with the same pieces, one send for each."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if not connection.recv(65536):
                    continue
                try:
                    for piece in self._pieces:
                        connection.sendall(piece)
                except OSError:
                    pass

    def close(self) -> None:
        # A listener that is only closed leaves its accept() waiting.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Any]:
    scripts: list[Script] = []

    def watch(pieces: list[bytes], **options: Any) -> dict[str, Any]:
        scripts.append(Script(pieces))
        given = {
            "watchers": 1,
            "timeout_ms": 5000,
            "silence_ms": 300,
            "linger_ms": 20,
            "at_once": 1,
            **options,
        }
        with Load(scripts[-1].port, ["/events"], tmp_path, **given) as load:
            return load.result()

    yield watch
    for script in scripts:
        script.close()


STREAM = chunks(event(1), b": ping\n\n", event(2) + event(3, end="\r\n"), event(1, publisher=3))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
def test_events_are_found_wherever_the_bytes_are_cut(watch: Any, size: int) -> None:
    whole = CHUNKED + STREAM
    told = watch([whole[at : at + size] for at in range(0, len(whole), size)], events=4)
    assert told["delivered"] == 4
    assert told["comments"] == 1
    assert told["fault"] == ""


def test_a_body_without_chunks_ends_with_its_connection(watch: Any) -> None:
    assert watch([CLOSED + event(1), event(2)], events=2)["delivered"] == 2


def test_the_stream_may_say_itself_how_many_there_are(watch: Any) -> None:
    end = b'event: end\ndata: {"total":2}\n\n'
    assert watch([CLOSED, event(1) + event(2) + end])["delivered"] == 2


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        pytest.param([1, 2, 4], "4 came where 3 was due", id="lost"),
        pytest.param([1, 2, 2, 3], "2 came where 3 was due", id="doubled"),
        pytest.param([1, 3, 2], "3 came where 2 was due", id="out of order"),
        pytest.param([2, 3, 4], "2 came where 1 was due", id="the first lost"),
        pytest.param([1, 2], "has 2 of 3 events", id="the last lost"),
        pytest.param([1, 2, 3, 4], "event 4 of 3", id="one too many"),
    ],
)
def test_a_fault_is_noticed(watch: Any, events: list[int], reason: str) -> None:
    with pytest.raises(Wrong, match=reason):
        watch([CHUNKED, chunks(*map(event, events))], events=3)


def test_a_number_of_one_publisher_does_not_excuse_another(watch: Any) -> None:
    with pytest.raises(Wrong, match="publisher 1: 2 came where 1 was due"):
        watch([CLOSED + event(1) + event(2, publisher=1)], events=2)


@pytest.mark.parametrize(
    ("pieces", "reason"),
    [
        pytest.param([b"HTTP/1.1 503 Busy\r\n\r\n"], "answered HTTP/1.1 503 Busy", id="status"),
        pytest.param([b""], "closed without an answer", id="no answer"),
        pytest.param([CHUNKED + chunks(event(1), is_ended=False)], "cut after 1", id="cut"),
        pytest.param([CHUNKED + b"5\r\ntoo long for that\r\n"], "longer than it", id="chunk"),
        pytest.param([CLOSED + event(1)], "not told how many", id="open end"),
    ],
)
def test_a_broken_answer_is_noticed(watch: Any, pieces: list[bytes], reason: str) -> None:
    with pytest.raises(Wrong, match=reason):
        watch(pieces, events=0 if "how many" in reason else 2)


def test_a_latency_counts_from_the_stamp(watch: Any) -> None:
    # Published 5 seconds before it is sent.
    at = time.monotonic_ns() - 5_000_000_000
    told = watch([CLOSED + event(1).replace(b'"t": 1', b'"t": %d' % at)], events=1)
    assert 5_000_000 * 0.97 < told["p50_us"] < 5_000_000 * 1.1

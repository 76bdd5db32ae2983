"""A real HTTP/1.1 server on a loopback socket that answers by a script."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from tailrace.protocol.sse import encode

RUN = "run_" + "a" * 26
BOUND_SECONDS = 10.0

End = Literal["close", "reset", "hang"]


@dataclass(frozen=True)
class Answer:
    """Bytes as they go over the wire, and how the connection ends after them."""

    wire: bytes
    end: End = "close"


@dataclass
class Asked:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Scripted:
    """The server's address, and what it was asked."""

    url: str
    asked: list[Asked] = field(default_factory=list)


def head(status: int, **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def reply(status: int, body: Any = b"", **headers: str) -> Answer:
    """A whole answer. A body that is no bytes goes out as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    if not isinstance(body, bytes):
        headers.setdefault("content_type", "application/json")
    if status != 204:
        headers["content_length"] = str(len(content))
    return Answer(head(status, **headers) + content)


def problem(status: int, code: str, detail: str, fix: str = "", **more: Any) -> Answer:
    document = {"type": f"urn:tailrace:{code}", "title": "?", "status": status, "code": code}
    document |= {"detail": detail, "fix": fix, **more}
    return reply(status, document, content_type="application/problem+json")


def stream(*chunks: bytes, end: End | None = None, **headers: str) -> Answer:
    """An event stream; with an `end` it lacks its final chunk."""
    headers = {"content_type": "text/event-stream; charset=utf-8"} | headers
    wire = head(200, transfer_encoding="chunked", **headers)
    wire += b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return Answer(wire + b"0\r\n\r\n") if end is None else Answer(wire, end)


OPENING = b": tailrace\nretry: 1000\n"
CLOSING = b": end\n"


def event(id: int | str, type: str = "log", **data: Any) -> bytes:
    return encode(json.dumps({"n": id, **data}), id=str(id), event=type)


def control(type: str, **data: Any) -> bytes:
    return encode(json.dumps(data), event=type)


def events(first: int, last: int) -> bytes:
    return b"".join(event(n) for n in range(first, last + 1))


def _receive(connection: socket.socket) -> Asked | None:
    received = b""
    while b"\r\n\r\n" not in received:
        more = connection.recv(65536)
        if not more:
            return None
        received += more
    top, _, body = received.partition(b"\r\n\r\n")
    first, *lines = top.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    headers = {name.lower(): value for name, _, value in pairs}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    method, target, _ = first.split(" ")
    return Asked(method, target, headers, body)


def _answer(connection: socket.socket, answer: Answer) -> None:
    connection.sendall(answer.wire)
    if answer.end == "hang":
        while connection.recv(65536):
            pass
    elif answer.end == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextmanager
def scripted(*answers: Answer) -> Iterator[Scripted]:
    """Answer the first request with the first answer, and so on; then with 500."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}/tailrace")
    is_closing = threading.Event()

    def serve() -> None:
        left = list(answers)
        while True:
            connection, _ = listener.accept()
            with connection:
                if is_closing.is_set():
                    return
                connection.settimeout(BOUND_SECONDS)
                try:
                    asked = _receive(connection)
                    if asked is not None:
                        server.asked.append(asked)
                        _answer(connection, left.pop(0) if left else reply(500))
                except OSError:
                    pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        is_closing.set()
        socket.create_connection(listener.getsockname()).close()
        thread.join(BOUND_SECONDS)
        listener.close()
        assert not thread.is_alive()


def nowhere() -> str:
    """The address of a port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

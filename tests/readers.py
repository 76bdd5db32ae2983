"""The same bytes, read by several parsers that nobody here wrote: where two of them differ, a
proxy and a browser may as well.
"""

from __future__ import annotations

import http.client
import io
import json
import re
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import h11
import httptools
from httpx_sse import SSEError
from httpx_sse._decoders import SSEDecoder, SSELineDecoder
from sseclient import SSEClient

from tailrace.protocol.sse import Decoder

# --- heads ---------------------------------------------------------------------------------------

_STATUS: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([A-Za-z '-]*)")
# RFC 9110 §5.6.2 and §5.5; what is sent here has no reason to be anything but visible ASCII.
_HEADER: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)"
)

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """One response."""

    status: int
    pairs: Pairs
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """By name; none stands twice."""
        names = [name for name, _ in self.pairs]
        assert len(names) == len(set(names)), f"a header twice: {self.pairs}"
        return dict(self.pairs)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def answers(raw: bytes) -> list[Answer]:
    """The responses of one connection, one after the other, on which all parsers agree. Fails
    where they do not, and where the connection was cut within one.
    """
    found: list[Answer] = []
    while raw:
        answer, length = _strictly(raw)
        one = raw[:length]
        told = {
            "strict": answer,
            "h11": _by_h11(one),
            "httptools": _by_httptools(one),
            "http.client": _by_http_client(one),
        }
        assert all(each == answer for each in told.values()), told
        found.append(answer)
        raw = raw[length:]
    return found


def _strictly(raw: bytes) -> tuple[Answer, int]:
    """The letter of RFC 9112, and nothing that it only tolerates."""
    head, blank, rest = raw.partition(b"\r\n\r\n")
    assert blank, f"no end of the head: {raw[:500]!r}"
    first, *lines = head.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    assert status is not None, first
    pairs: Pairs = []
    for line in lines:
        header = _HEADER.fullmatch(line)
        assert header is not None, line
        pairs.append((header[1].decode().lower(), header[2].decode()))
    named = dict(pairs)
    code = int(status[1])
    body, size = b"", 0
    if code in (204, 304):
        assert "transfer-encoding" not in named
    elif named.get("transfer-encoding") == "chunked":
        assert "content-length" not in named, "not both (RFC 9112 §6.2)"
        body, size = _chunks(rest)
    else:
        size = int(named["content-length"])
        body = rest[:size]
        assert len(body) == size, f"the connection was cut: {raw[-200:]!r}"
    return Answer(code, pairs, body), len(head) + 4 + size


def _chunks(rest: bytes) -> tuple[bytes, int]:
    parts: list[bytes] = []
    at = 0
    while True:
        end = rest.find(b"\r\n", at)
        assert end >= 0, f"the connection was cut: {rest[-200:]!r}"
        assert re.fullmatch(rb"[0-9A-Fa-f]+", rest[at:end]), rest[at:end]
        size = int(rest[at:end], 16)
        part = rest[end + 2 : end + 2 + size]
        at = end + 4 + size
        assert rest[at - 2 : at] == b"\r\n", f"the connection was cut: {rest[-200:]!r}"
        parts.append(part)
        if not size:
            return b"".join(parts), at


def _by_h11(raw: bytes) -> Answer:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
    client.send(h11.EndOfMessage())
    client.receive_data(raw)
    client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response), head
    body = bytearray()
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage), event
    assert not event.headers, "trailers"
    return Answer(head.status_code, _decoded(head.headers.raw_items()), bytes(body))


class _Seen:
    """What httptools calls."""

    def __init__(self) -> None:
        self.pairs: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.ends = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        self.pairs.append((name, value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.ends += 1


def _by_httptools(raw: bytes) -> Answer:
    seen = _Seen()
    parser = httptools.HttpResponseParser(seen)
    parser.feed_data(raw)
    assert seen.ends == 1, f"{seen.ends} responses, and not 1"
    return Answer(parser.get_status_code(), _decoded(seen.pairs), bytes(seen.body))


class _Socket:
    """As much of one as http.client wants."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: Any) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _by_http_client(raw: bytes) -> Answer:
    # The only one of them for which text is Latin-1, and which folds lines.
    answer = http.client.HTTPResponse(_Socket(raw))  # type: ignore[arg-type]
    answer.begin()
    pairs = [(name.lower(), value) for name, value in answer.getheaders()]
    return Answer(answer.status, pairs, answer.read())


def _decoded(pairs: Any) -> Pairs:
    return [(name.decode().lower(), value.decode()) for name, value in pairs]


# --- streams -------------------------------------------------------------------------------------


class Told(NamedTuple):
    """One event."""

    id: str
    type: str
    data: str


def events(body: bytes) -> list[Told]:
    """The events of a stream, on which all parsers agree."""
    ours = [Told(one.id, one.event, one.data) for one in Decoder().feed(body)]
    assert _by_httpx_sse(body) == ours
    theirs = _by_sseclient(body)
    assert [one[1:] for one in theirs] == [one[1:] for one in ours]
    # It knows an event's own id only, and not one from before.
    assert all(its.id in ("", own.id) for its, own in zip(theirs, ours, strict=True)), theirs
    return ours


def _by_httpx_sse(body: bytes) -> list[Told]:
    lines, decoder = SSELineDecoder(), SSEDecoder()
    found: list[Told] = []
    has_data = False
    try:
        for line in [*lines.decode(body.decode()), *lines.flush()]:
            event = decoder.decode(line)
            # It tells of a block without data, as of one that names but an id.
            if event is not None and has_data:
                found.append(Told(event.id, event.event or "message", event.data))
            has_data = bool(line) and (has_data or line.partition(":")[0] == "data")
    except SSEError as error:
        raise AssertionError(error) from error
    return found


def _by_sseclient(body: bytes) -> list[Told]:
    # The standard discards what no blank line ends; this parser does not.
    whole = body[: body.rfind(b"\n\n") + 2] if b"\n\n" in body else b""
    heard = SSEClient(iter([whole])).events()
    return [Told(event.id or "", event.event, event.data) for event in heard]

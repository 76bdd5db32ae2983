"""Server-Sent Events on the wire: an encoder and an incremental decoder.

Pure: bytes in, values out; no I/O, no clock. The clauses cited are those of the WHATWG HTML
standard, section 9.2 ("Server-sent events").

The two ends are deliberately unequal. What we write is the narrowest form every known parser
reads: LF only, one space after the colon, comments that end no block. What we read is all that
the standard allows. Data survives the trip exactly, except that its line ends become LF.
"""

from __future__ import annotations

from dataclasses import dataclass

from tailrace.errors import FieldInvalid, StreamTooLarge

__all__ = ["Decoder", "ServerSentEvent", "comment", "encode", "retry"]

# Whole numbers, because `10 in body` is a memchr: an eighth of the time of `b"\n" in body`.
_LF = 0x0A
_CR = 0x0D
_BOM = b"\xef\xbb\xbf"

# 15 digits of milliseconds are 31,000 years and still exact as a JavaScript number. A peer
# could otherwise send more digits than int() accepts (4,300) and break the reader by ValueError.
_RETRY_DIGITS = 15


# ---------------------------------------------------------------- encoding


def encode(
    data: str | bytes,
    *,
    id: str | None = None,
    event: str | None = None,
    retry: int | None = None,
) -> bytes:
    """Encode one event block, ready to be sent.

    The fields come in the order id, event, retry, data, each ended by LF, and a blank line ends
    the block. ``None`` leaves a field out.

    ``data``: text, or UTF-8 bytes that go out as they are. It is split at CR, LF and CRLF (and
    nowhere else: U+2028, U+0085 or a form feed stay inside their line) into one ``data:`` line
    each, so empty data and trailing line ends arrive as well.
    ``id``: the cursor a reconnecting client sends back; ``""`` makes the client forget its own.
    ``event``: the type; ``""`` is read by clients as ``"message"``, like ``None``.
    ``retry``: the reconnection time in milliseconds.

    Raises ``FieldInvalid`` when id or event contains CR, LF or NUL, when text contains a lone
    surrogate, and when retry is not a whole number from 0 to 10**15 - 1.
    """
    body = data if isinstance(data, bytes) else _utf8("data", data)
    if _LF in body or _CR in body:
        body = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    if id is None and event is None and retry is None:
        return b"data: %b\n\n" % body
    # A short cut for what every stored event looks like. Printable text contains none of CR, LF,
    # NUL and surrogates; text that is not printable may still be legal, and is looked at below.
    if retry is None and id and event and id.isprintable() and event.isprintable():
        return b"id: %b\nevent: %b\ndata: %b\n\n" % (id.encode(), event.encode(), body)
    head = b""
    if id is not None:
        head = b"id: %b\n" % _value("id", id)
    if event is not None:
        head += b"event: %b\n" % _value("event", event)
    if retry is not None:
        head += _retry_line(retry)
    return b"%bdata: %b\n\n" % (head, body)


def comment(text: str = "") -> bytes:
    """Encode a comment line, which clients ignore: a keep-alive, or a note to whoever reads curl.

    No blank line follows it: a block of comments alone makes httpx-sse emit an empty event.
    Send it between blocks.

    Raises ``FieldInvalid`` when text contains CR, LF or a lone surrogate.
    """
    if "\n" in text or "\r" in text:
        raise FieldInvalid(f"an SSE comment must not contain CR or LF: {text[:60]!r}")
    return b": %b\n" % _utf8("comment", text)


def retry(milliseconds: int) -> bytes:
    """Encode a line that sets the client's reconnection time, in milliseconds.

    It takes effect when the line ends, so no blank line follows it. Send it between blocks.

    Raises ``FieldInvalid`` when milliseconds is not a whole number from 0 to 10**15 - 1.
    """
    return _retry_line(milliseconds)


def _retry_line(milliseconds: int) -> bytes:
    # bool is an int to Python; True would go out as a reconnection time of one millisecond.
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int):
        raise FieldInvalid(f"SSE retry must be an int, not {type(milliseconds).__name__}")
    if not 0 <= milliseconds < 10**_RETRY_DIGITS:
        raise FieldInvalid(f"SSE retry must be 0 to 10**{_RETRY_DIGITS} - 1 milliseconds")
    return b"retry: %d\n" % milliseconds


def _value(name: str, value: str) -> bytes:
    # Whoever can place a line end in an id or a type forges whole events. NUL makes clients
    # ignore an id (clause "If the field name is 'id'"). Rejected, not stripped: a stripped id
    # is another id, and the client would come back with it.
    if "\n" in value or "\r" in value or "\0" in value:
        raise FieldInvalid(f"SSE {name} must not contain CR, LF or NUL: {value[:60]!r}")
    return _utf8(name, value)


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise FieldInvalid(
            f"SSE {name} contains a lone surrogate, which UTF-8 cannot carry, at {error.start}"
        ) from None


# ---------------------------------------------------------------- decoding


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One dispatched event.

    ``event``: its type; ``"message"`` when the block named none or an empty one.
    ``data``: its data lines joined by LF, without a final one.
    ``id``: the last event id in force when it was dispatched, also when an earlier block set it;
    ``""`` when there is none.
    """

    event: str
    data: str
    id: str


class Decoder:
    """Turn the bytes of one response body into events, wherever the chunks happen to be cut.

    Use one decoder per response and give it the id with which the response was asked for:

    ``last_event_id``: the id in force before the first byte; default none.
    ``max_event_bytes``: the bound on the block being read, in bytes: its data so far, with one
    line end per line, plus the line being read, field name included; default 16 MiB.

    Attributes to read:

    ``last_event_id``: what to send as ``Last-Event-ID`` when reconnecting. It changes when a
    block ends, not when its ``id`` line is read: a connection cut in between must get the event.
    ``retry``: the reconnection time last asked for, in milliseconds, or ``None``.

    There is no flush. A block not ended by a blank line is dropped when the stream ends
    (clause "Once the end of the file is reached, any pending data must be discarded").
    """

    __slots__ = (
        "_after_cr",
        "_at_start",
        "_data",
        "_failure",
        "_id",
        "_line",
        "_max_event_bytes",
        "_type",
        "last_event_id",
        "retry",
    )

    def __init__(self, *, last_event_id: str = "", max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._max_event_bytes = max_event_bytes
        # Bytearrays, not lists of fragments: two-byte fragments would cost a hostile peer two
        # bytes each and us forty. Appending is amortised linear either way.
        self._line = bytearray()
        self._data = bytearray()
        self._type = b""
        self._id = last_event_id
        self._at_start = True
        self._after_cr = False
        self._failure: str | None = None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Take the next bytes and return the events they complete, in order.

        Raises ``StreamTooLarge`` when the block being read exceeds ``max_event_bytes``, and on
        every later call. Events that the same chunk completed before are not lost: they are
        returned, and the next call raises (``feed(b"")`` at the end of a stream asks).
        """
        if self._failure is not None:
            raise StreamTooLarge(self._failure)
        events: list[ServerSentEvent] = []
        room = self._max_event_bytes - len(self._data)
        for line in self._complete_lines(chunk):
            if len(line) > room:
                return self._fail(events)
            if self._at_start:
                # Clause "UTF-8 decode": one byte order mark, and only before the first line.
                line = line.removeprefix(_BOM)
                self._at_start = False
            if line:
                self._read_field(line)
                room = self._max_event_bytes - len(self._data)
                continue
            self.last_event_id = self._id
            if self._data:
                events.append(self._take_event())
                room = self._max_event_bytes
            self._type = b""
        if len(self._line) > room:
            return self._fail(events)
        return events

    def _complete_lines(self, chunk: bytes) -> list[bytes]:
        """Add the chunk to the line being read; return the lines it ends, without their ends."""
        if not chunk:
            return []
        if self._after_cr and chunk[0] == _LF:
            chunk = chunk[1:]
        # A CR at the end of a chunk ends its line now: the LF that may belong to it can be
        # minutes away, and an event must not wait for it.
        self._after_cr = chunk[-1:] == b"\r"
        if _CR in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._line:
            self._line += lines[0]
            lines[0] = bytes(self._line)
            self._line = bytearray()
        self._line += rest
        return lines

    def _read_field(self, line: bytes) -> None:
        # Fields are told apart as bytes and decoded whole: no character is ever cut by a chunk,
        # since line ends, colon and space cannot occur inside a UTF-8 sequence. A comment is a
        # line with an empty field name, and so ignored like every unknown field.
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value
            self._data += b"\n"
        elif name == b"id":
            if 0 not in value:
                self._id = value.decode("utf-8", "replace")
        elif name == b"event":
            self._type = value
        elif name == b"retry" and value.isdigit():
            # bytes.isdigit() is ASCII only, as the standard wants; int() alone would take
            # "+1", " 1", "1_000" and Arabic digits.
            digits = value.lstrip(b"0") or b"0"
            if len(digits) <= _RETRY_DIGITS:
                self.retry = int(digits)

    def _take_event(self) -> ServerSentEvent:
        data = self._data[:-1].decode("utf-8", "replace")
        self._data = bytearray()
        kind = self._type.decode("utf-8", "replace") if self._type else "message"
        return ServerSentEvent(kind, data, self.last_event_id)

    def _fail(self, events: list[ServerSentEvent]) -> list[ServerSentEvent]:
        self._failure = f"an SSE event exceeds the bound of {self._max_event_bytes} bytes"
        self._line = bytearray()
        self._data = bytearray()
        if not events:
            raise StreamTooLarge(self._failure)
        return events

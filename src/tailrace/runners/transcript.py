"""What a program wrote, as events: its output in pieces, and what its lines say. Pure.

The spool has everything from the beginning, the log what was told so far. So whoever goes on
with a run reads the spool from its beginning as well, in silence, up to where the log ends:
then half a character, half a line and a failure seen long ago are known again. Which progress
was told depended on when its line was read; so the last one is told again, rather than never.

Secrets are masked before anything else looks at the bytes. What could be the beginning of one is
told with the next output, or at the end: a prompt that ends with the first letters of a secret
shows them late.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

from tailrace.protocol.events import OUTPUT, PROGRESS, stamp
from tailrace.protocol.masking import Masking, Masks
from tailrace.protocol.output import CHUNK_BYTES, Decoder, raw
from tailrace.runners.markers import Said
from tailrace.runners.output import Reading
from tailrace.runners.spool import EXIT, STDERR, STDOUT, Frame

_STREAMS: Final = {STDOUT: "stdout", STDERR: "stderr"}


class Told(NamedTuple):
    """How much of a program's output the log has. `offset`: how many bytes of the spool, of both
    streams; `cut`: the streams of which it has the last word, what was held back to their end.
    """

    offset: int = 0
    cut: frozenset[str] = frozenset()


_NOTHING: Final = Told()


class Transcript:
    """The frames of one program, in order, as events. `told`: what need not be told again, by
    whoever had the same `masks`.
    """

    def __init__(self, reading: Reading, told: Told = _NOTHING, masks: Masks | None = None) -> None:
        self.reading = reading
        self.told = told
        self._read = 0
        self._decoders = {name: Decoder(name) for name in _STREAMS.values()}
        self._maskings = {name: Masking(masks) for name in _STREAMS.values()} if masks else None
        # With what was held back, a piece must not become longer than an event may be.
        self._stride = CHUNK_BYTES - (masks.longest if masks else 0)
        self._at = 0.0
        self._progress: list[Said] = []
        self.end: dict[str, Any] | None = None
        """How the program ended (`shim.Shim`), once that is known."""

    def take(self, frames: Iterable[Frame]) -> Iterator[list[Said]]:
        """The events of frames; those of a list belong together."""
        kind, at, size = 0, 0.0, 0
        chunks: list[bytes] = []
        for frame in frames:
            if chunks and (frame.kind != kind or size >= CHUNK_BYTES):
                yield from self._pieces(kind, at, b"".join(chunks))
                chunks, size = [], 0
            if frame.kind == EXIT:
                self.end = json.loads(frame.content)
            elif frame.kind in _STREAMS:
                kind, at = frame.kind, frame.at
                chunks.append(frame.content)
                size += len(frame.content)
        if chunks:
            yield from self._pieces(kind, at, b"".join(chunks))

    def _pieces(self, kind: int, at: float, content: bytes) -> Iterator[list[Said]]:
        self._at = at
        stream = _STREAMS[kind]
        known = min(max(self.told.offset - self._read, 0), len(content))
        for start in range(0, known, self._stride):
            said = self._piece(stream, content[start : min(start + self._stride, known)])
            self._note(said, is_known=True)
            # Nothing to tell, but work: whoever takes these may see to others between them.
            yield []
        for start in range(known, len(content), self._stride):
            said = self._piece(stream, content[start : start + self._stride])
            self._note(said, is_known=False)
            if said:
                yield said

    def _note(self, said: list[Said], *, is_known: bool) -> None:
        progress = [event for event in said if event[0] == PROGRESS]
        if progress:
            self._progress = progress[-1:] if is_known else []

    def _piece(self, stream: str, content: bytes) -> list[Said]:
        self._read += len(content)
        if self._maskings is not None:
            content = self._maskings[stream].feed(content)
        return self._say(stream, self._decoders[stream].feed(content))

    def _say(self, stream: str, payload: dict[str, Any] | None) -> list[Said]:
        if payload is None:
            return []
        payload["offset"] = self._read
        said = [(OUTPUT, payload), *self.reading.feed(stream, payload["text"], self._at)]
        return self._stamped(said)

    def _stamped(self, said: list[Said]) -> list[Said]:
        text = stamp(self._at)
        for _, payload in said:
            payload["timestamp"] = text
        return said

    def due(self, now: float) -> float | None:
        """In how many seconds there is something to tell even without a word from the program."""
        at = now if self._progress else self.reading.due(now)
        return None if at is None else max(0.0, at - now)

    def held(self, now: float) -> list[Said]:
        """What is due."""
        again, self._progress = self._progress, []
        at = self.reading.due(now)
        return [*again, *self._stamped(self.reading.held(now) if at == now else [])]

    def finish(self) -> Iterator[list[Said]]:
        """What is left to tell once there is no more to come."""
        for stream in self._decoders:
            payload = self._last(stream)
            if payload is not None:
                said = self._say(stream, payload | {"cut": True})
                self._note(said, is_known=stream in self.told.cut)
                if stream not in self.told.cut:
                    yield said
        again, self._progress = self._progress, []
        yield [*again, *self._stamped(self.reading.end(self._at))]

    def _last(self, stream: str) -> dict[str, Any] | None:
        """The last word of a stream, as one payload: the log has all of it, or nothing."""
        decoder = self._decoders[stream]
        rest = None if self._maskings is None else decoder.feed(self._maskings[stream].end())
        last = decoder.end()
        if rest is None or last is None:
            return rest or last
        content = base64.b64encode(raw(rest) + raw(last)).decode("ascii")
        return {**last, "text": rest["text"] + last["text"], "bytes": content}

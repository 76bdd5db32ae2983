"""Many runs over one connection: browsers allow six per host.

The id of each frame is a vector, so that a client that comes back gets exactly the rest of
every run: `12~run_a:57,run_b:3` says that it has run_a up to 57 and run_b up to 3, and
knows of every run up to the twelfth. A run leaves the vector with its terminal event.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from tailrace import time
from tailrace.cohort import Manner
from tailrace.engine import Engine
from tailrace.errors import (
    CursorMalformed,
    InputInvalid,
    RunUnknown,
    TooManyRequests,
    Unauthorized,
)
from tailrace.http import problems
from tailrace.http.access import again
from tailrace.http.feeds import Streaming
from tailrace.outlet import End
from tailrace.projections import stream
from tailrace.protocol.access import WATCH, WHO, Access
from tailrace.protocol.cursor import Cursor, parse
from tailrace.protocol.events import CONTROL_TYPES, TERMINAL_TYPES
from tailrace.protocol.lifecycle import ACTIVE
from tailrace.protocol.runs import RunQuery, check_run_id
from tailrace.protocol.sse import Decoder, ServerSentEvent, encode
from tailrace.subscription import Subscription

MAX_RUNS: Final = 64
_DISCOVER_SECONDS: Final = 1.0
# Taking events apart and framing them again is slow; between two slices others have a turn.
_SLICE_BYTES: Final = 32 * 1024
_POSITION: Final = r"run_[a-z2-7]{26}:[0-9.-]{1,40}"
_VECTOR: Final = re.compile(rf"([0-9]{{1,18}})~((?:{_POSITION}(?:,{_POSITION})*)?)", re.ASCII)


def chosen_runs(text: str | None) -> Sequence[str] | None:
    """The runs of `?runs=a,b`; None for all. Raises InputInvalid, RunUnknown."""
    if text is None:
        return None
    names = list(dict.fromkeys(text.split(",")))
    if len(names) > MAX_RUNS:
        raise InputInvalid(
            f"runs= names {len(names)} runs; one stream carries at most {MAX_RUNS}.",
            fix="Open a second stream for the rest.",
        )
    return [check_run_id(name) for name in names]


def positions(text: str) -> tuple[int, dict[str, Cursor]] | None:
    """A vector as (ordinal, cursors by run); None for the empty text of a first visit.

    Raises CursorMalformed.
    """
    if text in ("", "0"):
        return None
    match = _VECTOR.fullmatch(text)
    if match is None or text.count(":") > MAX_RUNS:
        raise CursorMalformed(
            f"{text[:60]!r} is not a cursor of many runs.",
            fix="Send back the last id of this very stream, or none.",
        )
    ordinal, listed = match.groups()
    pairs = (item.split(":") for item in listed.split(",") if item)
    return int(ordinal), {run: parse(cursor) for run, cursor in pairs}


class Many:
    """The joint feed of many runs: what `subscription.Subscription` is for one."""

    def __init__(
        self, engine: Engine, scope: Scope, names: Sequence[str] | None, vector: str
    ) -> None:
        """`scope`: of the request, in which it stands who asks."""
        self.end: End | None = None
        self._engine = engine
        self._scope = scope
        known: Access = scope[WHO]
        self._sees = known.sees
        self._names = names
        self._known = positions(vector)
        self._ordinal = 0 if self._known is None else self._known[0]
        self._cursors: dict[str, Cursor] = {}
        self._open: dict[str, contextlib.AsyncExitStack] = {}
        self._ready: deque[Subscription] = deque()
        self._telling: deque[tuple[str, Decoder, bytes]] = deque()
        self._aside: list[bytes] = []
        self._waiting: asyncio.Event = asyncio.Event()
        self._looked_at = float("-inf")

    @property
    def is_behind(self) -> bool:
        """Whether there is more to have at once."""
        return bool(self._ready or self._telling)

    @property
    def is_finished(self) -> bool:
        """Whether a client that comes back has every named run to its end."""
        return self._names is not None and self._known is not None and not self._known[1]

    def close(self, end: End) -> None:
        """Stop after what was already handed out."""
        self.end = self.end or end
        self._waiting.set()

    def interject(self, frame: bytes) -> None:
        """Send something that is no event."""
        self._aside.append(frame)
        self._waiting.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The chunks to send."""
        try:
            await self._join_first()
            while self.end is None:
                self._waiting.clear()
                await self._discover()
                if self._aside:
                    aside, self._aside = self._aside, []
                    yield b"".join(aside)
                elif self._telling:
                    frames = self._frames(*self._telling.popleft())
                    if frames:
                        yield frames
                elif self._ready:
                    await self._pull(self._ready.popleft())
                elif self._names is not None and not self._open:
                    self.end = End.FINISHED
                else:
                    await self._wait()
        finally:
            for stack in list(self._open.values()):
                await stack.aclose()

    async def _wait(self) -> None:
        if self._names is not None:
            await self._waiting.wait()
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.wait(), _DISCOVER_SECONDS)

    async def _join_first(self) -> None:
        if self._names is not None:
            for run in self._names:
                # Known, but not in the vector: the client has seen its end.
                if self._known is None or run in self._known[1]:
                    await self._join(run, self._known)
            return
        if self._known is None:
            newest = await self._engine.find(RunQuery(principal=self._sees, limit=1))
            query = RunQuery(principal=self._sees, states=ACTIVE, limit=MAX_RUNS, oldest_first=True)
            active = await self._engine.find(query)
            for record in active:
                await self._join(record.id, None)
            # Past the newest, unless some that go on found no room: those come later.
            self._ordinal = max(
                (r.ordinal for r in [*active, *(newest if len(active) < MAX_RUNS else ())]),
                default=0,
            )
            return
        for run in self._known[1]:
            with contextlib.suppress(RunUnknown):
                await self._engine.record(run, self._sees)
                await self._join(run, self._known)

    async def _discover(self) -> None:
        """Now and then, join the runs that were started since, while there is room for them:
        in their order, and the ordinal moves only past those that were joined.
        """
        now, room = time.monotonic(), MAX_RUNS - len(self._cursors)
        if self._names is not None or room <= 0 or now - self._looked_at < _DISCOVER_SECONDS:
            return
        self._looked_at = now
        # A stream has no end of its own, and may well outlive its key. A run has an end.
        self._sees = await self._again()
        query = RunQuery(principal=self._sees, since=self._ordinal, limit=room, oldest_first=True)
        for record in await self._engine.find(query):
            self._ordinal = record.ordinal
            await self._join(record.id, None)

    async def _again(self) -> str | None:
        """Whose runs are seen, now. Raises Unauthorized, ScopeMissing."""
        try:
            # On a copy: who holds the stream's seat stays as it was.
            access = await again(self._engine, {**self._scope})
        except HTTPException as error:
            raise Unauthorized(
                str(error.detail), fix="Come back with a key that is good."
            ) from error
        access.check(WATCH)
        return access.sees

    async def _join(self, run: str, known: tuple[int, dict[str, Cursor]] | None) -> None:
        cursor = Cursor(0, 0) if known is None else known[1].get(run, Cursor(0, 0))
        stack = contextlib.AsyncExitStack()
        subscription, start = await stack.enter_async_context(
            self._engine.hub.subscribe(run, cursor, stream("events"), woken=self._woken)
        )
        self._open[run] = stack
        self._cursors[run] = Cursor(cursor.epoch, start.after)
        self._ready.append(subscription)

    def _woken(self, subscription: Subscription) -> None:
        if subscription.end is End.SHUTDOWN:
            self.close(End.SHUTDOWN)
        elif subscription not in self._ready:
            self._ready.append(subscription)
            self._waiting.set()

    async def _pull(self, subscription: Subscription) -> None:
        chunk = await subscription.pull()
        if chunk:
            decoder = Decoder()
            self._telling.extend(
                (subscription.run, decoder, chunk[start : start + _SLICE_BYTES])
                for start in range(0, len(chunk), _SLICE_BYTES)
            )
            if subscription not in self._ready:
                # Perhaps there is more; the others first.
                self._ready.append(subscription)
        elif subscription.end is not None and subscription.run in self._open:
            await self._open.pop(subscription.run).aclose()

    def _frames(self, run: str, decoder: Decoder, wire: bytes) -> bytes:
        others = "".join(f"{name}:{at}," for name, at in self._cursors.items() if name != run)
        return b"".join(self._frame(run, event, others) for event in decoder.feed(wire))

    def _frame(self, run: str, event: ServerSentEvent, others: str) -> bytes:
        if event.event in CONTROL_TYPES:
            return encode(event.data, event=event.event)
        if event.event in TERMINAL_TYPES:
            del self._cursors[run]
            vector = others[:-1]
        else:
            self._cursors[run] = parse(event.id)
            vector = f"{others}{run}:{event.id}"
        data = b'{"run":"%b","id":"%b","data":%b}' % (
            run.encode(), event.id.encode(), event.data.encode(),
        )  # fmt: skip
        return encode(data, event=event.event, id=f"{self._ordinal}~{vector}")


class ManyStream(Streaming):
    """A response that streams many runs."""

    def __init__(
        self, engine: Engine, scope: Scope, names: Sequence[str] | None, vector: str
    ) -> None:
        super().__init__(engine.hub, Manner(stream("events")))
        self._feed = Many(engine, scope, names, vector)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if self._feed.is_finished:
            await problems.nothing()(scope, receive, send)
        else:
            try:
                await self.stream(self._feed, scope, receive, send)
            except TooManyRequests as error:
                await problems.response(error)(scope, receive, send)


__all__ = ["MAX_RUNS", "Many", "ManyStream", "chosen_runs", "positions"]

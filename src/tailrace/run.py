"""A run seen from inside (`RunContext`) and from outside (`Run`)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any, Protocol

from tailrace import time
from tailrace.errors import LogClosed, RunFailed, TailraceError
from tailrace.hub import Hub
from tailrace.outbox import Outbox
from tailrace.outlet import End
from tailrace.projections import stream
from tailrace.protocol import events
from tailrace.protocol.access import CANCEL, RUN, WATCH, Access
from tailrace.protocol.cursor import LATEST, Cursor, parse
from tailrace.protocol.events import Event, emitted
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord, snapshot
from tailrace.protocol.sse import Decoder
from tailrace.runners.contract import AMBIENT
from tailrace.voice import Voice, joined

if TYPE_CHECKING:
    from starlette.responses import Response

Ears = Callable[[Collection[str], int], Awaitable[Event]]
"""Answers the first event of one of the types after a number, once it is there."""


def current() -> RunContext:
    """The run whose work is calling. Raises LookupError outside of one."""
    run = AMBIENT.get(None)
    if isinstance(run, RunContext):
        return run
    raise LookupError("No run is going on here: current() works inside an operation.")


class RunContext(Voice):
    """What an operation gets: the means to tell, and to learn that it should stop.

    Take it as a parameter annotated `RunContext`, or from `tailrace.current()`. All of it
    may be used from any thread.
    """

    _ears: Ears | None = None

    def __init__(self, record: RunRecord, outbox: Outbox, ears: Ears | None = None) -> None:
        super().__init__()
        self.id = record.id
        self.operation = record.operation
        self.principal = record.principal
        self.thread = record.thread
        self.attempt = record.attempt
        self._outbox = outbox
        self._ears = ears

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        """Record an event. Cheap, and never awaits.

        The payload is a mapping, or any value (told as `{"value": …}`); `fields` are added
        to it. Raises EventInvalid, EventTooLarge; BufferFull if a coroutine emits 64 MiB
        without awaiting `drain()` or `ebb()`; RunEnded if the run was given up; RunCancelled
        once, in a thread, after a request to stop.
        """
        if self._stop.is_set() and self._outbox.is_foreign_thread:
            self._tell_once()
        if payload is None:
            payload = fields
        elif fields:
            payload = joined(payload, fields)
        self._outbox.put(emitted(type, payload, time.time()))

    async def ebb(self) -> None:
        """Wait only while too much is pending."""
        await self._outbox.ebb()

    async def drain(self) -> None:
        """Wait until every event emitted so far is durable, and so visible."""
        await self._outbox.drain()

    async def heard(self, type: str, /, *others: str, after: int = 0) -> Event:
        """Wait for an event of that type, or of one of the `others`, such as work elsewhere tells
        (`tailrace.attach`): the first one of the run, or the first after number `after`.

            queue.send(run.id)
            return (await run.heard("done")).payload["result"]

        Give the operation a `timeout`: work that dies elsewhere tells nothing. Raises
        TailraceError where nobody hears: in a process of its own, in the call of a tool.
        """
        if self._ears is None:
            raise TailraceError(
                f"Nobody here hears what is told of {self.id}.",
                fix="Await it in an operation that runs in the server's own process.",
            )
        return await self._ears({type, *others}, after)


class Host(Protocol):
    """What a `Run` needs of the engine."""

    @property
    def hub(self) -> Hub:
        """Live fan-out."""

    async def record(self, run: str, principal: str | None = None) -> RunRecord:
        """The snapshot. Raises RunUnknown, also for a run of another principal."""

    async def cancel(
        self, run: str, reason: str = "requested", principal: str | None = None
    ) -> RunRecord:
        """Ask the run to stop."""

    async def rerun(
        self, run: str, principal: str | None = None, owner: str | None = None
    ) -> RunRecord:
        """Start another run like it, for `owner`."""

    async def forget(self, run: str, principal: str | None = None) -> None:
        """Delete the run."""

    def respond(self, run: str, request: Any, who: Access | None = None) -> Response:
        """An HTTP response that streams the run."""


class Run:
    """A run that was started: watch it, wait for it, cancel it, run it again, answer with it.

    `who`: for whom it is handled. Then all of it raises RunUnknown for a run of somebody else, and
    ScopeMissing for what they may not; without it nobody is asked.
    """

    def __init__(self, id: str, host: Host, who: str | Access | None = None) -> None:
        self.id = id
        self._host = host
        self._who = Access.of(who) if isinstance(who, str) else who

    def __repr__(self) -> str:
        """`Run('run_…')`."""
        return f"Run({self.id!r})"

    async def record(self) -> RunRecord:
        """Its snapshot. Raises RunUnknown."""
        return await self._host.record(self.id, self._sees(WATCH))

    async def snapshot(self) -> dict[str, Any]:
        """Its snapshot in JSON's own types, as `GET /runs/{id}` answers it."""
        return snapshot(await self.record())

    async def cancel(self, reason: str = "requested") -> RunRecord:
        """Ask it to stop; it ends within its grace and a second."""
        return await self._host.cancel(self.id, reason, self._sees(CANCEL))

    async def rerun(self) -> Run:
        """Start another run with the same operation, input, timeout, abandon_after and thread. It
        belongs to whom this is handled for, else to this one's principal.

        Raises RunUnknown, OperationUnknown, ThreadBusy, and InputInvalid where the operation
        takes other input by now.
        """
        owner = self._who and self._who.principal
        record = await self._host.rerun(self.id, self._sees(RUN), owner)
        return Run(record.id, self._host, self._who)

    async def forget(self) -> None:
        """Delete it and its events, once it has ended. Raises RunUnknown, RunActive."""
        await self._host.forget(self.id, self._sees(CANCEL))

    async def events(self, after: int | str = 0) -> AsyncIterator[Event]:
        """Its events after a cursor (`"latest"`: from now on), history first, then live, up to
        the terminal one.

        A `gap` (events that are no longer kept) comes as an event with sequence number 0.
        Raises RunUnknown, CursorMalformed, CursorFromFuture; LogClosed if the engine is closed
        before the end.
        """
        cursor: Cursor | str = LATEST if after == LATEST else parse(str(after))
        if self._who is not None:
            await self.record()
        decoder = Decoder()
        async with self._host.hub.subscribe(self.id, cursor, stream("events")) as (reader, _):
            chunks = aiter(reader)
            async with contextlib.aclosing(chunks):  # type: ignore[type-var]
                async for chunk in chunks:
                    for told in decoder.feed(chunk):
                        seq = 0 if told.event in events.CONTROL_TYPES else parse(told.id).seq
                        yield Event(seq, told.event, told.data.encode())
            if reader.end is End.SHUTDOWN:
                raise LogClosed(
                    f"The engine was closed before {self.id} came to its end.",
                    fix="Start the engine again and watch from the last event you have.",
                )

    async def wait(self) -> RunRecord:
        """Wait for its end and answer the final snapshot."""
        async for _ in self.events(await self._last()):
            pass
        return await self.record()

    async def result(self) -> Any:
        """Wait for its end and answer what the operation returned. Raises RunFailed."""
        record = await self.wait()
        if record.state is not State.COMPLETED:
            told = events.loads(record.error) or {}
            raise RunFailed(
                f"{self.id} is {record.state}: {told.get('error', 'it was cancelled')}",
                state=record.state.value,
                run=self.id,
            )
        return events.loads(record.result)

    def response(self, request: Any) -> Response:
        """An HTTP response that streams this run; the client may leave and come back. Whatever is
        wrong is answered by it, as a problem: nothing is raised.
        """
        return self._host.respond(self.id, request, self._who)

    def _sees(self, scope: str) -> str | None:
        """Whose runs there are for this handle, if they may do such a thing; None: everybody's."""
        if self._who is None:
            return None
        self._who.check(scope)
        return self._who.sees

    async def _last(self) -> int:
        record = await self.record()
        # One back, so that the subscription is never a finished one that yields nothing.
        return max(record.first_seq - 1, record.last_seq - 1, 0)


__all__ = ["Host", "Run", "RunContext", "current"]

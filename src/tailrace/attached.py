"""A run whose work happens elsewhere: in a job of a queue, an activity, a script of cron."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import threading
import time
from collections.abc import AsyncIterable, Iterable
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from tailrace.client.courier import Courier
from tailrace.client.requests import Server
from tailrace.client.sender import Sender
from tailrace.errors import RunCancelled, RunEnded, TailraceError
from tailrace.protocol.events import emitted
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import check_run_id
from tailrace.runners.contract import AMBIENT, Sink
from tailrace.voice import Track, Voice, joined

if TYPE_CHECKING:
    import httpx2

Item = TypeVar("Item")

logger = logging.getLogger("tailrace.client")


def attach(
    url: str,
    run: str,
    *,
    token: str | None = None,
    producer: str | None = None,
    epoch: int = 0,
    attempt: int | None = None,
    patience: float | None = None,
    timeout: float | None = 30.0,
    http: httpx2.Client | None = None,
) -> Attachment:
    """Emit into a run of another process, each event once, through cuts and restarts.

        with tailrace.attach("http://127.0.0.1:4000", run_id) as run:
            run.log("hello")

    Or `async with`. `url`: the server, `http(s)://host[:port][/prefix]`. `token`: as of `Client`;
    it needs the scope `emit`. `http`: an httpx2.Client to send with, which stays open.

    `producer` names the work, in 1 to 100 characters, for when it is done twice: of what a producer
    of the same name and `epoch` tells again, from its first event on, what is kept already is
    dropped, so it must tell the same again. A higher `epoch` begins anew, and shuts out those
    below. By default the name is a random one. `attempt`: of the run (`run.attempt` where it was
    started); if another has taken its place, this one is shut out. None: for whichever.

    `patience`: for how many seconds it tries to get rid of an event; None for as long as the block
    lasts. `timeout`: how many seconds the end of the block waits for what is not kept yet.

    Raises RunUnknown for what is no id, and RequestError for another argument that cannot be used.
    """
    return Attachment(
        Server(url, token),
        check_run_id(run),
        Sender(
            secrets.token_hex(16) if producer is None else producer,
            epoch=epoch,
            attempt=attempt,
            patience=patience,
            now=time.monotonic(),
        ),
        timeout,
        http,
    )


class Attachment(Voice):
    """A run as work elsewhere sees it; made by `attach`.

    Within the block it is what `ProgressLogger`, `tqdm` and `RunLogs` tell. All of it may be used
    from any thread. It has a thread of its own, which sends.

    `cancelled` is true when the run is asked to stop, or over; within 5 seconds, or with the next
    events. Only `check`, `track` and `tqdm` raise RunCancelled then. That is no Exception, and not
    everybody's idea of an end: the block that is left by it raises RunEnded.
    """

    def __init__(
        self,
        server: Server,
        run: str,
        sender: Sender,
        timeout: float | None,
        http: httpx2.Client | None,
    ) -> None:
        super().__init__()
        self.id = run
        self._timeout = timeout
        self._courier = Courier(server, run, sender, self.request_stop, http)
        self._ambient: Token[Sink | None] | None = None
        self._loop_thread: int | None = None

    # --- the block -------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin. Nothing is waited for: what is wrong with the run is raised by what follows.

        Raises TailraceError the second time: each block takes an attachment of its own.
        """
        self._courier.begin()
        self._ambient = AMBIENT.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is not kept yet, `timeout` seconds at most.

        Raises what `flush` does, and RunEnded for a RunCancelled. Another error of the block goes
        on.
        """
        self._leave()
        try:
            self._courier.flush(self._timeout)
        except TailraceError as fault:
            self._judge(fault, error)
        finally:
            self._courier.close()
        self._translate(error)

    async def __aenter__(self) -> Self:
        """As `with`; but `emit` raises BufferFull where it would block the event loop."""
        self.__enter__()
        self._loop_thread = threading.get_ident()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """As `with`."""
        self._leave()
        try:
            await self._courier.drain(self._timeout)
        except TailraceError as fault:
            self._judge(fault, error)
        finally:
            await asyncio.to_thread(self._courier.close)
        self._translate(error)

    def _leave(self) -> None:
        if self._ambient is not None:
            # A framework may end a generator in another context than it began in.
            with contextlib.suppress(ValueError):
                AMBIENT.reset(self._ambient)

    def _judge(self, fault: TailraceError, error: BaseException | None) -> None:
        if error is None:
            raise fault
        if error is not fault:
            held = self._courier.held
            logger.warning("%s: some events are not kept (%d): %s", self.id, held, fault)

    def _translate(self, error: BaseException | None) -> None:
        if isinstance(error, RunCancelled) and self._is_told:
            # A worker of Celery would end by what is no Exception.
            raise RunEnded(
                f"The work for {self.id} has stopped, as it was asked to.",
                fix="Catch RunCancelled within the block, or RunEnded around it.",
                state=State.CANCELLING.value,
            ) from error

    # --- telling ---------------------------------------------------------------------

    def emit(self, type: str, payload: Any = None, /, **fields: Any) -> None:
        """Record an event, stamped with this process's clock. Cheap: it waits for no network.

        The payload is a mapping, or any value (told as `{"value": …}`); `fields` are added to it.
        With 100,000 events or 64 MiB that are not kept yet it blocks; on the event loop of
        `async with` it raises BufferFull instead, unless you `await run.ebb()` now and then.

        Once the run is over it is dropped. Raises EventInvalid, EventTooLarge; TailraceError
        outside of the block, and in a forked process; and why nothing more is taken: WriterFenced
        (a higher epoch, or another attempt, has taken this one's place), RunUnknown, Unauthorized,
        ScopeMissing, ProducerGap, and with `patience` ServerUnreachable.
        """
        if payload is None:
            payload = fields
        elif fields:
            payload = joined(payload, fields)
        may_wait = self._loop_thread is None or self._loop_thread != threading.get_ident()
        self._courier.put(emitted(type, payload, time.time()), may_wait=may_wait)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until every event emitted so far is durable, and so visible. Blocks.

        Raises what `emit` does; ServerUnreachable after `timeout` seconds; RunEnded if the run was
        over before, unless it was cancelled: who cleans up need not mind.
        """
        self._courier.flush(timeout)

    async def drain(self) -> None:
        """`flush`, for coroutines."""
        await self._courier.drain()

    async def ebb(self) -> None:
        """Wait only while too much is pending."""
        await self._courier.ebb()

    def track(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        description: str | None = None,
        total: int | None = None,
    ) -> Track[Item]:
        """Iterate (`for` or `async for`) and tell the progress, at most 20 times a second. Raises
        RunCancelled from the loop when the run should stop.
        """
        return Track(self, items, description, total, is_checked=True)


__all__ = ["Attachment", "attach"]

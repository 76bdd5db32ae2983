"""A run's work, ready to be awaited: in this process, or in one of its own."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any, cast

from tailrace.operations import Operation
from tailrace.outbox import Outbox
from tailrace.protocol.runs import RunRecord
from tailrace.run import RunContext
from tailrace.runners import function, process
from tailrace.runners.child import Uplink, Work
from tailrace.runners.process import Address


def working(
    operation: Operation[..., Any], record: RunRecord, context: RunContext, outbox: Outbox
) -> Coroutine[Any, Any, Any]:
    """The work of the run `record`, whose events go into `outbox`.

    Raises InputInvalid, or what the input's own validators raise; ProcessFailed if a process
    of its own would find another function there.
    """
    if operation.address is None:
        return _here(operation, record, context)
    operation.address.check(operation.function)
    return process.run(partial(_there, operation.address, record), outbox, record.id)


def _here(
    operation: Operation[..., Any], record: RunRecord, context: RunContext
) -> Coroutine[Any, Any, Any]:
    call = operation.bind(record.input, context)
    return function.run(operation.kind, call, context, f"tailrace-{record.operation}")


def _there(address: Address, record: RunRecord, uplink: Uplink) -> tuple[RunContext, Work]:
    found = address.find()
    # A function that was registered without `@` is there as it was defined.
    operation = found if isinstance(found, Operation) else Operation(found, _never)
    # What a context asks of its outbox, an uplink does as well.
    context = RunContext(record, cast("Outbox", uplink))

    async def work() -> Any:
        with context.entered():
            return await _here(operation, record, context)

    return context, work


async def _never(*_: object) -> None:
    raise NotImplementedError

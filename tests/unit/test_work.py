from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tailrace.errors import InputInvalid
from tailrace.operations import Operation
from tailrace.outbox import Outbox
from tailrace.protocol.events import Draft
from tailrace.protocol.runs import RunRecord
from tailrace.run import RunContext, current
from tailrace.runners.child import ProcessFailed
from tailrace.runners.process import Address
from tailrace.testing.logbook import new_run
from tailrace.work import _never, _there, working
from tests.apps import heavy

pytestmark = pytest.mark.anyio


class Near(Outbox):
    """An outbox without a log."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []

    def put(self, draft: Draft) -> None:
        self.drafts.append(draft)

    @property
    def is_foreign_thread(self) -> bool:
        return False


def record(input: bytes = b"{}") -> RunRecord:
    return new_run(operation="crunch", input=input)


async def crunch(run: RunContext, rows: int = 3) -> int:
    run.emit("row", rows=rows)
    return rows


def known(**given: Any) -> Operation[..., Any]:
    return Operation(crunch, _never, **given)


async def test_work_is_done_here() -> None:
    outbox, run = Near(), record(b'{"rows": 7}')
    assert await working(known(), run, RunContext(run, outbox), outbox) == 7
    assert [draft.type for draft in outbox.drafts] == ["row"]


async def test_input_is_checked_before_anything_begins() -> None:
    outbox, run = Near(), record(b'{"rows": "many"}')
    with pytest.raises(InputInvalid):
        await working(known(), run, RunContext(run, outbox), outbox)


async def test_a_process_that_would_run_another_function_is_not_started() -> None:
    outbox, run = Near(), record()
    operation = known(process=True)
    operation.address = Address("tests.apps.heavy", "firehose")
    with pytest.raises(ProcessFailed):
        await working(operation, run, RunContext(run, outbox), outbox)


@pytest.mark.parametrize(
    ("name", "input", "result"),
    [("function", b'{"text": "a"}', "a"), ("aside", b'{"number": 1}', 2)],
)
async def test_there_the_run_has_its_context_as_well(name: str, input: bytes, result: Any) -> None:
    outbox: Any = Near()
    context, work = _there(Address("tests.apps.heavy", name), record(input), outbox)
    assert isinstance(context, RunContext)
    with pytest.raises(LookupError):
        current()
    answer = await asyncio.create_task(work())
    assert result in (answer, answer[0] if isinstance(answer, tuple) else None)
    assert [draft.type for draft in outbox.drafts] == (["log"] if name == "function" else [])


def test_an_operation_knows_where_it_is_found() -> None:
    assert heavy.function.address == Address("tests.apps.heavy", "function")
    assert known().address is None

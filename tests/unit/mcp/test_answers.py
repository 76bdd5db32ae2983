from typing import Any

import pytest

from tailrace import RunContext, Tailrace
from tailrace.errors import InputInvalid, PathForbidden
from tailrace.mcp import answers
from tailrace.protocol.events import to_json
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tests.callers import text

ID = "run_" + "a" * 26


def record(**changes: Any) -> RunRecord:
    return RunRecord(id=ID, operation="work", principal="ann", created_at=1.0, **changes)


def link(run: str) -> str:
    return f"https://here/{run}"


@pytest.mark.parametrize(
    ("value", "said", "structured"),
    [
        ({"rows": 3}, '{"rows":3}', {"rows": 3}),
        ("plain", "plain", None),
        ([1, 2], "[1,2]", {"result": [1, 2]}),
        (None, "", None),
        (0, "0", {"result": 0}),
        ({"result": "plain"}, "plain", {"result": "plain"}),
        ([{"type": "text", "text": "a block"}], "a block", None),
        # It only looks like one.
        ([{"type": "text", "words": 3}], '[{"type":"text","words":3}]', None),
    ],
)
def test_a_result(value: Any, said: str, structured: Any) -> None:
    told = answers.ended(record(state=State.COMPLETED, result=to_json(value)), link)
    assert text(told) == said
    assert told.structured_content == structured
    assert not told.is_error
    assert told.meta == {"tailrace/run": ID, "tailrace/link": f"https://here/{ID}"}


def test_a_failure_says_why_and_where_to_look() -> None:
    failed = record(state=State.FAILED, error=to_json({"error": "No disk", "type": "OSError"}))
    told = answers.ended(failed, link)
    assert told.is_error
    assert text(told) == f"No disk ({ID}, https://here/{ID})"
    assert told.meta == {"tailrace/run": ID, "tailrace/link": f"https://here/{ID}"}


def test_a_cancelled_run_has_no_error_of_its_own() -> None:
    told = answers.ended(record(state=State.CANCELLED), None)
    assert told.is_error
    assert text(told) == f"The run was cancelled. ({ID})"


def test_without_a_link_there_is_none() -> None:
    assert answers.meta(ID, None) == {"tailrace/run": ID}


def test_what_is_refused_is_told_for_a_model() -> None:
    schema = answers.refused(InputInvalid("rows: too many.", fix="GET /operations shows it."))
    assert text(schema) == "rows: too many."
    path = answers.refused(PathForbidden("Not there.", fix="Name one below a root."))
    assert text(path) == "Not there. Name one below a root."
    assert schema.is_error
    assert path.is_error


def test_a_snapshot_leads_to_the_page_and_not_to_paths_of_elsewhere() -> None:
    assert answers.shown(record(), link)["link"] == f"https://here/{ID}"
    assert answers.shown(record(), None).keys().isdisjoint({"link", "links"})


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (0, ""),
        (3, "line 0\nline 1\nline 2\n"),
    ],
)
async def test_what_a_program_wrote_comes_first(lines: int, told: str) -> None:
    async with Tailrace("memory:") as runs:

        @runs.operation
        async def work(run: RunContext) -> int:
            for number in range(lines):
                run.output(f"line {number}\n")
                run.log("not output")
            return lines

        record = await (await work.start()).wait()
        assert await answers.written(runs.log, record) == told
        whole = answers.ended(record, link, told)
        assert text(whole) == (f"{told}\n{lines}" if told else f"{lines}")


@pytest.mark.anyio
@pytest.mark.parametrize(("lines", "length"), [(2000, 10), (300, 200)])
async def test_of_much_output_there_is_the_end(lines: int, length: int) -> None:
    async with Tailrace("memory:") as runs:

        @runs.operation
        async def work(run: RunContext) -> None:
            for number in range(lines):
                run.output(f"{number:{length}}\n")
                await run.drain()

        record = await (await work.start()).wait()
        told = await answers.written(runs.log, record)
        assert told.startswith("[the last of its output; run_events has all of it]\n")
        assert told.endswith(f"{lines - 1:{length}}\n")
        assert len(told) <= answers.OUTPUT_BYTES + 100

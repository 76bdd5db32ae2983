from __future__ import annotations

from typing import Any

import httpx2
import pytest
from mcp import MCPError
from mcp_types import CONNECTION_CLOSED, INVALID_PARAMS, CallToolResult
from pydantic import ValidationError

from tailrace.errors import BufferFull, RunLost, ServerUnreachable, TailraceError
from tailrace.mcp.address import address
from tailrace.mcp.faults import MAX_SAID, ToolFailed, fault, is_unsent, leaves

MARKET = address("market", {"url": "http://127.0.0.1:4100/mcp?key=hunter2"})

REFUSED = httpx2.ConnectError("All connection attempts failed")
CUT = MCPError(CONNECTION_CLOSED, "SSE stream ended without a response")


def grouped(*errors: BaseException) -> BaseExceptionGroup[BaseException]:
    """As task groups in task groups raise them."""
    return BaseExceptionGroup("inner", [BaseExceptionGroup("unhandled", list(errors))])


def invalid() -> ValidationError:
    with pytest.raises(ValidationError) as raised:
        CallToolResult.model_validate({"content": "hunter2"})
    return raised.value


@pytest.mark.parametrize("wrap", [grouped, lambda error: error])
@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (REFUSED, ServerUnreachable, "does not answer at http://127.0.0.1:4100/mcp."),
        (httpx2.ConnectTimeout(""), ServerUnreachable, "does not answer"),
        (TimeoutError(), ServerUnreachable, "does not answer"),
        (FileNotFoundError(2, "No such file", "it"), ServerUnreachable, "started: No such file."),
        (CUT, RunLost, "gone before news had answered: SSE stream ended without"),
        (httpx2.ReadError(""), RunLost, "gone before news had answered: ReadError."),
        (httpx2.ReadTimeout(""), RunLost, "has sent nothing for 300 s"),
        (MCPError(INVALID_PARAMS, "Unknown tool."), ToolFailed, "refused news: Unknown tool."),
        (RuntimeError("Invalid structured content"), ToolFailed, "with Invalid structured content"),
        (invalid(), ToolFailed, "with something that is no result"),
    ],
)
def test_each_is_told_as_it_concerns_a_run(
    error: BaseException, kind: type[TailraceError], said: str, wrap: Any
) -> None:
    told = fault(wrap(error), MARKET, "news")
    assert type(told) is kind
    assert said in str(told)
    assert "market" in str(told)
    assert "hunter2" not in f"{told} {told.fix}"


def test_what_is_nearest_to_the_cause_is_told() -> None:
    both = grouped(MCPError(INVALID_PARAMS, "Connection closed"), httpx2.ReadTimeout(""))
    assert "sent nothing" in str(fault(both, MARKET, "news"))


def test_our_own_errors_stay_what_they_are() -> None:
    ours = BufferFull("Too much.")
    assert fault(grouped(CUT, ours), MARKET, "news") is ours


def test_what_an_upstream_says_has_bounds() -> None:
    long = fault(MCPError(INVALID_PARAMS, "x" * 10**6), MARKET, "news")
    assert len(str(long)) < MAX_SAID + 100


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (REFUSED, True),
        (grouped(REFUSED, httpx2.ConnectError("")), True),
        (grouped(REFUSED, CUT), False),
        (httpx2.ConnectTimeout(""), False),
        (httpx2.ReadError(""), False),
        (CUT, False),
    ],
)
def test_only_what_never_left_may_be_tried_again(error: BaseException, expected: bool) -> None:
    assert is_unsent(error) is expected


def test_leaves() -> None:
    assert list(leaves(grouped(CUT, grouped(REFUSED)))) == [CUT, REFUSED]
    assert list(leaves(CUT)) == [CUT]

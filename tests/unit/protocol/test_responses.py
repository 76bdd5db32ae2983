from __future__ import annotations

from typing import Any

import pytest

from tailrace.errors import CursorMalformed, RunUnknown
from tailrace.protocol import responses
from tailrace.protocol.cursor import Cursor
from tailrace.protocol.events import to_json
from tailrace.protocol.lifecycle import State
from tailrace.protocol.runs import RunRecord
from tests.turns import RUN, THREAD, TOOLS

PARTS: list[dict[str, Any]] = TOOLS[-1][1]["result"]["parts"]
NAME = RUN.removeprefix("run_")


def record(state: State, result: Any = None, **more: Any) -> RunRecord:
    return RunRecord(
        id=RUN,
        operation="chat",
        principal="ada",
        created_at=1_700_000_000.9,
        state=state,
        input=to_json({"message": "Hello", "model": "openai:asked"}),
        result=None if result is None else to_json(result),
        **more,
    )


def test_a_response_is_called_as_its_run() -> None:
    assert responses.response_id(RUN) == f"resp_{NAME}"
    assert responses.run_of(f"resp_{NAME}") == RUN


@pytest.mark.parametrize("text", ["", "resp_", RUN, NAME, f"resp_{RUN}", f"resp_{NAME}x", "x" * 99])
def test_what_is_no_response_is_no_run(text: str) -> None:
    with pytest.raises(RunUnknown) as unknown:
        responses.run_of(text)
    assert len(str(unknown.value)) < 140


def test_a_sequence_number_says_where_to_go_on() -> None:
    for seq, frame in ((1, 1), (57, 2), (10**15, 9)):
        number = responses.sequence_number(seq, frame)
        assert responses.cursor_after(number) == Cursor(0, seq, frame)
    assert responses.cursor_after(0).complete == 0
    with pytest.raises(CursorMalformed, match="-1"):
        responses.cursor_after(-1)


def test_the_items_of_a_turn() -> None:
    first, counted, failed, last = responses.output(RUN, [{"type": "new"}, *PARTS])
    assert first == {
        "id": f"msg_{NAME}_1_0",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}
        ],
    }
    assert counted == {
        "id": f"mcp_{NAME}_1_1",
        "type": "mcp_call",
        "server_label": "tailrace",
        "name": "count_employees",
        "arguments": '{"department":"Sales"}',
        "status": "completed",
        "output": '{"department":"Sales","count":12}',
    }
    assert failed["status"] == "failed"
    assert "output" not in failed
    assert failed["error"] == {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": "There is no department Moon."}],
    }
    assert last["id"] == f"msg_{NAME}_2_0"


def test_a_thought_is_an_item() -> None:
    (item,) = responses.output(RUN, [{"type": "thinking", "part": "1.0", "text": "Hm."}])
    assert item == {
        "id": f"rs_{NAME}_1_0",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Hm."}],
        "status": "completed",
    }


@pytest.mark.parametrize(
    ("state", "status"),
    [
        (State.QUEUED, "queued"),
        (State.RUNNING, "in_progress"),
        (State.CANCELLING, "in_progress"),
        (State.CANCELLED, "cancelled"),
    ],
)
def test_a_response_that_has_no_result(state: State, status: str) -> None:
    told = responses.response(record(state, thread=THREAD))
    assert told == {
        "id": f"resp_{NAME}",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": status,
        "background": True,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": "openai:asked",
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "conversation": {"id": THREAD},
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
        "output": [],
    }


def test_every_state_has_a_word() -> None:
    assert set(responses.STATUSES) == set(State)


def test_a_response_that_is_complete() -> None:
    done = record(State.COMPLETED, TOOLS[-1][1]["result"], ended_at=1_700_000_009.5)
    told = responses.response(done)
    assert told["status"] == "completed"
    assert told["completed_at"] == 1_700_000_009
    # The model that answered, not the one that was asked for.
    assert told["model"] == "openai:gpt-x"
    assert told["conversation"] is None
    assert told["output"] == responses.output(RUN, PARTS)
    assert told["usage"] == {
        "input_tokens": 24,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 10,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 34,
    }


@pytest.mark.parametrize("state", [State.FAILED, State.TIMED_OUT, State.LOST])
def test_a_response_that_failed_says_why(state: State) -> None:
    told = responses.response(record(state, error=to_json({"error": "It broke."})))
    assert told["status"] == "failed"
    assert told["error"] == {"code": "server_error", "message": "It broke."}
    silent = responses.response(record(state))
    assert silent["error"]["message"] == "The run failed."


def test_the_parts_of_a_turn_that_did_not_complete() -> None:
    told = responses.response(record(State.CANCELLED), PARTS[:1])
    assert [item["type"] for item in told["output"]] == ["message"]


@pytest.mark.parametrize(
    ("result", "texts"), [(None, []), ("Done.", ["Done."]), ({"rows": 3}, ['{"rows":3}'])]
)
def test_a_run_that_is_no_turn_answers_in_a_message(result: Any, texts: list[str]) -> None:
    told = responses.response(record(State.COMPLETED, result))
    assert [item["content"][0]["text"] for item in told["output"]] == texts
    assert told["usage"] is None
    assert told["completed_at"] is None


def test_parts_that_are_none_are_left_out() -> None:
    assert responses.outcome(RUN, {"parts": ["x", None]}) == []


def test_counts_that_are_none_are_nothing() -> None:
    told = responses.usage({"input_tokens": True, "output_tokens": "5"})
    assert told is not None
    assert told["total_tokens"] == 0


def test_a_model_that_is_not_known_has_a_name_all_the_same() -> None:
    nothing: list[Any] = [None, [], {}, {"model": None}, {"model": ""}]
    for said in nothing:
        assert responses.model_of(said) is None
    assert responses.envelope(RUN, "queued", created_at=0, model=None)["model"] == "chat"

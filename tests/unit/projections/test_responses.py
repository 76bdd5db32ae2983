from __future__ import annotations

import itertools
from typing import Any, cast

import orjson
import pytest
from openai import omit
from openai._models import construct_type_unchecked
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tailrace.projections import stream
from tailrace.projections.responses import Responses
from tailrace.projections.rest import resting
from tailrace.protocol import agent
from tailrace.protocol.cursor import parse
from tailrace.protocol.responses import FRAMES, cursor_after
from tailrace.protocol.sse import Decoder
from tests.turns import (
    CANCELLED_IN_TEXT,
    FAILED,
    PLAIN,
    RUN,
    SCRIPT,
    THINKING,
    TOOLS,
    TURNS,
    WAITED,
    Turn,
    block,
    blocks,
    start,
)

Json = dict[str, Any]

SCHEMA: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

all_turns = pytest.mark.parametrize("turn", [*TURNS.values(), SCRIPT], ids=[*TURNS, "script"])


def wire(turn: Turn, size: int | None = None, epoch: int = 0) -> bytes:
    return b"".join(Responses().tell(some, None) for some in blocks(turn, size, epoch=epoch))


def told(turn: Turn) -> list[Json]:
    return [orjson.loads(event.data) for event in Decoder().feed(wire(turn))]


def named(turn: Turn, name: str) -> list[Json]:
    return [event for event in told(turn) if event["type"] == name]


def accumulated(turn: Turn) -> Any:
    """What the official client makes of it: the response of the last event."""
    state: Any = ResponseStreamState(input_tools=[], text_format=omit)
    last = None
    for event in told(turn):
        model: Any = construct_type_unchecked(value=event, type_=cast("Any", ResponseStreamEvent))
        for made in state.handle_event(model):
            last = made
    return last


@all_turns
def test_numbers_rise_and_are_those_of_the_ids(turn: Turn) -> None:
    events = Decoder().feed(wire(turn))
    numbers = []
    for event in events:
        said = orjson.loads(event.data)
        assert event.event == said["type"]
        numbers.append(said["sequence_number"])
        seq, frame = divmod(said["sequence_number"], FRAMES)
        assert frame > 0
        at = parse(event.id)
        assert at.seq == seq
        assert at.frame in (frame, None)
    assert numbers == sorted(set(numbers))


@all_turns
def test_whoever_comes_back_with_a_number_gets_the_rest(turn: Turn) -> None:
    whole = told(turn)
    for cut, event in enumerate(whole, 1):
        at = cursor_after(event["sequence_number"])
        rest = [some.after(at.complete) for some in blocks(turn, 4) if some.last > at.complete]
        projection = resting(Responses(), at)
        again = Decoder().feed(b"".join(projection.tell(some, None) for some in rest))
        assert [orjson.loads(frame.data) for frame in again] == whole[cut:]


@all_turns
def test_what_is_told_does_not_depend_on_the_blocks(turn: Turn) -> None:
    whole = wire(turn)
    assert wire(turn, 1) == whole
    assert wire(turn, 3) == whole
    assert b"\r" not in whole


@all_turns
def test_it_is_what_the_reference_says(turn: Turn) -> None:
    for event in told(turn):
        if event["type"] in ("response.failed", "response.incomplete"):
            # Left out, so that a client keeps what it has seen.
            assert "output" not in event["response"]
            event["response"]["output"] = []
        SCHEMA.validate_python(event)


@all_turns
def test_every_event_of_an_item_finds_it(turn: Turn) -> None:
    items: list[Json] = []
    for event in told(turn):
        if event["type"] == "response.output_item.added":
            # Some clients take the index for the place in a list.
            assert event["output_index"] == len(items)
            items.append(event["item"])
        elif "output_index" in event:
            named = event["item"]["id"] if "item" in event else event["item_id"]
            assert items[event["output_index"]]["id"] == named


@pytest.mark.parametrize("turn", [PLAIN, TOOLS, THINKING], ids=["plain", "tools", "thinking"])
def test_what_is_done_is_what_the_end_has(turn: Turn) -> None:
    done = {one["output_index"]: one["item"] for one in named(turn, "response.output_item.done")}
    final = told(turn)[-1]["response"]["output"]
    assert [done[index] for index in sorted(done)] == final


@all_turns
def test_what_is_begun_is_done_once(turn: Turn) -> None:
    opened, closed = [], []
    for event in told(turn):
        change = event["type"].rpartition(".")[2]
        if change == "added":
            opened.append((event["type"].removesuffix(".added"), event["output_index"]))
        elif change == "done" and event["type"] in (
            "response.output_item.done", "response.content_part.done",
        ):  # fmt: skip
            closed.append((event["type"].removesuffix(".done"), event["output_index"]))
    if turn in (TURNS["lost"], TURNS["lost_in_text"], TURNS["lost_stopping"]):
        assert set(closed) < set(opened)
    else:
        assert sorted(closed) == sorted(opened)


def test_a_text_is_done_as_a_whole() -> None:
    text, part, item = [event for event in told(TOOLS) if event.get("output_index") == 0][-3:]
    assert [event["type"] for event in (text, part, item)] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
    ]  # fmt: skip
    assert text["text"] == part["part"]["text"] == "Let me look."
    assert item["item"]["content"] == [part["part"]]
    assert item["item"]["status"] == "completed"


def test_a_text_that_is_not_repeated_is_done_in_the_end() -> None:
    cut = [(type_, {k: v for k, v in said.items() if k != "text"}) if type_ == agent.TEXT_END
           else (type_, said) for type_, said in PLAIN]  # fmt: skip
    assert [event["type"] for event in told(cut) if event["type"].endswith(".done")] == []
    assert accumulated(cut).response.output_text == "Hello, wörld 👋\ndata: x"


@pytest.mark.parametrize(
    ("turn", "text"),
    [(PLAIN, "Hello, wörld 👋\ndata: x"), (TOOLS, "Let me look.Twelve people.")],
    ids=["plain", "tools"],
)
def test_deltas_and_the_end_say_the_same(turn: Turn, text: str) -> None:
    deltas = "".join(event["delta"] for event in named(turn, "response.output_text.delta"))
    (done,) = named(turn, "response.completed")
    said = [item["content"] for item in done["response"]["output"] if item["type"] == "message"]
    assert deltas == "".join(content["text"] for (content,) in said) == text


def test_the_official_client_keeps_what_a_cancelled_turn_said() -> None:
    last = accumulated(CANCELLED_IN_TEXT)
    assert (last.type, last.response.status) == ("response.incomplete", "cancelled")
    assert last.response.output_text == "Hello"


def test_the_official_client_keeps_what_a_failed_turn_said() -> None:
    last = accumulated(FAILED)
    assert last.response.error.message == "The model said 500."
    assert last.response.output_text == "Hello"


def test_calls_are_items_and_their_ends_are_told() -> None:
    added = [event["item"] for event in named(TOOLS, "response.output_item.added")]
    calls = [item for item in added if item["type"] == "mcp_call"]
    assert [(item["name"], item["arguments"]) for item in calls] == [
        ("count_employees", ""),
        ("average_salary", ""),
    ]
    assert all(item["server_label"] == "tailrace" for item in calls)
    first, second = (item["id"] for item in calls)
    arguments = named(TOOLS, "response.mcp_call_arguments.done")
    assert [event["arguments"] for event in arguments] == [
        '{"department":"Sales"}',
        '{"department":"Moon"}',
    ]
    ends = [
        (event["type"].rpartition(".")[2], event["item_id"])
        for event in told(TOOLS)
        if event["type"].startswith("response.mcp_call.")
    ]
    assert ends == [
        ("in_progress", first),
        ("in_progress", second),
        ("failed", second),
        ("completed", first),
    ]
    done = {
        event["item"]["id"]: event["item"]
        for event in named(TOOLS, "response.output_item.done")
        if event["item"]["type"] == "mcp_call"
    }
    assert list(done) == [second, first]
    assert (done[first]["status"], done[first]["arguments"], done[first]["output"]) == (
        "completed", '{"department":"Sales"}', '{"department":"Sales","count":12}',
    )  # fmt: skip
    assert done[second]["status"] == "failed"
    assert done[second]["error"]["content"][0]["text"] == "There is no department Moon."


def test_one_id_in_two_iterations_is_two_calls() -> None:
    again = [
        (agent.TOOL_DETECTED, {"part": part, "item": item, "id": "same", "name": "count"})
        for item, part in enumerate(("1.0", "2.0"))
    ]
    one, other = named([start(), *again], "response.output_item.added")
    assert one["output_index"] != other["output_index"]
    assert one["item"]["id"] != other["item"]["id"]


def test_a_turn_that_waits_is_queued_first() -> None:
    kinds = [(event["type"], event["response"]["status"]) for event in told(WAITED)[:3]]
    assert kinds == [
        ("response.created", "queued"),
        ("response.queued", "queued"),
        ("response.in_progress", "in_progress"),
    ]


def test_the_model_is_named_as_soon_as_it_is_known() -> None:
    models = [event["response"]["model"] for event in told(PLAIN) if "response" in event]
    assert models == ["chat", "chat", "openai:gpt-x", "openai:gpt-x"]
    asked = [("start", {"input": {"model": "demo"}}), PLAIN[-1]]
    assert told(asked)[0]["response"]["model"] == "demo"


def test_the_conversation_is_the_thread() -> None:
    whole = [event["response"] for event in told(PLAIN) if "response" in event]
    assert [one["conversation"] for one in whole] == [{"id": "thread-1"}] * 4
    assert whole[0]["id"] == f"resp_{RUN.removeprefix('run_')}"


@pytest.mark.parametrize(
    ("type_", "payload"),
    [
        (agent.TEXT_START, {}),
        (agent.TEXT_START, {"part": "1.0"}),
        (agent.TEXT_START, {"part": "1.0", "item": True}),
        (agent.TEXT_START, {"part": "1.0", "item": -1}),
        (agent.TEXT_CHUNK, {"part": "1.0", "item": 0, "chunk": 5}),
        (agent.TOOL_DETECTED, {"part": 1, "item": 0, "id": "a", "name": "b"}),
        (agent.TOOL_PROGRESS, {"part": "1.0", "item": 0, "name": "a", "status": "paused"}),
        (agent.TOOL_PROGRESS, {"name": "a", "status": "executing"}),
        ("own", {"part": "1.0"}),
    ],
)
def test_what_is_no_word_of_an_agent_is_not_told(type_: str, payload: Json) -> None:
    assert [event["type"] for event in told([start(), (type_, payload)])] == [
        "response.created",
        "response.in_progress",
    ]


def test_a_filter_keeps_the_end() -> None:
    (event,) = Decoder().feed(Responses().tell(block(PLAIN), frozenset()))
    assert event.event == "response.completed"


def test_ids_have_their_epoch() -> None:
    ids = [event.id for event in Decoder().feed(wire(PLAIN, epoch=2))]
    assert ids[:3] == ["2-1.1", "2-1", "2-2"]


def test_no_event_has_more_frames_than_a_number_can_tell() -> None:
    for turn in TURNS.values():
        numbers = [event["sequence_number"] // FRAMES for event in told(turn)]
        assert max(len(list(same)) for _, same in itertools.groupby(numbers)) < FRAMES - 1


@pytest.mark.parametrize(
    ("type_", "payload", "message"),
    [
        ("gap", {"from": 1, "to": 5}, "Events 1 to 5 are no longer kept."),
        ("reset", {"from": 3, "to": 4}, "Events 3 to 4 are no longer kept."),
        ("error", {"detail": "Too long."}, "Too long."),
        ("error", {}, "The stream broke off."),
    ],
)
def test_what_is_missing_is_an_error(type_: str, payload: Json, message: str) -> None:
    (event,) = Decoder().feed(Responses().control(type_, payload))
    assert (event.id, event.event) == ("", "error")
    said = orjson.loads(event.data)
    assert said["message"] == message
    SCHEMA.validate_python(said)


def test_a_tick_is_nothing() -> None:
    assert Responses().control("tick", {"elapsed_seconds": 2}) == b""


def test_it_is_found_by_its_name() -> None:
    assert isinstance(stream("responses"), Responses)

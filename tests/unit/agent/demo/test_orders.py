from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace.agent.demo.orders import MAX_CALLS, obey, ordered
from tailrace.agent.demo.step import Call, Outcome

TOOLS = ["report", "list_months", "get.it", "me"]


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ('call report {"month": 5}', [[("report", {"month": 5})]]),
        ("use report", [[("report", {})]]),
        ("Use the tool `report`.", [[("report", {})]]),
        ("please use the report tool", [[("report", {})]]),
        (
            'run report with {"a": [1, {"b": "}"}]} and so on',
            [[("report", {"a": [1, {"b": "}"}]})]],
        ),
        ('call report: {"a": "ü\\n"}', [[("report", {"a": "ü\n"})]]),
        ('call report {\n  "month": 5\n}', [[("report", {"month": 5})]]),
        ("call report\nuse list_months", [[("report", {}), ("list_months", {})]]),
        ("- call report\n- call report", [[("report", {}), ("report", {})]]),
        ("call report\nthen call list_months", [[("report", {})], [("list_months", {})]]),
        ("then call report", [[("report", {})]]),
        ("Try it:\ncall get.it\nthank you", [[("get.it", {})]]),
        ("call me", [[("me", {})]]),
    ],
)
def test_orders(text: str, stages: list[list[tuple[str, dict[str, object]]]]) -> None:
    found = ordered(text, TOOLS)
    assert found is not None
    assert [[tuple(call) for call in stage] for stage in found.stages] == stages
    assert found.problems == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "call me maybe",
        "call mum",
        "use Python to write it",
        "what does the call report say?",
        "I use report",
        "list the months",
    ],
)
def test_no_orders(text: str) -> None:
    assert ordered(text, TOOLS) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("call no_such", "There is no tool `no_such`."),
        ("call nothing {}", "There is no tool `nothing`."),
        ("call report {5}", "What follows `report` is no JSON"),
        ("call report {", "What follows `report` is no JSON"),
        ('call report {"a":' + "[" * 100_000, "What follows `report` is no JSON"),
    ],
)
def test_orders_that_cannot_be_obeyed(text: str, problem: str) -> None:
    found = ordered(text, TOOLS)
    assert found is not None
    assert found.stages == ()
    answer = obey(found, [], TOOLS)
    assert answer.calls == ()
    assert problem in answer.text
    assert "get.it, list_months, me, report" in answer.text


def test_not_more_calls_than_are_sensible() -> None:
    found = ordered("call report\n" * 100, TOOLS)
    assert found is not None
    assert len(found.stages[0]) == MAX_CALLS
    assert found.problems == (f"I call no more than {MAX_CALLS} in a turn.",)


def test_one_stage_after_the_other_and_then_the_answer() -> None:
    found = ordered("call report\nthen use list_months", TOOLS)
    assert found is not None
    first = obey(found, [], TOOLS)
    assert first.calls == (Call("report", {}),)
    rounds = [[Outcome("report", {}, "It *rains*.")]]
    assert obey(found, rounds, TOOLS).calls == (Call("list_months", {}),)
    rounds.append([Outcome("list_months", {}, "no", failed=True)])
    answer = obey(found, rounds, TOOLS)
    assert answer.calls == ()
    assert answer.text == (
        "`report` answered:\n\n```\nIt *rains*.\n```\n\n`list_months` failed: no"
    )


def test_what_tools_answer_stays_within_its_fence() -> None:
    found = ordered("call report", TOOLS)
    assert found is not None
    text = obey(found, [[Outcome("report", {}, "```\n<b>")]], TOOLS).text
    assert text.endswith("````\n```\n<b>\n````")
    long = obey(found, [[Outcome("report", {}, {"a": "x" * 9000})]], TOOLS).text
    assert len(long) < 2500
    assert "characters more" in long
    assert '"a": {' in obey(found, [[Outcome("report", {}, {"a": {"ü": 1}})]], TOOLS).text


@given(st.text(), st.lists(st.text(max_size=10)))
def test_anything_can_be_said(text: str, tools: list[str]) -> None:
    found = ordered(text, tools)
    assert found is None or found.stages or found.problems


@pytest.mark.parametrize(
    "piece", [" ", "use x ", "call ", "use x\t", "\n", "then ", "use x {", "`"]
)
def test_no_text_keeps_it_busy(piece: str) -> None:
    begun = time.process_time()
    ordered("use x " + piece * 100_000, TOOLS)
    assert time.process_time() - begun < 2

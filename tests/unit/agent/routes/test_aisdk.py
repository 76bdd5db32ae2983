from __future__ import annotations

from typing import Any

import pytest

from tests.parlour import Parlour, opened, run_of, told

pytestmark = pytest.mark.anyio

HERE = "/api/chat"


def user(text: str, id: str = "u1") -> dict[str, Any]:
    return {"id": id, "role": "user", "parts": [{"type": "text", "text": text}]}


def assistant(run: str, text: str = "…") -> dict[str, Any]:
    parts = [{"type": "step-start"}, {"type": "text", "text": text, "state": "done"}]
    return {"id": run, "role": "assistant", "parts": parts}


def asked(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "c", "messages": [*messages], "trigger": "submit-message", **more}


def questions(parlour: Parlour) -> list[str]:
    """Those that the model was given, the last time."""
    return [text for who, text in parlour.read[-1] if who == "user"]


async def said(parlour: Parlour, *texts: str) -> list[str]:
    """Turns that follow each other; their runs."""
    runs = []
    for number, text in enumerate(texts):
        runs.append(run_of(await parlour.ask(HERE, asked(user(text, f"u{number}")))))
    return runs


async def test_a_turn(parlour: Parlour) -> None:
    visit = await parlour.ask(HERE, asked(user("tools")))
    assert visit.headers["x-vercel-ai-ui-message-stream"] == "v1"
    types = [one["type"] for one in told(visit)]
    assert (types[0], types[-1]) == ("start", "finish")
    assert types.count("tool-output-available") == 2
    assert visit.events[-1].data == "[DONE]"
    assert told(visit)[0]["messageId"] == run_of(visit)
    assert (await parlour.get(visit.headers["content-location"])).body == visit.body


async def test_a_message_that_is_sent_again_starts_no_second_turn(parlour: Parlour) -> None:
    first = await parlour.ask(HERE, asked(user("hi")))
    again = await parlour.ask(HERE, asked(user("hi")))
    assert (run_of(again), again.body) == (run_of(first), first.body)
    without = [run_of(await parlour.ask(HERE, asked(user("hi") | {"id": None}))) for _ in range(2)]
    assert len({*without, run_of(first)}) == 3


async def test_another_answer(parlour: Parlour) -> None:
    runs = await said(parlour, "a", "b")
    again = asked(user("b", "u1"), trigger="regenerate-message")
    third = run_of(await parlour.ask(HERE, again))
    assert third not in runs
    assert questions(parlour) == ["a", "b"]
    fourth = run_of(await parlour.ask(HERE, again))
    assert fourth != third
    assert questions(parlour) == ["a", "b"]
    told = (await parlour.get(f"{HERE}/c")).json["messages"]
    assert [one["id"] for one in told][1::2] == [runs[0], fourth]


async def test_another_answer_to_an_earlier_question(parlour: Parlour) -> None:
    runs = await said(parlour, "a", "b", "c")
    sent = [user("a", "u0"), assistant(runs[0]), user("b", "u1")]
    again = asked(*sent, trigger="regenerate-message", messageId=runs[1])
    fourth = run_of(await parlour.ask(HERE, again))
    assert questions(parlour) == ["a", "b"]
    # The connection was lost, and nobody knows whether it came.
    assert run_of(await parlour.ask(HERE, again)) == fourth
    told = (await parlour.get(f"{HERE}/c")).json["messages"]
    assert [one["id"] for one in told][1::2] == [runs[0], fourth]
    by_question = asked(*sent, trigger="regenerate-message", messageId="u1")
    assert run_of(await parlour.ask(HERE, by_question)) not in (*runs, fourth)
    assert questions(parlour) == ["a", "b"]


async def test_there_is_no_answer_that_could_be_another(parlour: Parlour) -> None:
    refused = await parlour.ask(HERE, asked(user("a"), trigger="regenerate-message"))
    assert refused.status == 422
    assert refused.json["errors"][0]["where"] == "trigger"


@pytest.mark.parametrize("known", ["client", "server"])
async def test_a_question_that_was_edited(parlour: Parlour, known: str) -> None:
    runs = await said(parlour, "a", "b", "c")
    id = "u1" if known == "client" else f"{runs[1]}.user"
    sent = [user("a", "u0"), assistant(runs[0]), user("B", id)]
    fourth = run_of(await parlour.ask(HERE, asked(*sent, messageId=id)))
    assert fourth not in runs
    assert questions(parlour) == ["a", "B"]
    id = "u0" if known == "client" else f"{runs[0]}.user"
    await parlour.ask(HERE, asked(user("A", id), messageId=id))
    assert questions(parlour) == ["A"]
    await parlour.ask(HERE, asked(user("next", "u9")))
    assert questions(parlour) == ["A", "next"]


async def test_edited_and_back(parlour: Parlour) -> None:
    (first,) = await said(parlour, "a")
    second = run_of(await parlour.ask(HERE, asked(user("A", "u0"), messageId="u0")))
    third = run_of(await parlour.ask(HERE, asked(user("a", "u0"), messageId="u0")))
    assert len({first, second, third}) == 3
    assert questions(parlour) == ["a"]


async def test_an_edit_after_what_nobody_knows(parlour: Parlour) -> None:
    await said(parlour, "a")
    sent = [user("?", "u7"), assistant("elsewhere"), user("b", "u8")]
    await parlour.ask(HERE, asked(*sent, messageId="u8"))
    assert questions(parlour) == ["a", "b"]


async def test_come_back_to_the_page(parlour: Parlour) -> None:
    there = f"{HERE}/c/stream"
    assert (await parlour.get(there)).status == 204
    async with parlour.visitor.visit("POST", HERE, json=asked(user("wait"))) as visit:
        await visit.told(b"One")
        async with parlour.visitor.visit("GET", there) as rest:
            await rest.told(b"One")
            assert rest.headers["x-vercel-ai-ui-message-stream"] == "v1"
            parlour.gate.set()
            await rest.over()
        await visit.over()
    # The same, but that the ids say which turn it is.
    assert rest.body.replace(f"id: {run_of(visit)}:".encode(), b"id: ") == visit.body
    assert (await parlour.get(there)).status == 204


async def test_stop(parlour: Parlour) -> None:
    assert (await parlour.ask(f"{HERE}/c/stop", None)).status == 204
    async with parlour.visitor.visit("POST", HERE, json=asked(user("wait"))) as visit:
        await visit.told(b"One")
        stopped = await parlour.ask(f"{HERE}/c/stop", None)
        assert (stopped.status, stopped.body) == (204, b"")
        await visit.over()
    assert told(visit)[-1]["type"] == "abort"
    assert (await parlour.record(run_of(visit))).state == "cancelled"
    assert (await parlour.ask(f"{HERE}/c/stop", None)).status == 204


async def test_a_conversation_for_a_page_that_has_lost_it(parlour: Parlour) -> None:
    assert (await parlour.get(f"{HERE}/c")).json == {"messages": []}
    first = run_of(await parlour.ask(HERE, asked(user("tools", "u0"))))
    second = run_of(await parlour.ask(HERE, asked(user("broken", "u1"))))
    async with parlour.visitor.visit("POST", HERE, json=asked(user("wait", "u2"))) as visit:
        await visit.told(b"One")
        told = (await parlour.get(f"{HERE}/c")).json["messages"]
        parlour.gate.set()
        await visit.over()
    third = run_of(visit)
    assert [one["id"] for one in told] == [
        f"{first}.user", first, f"{second}.user", second, f"{third}.user",
    ]  # fmt: skip
    assert told[0]["parts"] == [{"type": "text", "text": "tools"}]
    kinds = [part["type"] for part in told[1]["parts"]]
    assert kinds == ["step-start", "text", "dynamic-tool", "dynamic-tool", "step-start", "text"]
    assert told[1]["parts"][2] == {
        "type": "dynamic-tool", "toolName": "double", "toolCallId": "call_1", "input": {"x": 1},
        "providerExecuted": True, "state": "output-available", "output": 2,
    }  # fmt: skip
    assert told[3]["parts"][1]["text"] == "It "
    ended = (await parlour.get(f"{HERE}/c")).json["messages"]
    assert ended[-1]["parts"][-1] == {"type": "text", "text": "One two.", "state": "done"}
    # As it comes, it may be sent.
    assert (await parlour.ask(HERE, asked(*ended, user("more", "u3")))).status == 200


async def test_a_call_that_had_no_answer(parlour: Parlour) -> None:
    def wait(seconds: float) -> None:
        """Fails."""
        raise ValueError("There is no time.")

    async with opened(tools=[wait]) as other:
        run = run_of(await other.ask(HERE, asked(user("tools"))))
        shown = (await other.get(f"{HERE}/c")).json["messages"][-1]
        assert shown["id"] == run
        states = [part.get("state") for part in shown["parts"] if part["type"] == "dynamic-tool"]
        assert states == ["output-error"] * 2
        assert all(
            part["errorText"] for part in shown["parts"] if part.get("state") == "output-error"
        )


async def test_history_from_the_client() -> None:
    async with opened(client_history=True) as parlour:
        sent = [user("x", "u0"), assistant("m", "y"), user("z", "u1")]
        await parlour.ask(HERE, asked(*sent))
        assert parlour.read == [[("user", "x"), ("assistant", "y"), ("user", "z")]]

"""The tutorial app: each of its streams over real HTTP, and its page in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from playwright.sync_api import expect

from tests.browser import chromium
from tests.exampled import Example, example
from tests.needs import needs
from tests.processes import until

pytestmark = pytest.mark.slow

TASK = {"title": "Two texts", "texts": ["to be or not to be", "that is it"], "pause": 0}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    folder = tmp_path_factory.mktemp("tutorial")
    with example("examples.tutorial", folder, TUTORIAL_LOG=str(folder / "runs.db")) as running:
        yield running


def payloads(told: Any, type: str) -> list[Any]:
    return [json.loads(event.data) for event in told.events if event.event == type]


def test_hello(app: Example) -> None:
    told = app.told("/stream/hello?name=Ada&pause=0")
    words = [event.data for event in told.events if event.event == "token"]
    assert words == ["Hello,", "Ada!", "Nice", "to", "see", "you."]
    assert told.types[-1] == "complete"


def test_who_leaves_a_stream_that_is_not_kept_ends_it(app: Example) -> None:
    before = app.ask("GET", "/stream/left").json()["left"]
    app.told("/stream/hello?pause=10", most=1)
    until(lambda: app.ask("GET", "/stream/left").json()["left"] == before + 1, "it was noticed", 10)


def test_progress_goes_on_without_a_watcher(app: Example) -> None:
    cut = app.told("/stream/progress?steps=6&pause=0.05", most=3)
    rest = app.told(
        "/stream/progress?steps=6&pause=0.05", headers={"last-event-id": cut.events[-1].id}
    )
    events = cut.events + rest.events
    assert [event.event for event in events] == ["start", *["progress"] * 6, "result", "complete"]
    assert [json.loads(event.data)["current"] for event in events[1:7]] == [1, 2, 3, 4, 5, 6]
    after = {"last-event-id": events[-1].id}
    assert app.ask("GET", "/stream/progress", headers=after).status_code == 204


def test_a_countdown_and_one_that_is_too_slow(app: Example) -> None:
    told = app.told("/countdown/2")
    assert [each["remaining"] for each in payloads(told, "countdown")] == [2, 1]
    assert told.types[-2:] == ["result", "complete"]
    late = app.told("/countdown/30?timeout=0.5")
    assert payloads(late, "error")[0]["reason"] == "timed_out"
    assert app.ask("GET", "/countdown/0").status_code == 422


def test_a_task_at_once(app: Example) -> None:
    told = app.told("/tasks/execute/stream", "POST", json=TASK)
    assert told.types == ["start", "status", *["progress", "log"] * 2, "progress", "complete"]
    assert payloads(told, "progress")[-1]["percent"] == 100
    result = payloads(told, "complete")[0]["result"]
    assert result == {"words": 9, "most_common": [["to", 2], ["be", 2], ["or", 1]]}
    assert app.ask("POST", "/tasks/execute/stream", json={"title": "x"}).status_code == 422


def test_a_task_that_was_kept(app: Example) -> None:
    slow = {**TASK, "pause": 1}
    id = app.ask("POST", "/tasks", json=slow).json()["id"]
    assert app.ask("GET", f"/tasks/{id}/progress/stream").status_code == 404
    assert app.ask("POST", "/tasks/none/execute/stream").status_code == 404
    begun = app.told(f"/tasks/{id}/execute/stream", "POST", most=2)
    # It goes on: nobody may start it twice, and everybody may watch.
    assert app.ask("POST", f"/tasks/{id}/execute/stream").status_code == 409
    watched = app.told(f"/tasks/{id}/progress/stream")
    assert watched.types[-1] == "complete"
    assert watched.headers["tailrace-run"] == begun.headers["tailrace-run"]
    assert watched.events[0].event == "start"
    again = app.told(f"/tasks/{id}/execute/stream", "POST", most=1)
    assert again.headers["tailrace-run"] != begun.headers["tailrace-run"]


def test_an_agent(app: Example) -> None:
    told = app.told("/agent/stream?query=What are 19 and 23?")
    assert {"status", "thought", "thinking", "tool", "progress", "token", "result"} < {*told.types}
    result = payloads(told, "complete")[0]["result"]
    assert result == {"count_words": 3, "add_numbers": 42, "longest_word": "What"}
    thoughts = app.told("/agent/think/stream?query=Hi")
    assert {*thoughts.types} == {"thought", "thinking", "complete"}
    posted = app.told("/agent/process/stream", "POST", json={"query": "1 and 2"})
    assert payloads(posted, "complete")[0]["result"]["add_numbers"] == 3


def test_pages_of_other_origins(app: Example) -> None:
    sent = {"origin": "http://localhost:3000"}
    with httpx2.stream("GET", f"{app.base}/stream/hello", headers=sent, trust_env=False) as answer:
        assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    sent = {"origin": "http://evil.example"}
    with httpx2.stream("GET", f"{app.base}/stream/hello", headers=sent, trust_env=False) as answer:
        assert "access-control-allow-origin" not in answer.headers


@needs("chromium")
def test_the_page(app: Example) -> None:
    with chromium() as browser:
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
        page.goto(app.base)
        state, log = page.locator("#state"), page.locator("#log")
        for button, seen, end in (
            ("Hello", "world!", "complete"),
            ("Progress", '"current":10', "complete"),
            ("Countdown that is too slow", "timed_out", "error"),
            ("A task", "Text 2", "complete"),
            ("Agent", "add_numbers: 42", "complete"),
            ("Thoughts", "I am asked", "complete"),
            ("Agent, by POST", "add_numbers: 42", "complete"),
        ):
            page.get_by_role("button", name=button, exact=True).click()
            expect(state).to_have_text(end, timeout=15_000)
            expect(log).to_contain_text(seen)
        page.get_by_role("button", name="Countdown", exact=True).click()
        expect(log).to_contain_text('"remaining":4')
        page.get_by_role("button", name="Leave").click()
        expect(state).to_have_text("left")
        assert not faults


@needs("chromium")
def test_the_page_comes_back_after_the_server(tmp_path: Path) -> None:
    with (
        example("examples.tutorial", tmp_path, TUTORIAL_LOG=str(tmp_path / "x.db")) as app,
        chromium() as browser,
    ):
        page = browser.new_page()
        page.goto(app.base)
        page.get_by_role("button", name="Countdown", exact=True).click()
        log = page.locator("#log")
        expect(log).to_contain_text('"remaining":4')
        app.kill()
        app.start()
        # The work died with its process. Whoever watched is told, and what was seen is still so.
        expect(log).to_contain_text('"reason":"lost"', timeout=20_000)
        assert log.inner_text().count('"remaining":5') == 1

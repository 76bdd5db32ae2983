"""A long process with a progress logger, behind a key: over real HTTP, and in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser import chromium
from tests.exampled import Example, Told, example
from tests.needs import needs

pytestmark = pytest.mark.slow

KEY = {"x-api-key": "a secret of nobody"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    folder = tmp_path_factory.mktemp("process")
    with example("examples.process", folder, PROCESS_KEY=KEY["x-api-key"]) as running:
        yield running


def payloads(told: Told, type: str) -> list[Any]:
    return [json.loads(event.data) for event in told.events if event.event == type]


def test_it_is_closed(app: Example) -> None:
    assert app.ask("GET", "/api/process/stream").status_code == 401
    wrong = {"x-api-key": "another one"}
    assert app.ask("GET", "/api/process/stream", headers=wrong).status_code == 401
    assert app.ask("GET", "/runs").status_code == 401


def test_its_events(app: Example) -> None:
    told = app.told("/api/process/stream?rows=20000", headers=KEY)
    assert (told.types[0], told.types[-1]) == ("start", "complete")
    progress = payloads(told, "progress")
    first = progress[0]
    assert {"current_step", "total_steps", "step_name", "percent"} <= first.keys()
    assert (first["current_step"], first["total_steps"], first["step_name"]) == (1, 3, "Make rows")
    percents = [each["percent"] for each in progress]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    logs = payloads(told, "log")
    assert {"timestamp", "level", "message", "details"} <= logs[0].keys()
    assert {log["level"] for log in logs} == {"info", "debug", "success"}
    nice = sum(log["level"] == "debug" for log in logs)
    assert payloads(told, "complete")[0]["result"] == {"rows": 20000, "found": nice}


def test_its_failure(app: Example) -> None:
    told = app.told("/api/process/stream?rows=10&broken=true", headers=KEY)
    (error,) = payloads(told, "error")
    assert error["error"] == "Something is wrong with these rows."
    assert (error["type"], error["reason"]) == ("ValueError", "failed")
    assert "Traceback" not in str(told.events)


def test_it_goes_on_when_its_watcher_leaves(app: Example) -> None:
    path = "/api/process/stream?rows=200000"
    cut = app.told(path, headers=KEY, most=2)
    rest = app.told(path, headers={**KEY, "last-event-id": cut.events[-1].id})
    assert rest.types[-1] == "complete"
    ids = [int(event.id.rpartition(":")[2]) for event in cut.events + rest.events]
    assert ids == list(range(1, len(ids) + 1))


@needs("chromium")
def test_its_page(app: Example) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto(app.base)
        page.get_by_role("button", name="Start").click()
        step = page.locator("#step")
        expect(step).to_have_text("refused")
        page.goto(f"{app.base}/?key={KEY['x-api-key']}")
        page.get_by_role("button", name="Start").click()
        expect(step).to_contain_text('done: {"rows":100000', timeout=30_000)
        expect(page.locator("#log")).to_contain_text("All is well")
        assert page.locator("#bar").get_attribute("value") in ("100", None)
        assert page.evaluate("document.getElementById('bar').value") == 100

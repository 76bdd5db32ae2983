"""The page that the tutorial makes, in a real browser: it shows, survives, and cancels a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import chromium
from tests.docs.playing import played
from tests.docs.snippets import DOCS, Block
from tests.needs import needs

pytestmark = [pytest.mark.slow, needs("curl"), needs("chromium")]

WATCHED = """async (url) => {
    const { watchRun } = await import("/watch-run.js");
    return await new Promise((resolve) => {
        const told = [];
        watchRun(url, ["start", "progress"], (type, data, id) => {
            told.push([type, id]);
            if (["complete", "cancelled", "refused"].includes(type)) resolve(told);
        });
    });
}"""


# What the modules of the page are served by.
SERVED = """\
import asyncio
from fastapi.responses import FileResponse, HTMLResponse
from tailrace import RunContext, Tailrace
runs = Tailrace("memory:")
app = runs.asgi

@runs.operation
async def five(run: RunContext) -> None:
    async for _ in run.track(range(5)):
        await asyncio.sleep(0.1)

@app.get("/watch-run.js")
async def script():
    return FileResponse("watch-run.js")

@app.get("/page")
async def page():
    return HTMLResponse("<p>nothing")

@app.get("/five")
async def start():
    return (await five.start()).id
"""


def test_its_page(tmp_path: Path) -> None:
    with played(DOCS / "tutorial.md", tmp_path) as stage, chromium() as browser:
        page = browser.new_page()
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(stage.base)
        state = page.locator("#state")
        page.get_by_role("button", name="Start").click()
        expect(state).to_contain_text("of 60")
        run = page.url.partition("#")[2]
        page.reload()
        expect(state).to_contain_text("of 60")
        other = browser.new_page()
        other.goto(page.url)
        page.close()
        expect(other.locator("#state")).to_have_text("the total is 1830", timeout=20_000)
        assert other.url.endswith(run)
        other.get_by_role("button", name="Start").click()
        expect(other.locator("#state")).to_contain_text("of 60")
        other.get_by_role("button", name="Cancel").click()
        expect(other.locator("#state")).to_have_text("cancelled", timeout=10_000)
        assert not faults


def test_watching_as_for_react(tmp_path: Path) -> None:
    with played(DOCS / "how-to" / "react.md", tmp_path) as stage, chromium() as browser:
        stage.play(Block("react", 0, "python", SERVED, "file", "main.py"))
        stage.play(Block("react", 0, "sh", "tailrace serve main:app --port 4000", "serve"))
        page = browser.new_page()
        page.goto(f"{stage.base}/page")
        run = page.evaluate("async () => await (await fetch('/five')).json()")
        told = page.evaluate(WATCHED, f"/runs/{run}/events")
        assert [type for type, _ in told] == ["start", *["progress"] * 5, "complete"]
        assert [id for _, id in told] == [str(number) for number in range(1, 8)]
        assert page.evaluate(WATCHED, "/runs/run_x/events") == [["refused", ""]]

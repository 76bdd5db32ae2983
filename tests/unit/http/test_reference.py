import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote

import pytest
from fastapi import FastAPI

from tailrace.http.reference import page
from tests.stage import Stage
from tests.visitor import Visitor

pytestmark = pytest.mark.anyio

VOID = {"meta", "tr", "td", "p"}


class Reader(HTMLParser):
    """Collects what a page has: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        assert not any(name.startswith("on") or name == "style" for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_every_endpoint_and_parameter_is_on_the_page(stage: Stage, visitor: Visitor) -> None:
    answer = await visitor.get("/docs")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    reader = Reader(answer.text)
    assert reader.open == []
    document = stage.runs.asgi.openapi()
    for path, item in document["paths"].items():
        assert path in reader.text
        for operation in item.values():
            assert operation["summary"] in reader.text
            for parameter in operation.get("parameters", ()):
                assert parameter["name"] in reader.text
    for said in ("application/problem+json", '"operation": "script"', "0.25…3600", "after",
                 "events | text | typed | ndjson | json"):  # fmt: skip
        assert said in reader.text


async def test_nothing_is_loaded_from_anywhere(visitor: Visitor) -> None:
    answer = await visitor.get("/docs")
    reader = Reader(answer.text)
    assert not {"script", "img", "link", "iframe", "form", "object"} & set(reader.tags)
    assert reader.links == ["/openapi.json"]
    assert "://" not in answer.text
    assert "url(" not in answer.text
    assert "@import" not in answer.text


async def test_the_policy_allows_the_pages_own_style_and_nothing_else(visitor: Visitor) -> None:
    answer = await visitor.get("/docs")
    style = re.search("<style>(.*)</style>", answer.text, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert answer.headers["content-security-policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


async def test_the_page_of_a_mounted_app_carries_its_prefix(stage: Stage) -> None:
    host = FastAPI()
    host.mount("/tailrace", stage.runs.asgi)
    reader = Reader((await Visitor(host).get("/tailrace/docs")).text)
    assert reader.links == ["/tailrace/openapi.json"]
    assert "/tailrace/runs/{run}/events" in reader.text


async def test_the_frameworks_own_pages_are_gone(visitor: Visitor) -> None:
    for path in ("/redoc", "/docs/oauth2-redirect"):
        assert (await visitor.get(path)).status == 404


def test_text_is_text() -> None:
    bad = "<script>alert(1)</script>\"'&"
    operation: dict[str, Any] = {
        "summary": bad,
        "description": bad,
        "parameters": [{"name": bad, "in": "query", "schema": {"enum": [bad]}, "description": bad}],
        "requestBody": {"content": {bad: {"schema": {"examples": [bad]}}}},
        "responses": {bad: {"description": bad, "content": {bad: {}}}},
    }
    document = {"info": {"title": bad, "description": bad}, "paths": {bad: {"get": operation}}}
    text = page(document, bad)
    assert "<script" not in text
    reader = Reader(text)
    assert reader.links == [f"{quote(bad)}/openapi.json"]
    assert reader.text.count("<script>") > 10


def test_a_poor_document_makes_a_page_as_well() -> None:
    any_of = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    body = {"type": "array", "items": {"$ref": "#/components/schemas/Thing"}}
    document = {
        "info": {"title": "T"},
        "paths": {
            "/x": {
                "post": {
                    "parameters": [{"name": "n", "in": "query", "schema": any_of}],
                    "requestBody": {"content": {"application/json": {"schema": body}}},
                    "responses": {"200": {"description": "Fine"}},
                }
            }
        },
        "components": {"schemas": {"Thing": {"properties": {"n": any_of, "o": {}}}}},
    }
    reader = Reader(page(document))
    assert "integer" in reader.text
    assert '"n": {}' in reader.text

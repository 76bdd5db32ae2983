"""What the OpenAPI document promises is what the endpoints do."""

import re
from pathlib import Path
from typing import Any

import pytest

from tailrace.http.shapes import RunFile
from tests.stage import Stage
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

ENDPOINTS = {
    "/operations": {"get"},
    "/runs": {"get", "post"},
    "/runs/{run}": {"get", "delete"},
    "/runs/{run}/events": {"get", "post"},
    "/runs/{run}/output": {"get"},
    "/runs/{run}/cancel": {"post"},
    "/runs/{run}/rerun": {"post"},
    "/run_file": {"get", "post"},
    "/events": {"get"},
    "/tickets": {"post"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture
async def document(visitor: Visitor) -> dict[str, Any]:
    answer = await visitor.get("/openapi.json")
    assert answer.status == 200
    told: dict[str, Any] = answer.json
    return told


def media_types(operation: dict[str, Any], status: str) -> set[str]:
    return set(operation["responses"][status].get("content", ()))


async def test_every_endpoint_is_there(document: dict[str, Any]) -> None:
    assert {path: set(item) for path, item in document["paths"].items()} == ENDPOINTS
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            if operation["tags"] != ["server"]:
                assert operation["description"], (method, path)


async def test_answers_have_their_shapes_and_types(document: dict[str, Any]) -> None:
    paths = document["paths"]
    watch = paths["/runs/{run}/events"]["get"]
    assert media_types(watch, "200") == {
        "text/event-stream", "application/x-ndjson", "application/json",
    }  # fmt: skip
    assert media_types(paths["/runs"]["post"], "201") == media_types(watch, "200")
    assert "Location" in paths["/runs"]["post"]["responses"]["201"]["headers"]
    assert media_types(paths["/events"]["get"], "200") == {"text/event-stream"}
    assert media_types(paths["/runs/{run}/output"]["get"], "200") == {"text/plain"}
    for path, method, status, shape in (
        ("/operations", "get", "200", "OperationList"),
        ("/runs", "post", "201", "RunSnapshot"),
        ("/runs", "post", "200", "RunSnapshot"),
        ("/runs", "get", "200", "RunsPage"),
        ("/runs/{run}", "get", "200", "RunSnapshot"),
        ("/runs/{run}/events", "get", "200", "EventsPage"),
        ("/runs/{run}/events", "post", "200", "Appended"),
        ("/runs/{run}/cancel", "post", "202", "RunSnapshot"),
        ("/runs/{run}/rerun", "post", "201", "RunSnapshot"),
    ):
        content = paths[path][method]["responses"][status]["content"]
        assert content["application/json"]["schema"]["$ref"].endswith(f"/{shape}")
        assert shape in document["components"]["schemas"]


async def test_refusals_are_problems(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation["tags"] == ["server"]:
                continue
            refusals = {s for s in operation["responses"] if s == "default" or s[0] in "45"}
            assert "default" in refusals
            for status in refusals:
                assert media_types(operation, status) == {"application/problem+json"}, (
                    method, path, status,
                )  # fmt: skip
    assert "HTTPValidationError" not in document["components"]["schemas"]


async def test_what_is_read_by_hand_is_documented(document: dict[str, Any]) -> None:
    def parameters(path: str, method: str = "get") -> dict[tuple[str, str], dict[str, Any]]:
        listed = document["paths"][path][method]["parameters"]
        found = {(p["in"], p["name"]): p for p in listed}
        assert len(found) == len(listed)
        return found

    watch = parameters("/runs/{run}/events")
    assert set(watch) == {
        ("path", "run"), ("header", "Last-Event-ID"), ("query", "after"), ("query", "format"),
        ("query", "types"), ("query", "tick"), ("query", "speed"), ("query", "limit"),
    }  # fmt: skip
    assert all(p.get("description") for at, p in watch.items() if at[0] != "path")
    assert set(parameters("/runs", "post")) == set(watch) - {
        ("path", "run"), ("query", "speed"), ("query", "limit"),
    } | {("header", "Idempotency-Key")}  # fmt: skip
    for method in ("get", "post"):
        script = parameters("/run_file", method)
        key = {("header", "Idempotency-Key")} if method == "post" else set()
        assert set(script) == {("query", name) for name in RunFile.model_fields} | {
            ("header", "Last-Event-ID"), ("query", "after"), *key,
        }  # fmt: skip
        assert all(parameter["description"] for parameter in script.values())
        required = {name for (_, name), p in script.items() if p["required"]}
        assert required == ({"file_path"} if method == "get" else set()), "a body has it as well"
    (body,) = document["paths"]["/run_file"]["post"]["requestBody"]["content"].items()
    assert (body[0], set(body[1]["schema"]["properties"])) == (
        "application/json", set(RunFile.model_fields),
    )  # fmt: skip
    assert set(parameters("/runs/{run}/output")) == {
        ("path", "run"), ("query", "after"), ("query", "stream"),
    }  # fmt: skip
    assert set(parameters("/events")) == {
        ("header", "Last-Event-ID"), ("query", "after"), ("query", "runs"),
    }  # fmt: skip


async def test_the_documented_bounds_are_the_real_ones(
    stage: Stage, visitor: Visitor, document: dict[str, Any]
) -> None:
    run = await stage.written([("log", {}, 1)], ends=2)
    path = f"/runs/{run}/events"

    async def ask(name: str, value: Any) -> Visit:
        return await visitor.get(f"{path}?format=json&{name}={value}")

    for parameter in document["paths"]["/runs/{run}/events"]["get"]["parameters"]:
        name, schema = parameter["name"], parameter["schema"]
        if "minimum" in schema:
            for good in (schema["minimum"], schema["maximum"]):
                assert (await ask(name, good)).status == 200
            assert (await ask(name, schema["maximum"] + 1)).status == 422
            assert (await ask(name, 0)).status == 422
        if "enum" in schema:
            for good in schema["enum"]:
                assert (await visitor.get(f"{path}?{name}={good}")).status == 200
        if "pattern" in schema:
            for good in schema.get("examples", []):
                assert re.fullmatch(schema["pattern"], good)
            for text in ("", "x y", "1", "latest", "1-1.1", "1.1.1", "log", "log,"):
                is_good = re.fullmatch(schema["pattern"], text) is not None
                answer = await visitor.get(f"{path}?format=json&{name}={text.replace(' ', '+')}")
                if is_good:
                    future = answer.status == 400 and answer.json["code"] == "cursor-from-future"
                    assert answer.status == 200 or future, (name, text)
                elif name != "Last-Event-ID":
                    assert answer.status in (400, 422), (name, text)


async def test_the_bounds_of_a_script_are_the_real_ones(
    stage: Stage, visitor: Visitor, document: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "hello.sh").write_text("echo hello\n", encoding="utf-8")
    stage.runs.allow_scripts(tmp_path)
    listed = document["paths"]["/run_file"]["get"]["parameters"]
    schemas = {p["name"]: p["schema"] for p in listed}

    async def ask(name: str, value: Any) -> int:
        return (await visitor.get(f"/run_file?file_path=hello.sh&{name}={value}")).status

    for bound in ("minimum", "maximum"):
        assert await ask("tick", schemas["tick"][bound]) == 200
    assert await ask("tick", schemas["tick"]["maximum"] + 1) == 422
    for name in ("format", "stderr"):
        for good in schemas[name]["enum"]:
            assert await ask(name, good) == 200, (name, good)
        assert await ask(name, "nonsense") in (406, 422)
    run = (await visitor.get("/run_file?file_path=hello.sh")).headers["tailrace-run"]
    for last in (f"{run}:1", f"{run}:0-1", f"{run}:1.1", "", "1", "latest", f"{run}:", run):
        is_good = re.fullmatch(schemas["after"]["pattern"], last) is not None
        assert (await ask("after", last) == 200) is is_good, last
    assert schemas["Last-Event-ID"]["pattern"] == schemas["after"]["pattern"]


async def test_the_examples_work(stage: Stage, visitor: Visitor, document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    fields = schemas["RemoteEvent"]["properties"]
    event = {name: field["examples"][0] for name, field in fields.items()}
    producer = schemas["RemoteProducer"]["properties"]
    body = {
        "events": [event],
        "attempt": schemas["AppendEvents"]["properties"]["attempt"]["examples"][0],
        "producer": {name: field["examples"][0] for name, field in producer.items()},
    }
    run = await stage.written()
    answer = await visitor.post(f"/runs/{run}/events", body)
    assert answer.json == {"appended": 1, "last_event_id": "1", "state": "running"}
    asked = schemas["StartRun"]["properties"]
    names = ("timeout", "abandon_after", "thread")
    body = {name: asked[name]["examples"][0] for name in names}
    assert (await visitor.post("/runs", {"operation": "count", **body})).status == 201

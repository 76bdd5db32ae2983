"""Whatever a client says, it says it within a field: no header, no event and no line begins there.

Every field is found in the OpenAPI document, so that a new one is tried by itself. All that comes
back is read by several parsers (`tests/readers.py`), which must agree, and must find nothing but
what this server is known to send.
"""

from __future__ import annotations

import copy
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import pytest

from tailrace.protocol.events import CONTROL_TYPES, TERMINAL_TYPES
from tests.door import UNBOUND, Door, opened, request
from tests.readers import Answer, Told, answers, events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MARK: Final = "1nj3ct3d"
"""What no header's name, event's type or id may have in it."""

PAYLOADS: Final = {
    "lf": "a\nb",
    "cr": "a\rb",
    "crlf": "a\r\nb",
    "nul": "a\0b",
    "ends-lf": "a\n",
    "ends-cr": "a\r",
    "ends-nul": "5\0",
    "only-crlf": "\r\n",
    "line-separator": f"a\u2028event: {MARK}\u2028\u2028",
    "paragraph-separator": f"a\u2029id: {MARK}\u2029\u2029",
    "next-line": f"a\x85event: {MARK}\x85\x85",
    "form-feed": f"a\f\v\x1c\x1d\x1eid: {MARK}\f\f",
    "byte-order-mark": "\ufeffdata: x",
    "surrogate": "a\ud800b",
    "event": f"\nevent: {MARK}\ndata: {MARK}\n\n",
    "event-cr": f"\revent: {MARK}\rdata: {MARK}\r\r",
    "event-crlf": f"x\r\n\r\nevent: {MARK}\r\ndata: {MARK}\r\n\r\n",
    "id": f"x\nid: {MARK}\nid: 9",
    "id-alone": "id: 9",
    "retry": "x\n\nretry: 1\n\n",
    "comment": "\n: end\n\n",
    "header": f"x\r\n{MARK}: 1\r\nset-cookie: a=b",
    "response": "\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx",
    "chunk": "\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    "line": f'\n{{"id":"9","type":"{MARK}","data":{{}}}}\n',
    "elsewhere": "/\\evil.example//",
    "terminal": "\x1b]52;c;aGk=\x07\x1b[2J\x9b2J",
}

FRIEND: Final = "https://friend.example"

HEADERS: Final = ("Idempotency-Key", "Last-Event-ID", "Host", "Origin", "X-Api-Key", "Cookie",
                  "Authorization", "Accept", "Content-Type", "Sec-Fetch-Site", "User-Agent",
                  "X-Forwarded-For", "X-Request-Id")  # fmt: skip
"""Those that are read, and some that others would read."""

# --- what this server is known to send -----------------------------------------------------------

KNOWN_HEADERS: Final = {
    "access-control-allow-credentials", "access-control-allow-origin",
    "access-control-expose-headers", "allow", "cache-control", "connection", "content-length",
    "content-location", "content-security-policy", "content-type", "cross-origin-resource-policy",
    "date", "last-event-id", "location", "ratelimit", "ratelimit-policy", "referrer-policy",
    "retry-after", "tailrace-run", "transfer-encoding", "vary", "www-authenticate",
    "x-accel-buffering", "x-content-type-options",
}  # fmt: skip
KNOWN_TYPES: Final = {
    "start", "status", "progress", "log", "output", "result", "message", "note",
    *TERMINAL_TYPES, *CONTROL_TYPES,
}  # fmt: skip
RUN: Final = r"run_[a-z2-7]{26}"
NO_RUN: Final = "run_" + 26 * "a"
CURSOR: Final = r"(?:[0-9]{1,9}-)?[0-9]{1,18}"
IDS: Final = {
    "alone": re.compile(CURSOR, re.ASCII),
    "named": re.compile(rf"{RUN}:{CURSOR}", re.ASCII),
    "many": re.compile(rf"[0-9]{{1,18}}~(?:{RUN}:{CURSOR}(?:,{RUN}:{CURSOR})*)?", re.ASCII),
}


def checked(answer: Answer, ids: str = "alone") -> Answer:
    """An answer with nothing in it that only a client could have put there."""
    assert answer.status < 500, answer
    assert answer.headers.keys() <= KNOWN_HEADERS, answer.pairs
    # A redirect says the address once more, quoted: without a space or a line end.
    others = [pair for pair in answer.pairs if pair[0] != "location"]
    assert MARK not in str(others), answer.pairs
    assert " " not in answer.headers.get("location", ""), answer.pairs
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if kind == "text/event-stream":
        streamed(answer.body, ids)
    elif kind == "application/x-ndjson":
        lined(answer.body)
    elif kind.endswith("json") and answer.body:
        json.loads(answer.body)
    return answer


def streamed(body: bytes, ids: str = "alone") -> list[Told]:
    """The events of a stream, which are all of known forms."""
    found = events(body)
    for event in found:
        assert event.type in KNOWN_TYPES, event
        assert not event.id or IDS[ids].fullmatch(event.id), event
    # What no parser tells of: comments, and how long to wait.
    for line in re.split(rb"\r\n|\r|\n", body):
        name = line.partition(b":")[0]
        assert name in (b"", b"id", b"event", b"data", b"retry"), line
        assert name != b"retry" or line in (b"retry: 1000", b"retry: 500"), line
        assert line[:1] != b":" or line in (b": tailrace", b": keep-alive", b": end"), line
    assert b"\r" not in body
    assert b"\0" not in body or b"data: " in body
    return found


def lined(body: bytes) -> list[Any]:
    """The lines of NDJSON; empty ones are keep-alives."""
    found = [json.loads(line) for line in body.split(b"\n") if line]
    for line in found:
        assert line.keys() <= {"id", "type", "data"}, line
        assert line["type"] in KNOWN_TYPES, line
        assert "id" not in line or IDS["alone"].fullmatch(line["id"]), line
    return found


# --- the server ----------------------------------------------------------------------------------

# The server as it is, with operations that say what they are told.
PROGRAM: Final = """
import sys
from tailrace.cli.main import main
from tailrace.run import RunContext
from tailrace.server import app as server

built = server.build

async def say(run: RunContext, text: str, kind: str = "note") -> dict[str, str]:
    run.emit("note", {"text": text, text: text})
    run.log(text, level=text, details=text)
    run.progress(1, 3, message=text, step=text)
    run.output(text)
    run.output(text, text)
    run.emit("status", status=text)
    run.emit("output", {"text": text, "stream": "stdout"})
    run.emit(kind, text=text)
    return {"text": text, text: text}

async def fall(text: str) -> None:
    raise type(text.replace(chr(0), ""), (Exception,), {})(text)

async def tell(text: str):
    yield text
    yield {text: text}

async def hold(run: RunContext) -> None:
    await __import__("asyncio").Event().wait()

def build(*given, **options):
    runs = built(*given, **options)
    for operation in (say, fall, tell, hold):
        runs.operation(operation)
    return runs

server.build = build
sys.argv = ["tailrace", "serve", *sys.argv[1:]]
main()
"""


@dataclass
class House:
    """The server, the runs that requests are about, and the fields that there are."""

    door: Door
    scripts: Path
    ended: str
    held: str
    document: dict[str, Any] = field(default_factory=dict)

    def get(self, target: str, ids: str = "alone") -> Answer:
        answer = checked(self.door.ask("GET", target), ids)
        assert answer.status == 200, answer
        return answer

    def about(self, method: str, path: str) -> str:
        """The run of a request that may be made again and again."""
        if method == "delete":
            return NO_RUN
        return self.held if (method, path) == ("post", "/runs/{run}/events") else self.ended

    def kept(self, run: str) -> list[Any]:
        """A run's events, as the page of JSON has them, which no line end can harm."""
        found: list[Any] = self.get(f"/runs/{run}/events?format=json&limit=10000").json["events"]
        return found


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("injection")
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "say.sh").write_text('for a in "$@"; do printf "%s\\n" "$a"; done\n')
    options = ["--no-auth", *UNBOUND, "--allow-root", str(scripts), "--allow-origin", FRIEND]
    program = [sys.executable, "-c", PROGRAM]
    with opened(folder, *options, program=program) as door:
        ended = door.start("say", text="hello")
        door.ended(ended)
        house = House(door, scripts, ended, door.start("hold"))
        house.document = door.ask("GET", "/openapi.json").json
        yield house
        assert door.process.poll() is None
        # Operations that fail are told of as well, with what they said.
        faults = re.findall(r"Exception in ASGI.*|tailrace\.http: .*|Task exception.*", door.log)
        assert not faults, faults[:5]


# --- every field there is ------------------------------------------------------------------------


@dataclass
class Ask:
    """A request that is right, and says where a field of it is to be put wrong."""

    method: str
    path: str
    values: dict[str, dict[str, str]]
    body: Any = None

    def raw(self, where: str, name: Any, payload: str, *, quoted: bool) -> bytes:
        """The bytes, with `payload` in a field: quoted as a client should, or as it is."""
        values = {place: {**given} for place, given in self.values.items()}
        body = self.body
        if where == "body":
            body = replaced(body, name, payload)
        else:
            values[where][name] = payload

        def put(text: str) -> bytes:
            sent = text.encode("utf-8", "surrogatepass")
            return quote(sent, safe="").encode() if quoted else sent

        path = b"/".join(
            put(values["path"][part[1:-1]]) if part[:1] == "{" else part.encode()
            for part in self.path.split("/")
        )
        query = b"&".join(put(key) + b"=" + put(text) for key, text in values["query"].items())
        headers = [(key, put(text)) for key, text in values["header"].items()]
        return request(self.method, path + b"?" + query, headers, body)


def replaced(body: Any, path: Sequence[Any], payload: str) -> Any:
    """A copy of `body` with `payload` at `path`; a step `None` is the name of a member."""
    if not path:
        return payload
    step, *rest = path
    body = copy.deepcopy(body)
    if step is None:
        body[payload] = payload
    elif isinstance(step, int):
        body[step] = replaced(body[step], rest, payload)
    else:
        body[step] = replaced(body.get(step), rest, payload)
    return body


def strings(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[list[Any]]:
    """Where a body that fits `schema` may have a string, also as the name of a member."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield from strings(document["components"]["schemas"][name], document)
    for choice in schema.get("anyOf", ()):
        yield from strings(choice, document)
    for name, member in schema.get("properties", {}).items():
        yield from ([name, *path] for path in strings(member, document))
    if "items" in schema:
        yield from ([0, *path] for path in strings(schema["items"], document))
    kind = schema.get("type")
    if kind in ("string", "number", "integer") or not schema:
        yield []
    if kind == "object":
        yield [None]
        if schema.get("additionalProperties", True):
            yield ["any"]


def sample(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Any:
    """A body with every member in it."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return sample(schema["anyOf"][0], document)
    if "properties" in schema:
        return {name: sample(each, document) for name, each in schema["properties"].items()}
    if schema.get("type") == "object":
        return {}
    if schema.get("type") == "array":
        return [sample(schema.get("items", {}), document)]
    return (schema.get("examples") or schema.get("enum") or [1])[0]


def asks(house: House) -> Iterator[tuple[Ask, str, Any]]:
    """Every field of every request: the request, where the field is, and what it is called."""
    document = house.document
    for path, item in document["paths"].items():
        for method, told in item.items():
            ask = Ask(method.upper(), path, {"path": {}, "query": {}, "header": {}, "cookie": {}})
            ask.values["path"]["run"] = house.about(method, path)
            if path == "/events":
                ask.values["query"]["runs"] = house.ended
            if path == "/run_file" and method == "get":
                ask.values["query"]["file_path"] = "say.sh"
            schema: Mapping[str, Any] = {}
            if "requestBody" in told:
                schema = told["requestBody"]["content"]["application/json"]["schema"]
                ask.body = fitting(path, sample(schema, document), house)
            yield ask, "query", "anything"
            for parameter in told.get("parameters", ()):
                yield ask, parameter["in"], parameter["name"]
            for place in strings(schema, document) if schema else ():
                yield ask, "body", place


def fitting(path: str, body: Any, house: House) -> Any:
    """A sample, such that the request is let in."""
    if path == "/runs":
        return {"operation": "say", "input": {"text": "hello"}}
    if path == "/run_file":
        return {"file_path": "say.sh", "args": ["hello"]}
    if path == "/tickets":
        return {"run": house.ended}
    if path == "/runs/{run}/events":
        return {"events": [{"type": "note", "data": {}}]} | {"producer": {"id": "me", "seq": 1}}
    return body


def test_the_fields_are_found(house: House) -> None:
    found = {(ask.method, ask.path, where, str(name)) for ask, where, name in asks(house)}
    assert {
        ("GET", "/runs/{run}", "path", "run"),
        ("GET", "/runs", "query", "q"),
        ("GET", "/runs/{run}/events", "header", "Last-Event-ID"),
        ("POST", "/runs", "header", "Idempotency-Key"),
        ("POST", "/runs", "body", "['operation']"),
        ("POST", "/runs", "body", "['input', None]"),
        ("POST", "/runs", "body", "['input', 'any']"),
        ("POST", "/runs/{run}/events", "body", "['events', 0, 'type']"),
        ("POST", "/runs/{run}/events", "body", "['events', 0, 'data', 'any']"),
        ("POST", "/runs/{run}/events", "body", "['producer', 'id']"),
        ("POST", "/run_file", "body", "['args', 0]"),
    } <= found
    assert len(found) > 60


def test_without_a_payload_they_are_right(house: House) -> None:
    """Otherwise nothing would be read of what is wrong with them."""
    for ask, where, name in asks(house):
        if (where, name) == ("query", "anything"):
            (answer,) = answers(house.door.raw(ask.raw(where, name, "x", quoted=True)))
            is_well = answer.status < 300 or ask.method == "DELETE"
            assert is_well, (ask, answer)


@pytest.mark.parametrize("way", ["quoted", "raw"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_field(house: House, payload: str, way: str) -> None:
    is_quoted = way == "quoted"
    count = 0
    for ask, where, name in asks(house):
        if where == "body" and not is_quoted:
            continue
        sent = ask.raw(where, name, PAYLOADS[payload], quoted=is_quoted)
        found = answers(house.door.raw(sent))
        # One that has line ends in it may have been several requests: so each is answered.
        assert len(found) == 1 or not is_quoted, sent
        assert found, sent
        for answer in found:
            checked(answer, {"/events": "many", "/run_file": "named"}.get(ask.path, "alone"))
        count += 1
    assert count > 20


@pytest.mark.parametrize("payload", PAYLOADS)
def test_in_every_header(house: House, payload: str) -> None:
    text = PAYLOADS[payload].encode("utf-8", "surrogatepass")
    for target in ("/runs", f"/runs/{house.ended}/events", f"/events?runs={house.ended}", "/docs"):
        for name in HEADERS:
            host = None if name == "Host" else "127.0.0.1"
            for value in (text, quote(text, safe="").encode()):
                raw = house.door.raw(request("GET", target, [(name, value)], host=host))
                for answer in answers(raw):
                    checked(answer, "many" if target.startswith("/events") else "alone")
    for value in (text, quote(text, safe="").encode()):
        body = {"operation": "say", "input": {"text": "hello"}}
        raw = house.door.raw(request("POST", "/runs", [("Idempotency-Key", value)], body))
        for answer in answers(raw):
            checked(answer)
        origin = [("Origin", FRIEND.encode() + value)]
        for answer in answers(house.door.raw(request("OPTIONS", "/runs", origin))):
            # Where the line ends before anything else, it is the friend who asks.
            allowed = checked(answer).headers.get("access-control-allow-origin", FRIEND)
            assert allowed == FRIEND, answer


@pytest.mark.parametrize("payload", PAYLOADS)
def test_in_the_request_line(house: House, payload: str) -> None:
    text = PAYLOADS[payload].encode("utf-8", "surrogatepass")
    for sent in (
        b"GET" + text + b" /runs HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
        b"GET /runs HTTP/1.1" + text + b"\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
        b"GET /runs HTTP/1.1\r\nconnection: close\r\nx" + text + b": y\r\nhost: 127.0.0.1\r\n\r\n",
        b"GET http://127.0.0.1/"
        + text
        + b" HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
    ):
        for answer in answers(house.door.raw(sent)):
            checked(answer)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_in_an_address_that_is_answered_with_another(house: House, payload: str) -> None:
    """A slash too many, or an address that nobody knows: it may stand in what is answered."""
    text = PAYLOADS[payload].encode("utf-8", "surrogatepass")
    for sent in (text, quote(text, safe="").encode(), quote(text).encode()):
        for target in (
            b"/" + sent, b"/runs/" + sent + b"/", b"/runs/?q=" + sent, b"/metrics/?" + sent,
            b"//" + sent + b"/runs/", b"/" + sent + b"/../runs/", b"/runs/" + sent + b"/events/",
        ):  # fmt: skip
            for answer in answers(house.door.raw(request("GET", target))):
                checked(answer)
                there = answer.headers.get("location", "/")
                assert re.match(r"(http://127\.0\.0\.1)?/(?![/\\\\]*evil)", there), there


# --- what is kept, and told to others ------------------------------------------------------------


def told_in_every_way(house: House, run: str, text: str) -> None:
    """Every format tells the same events, as many as there are, and no others."""
    kept = house.kept(run)
    whole = f"/runs/{run}/events?format="
    own = streamed(house.get(f"{whole}events").body)
    assert [(one.id, one.type, json.loads(one.data)) for one in own] == [
        (one["id"], one["type"], one["data"]) for one in kept
    ]
    lines = lined(house.get(f"{whole}ndjson").body)
    assert lines == kept
    typed = [json.loads(one.data) for one in streamed(house.get(f"{whole}typed").body)]
    assert [one["type"] for one in typed] == [one["type"] for one in kept]
    shown = streamed(house.get(f"{whole}text").body)
    assert [one.id for one in shown] == [one["id"] for one in kept]
    assert {one.type for one in shown} == {"message"}
    again = streamed(house.get(f"/run_file?file_path=say.sh&after={run}:0", "named").body, "named")
    assert [one.id for one in again] == [f"{run}:{one['id']}" for one in kept]
    many = streamed(house.get(f"/events?runs={run}", "many").body, "many")
    assert [json.loads(one.data)["id"] for one in many] == [one["id"] for one in kept]
    # Of a script it is what the script wrote, byte by byte; a header it cannot become.
    house.get(f"/runs/{run}/output")
    for target in (f"/runs/{run}", "/runs?limit=200", f"/runs?q={quote(text.encode(), safe='')}"):
        house.get(target)


def sayable() -> list[str]:
    """A lone surrogate is no text of UTF-8, and is refused where it is said."""
    return [name for name in PAYLOADS if name != "surrogate"]


@pytest.mark.parametrize("payload", sayable())
@pytest.mark.parametrize("operation", ["say", "fall", "tell"])
def test_what_an_operation_says(house: House, operation: str, payload: str) -> None:
    text = PAYLOADS[payload]
    run = house.door.start(operation, text=text)
    ended = house.door.ended(run)
    assert ended["state"] == ("failed" if operation == "fall" else "completed"), ended
    assert ended["input"]["text"] == text
    told_in_every_way(house, run, text)


@pytest.mark.parametrize("payload", sayable())
def test_a_type_is_refused(house: House, payload: str) -> None:
    """From an operation, and from elsewhere: a type stands in a line of its own."""
    text = PAYLOADS[payload]
    run = house.door.start("say", text="x", kind=text)
    assert house.door.ended(run)["state"] == "failed"
    told_in_every_way(house, run, text)
    for kind in (text, f"note{text}"):
        answer = house.door.ask(
            "POST", f"/runs/{house.held}/events", (), {"events": [{"type": kind, "data": {}}]}
        )
        assert checked(answer).status == 422, answer


@pytest.mark.parametrize("payload", sayable())
def test_what_is_appended(house: House, payload: str) -> None:
    text = PAYLOADS[payload]
    run = house.door.start("hold")
    told = [
        {"type": "note", "data": {text: text}},
        {"type": "log", "data": {"message": text, "level": text}},
        {"type": "status", "data": {"status": text}},
        {"type": "progress", "data": {"message": text, "current": text, "total": text}},
        {"type": "output", "data": {"text": text, "stream": text}},
        {"type": "message", "data": {"value": text}},
    ]
    producer = {"id": text[:100], "seq": 1}
    answer = house.door.ask(
        "POST", f"/runs/{run}/events", (), {"events": told, "producer": producer}
    )
    assert checked(answer).status in (200, 422), answer
    if answer.status == 422:
        told.pop(3)
        answer = house.door.ask("POST", f"/runs/{run}/events", (), {"events": told})
    assert checked(answer).status == 200, answer
    checked(house.door.ask("POST", f"/runs/{run}/cancel"))
    house.door.ended(run)
    told_in_every_way(house, run, text)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_script_is_told_and_says(house: House, payload: str) -> None:
    text = PAYLOADS[payload]
    body = {"file_path": "say.sh", "args": [text, f"{text}{text}"]}
    answer = checked(house.door.ask("POST", "/run_file", (), body), "named")
    if payload == "surrogate" or "\0" in text:
        assert answer.status == 422, answer
        return
    assert answer.status == 200, answer
    run = answer.headers["tailrace-run"]
    house.door.ended(run)
    told_in_every_way(house, run, text)
    said = house.get(f"/runs/{run}/output").body
    assert said == f"{text}\n{text}{text}\n".encode()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_a_script_is_called(house: House, payload: str) -> None:
    name = PAYLOADS[payload].replace("/", "_").encode("utf-8", "surrogatepass")[:200]
    if b"\0" not in name:
        place = os.fsencode(house.scripts) + b"/" + name + b".sh"
        Path(os.fsdecode(place)).write_text("echo hello\n")
    for sent in (quote(name + b".sh", safe=""), quote(name, safe="") + "/say.sh"):
        answer = checked(house.door.ask("GET", f"/run_file?file_path={sent}"), "named")
        assert answer.status in (200, 400, 403, 422), answer
        if answer.status == 200:
            run = answer.headers["tailrace-run"]
            house.door.ended(run)
            told_in_every_way(house, run, name.decode("utf-8", "replace"))

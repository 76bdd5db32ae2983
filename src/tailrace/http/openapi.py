"""The endpoints as OpenAPI tells of them: responses, parameters, examples."""

from __future__ import annotations

from typing import Any, Final

from tailrace.http.asking import (
    DEFAULT_PAGE,
    FORMATS,
    MAX_PAGE,
    SPEEDS,
    TICKS,
    TYPES,
)
from tailrace.http.shapes import (
    Appended,
    EventsPage,
    OperationList,
    Problem,
    RunFile,
    RunSnapshot,
    RunsPage,
    Ticket,
)
from tailrace.protocol.lifecycle import State
from tailrace.protocol.wire import EVENT_STREAM, JSON, NDJSON, PROBLEM, TEXT

_Json = dict[str, Any]
_Responses = dict[int | str, _Json]

STATES: Final = f"^({'|'.join(State)})(,({'|'.join(State)}))*$"

# Inline, and so without ornament: FastAPI would document a referenced one as plain JSON.
_PROBLEM: Final = {"content": {PROBLEM: {"schema": Problem.model_json_schema()}}}
for _member in _PROBLEM["content"][PROBLEM]["schema"]["properties"].values():
    del _member["title"]

ANY_PROBLEM: Final[_Responses] = {"default": {"description": "Any other problem", **_PROBLEM}}

_WHY: Final = {
    400: "A cursor that is malformed, or ahead of the run",
    403: "The file may not be run, or is none",
    404: "No such run, or somebody else's",
    406: "No such format",
    409: "The run is in another state, or another run of the thread is going on",
    413: "Too large",
    415: "The body is not declared as JSON",
    422: "Something in the request does not fit",
}


def _told(*problems: int, **answers: _Json) -> _Responses:
    """The `responses` of an endpoint: `_200={…}`, and the problems it is known to have."""
    told: _Responses = {int(status[1:]): answer for status, answer in answers.items()}
    for status in problems:
        told[status] = {"description": _WHY[status], **_PROBLEM}
    return told


# ------------------------------------------------------------------ parameters


def _parameter(
    name: str, schema: _Json, description: str, where: str = "query", *, required: bool = False
) -> _Json:
    return {
        "name": name, "in": where, "required": required, "schema": schema,
        "description": description,
    }  # fmt: skip


_PLAIN_CURSOR: Final = r"([0-9]{1,9}-)?[0-9]{1,18}(\.[0-9]{1,9})?"
# Empty is what a client sends that has nothing yet.
_CURSOR: Final = rf"^(|latest|{_PLAIN_CURSOR})$"
_AFTER: Final = _parameter(
    "after",
    {"type": "string", "pattern": _CURSOR, "default": "0", "examples": ["57", "latest"]},
    "Events after this cursor: 0 for all, the last id received, or latest for what is yet to come.",
)


def _number(bounds: tuple[float, float]) -> _Json:
    return {"type": "number", "minimum": bounds[0], "maximum": bounds[1]}


_HOW: Final = (
    _parameter(
        "Last-Event-ID",
        {"type": "string", "pattern": _CURSOR, "examples": ["57"]},
        "The same as `after`, which it overrules: browsers send it when they reconnect.",
        "header",
    ),
    _AFTER,
    _parameter(
        "format",
        {"type": "string", "enum": list(FORMATS)},
        f"How the events are told. Overrules Accept ({EVENT_STREAM}, {NDJSON}, {JSON}).",
    ),
    _parameter(
        "types",
        {"type": "string", "pattern": f"^{TYPES}$", "examples": ["progress,log"]},
        "Only events of these types, with commas between; the last event always comes.",
    ),
    _parameter(
        "tick", _number(TICKS), "Send a `tick` with the elapsed time every so many seconds."
    ),
)

_HOW_FAST: Final = (
    _parameter(
        "speed", _number(SPEEDS), "Replay a finished run with its own timing, so much faster."
    ),
    _parameter(
        "limit",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
        "How many events a page of JSON has at most.",
    ),
)
_VECTOR: Final = (
    _parameter(
        "Last-Event-ID",
        {"type": "string", "examples": ["12~run_abcdefghijklmnopqrstuvwxyz:57"]},
        "The last id of this very stream.",
        "header",
    ),
    _parameter("after", {"type": "string"}, "The same, for a client that begins anew."),
)

_FILE: Final[_Json] = RunFile.model_json_schema()


def _plain(schema: _Json) -> _Json:
    """A member's schema as a parameter's: nobody can say null in a query."""
    ornament = ("anyOf", "title", "description")
    told = {key: said for key, said in schema.items() if key not in ornament and said is not None}
    told |= schema.get("anyOf", [{}])[0]
    return told


def _file(*, required: bool) -> list[_Json]:
    """The parameters of `run_file`: the members of its body, and whose run to go on with."""
    cursor = {"type": "string", "pattern": f"^(|run_[a-z2-7]{{26}}:{_PLAIN_CURSOR})$"}
    return [
        _parameter(
            "Last-Event-ID",
            cursor | {"examples": ["run_abcdefghijklmnopqrstuvwxyz:57"]},
            "The last id of this very stream: it goes on, and nothing is started. Browsers send "
            "it when they reconnect. An id that names no run is refused.",
            "header",
        ),
        _parameter("after", cursor, "The same; the header overrules it."),
        *(
            _parameter(
                name,
                _plain(schema),
                schema["description"],
                required=required and name in _FILE["required"],
            )
            for name, schema in _FILE["properties"].items()
        ),
    ]


# ------------------------------------------------------------------ endpoints

_FRAMES: Final = (
    ': tailrace\nretry: 1000\nid: 1\nevent: start\ndata: {"operation":"crunch"}\n\n'
    'id: 2\nevent: complete\ndata: {"status":"completed","result":42}\n\n: end\n'
)
_SAID: Final = (
    ": tailrace\nretry: 1000\nid: run_abcdefghijklmnopqrstuvwxyz:0\n\n"
    "id: run_abcdefghijklmnopqrstuvwxyz:1\ndata: Starting execution of hello.py…\n\n"
    "id: run_abcdefghijklmnopqrstuvwxyz:2\ndata: hello\n\n"
    "id: run_abcdefghijklmnopqrstuvwxyz:3\ndata: *** Execution completed ***\n\n: end\n"
)
_TEXT: Final = {"type": "string"}
_FRAME: Final = {
    "type": "object",
    "properties": {
        "id": _TEXT | {"description": "What to send as Last-Event-ID"},
        "event": _TEXT,
        "data": _TEXT | {"description": "JSON, except where format=text"},
        "retry": {"type": "integer"},
    },
}
_LINE: Final = {
    "type": "object",
    "properties": {"id": _TEXT, "type": _TEXT, "data": {"type": "object"}},
    "required": ["type", "data"],
}
# itemSchema is OpenAPI 3.2's word for the parts of a stream; FastAPI uses it in 3.1 as well.
_STREAM: Final[_Json] = {EVENT_STREAM: {"itemSchema": _FRAME, "example": _FRAMES}}
_LINES: Final[_Json] = {
    NDJSON: {
        "itemSchema": _LINE,
        "example": '\n{"id":"1","type":"start","data":{"operation":"crunch"}}\n',
    }
}
_OVER: Final = {"description": "It is over, and the cursor stands at its last event"}
_LOCATION: Final = {
    "Location": {"description": "The run", "schema": {"type": "string"}},
    "Content-Location": {
        "description": "Where the stream is, if the answer is one",
        "schema": {"type": "string"},
    },
}


def _run(description: str) -> _Json:
    return {"description": description, "model": RunSnapshot}


OPERATIONS: Final[_Json] = {
    "responses": _told(_200={"description": "All of them", "model": OperationList})
}
START: Final[_Json] = {
    "status_code": 201,
    "responses": _told(
        400, 404, 406, 409, 413, 415, 422,
        _201=_run("The run, or its stream") | {"headers": _LOCATION, "content": _STREAM | _LINES},
        _200=_run("What this Idempotency-Key started before")
        | {"headers": _LOCATION, "content": _STREAM | _LINES},
        _204=_OVER,
    ),
    "openapi_extra": {"parameters": list(_HOW)},
}  # fmt: skip
LIST: Final[_Json] = {"responses": _told(422, _200={"description": "A page", "model": RunsPage})}
SHOW: Final[_Json] = {"responses": _told(404, _200=_run("The run"))}
FORGET: Final[_Json] = {
    "status_code": 204,
    "responses": _told(404, 409, _204={"description": "It is forgotten"}),
}
# The parameters are declared by hand because `asking` reads them by hand: a host's own
# endpoint (`run.response`) takes them as well, and they are checked before the first byte.
WATCH: Final[_Json] = {
    "responses": _told(
        400, 404, 406, 409, 422,
        _200={
            "description": "The events, or a page of them",
            "model": EventsPage,
            "content": _STREAM | _LINES,
        },
        _204=_OVER,
    ),
    "openapi_extra": {"parameters": [*_HOW, *_HOW_FAST]},
}  # fmt: skip
APPEND: Final[_Json] = {
    "responses": _told(
        404, 409, 413, 415, 422, _200={"description": "They are durable", "model": Appended}
    )
}
TICKET: Final[_Json] = {
    "status_code": 201,
    "responses": _told(
        404, 413, 415, 422, _201={"description": "Good once, for a minute", "model": Ticket}
    ),
}
OUTPUT: Final[_Json] = {
    "responses": _told(
        400, 404, 422,
        _200={"description": "The bytes", "content": {TEXT: {"schema": {"type": "string"}}}},
        _204=_OVER,
    ),
    "openapi_extra": {"parameters": [_AFTER]},
}  # fmt: skip
CANCEL: Final[_Json] = {
    "status_code": 202,
    "responses": _told(404, 413, _202=_run("The run; it ends soon, or has ended already")),
}
MANY: Final[_Json] = {
    "responses": _told(
        400, 404, 422,
        _200={"description": "The events of all of them", "content": _STREAM},
        _204=_OVER,
    ),
    "openapi_extra": {"parameters": list(_VECTOR)},
}  # fmt: skip
RERUN: Final[_Json] = {
    "status_code": 201,
    "responses": _told(
        400, 403, 404, 406, 409, 413, 422,
        _201=_run("The new run, or its stream")
        | {"headers": _LOCATION, "content": _STREAM | _LINES},
    ),
    "openapi_extra": {"parameters": list(_HOW)},
}  # fmt: skip
_TOLD: Final[_Json] = {
    "description": "The script's stream, from its start or from the cursor on",
    "content": {EVENT_STREAM: {"itemSchema": _FRAME, "example": _SAID}} | _LINES,
    "headers": {
        "Content-Location": {
            "description": "The run's own stream, whose ids are plain cursors",
            "schema": {"type": "string"},
        },
        "Tailrace-Run": {"description": "The run's id", "schema": {"type": "string"}},
    },
}
RUN_FILE_GET: Final[_Json] = {
    "responses": _told(400, 403, 404, 406, 422, _200=_TOLD, _204=_OVER),
    "openapi_extra": {"parameters": _file(required=True)},
}
RUN_FILE_POST: Final[_Json] = {
    "responses": _told(400, 403, 404, 406, 413, 415, 422, _200=_TOLD, _204=_OVER),
    "openapi_extra": {
        "parameters": _file(required=False),
        "requestBody": {"required": False, "content": {JSON: {"schema": _FILE}}},
    },
}

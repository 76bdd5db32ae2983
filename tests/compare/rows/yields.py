"""What a generator may yield, and what becomes of it."""

from __future__ import annotations

import json
import re

from tests.compare.lab import Lab
from tests.compare.table import Section
from tests.watching import Watcher

row = Section("What a generator may yield")

# With what the traceback of a group has before it.
ERROR = re.compile(r"^[ |]*([\w.]+(?:Error|Invalid))\b", re.MULTILINE)


async def told(lab: Lab, kind: str) -> str:
    """The data of the one event that an item becomes, or what else became of it."""
    watcher = await lab.whole(f"/item?kind={kind}")
    failed = failure(lab, watcher)
    if failed:
        return failed
    (event,) = watcher.events
    return f"{event.event}: {event.data}" if event.event != "message" else event.data


def failure(lab: Lab, watcher: Watcher) -> str:
    """What the stream broke with, if it did."""
    if watcher.is_complete and not any(each.event == "error" for each in watcher.events):
        return ""
    # The server writes it down; its last line is the error.
    errors = ERROR.findall(lab.server.log)
    name = errors[-1].rpartition(".")[2] if errors else "an error"
    return f"raises {name}"


@row("text", "is the data")
async def text(lab: Lab) -> str:
    answer = await told(lab, "text")
    return {"hi": "is the data", '"hi"': "is told as JSON, in quotes"}.get(answer, answer)


@row("bytes, which are a frame already", "are sent as they are")
async def frame(lab: Lab) -> str:
    answer = await told(lab, "bytes")
    return "are sent as they are" if answer == "hi" else "are told as JSON"


@row('`{"event": "x", "data": "hi"}`', "is an event of type x")
async def fields(lab: Lab) -> str:
    answer = await told(lab, "fields")
    return {"x: hi": "is an event of type x"}.get(answer, "is told as JSON")


@row('`{"a": 1}`', "is told as JSON")
async def mapping(lab: Lab) -> str:
    answer = await told(lab, "mapping")
    return "is told as JSON" if answer[:1] == "{" and json.loads(answer) == {"a": 1} else answer


@row("a `ServerSentEvent` of the library, with all its fields", "all arrive")
async def whole_event(lab: Lab) -> str:
    watcher = await lab.whole("/item?kind=event")
    (event,) = watcher.events
    has = [
        (event.id, event.event, event.data) == ("7", "x", "hi"),
        b"retry: 100" in watcher.body,
        b": c" in watcher.body,
    ]
    return "all arrive" if all(has) else f"{sum(has)} of {len(has)}"


@row("a `ServerSentEvent` of another library", "is that event")
async def foreign_event(lab: Lab) -> str:
    answer = await told(lab, "foreign")
    if answer.startswith("raises"):
        return answer
    return "is that event" if answer == "x: hi" else "is told as something else"


@row("a model of pydantic's", "is told as JSON")
async def model(lab: Lab) -> str:
    answer = await told(lab, "model")
    return "is told as JSON" if answer.replace(" ", "") == '{"x":1}' else f"is told as `{answer}`"


@row("`7`, and `None`", "`7`, `null`")
async def number(lab: Lab) -> str:
    return f"`{await told(lab, 'number')}`, `{await told(lab, 'none')}`"


@row("a mapping with NaN in it, as `data`", "is told as JSON that can be read")
async def nan(lab: Lab) -> str:
    answer = await told(lab, "nan")
    if answer.startswith("raises"):
        return answer

    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        json.loads(answer, parse_constant=refuse)
    except ValueError:
        return f"is told as `{answer}`, which is no JSON"
    return "is told as JSON that can be read"


@row("a path operation that yields, with the class as its `response_class`", "streams")
async def response_class(lab: Lab) -> str:
    watcher = await lab.whole("/typed")
    failed = failure(lab, watcher)
    return failed or ("streams" if watcher.events[0].data == "hi" else "does not")


@row("and an item that is not of the annotated type", "is refused")
async def validation(lab: Lab) -> str:
    watcher = await lab.whole("/checked")
    return "is refused" if failure(lab, watcher) else "is told all the same"


@row("and the items' schema in the OpenAPI document", "is there")
async def schema(lab: Lab) -> str:
    document = await lab.ask("/openapi.json")
    content = document["paths"]["/typed"]["get"]["responses"]["200"].get("content", {})
    return "is there" if "Point" in json.dumps(content) else "is not there"


@row("of the 14 parameters of sse-starlette's response", "14")
async def parameters(lab: Lab) -> str:
    offered = await lab.ask("/parameters")
    return str(len(PARAMETERS & {*offered}))


PARAMETERS = {
    "content", "status_code", "headers", "media_type", "background", "ping", "sep",
    "ping_message_factory", "data_sender_callable", "send_timeout", "shutdown_event",
    "client_close_handler_callable", "shutdown_grace_period", "cleanup_timeout",
}  # fmt: skip

"""Bad input, each with the status and the code that refuse it."""

import json
from typing import Any, NamedTuple
from urllib.parse import quote

from tailrace.protocol.events import MAX_EVENT_BYTES
from tailrace.protocol.wire import MAX_BODY_BYTES

LONG = "x" * 5000
RUN = "{run}"
EVENTS = f"/runs/{RUN}/events"
JSON = {"content-type": "application/json"}


class Bad(NamedTuple):
    """A request, and how it is refused."""

    status: int
    code: str
    method: str
    target: str
    body: bytes | None = None
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed
    chunks: list[bytes] | None = None


def get(target: str, status: int, code: str, **headers: str) -> Bad:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Bad(status, code, "GET", target, headers=sent)


def start(body: bytes, status: int = 422, code: str = "input-invalid", **headers: str) -> Bad:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return Bad(status, code, "POST", "/runs", body, sent)


def wish(body: Any, status: int = 422, code: str = "input-invalid", **headers: str) -> Bad:
    return start(json.dumps(body).encode(), status, code, **headers)


def count(**given: Any) -> dict[str, Any]:
    return {"operation": "count", **given}


def add(body: Any, status: int = 422, code: str = "input-invalid") -> Bad:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Bad(status, code, "POST", EVENTS, sent)


def one(**event: Any) -> dict[str, Any]:
    return {"events": [event]}


MALFORMED = {
    "word": "abc",
    "negative": "-1",
    "long": "9" * 19,
    "very-long": "9" * 5000,
    "arabic-digits": "\u0665\u0667",
    "fullwidth-digits": "\uff15\uff17",
    "superscript": "²",
    "nul": "5\0",
    "line-end": "5\n",
    "header-injection": "5\r\nSet-Cookie: a=b",
    "plus": "+5",
    "space": " 5",
    "underscore": "1_0",
    "float": "1e3",
    "hex": "0x10",
    "two-epochs": "1-2-3",
    "path": "../5",
}

TABLE: dict[str, Bad] = {
    # --- what to run
    "operation-unknown": wish({"operation": "cuont"}, 404, "operation-unknown"),
    "operation-long": wish({"operation": LONG}),
    "operation-almost-long": wish({"operation": "x" * 200}, 404, "operation-unknown"),
    "operation-injection": wish({"operation": "a\r\nb: c\0"}, 404, "operation-unknown"),
    "operation-missing": wish({"input": {}}),
    "operation-number": wish({"operation": 7}),
    "operation-null": wish({"operation": None}),
    "field-extra": wish(count(priority=1)),
    "field-extra-long": wish(count(**{LONG: 1})),
    "input-array": wish(count(input=[1])),
    "input-string": wish(count(input="rows=1")),
    "input-wrong-type": wish(count(input={"rows": "many"})),
    "input-fraction": wish(count(input={"rows": 1.5})),
    "input-null": wish(count(input={"rows": None})),
    "input-extra": wish(count(input={"rowz": 1})),
    "input-extra-long": wish(count(input={LONG: 1})),
    "input-many-extras": wish(count(input={f"{n}{'x' * 100}": 1 for n in range(5000)})),
    "input-missing": wish({"operation": "needy"}),
    "input-huge-number": start(b'{"operation":"count","input":{"rows":1%b}}' % (b"0" * 400)),
    "input-65-bits": start(b'{"operation":"count","input":{"rows":18446744073709551616}}'),
    "input-too-large": wish(
        {"operation": "puppet", "input": {"name": "x" * MAX_EVENT_BYTES}}, 413, "body-too-large"
    ),
    # --- how it is said
    "json-invalid": start(b"{operation: count}"),
    "json-cut": start(b'{"operation": "count"'),
    "json-two": start(b'{"operation":"count"}{"operation":"count"}'),
    "json-empty": start(b""),
    "json-blank": start(b" \n"),
    "json-array": start(b'[{"operation": "count"}]'),
    "json-string": start(b'"count"'),
    "json-null": start(b"null"),
    "json-number": start(b"1"),
    "json-not-utf8": start(b'{"operation": "\xff\xfe"}'),
    "json-utf16": start('{"operation": "count"}'.encode("utf-16")),
    "json-bom": start(b'\xef\xbb\xbf{"operation":"count"}'),
    "json-nan": start(b'{"operation":"count","timeout":NaN}'),
    "json-nan-in-input": start(b'{"operation":"anything","input":{"value":NaN}}'),
    "json-infinity": start(b'{"operation":"anything","input":{"value":-Infinity}}'),
    "json-overflow": start(b'{"operation":"anything","input":{"value":1e999}}'),
    "json-surrogate": start(b'{"operation":"anything","input":{"value":"\\ud800"}}'),
    "json-surrogate-key": start(b'{"operation":"count","\\udc00":1}'),
    "json-surrogate-operation": start(b'{"operation":"\\ud800"}'),
    "json-twice": start(b'{"operation":"count","operation":"puppet"}'),
    "json-twice-deep": start(b'{"operation":"anything","input":{"value":{"a":1,"a":2}}}'),
    "json-deep-array": start(b"[" * 100_000 + b"]" * 100_000),
    "json-deep-object": start(b'{"a":' * 5000 + b"1" + b"}" * 5000),
    "json-deep-input": start(
        b'{"operation":"anything","input":{"value":%b}}' % (b"[" * 200 + b"]" * 200)
    ),
    "json-digits": start(b'{"operation":"anything","input":{"value":%b}}' % (b"9" * 100_000)),
    "type-none": Bad(415, "body-not-json", "POST", "/runs", headers={"content-type": ""},
                     chunks=[b'{"operation":"count"}']),
    "type-form": start(b"operation=count", 415, "body-not-json",
                       content_type="application/x-www-form-urlencoded"),
    "type-plain": start(b'{"operation":"count"}', 415, "body-not-json", content_type="text/plain"),
    "type-long": start(b"{}", 415, "body-not-json", content_type=LONG),
    "type-injection": start(b"{}", 415, "body-not-json", content_type="text/\x01; a=\x7f"),
    "body-declared-too-large": Bad(
        413, "body-too-large", "POST", "/runs", b"{}",
        {"content-length": str(MAX_BODY_BYTES + 1), **JSON},
    ),
    "body-chunked-too-large": Bad(
        413, "body-too-large", "POST", "/runs", headers=JSON, chunks=[b" " * 65536] * 17
    ),
    "body-chunked-too-large-cancel": Bad(
        413, "body-too-large", "POST", f"/runs/{RUN}/cancel", chunks=[b" " * 65536] * 17
    ),
    # --- how long
    **{
        f"{name}-{kind}": start(b'{"operation":"count","%b":%b}' % (name.encode(), value))
        for name in ("timeout", "abandon_after")
        for kind, value in {
            "zero": b"0", "negative": b"-1", "tiny-negative": b"-1e-300", "nan": b"NaN",
            "infinity": b"Infinity", "overflow": b"1e999", "huge": b"1e308", "string": b'"30"',
            "true": b"true", "array": b"[1]", "century": b"3155760000",
        }.items()
    },
    # --- threads
    **{
        f"thread-{kind}": wish(count(thread=thread))
        for kind, thread in {
            "empty": "", "long": "x" * 201, "very-long": LONG, "line-end": "t\n", "nul": "t\0",
            "c1": "t\x85", "escape": "\x1b[2J", "number": 7, "array": ["t"], "object": {"a": "t"},
            "surrogate": "\ud800",
        }.items()
    },
    "thread-busy": wish({"operation": "puppet", "thread": "busy"}, 409, "thread-busy"),
    # --- keys
    "key-long": wish(count(), idempotency_key="x" * 201),
    "key-empty": wish(count(), idempotency_key=""),
    "key-reused": wish(count(input={"rows": 2}), 422, "idempotency-key-reused",
                       idempotency_key="used"),
    "accept-unknown": wish(count(), 406, "format-unknown", accept="image/png"),
    "start-format-unknown": Bad(406, "format-unknown", "POST", "/runs?format=xml",
                                b'{"operation":"count"}'),
    "start-after-malformed": Bad(400, "cursor-malformed", "POST", "/runs?after=x",
                                 b'{"operation":"count"}', {"accept": "text/event-stream"}),
    # --- which run
    **{
        f"run-{kind}{path.replace('/', '-')}": get(f"/runs/{name}{path}", 404, "run-unknown")
        for path in ("", "/events", "/output")
        for kind, name in {
            "unknown": "run_abcdefghijklmnopqrstuvwxyz",
            "number": "1",
            "word": "nope",
            "uppercase": "RUN_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            "uppercase-letters": "run_ABCDEFGHIJKLMNOPQRSTUVWXYZ",
            "short": "run_abc",
            "long": "run_" + "a" * 5000,
            "one-too-long": "run_abcdefghijklmnopqrstuvwxyza",
            "unicode": quote("run_äbcdefghijklmnopqrstuvwxyz"),
            "homoglyph": quote("run_\u0430bcdefghijklmnopqrstuvwxyz"),
            "bad-utf8": "run_%ff%fe",
            "nul": "run_abcdefghijklmnopqrstuvwxyz%00",
            "line-end": "run_abcdefghijklmnopqrstuvwxyz%0a",
            "header-injection": "x%0d%0aSet-Cookie:%20a=b",
            "dots": "..",
            "windows": "..%5c..%5cwindows",
            "sql": quote("' OR 1=1 --"),
            "format-string": "%25s%25n{0.__class__}",
        }.items()
    },
    "run-traversal": get("/runs/..%2f..%2fetc%2fpasswd", 404, "path-unknown"),
    "run-traversal-events": get("/runs/../../etc/passwd/events", 404, "path-unknown"),
    "run-forget-unknown": Bad(404, "run-unknown", "DELETE", "/runs/nope"),
    "run-forget-active": Bad(409, "run-active", "DELETE", f"/runs/{RUN}"),
    "run-cancel-unknown": Bad(404, "run-unknown", "POST", "/runs/nope/cancel"),
    # --- from where
    **{
        f"after-{kind}": get(f"{EVENTS}?after={quote(text)}", 400, "cursor-malformed")
        for kind, text in MALFORMED.items()
    },
    **{
        f"output-after-{kind}": get(
            f"/runs/{RUN}/output?after={quote(text)}", 400, "cursor-malformed"
        )
        for kind, text in MALFORMED.items()
    },
    **{
        f"many-after-{kind}": get(f"/events?after={quote(text)}", 400, "cursor-malformed")
        for kind, text in MALFORMED.items()
    },
    **{
        f"header-{kind}": get(EVENTS, 400, "cursor-malformed", last_event_id=text)
        for kind, text in MALFORMED.items()
        # Around a header's value spaces mean nothing.
        if text.isascii() and kind != "space"
    },
    "after-future": get(f"{EVENTS}?after=999", 400, "cursor-from-future"),
    "after-far-future": get(f"{EVENTS}?after={'9' * 18}", 400, "cursor-from-future"),
    "after-other-epoch": get(f"{EVENTS}?after=7-1", 400, "cursor-from-future"),
    "after-future-page": get(f"{EVENTS}?format=json&after=999", 400, "cursor-from-future"),
    "after-future-output": get(f"/runs/{RUN}/output?after=999", 400, "cursor-from-future"),
    "after-future-many": get(f"/events?after=1~{RUN}:999", 400, "cursor-from-future"),
    "header-wins-though-it-is-bad": get(f"{EVENTS}?after=1", 400, "cursor-malformed",
                                        last_event_id="x"),
    # --- how it is told
    **{
        f"format-{kind}": get(f"{EVENTS}?format={quote(text)}", 406, "format-unknown")
        for kind, text in {
            "unknown": "xml", "empty": "", "case": "Events", "output": "output", "long": LONG,
            "injection": "events\r\nSet-Cookie: a=b", "path": "../events", "nul": "events\0",
        }.items()
    },
    "accept-nothing": get(EVENTS, 406, "format-unknown", accept="text/html"),
    "accept-refused": get(EVENTS, 406, "format-unknown", accept="*/*;q=0"),
    "accept-long": get(EVENTS, 406, "format-unknown", accept=LONG),
    **{
        f"types-{kind}": get(f"{EVENTS}?types={quote(text)}", 422, "input-invalid")
        for kind, text in {
            "empty": "", "comma": "log,", "digit": "1", "space": "a b", "unicode": "lög",
            "injection": "log\r\nSet-Cookie: a=b", "nul": "log\0", "long": "x" * 65,
            "very-long": LONG, "many": ",".join("a" * 33),
        }.items()
    },
    **{
        f"{name}-{kind}": get(f"{EVENTS}?{name}={quote(text)}", 422, "input-invalid")
        for name in ("speed", "tick", "limit")
        for kind, text in {
            "empty": "", "word": "fast", "zero": "0", "negative": "-1", "nan": "nan",
            "infinity": "inf", "huge": "1e9", "digits": "9" * 5000, "unicode": "\u0663",
            "underscore": "1_0", "injection": "1\r\nx: y", "two": "1,2",
        }.items()
    },
    "limit-fraction": get(f"{EVENTS}?format=json&limit=1.5", 422, "input-invalid"),
    "limit-too-large": get(f"{EVENTS}?format=json&limit=10001", 422, "input-invalid"),
    "speed-active": get(f"{EVENTS}?speed=4", 409, "run-active"),
    "stream-unknown": get(f"/runs/{RUN}/output?stream=stdin", 422, "input-invalid"),
    "stream-long": get(f"/runs/{RUN}/output?stream={LONG}", 422, "input-invalid"),
    # --- lists
    **{
        f"runs-{kind}": get(f"/runs?{query}", 422, "input-invalid")
        for kind, query in {
            "limit-zero": "limit=0", "limit-negative": "limit=-1", "limit-large": "limit=201",
            "limit-word": "limit=x", "limit-empty": "limit=", "limit-digits": "limit=" + "9" * 5000,
            "limit-fraction": "limit=1.5", "limit-unicode": "limit=%D9%A3",
            "cursor-word": "cursor=x", "cursor-empty": "cursor=", "cursor-negative": "cursor=-1",
            "cursor-digits": "cursor=" + "9" * 19, "cursor-line-end": "cursor=1%0a",
            "cursor-unicode": "cursor=%D9%A3", "state-unknown": "state=done",
            "state-case": "state=RUNNING", "state-empty": "state=", "state-long": f"state={LONG}",
            "operation-long": f"operation={LONG}", "q-long": f"q={LONG}",
            "thread-long": f"thread={LONG}",
        }.items()
    },
    # --- many
    "many-unknown": get("/events?runs=nope", 404, "run-unknown"),
    "many-empty": get("/events?runs=", 404, "run-unknown"),
    "many-long": get(f"/events?runs={LONG}", 404, "run-unknown"),
    "many-too-many": get("/events?runs=" + ",".join(map(str, range(65))), 422, "input-invalid"),
    # --- events from elsewhere
    "add-no-events": add({}),
    "add-too-many": add({"events": [{"type": "log"}] * 1001}),
    "add-no-type": add(one(data={})),
    "add-type-number": add(one(type=1)),
    "add-type-empty": add(one(type=""), code="event-invalid"),
    "add-type-long": add(one(type=LONG), code="event-invalid"),
    "add-type-injection": add(one(type="log\nid: 99"), code="event-invalid"),
    "add-type-unicode": add(one(type="lög"), code="event-invalid"),
    "add-type-terminal": add(one(type="complete"), code="event-invalid"),
    "add-type-control": add(one(type="gap"), code="event-invalid"),
    "add-data-array": add(one(type="log", data=[])),
    "add-extra": add(one(type="log", id="99")),
    "add-large": add(one(type="log", data={"m": "x" * MAX_EVENT_BYTES}), 413, "event-too-large"),
    "add-surrogate": add(b'{"events":[{"type":"log","data":{"m":"\\ud800"}}]}'),
    "add-nan": add(b'{"events":[{"type":"log","data":{"m":NaN}}]}'),
    "add-deep": add(b'{"events":[{"type":"log","data":{"m":%b}}]}' % (b"[" * 99 + b"]" * 99)),
    "add-attempt-stale": add({**one(type="log"), "attempt": 99}, 409, "writer-fenced"),
    "add-attempt-zero": add({**one(type="log"), "attempt": 0}),
    "add-attempt-huge": add({**one(type="log"), "attempt": 2**63}),
    "add-gap": add({**one(type="log"), "producer": {"id": "me", "seq": 9}}, 409, "producer-gap"),
    "add-seq-zero": add({**one(type="log"), "producer": {"id": "me", "seq": 0}}),
    "add-epoch-negative": add(
        {**one(type="log"), "producer": {"id": "me", "seq": 1, "epoch": -1}}
    ),
    "add-producer-long": add({**one(type="log"), "producer": {"id": LONG, "seq": 1}}),
    "add-form": Bad(415, "body-not-json", "POST", EVENTS, b"a=b", {"content-type": "text/csv"}),
}  # fmt: skip

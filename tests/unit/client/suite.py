"""What both clients must do, written once: test_sync and test_aio bring the way to call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import pytest

from tailrace.client.reconnect import WatchedEvent
from tailrace.errors import (
    InputInvalid,
    OperationUnknown,
    ProtocolViolation,
    RequestError,
    RunActive,
    RunUnknown,
    ServerUnreachable,
    StreamRefused,
    TailraceError,
    ThreadBusy,
)
from tests.unit.client.scripted import (
    CLOSING,
    OPENING,
    RUN,
    Answer,
    control,
    event,
    events,
    nowhere,
    problem,
    reply,
    scripted,
    stream,
)

END = event(6, "complete", status="completed")
WHOLE = stream(OPENING, events(1, 5), END, CLOSING)
REST = stream(OPENING, events(4, 5), END, CLOSING)
ALL = ["1", "2", "3", "4", "5", "6"]


class Face(Protocol):
    """A client, whichever."""

    pauses: list[float]

    def collect(self, url: str, verb: str, *args: Any, **options: Any) -> list[Any]:
        """Make a client of `url`; iterate over what `verb` gives."""

    def call(self, url: str, verb: str, *args: Any, **options: Any) -> Any:
        """Make a client of `url`; the result of `verb`."""


@dataclass(frozen=True)
class Story:
    """What a server does to a watcher, and what the watcher is told of it."""

    name: str
    answers: list[Answer]
    told: list[str] = field(default_factory=lambda: ALL)
    cursors: list[str | None] = field(default_factory=lambda: [None, "3"])
    # Lowest and highest, of each.
    pauses: list[tuple[float, float]] = field(default_factory=lambda: [(0, 1)])


STORIES = [
    Story("no trouble", [WHOLE], cursors=[None], pauses=[]),
    Story("cut in an event", [stream(events(1, 3), event(4)[:20], end="close"), REST]),
    Story("cut between events", [stream(events(1, 3), end="close"), REST]),
    Story("connection reset", [stream(events(1, 3), end="reset"), REST]),
    Story("silence", [stream(events(1, 3), end="hang"), REST]),
    Story("no HTTP at all", [Answer(b"\0\1\2 what?\r\n\r\n"), WHOLE], cursors=[None, None]),
    Story("no answer", [Answer(b""), WHOLE], cursors=[None, None]),
    Story(
        "server going away",
        [stream(OPENING, events(1, 3), b"retry: 500\n", CLOSING), REST],
        pauses=[(0.5, 0.5)],
    ),
    Story(
        "busy",
        [reply(503, retry_after="7"), problem(429, "slow", "Slowly."), WHOLE],
        cursors=[None, None, None],
        pauses=[(7, 7), (0, 2)],
    ),
    Story(
        "bad gateway",
        [reply(502, b"<html>"), reply(504), WHOLE],
        cursors=[None, None, None],
        pauses=[(0, 1), (0, 2)],
    ),
    Story("finished before", [reply(204)], told=[], cursors=[None], pauses=[]),
    Story("finished, and cut", [stream(events(1, 3), end="close"), reply(204)], told=ALL[:3]),
    Story(
        "gap",
        [stream(control("gap", **{"from": 1, "to": 3}), events(4, 5), END)],
        told=["gap", *ALL[3:]],
        cursors=[None],
        pauses=[],
    ),
    Story(
        "replayed by a proxy",
        [stream(events(1, 3), events(2, 3), end="close"), WHOLE],
    ),
    Story("one is missing", [stream(events(1, 3), event(5)), REST]),
    Story("one is garbled", [stream(events(1, 3), b"id: 4\ndata: {oops\n\n"), REST]),
    Story(
        "lost by a failover",
        [
            stream(events(1, 3), end="close"),
            stream(
                control("reset", **{"from": 3, "to": 3}), event("1-3"), event("1-4", "complete")
            ),
        ],
        told=["1", "2", "3", "reset", "1-3", "1-4"],
    ),
    Story(
        "fault within the stream",
        [stream(events(1, 3), control("error", status=500, code="log-corrupt", detail="!")), REST],
    ),
    Story(
        "ticks between",
        [stream(events(1, 3), control("tick", elapsed_seconds=2.0), events(4, 5), END)],
        told=[*ALL[:3], "tick", *ALL[3:]],
        cursors=[None],
        pauses=[],
    ),
]


class Suite:
    """Subclasses provide the fixture `face`."""

    RUN_JSON: ClassVar[dict[str, Any]] = {"id": RUN, "state": "running"}

    # ------------------------------------------------------------ watching

    @pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
    def test_watching(self, face: Face, story: Story) -> None:
        with scripted(*story.answers) as server:
            told = face.collect(server.url, "watch", RUN)
        assert [e.id or e.type for e in told] == story.told
        assert [asked.headers.get("last-event-id") for asked in server.asked] == story.cursors
        assert len(face.pauses) == len(story.pauses)
        for pause, (low, high) in zip(face.pauses, story.pauses, strict=True):
            assert low <= pause <= high

    def test_an_event_in_full(self, face: Face) -> None:
        with scripted(stream(event(1, "complete", status="completed"))) as server:
            told = face.collect(server.url, "watch", RUN)
        raw = '{"n": 1, "status": "completed"}'
        assert told == [WatchedEvent("1", "complete", {"n": 1, "status": "completed"}, raw)]
        assert told[0].terminal

    def test_what_is_asked_for(self, face: Face) -> None:
        with scripted(stream(event(59), event(61, "complete"))) as server:
            face.collect(server.url, "watch", RUN, after="57", types=["progress", "log"])
        (asked,) = server.asked
        assert asked.method == "GET"
        assert asked.target == f"/tailrace/runs/{RUN}/events?types=log%2Cprogress"
        assert asked.headers["last-event-id"] == "57"
        assert asked.headers["accept"] == "text/event-stream"
        assert asked.headers["authorization"] == "Bearer s3cret"

    @pytest.mark.parametrize("make", [str, lambda url: "/" + url.split("/", 3)[3]])
    def test_the_address_of_events(self, face: Face, make: Callable[[str], str]) -> None:
        with scripted(WHOLE) as server:
            address = make(f"{server.url}/runs/{RUN}/events?after=0&tick=2&format=ag-ui")
            told = face.collect(server.url, "watch", address)
        assert [e.id for e in told] == ALL
        assert server.asked[0].target == f"/tailrace/runs/{RUN}/events?tick=2&after=0"

    @pytest.mark.parametrize(
        ("answers", "kind", "text", "fix"),
        [
            ([problem(404, "run-unknown", "No run.", "Look.")], StreamRefused, "No run.", "Look."),
            ([problem(401, "http", "Who?")], StreamRefused, "Who?", "token"),
            ([reply(404, b"Not Found", content_type="text/plain")], StreamRefused, "404", "prefix"),
            ([reply(307, location="https://x/")], StreamRefused, "307", "https://x/"),
            ([reply(200, {"id": RUN})], StreamRefused, "application/json", "address"),
            ([stream(b"data: hi\n\n")] * 3, ProtocolViolation, "does not follow", "proxy"),
            ([stream(events(1, 3), event(5))] * 4, ProtocolViolation, "After 3", "proxy"),
        ],
    )
    def test_refusals(
        self, face: Face, answers: list[Answer], kind: type[TailraceError], text: str, fix: str
    ) -> None:
        with scripted(*answers) as server, pytest.raises(kind) as raised:
            face.collect(server.url, "watch", RUN)
        assert text in str(raised.value)
        assert fix in raised.value.fix
        assert len(server.asked) == min(len(answers), 3)

    def test_no_patience(self, face: Face) -> None:
        with pytest.raises(ServerUnreachable, match="ConnectError") as raised:
            face.collect(nowhere(), "watch", RUN, patience=0)
        assert "tailrace serve" in raised.value.fix
        assert face.pauses == []

    def test_nonsense_is_refused_before_anything_is_sent(self, face: Face) -> None:
        with scripted() as server:
            with pytest.raises(RequestError):
                face.collect(server.url, "watch", RUN, after="yesterday")
            with pytest.raises(RunUnknown):
                face.collect(server.url, "watch", "my-run")
        assert server.asked == []

    def test_output_through_a_cut(self, face: Face) -> None:
        first = event(2, "output", stream="stdout", text="a\n")
        second = event(3, "output", stream="stderr", text="?", bytes="/w==")
        third = event(7, "output", stream="stdout", text="b\n")
        with scripted(
            stream(first, second, end="close"), stream(third, event(9, "complete"))
        ) as server:
            assert face.collect(server.url, "output", RUN) == [b"a\n", b"\xff", b"b\n"]
        assert server.asked[0].target.endswith("/events?types=output&after=0")
        with scripted(stream(first, second, third, event(9, "complete"))) as server:
            assert face.collect(server.url, "output", RUN, stream="stdout") == [b"a\n", b"b\n"]

    def test_a_tool_call_through_a_cut(self, face: Face) -> None:
        begun = event(1, "start", operation="market.count", input={})
        first, again = (event(2, "progress", current=n, message="{}") for n in (1, 9))
        end = event(3, "complete", result="counted 2")
        with scripted(
            reply(201, self.RUN_JSON),
            stream(begun, first, end="close"),
            # What comes twice is known by its id.
            stream(again, end),
        ) as server:
            told = face.collect(server.url, "call_tool_streaming", "market.count", {"n": 2})
        method = "notifications/progress"
        token = {"progressToken": RUN}
        assert told == [
            {"jsonrpc": "2.0", "method": method,
             "params": {**token, "progress": 0, "message": "connected"}},
            {"jsonrpc": "2.0", "method": method,
             "params": {**token, "progress": 1, "message": "{}"}},
            {"jsonrpc": "2.0", "id": RUN,
             "result": {"content": [{"type": "text", "text": "counted 2"}], "isError": False}},
        ]  # fmt: skip
        assert server.asked[0].json == {"operation": "market.count", "input": {"n": 2}}
        assert server.asked[2].headers["last-event-id"] == "2"

    def test_a_tool_call_whose_beginning_is_gone(self, face: Face) -> None:
        lost = control("gap", **{"from": 1, "to": 4})
        end = event(5, "cancelled", reason="requested")
        with scripted(reply(201, self.RUN_JSON), stream(lost, end)) as server:
            gap, error = face.collect(server.url, "call_tool_streaming", "count", abandon_after=2)
        assert gap["params"] == {"level": "warning", "logger": "gap", "data": {"from": 1, "to": 4}}
        assert (error["id"], error["error"]["code"]) == (RUN, -32800)
        assert server.asked[0].json["abandon_after"] == 2

    def test_wait(self, face: Face) -> None:
        ended = {"id": RUN, "state": "failed"}
        with scripted(stream(event(9, "error", reason="failed")), reply(200, ended)) as server:
            assert face.call(server.url, "wait", RUN) == ended
        assert [asked.target for asked in server.asked] == [
            f"/tailrace/runs/{RUN}/events?types=complete&after=0",
            f"/tailrace/runs/{RUN}",
        ]

    # ------------------------------------------------------------ requests

    def test_start(self, face: Face) -> None:
        with scripted(reply(201, self.RUN_JSON)) as server:
            run = face.call(server.url, "start", "crunch", {"rows": 3}, timeout=5, key="k-1")
        assert run == self.RUN_JSON
        (asked,) = server.asked
        assert (asked.method, asked.target) == ("POST", "/tailrace/runs")
        assert asked.json == {"operation": "crunch", "input": {"rows": 3}, "timeout": 5}
        assert asked.headers["idempotency-key"] == "k-1"
        assert asked.headers["authorization"] == "Bearer s3cret"

    def test_start_in_a_thread(self, face: Face) -> None:
        refused = problem(409, "thread-busy", f"{RUN} is still going on.", run=RUN)
        with scripted(reply(201, self.RUN_JSON), refused) as server:
            face.call(server.url, "start", "crunch", thread="chat 7")
            with pytest.raises(ThreadBusy) as error:
                face.call(server.url, "start", "crunch", thread="chat 7")
        assert error.value.details["run"] == RUN
        assert server.asked[0].json == {"operation": "crunch", "input": {}, "thread": "chat 7"}

    def test_a_start_that_breaks_off_is_repeated_under_its_key(self, face: Face) -> None:
        with scripted(
            Answer(b"", "reset"), Answer(b"HTTP/1.1 2"), reply(200, self.RUN_JSON)
        ) as server:
            assert face.call(server.url, "start", "crunch") == self.RUN_JSON
        keys = {asked.headers["idempotency-key"] for asked in server.asked}
        assert len(server.asked) == 3
        assert len(keys) == 1
        assert face.pauses == [0.1, 0.5]

    def test_repeated_no_more_than_twice(self, face: Face) -> None:
        with scripted(Answer(b""), Answer(b""), Answer(b"")) as server:
            with pytest.raises(ServerUnreachable):
                face.call(server.url, "run", RUN)
            assert len(server.asked) == 3

    def test_nobody_there(self, face: Face) -> None:
        url = nowhere()
        with pytest.raises(ServerUnreachable, match=f"No answer from {url}") as raised:
            face.call(url, "operations")
        assert raised.value.fix == "Start one with `tailrace serve`, or give --url."
        assert face.pauses == []

    def test_a_page_of_runs(self, face: Face) -> None:
        with scripted(reply(200, {"runs": [self.RUN_JSON], "next": "41"})) as server:
            runs, following = face.call(
                server.url, "runs", state=["running", "queued"], q="cr ", limit=1
            )
        assert (runs, following) == ([self.RUN_JSON], "41")
        assert server.asked[0].target == "/tailrace/runs?state=running%2Cqueued&q=cr+&limit=1"

    def test_the_runs_of_a_thread(self, face: Face) -> None:
        with scripted(reply(200, {"runs": [], "next": None})) as server:
            assert face.call(server.url, "runs", thread="chat 7&") == ([], None)
        assert server.asked[0].target == "/tailrace/runs?thread=chat+7%26"

    def test_the_other_requests(self, face: Face) -> None:
        with scripted(
            reply(200, {"operations": [{"name": "crunch"}]}),
            reply(200, self.RUN_JSON),
            reply(202, self.RUN_JSON),
            reply(201, self.RUN_JSON),
            reply(204),
        ) as server:
            assert face.call(server.url, "operations") == [{"name": "crunch"}]
            assert face.call(server.url, "run", RUN) == self.RUN_JSON
            assert face.call(server.url, "cancel", RUN) == self.RUN_JSON
            assert face.call(server.url, "rerun", RUN) == self.RUN_JSON
            assert face.call(server.url, "forget", RUN) is None
        assert [f"{asked.method} {asked.target}" for asked in server.asked] == [
            "GET /tailrace/operations",
            f"GET /tailrace/runs/{RUN}",
            f"POST /tailrace/runs/{RUN}/cancel",
            f"POST /tailrace/runs/{RUN}/rerun",
            f"DELETE /tailrace/runs/{RUN}",
        ]

    def test_what_would_start_twice_is_not_repeated(self, face: Face) -> None:
        with scripted(Answer(b"", "reset"), reply(201, self.RUN_JSON)) as server:
            with pytest.raises(ServerUnreachable):
                face.call(server.url, "rerun", RUN)
            assert len(server.asked) == 1
        assert face.pauses == []

    def test_forgetting_that_breaks_off_and_was_done(self, face: Face) -> None:
        with scripted(Answer(b""), problem(404, "run-unknown", "No run.")) as server:
            assert face.call(server.url, "forget", RUN) is None

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (problem(404, "operation-unknown", "No operation."), OperationUnknown),
            (problem(422, "input-invalid", "rows: no", errors=[{"where": "rows"}]), InputInvalid),
            (problem(409, "run-active", "Busy."), RunActive),
            (problem(418, "teapot", "I am one."), TailraceError),
            (reply(500, b"<html>"), TailraceError),
            (reply(200, b"<html>", content_type="text/html"), ProtocolViolation),
        ],
    )
    def test_problems(self, face: Face, answer: Answer, kind: type[TailraceError]) -> None:
        with scripted(answer) as server, pytest.raises(TailraceError) as raised:
            face.call(server.url, "start", "crunch")
        assert type(raised.value) is kind
        assert len(server.asked) == 1

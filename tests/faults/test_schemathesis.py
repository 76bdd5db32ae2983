"""Thousands of requests that schemathesis makes up from the OpenAPI document, right and wrong ones:
every one is answered, soon, and none of the answers is that the server met a fault of its own.

TAILRACE_TEST_CASES says how many (`make fuzz`: 10,000, at random). Without it there are 1,000,
which are always the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode

from tests.door import UNBOUND, Door, opened
from tests.processes import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SAID: Final = os.environ.get("TAILRACE_TEST_CASES")
CASES: Final = int(SAID or 1000)

HEAD_SECONDS: Final = 5.0
"""How long the head of any answer may take."""

MOMENT_SECONDS: Final = 0.02
"""For how long a stream that goes on is read."""

SCRIPTS: Final = {
    "hello.sh": 'echo "hello $*"\n',
    "fail.sh": "echo oops >&2\nexit 3\n",
    "wait.sh": "exec sleep 600\n",
}
OVER_SOON: Final = ("hello.sh", "fail.sh")


class Crowd:
    """Who asks, over one connection as long as it lasts."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._connection = HTTPConnection("127.0.0.1", door.port, timeout=HEAD_SECONDS)
        self.statuses: Counter[int] = Counter()
        self.slowest = 0.0
        self.impossible = 0

    def ask(self, case: Case[Any]) -> None:
        """Send it and look at the answer."""
        try:
            told = case.as_transport_kwargs(base_url=f"http://127.0.0.1:{self._door.port}")
            told.pop("timeout", None)
            sent = requests.Request(**told).prepare()
            began = time.monotonic()
            answer = self._send(sent)
        except (requests.exceptions.InvalidHeader, ValueError, UnicodeError):
            # Nothing that a client could put on the wire.
            self.impossible += 1
            self._connection.close()
            return
        took = time.monotonic() - began
        self.slowest = max(self.slowest, took)
        self.statuses[answer.status] += 1
        body = self._read(answer)
        note(
            f"{sent.method} {sent.path_url} {sent.headers} {sent.body!r} → {answer.status} {body!r}"
        )
        assert took < HEAD_SECONDS
        assert answer.status < 500
        assert answer.status < 400 or answer.headers["content-type"] is not None

    def _send(self, sent: requests.PreparedRequest) -> HTTPResponse:
        headers = {name: text for name, text in sent.headers.items() if name != "Content-Length"}
        body: Any = sent.body
        for is_last in (False, True):
            try:
                self._connection.request(str(sent.method), sent.path_url, body, headers)
                return self._connection.getresponse()
            except (ConnectionError, BrokenPipeError):
                # It may have ended while nobody looked; once anew is certain.
                self._connection.close()
                if is_last:
                    raise
        raise AssertionError

    def _read(self, answer: HTTPResponse) -> bytes:
        kind = answer.headers.get("content-type", "")
        is_stream = "event-stream" in kind or "ndjson" in kind or answer.will_close
        if not is_stream:
            return answer.read()
        found = b""
        # http.client lets go of the socket where the connection ends with the answer.
        connection = self._connection.sock
        if connection is not None:
            connection.settimeout(MOMENT_SECONDS)
        ends = time.monotonic() + MOMENT_SECONDS
        with contextlib.suppress(OSError):
            while time.monotonic() < ends and connection is not None:
                part = answer.read1(65536)
                if not part:
                    break
                found += part
        answer.close()
        self._connection.close()
        self._connection.timeout = HEAD_SECONDS
        return found

    def close(self) -> None:
        """Leave."""
        self._connection.close()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name, text in SCRIPTS.items():
        (scripts / name).write_text(text, encoding="utf-8")
    options = ["--no-auth", *UNBOUND, "--allow-root", str(scripts), "--at-once", "8"]
    options += ["--chat", "demo"]
    with opened(tmp_path, *options) as door:
        yield door


def asked(draw: st.DrawFn, body: dict[str, Any], responses: list[str]) -> None:
    """Now and then the body of a request for a chat asks something."""
    where = "messages" if "messages" in body else "input"
    if where in body and "operation" not in body and draw(st.booleans()):
        body |= {where: [{"role": "user", "content": "hi"}], "model": None}
        for name in ("tools", "instructions", "store", "conversation"):
            body.pop(name, None)
    if "previous_response_id" in body and draw(st.booleans()):
        body["previous_response_id"] = draw(st.sampled_from(responses))


@st.composite
def likely(
    draw: st.DrawFn, cases: st.SearchStrategy[Case[Any]], runs: list[str], responses: list[str]
) -> Case[Any]:
    """A case, which now and then is about something that there is."""
    case = draw(cases)
    for name, known in (("run", runs), ("id", responses)):
        if name in (case.path_parameters or {}) and draw(st.booleans()):
            case.path_parameters[name] = draw(st.sampled_from(known))
    body: Any = case.body
    if isinstance(body, dict):
        asked(draw, body, responses)
        if "operation" in body and draw(st.booleans()):
            file = draw(st.sampled_from(OVER_SOON))
            body |= {"operation": "script", "input": {"file": file}}
        if "run" in body and draw(st.booleans()):
            body["run"] = draw(st.sampled_from(runs))
        if "file_path" in body and draw(st.booleans()):
            body["file_path"] = draw(st.sampled_from(OVER_SOON))
    query: Any = case.query
    if isinstance(query, dict):
        if "file_path" in query and draw(st.booleans()):
            query["file_path"] = draw(st.sampled_from(OVER_SOON))
        if "runs" in query and draw(st.booleans()):
            query["runs"] = ",".join(draw(st.lists(st.sampled_from(runs), min_size=1)))
    return case


def stop_all(door: Door) -> None:
    """No run that goes on shall be in the way of the next ones."""
    while runs := door.ask("GET", "/runs?state=running,queued&limit=200").json["runs"]:
        for run in runs:
            door.ask("POST", f"/runs/{run['id']}/cancel")
        for run in runs:
            door.ended(run["id"])


Turn = tuple[Any, GenerationMode]


def tried(door: Door, crowd: Crowd, turn: Turn, count: int) -> int:
    """So many requests of one operation; how many there were. Where nothing can be said, nothing
    can be said wrongly.
    """
    operation, mode = turn
    held = door.start("script", file="wait.sh")
    ended = door.start("script", file="hello.sh")
    door.ended(ended)
    answered = door.start("chat", message="hi")
    door.ended(answered)
    before = crowd.statuses.total()
    cases = operation.as_strategy(generation_mode=mode)

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=SAID is None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=likely(cases, [held, ended, answered], [answered.replace("run_", "resp_")]))
    def ask(case: Case[Any]) -> None:
        crowd.ask(case)

    with contextlib.suppress(Unsatisfiable):
        ask()
    stop_all(door)
    return crowd.statuses.total() - before


@pytest.fixture
def crowd(door: Door) -> Iterator[Crowd]:
    crowd = Crowd(door)
    yield crowd
    crowd.close()


def test_every_request_is_answered(door: Door, crowd: Crowd) -> None:
    document = door.ask("GET", "/openapi.json").json
    schema = schemathesis.openapi.from_dict(document)
    operations = [operation for path in schema for operation in schema[path].values()]
    assert len(operations) == sum(len(item) for item in document["paths"].values())
    turns = [(operation, mode) for operation in operations for mode in GenerationMode]
    possible = [turn for turn in turns if tried(door, crowd, turn, 2) > 1]
    began = time.monotonic()
    for operation, mode in possible:
        count = tried(door, crowd, (operation, mode), -(-CASES // len(possible)))
        print(f"{operation.label:30} {mode.value:8} {count:5} cases")
    print(
        f"{crowd.statuses.total()} cases in {time.monotonic() - began:.0f} s, the slowest head "
        f"{1000 * crowd.slowest:.0f} ms; {dict(sorted(crowd.statuses.items()))}; "
        f"{crowd.impossible} that no client could send"
    )
    assert crowd.statuses.total() >= 0.9 * CASES
    # They were not all refused at the door.
    assert {200, 201, 202, 204, 400, 404, 422} <= crowd.statuses.keys()
    until(lambda: connections(door) == 0, "all have left", 40)
    faults = re.findall(r"Exception in ASGI.*|tailrace\.http: .*|Traceback.*", door.log)
    assert not faults, faults[:5]
    assert door.ask("GET", "/healthz").status == 200


def connections(door: Door) -> int:
    found = re.search(
        rb"^tailrace_connections ([0-9]+)", door.ask("GET", "/metrics").body, re.MULTILINE
    )
    assert found is not None
    return int(found[1])

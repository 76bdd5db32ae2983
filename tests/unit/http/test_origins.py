"""From where a request may come."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import PlainTextResponse, StreamingResponse

from tailrace.errors import HostForbidden, OriginForbidden, SettingsInvalid, TailraceError
from tailrace.http.origins import (
    ADMITTED,
    LOOPBACK_HOSTS,
    Gate,
    Origins,
    Verdict,
    _parsed,
    _serialised,
    is_strangers,
)
from tailrace.http.problems import PRIVATE
from tailrace.protocol.runs import RunQuery
from tests.stage import Stage
from tests.visitor import Visit, Visitor

pytestmark = pytest.mark.anyio

Headers = list[tuple[bytes, bytes]]

HERE = "localhost:4000"
OWN = f"http://{HERE}"
FRIEND = "https://app.example.com"
EVIL = "https://evil.example"

ORIGINS = Origins(LOOPBACK_HOSTS, [FRIEND])
PLAIN = Verdict()


def sent(host: str | None = HERE, **others: str | None) -> Headers:
    """Raw headers; None leaves one out."""
    named = {"host": host} | {name.replace("_", "-"): value for name, value in others.items()}
    return [(name.encode(), value.encode()) for name, value in named.items() if value is not None]


def judged(method: str = "GET", *, origins: Origins = ORIGINS, **headers: Any) -> str:
    """The verdict in one word."""
    verdict = origins.decide(method, sent(**headers))
    if verdict.refusal is not None:
        assert verdict == Verdict(verdict.refusal)
        assert verdict.refusal.status == 403
        assert verdict.refusal.fix
        return verdict.refusal.code
    return "preflight" if verdict.is_preflight else verdict.origin or "plain"


# --- the matrix: Host × Origin × Sec-Fetch-Site × method -----------------------------------------

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")
SITES = (None, "none", "same-origin", "same-site", "cross-site", "", "anything")

# Origin, and what becomes of it under a host that is allowed, whatever the browser says of the
# site; None where that decides.
BY_ORIGIN = {
    None: None,
    OWN: "plain",
    "HTTP://LocalHost:4000": "plain",
    FRIEND: FRIEND,
    FRIEND + ":443": FRIEND,
    "null": "origin-forbidden",
    "": "origin-forbidden",
    "*": "origin-forbidden",
    EVIL: "origin-forbidden",
    "https://localhost:4000": "origin-forbidden",
    "http://localhost": "origin-forbidden",
    "http://localhost:4001": "origin-forbidden",
    "http://127.0.0.1:4000": "origin-forbidden",
    "http://app.example.com": "origin-forbidden",
    "https://sub.app.example.com": "origin-forbidden",
    "https://app.example.com.evil.example": "origin-forbidden",
    "https://app.example.com@evil.example": "origin-forbidden",
    FRIEND + "/": "origin-forbidden",
    f"{FRIEND} {FRIEND}": "origin-forbidden",
    f"{FRIEND}, {EVIL}": "origin-forbidden",
    "app.example.com": "origin-forbidden",
    "file://": "origin-forbidden",
    "chrome-extension://localhost": "origin-forbidden",
}


@pytest.mark.parametrize("origin", BY_ORIGIN)
@pytest.mark.parametrize("site", SITES)
def test_an_origin_decides_for_every_method(site: str | None, origin: str | None) -> None:
    expected = BY_ORIGIN[origin]
    if expected is None:
        is_ours = site in (None, "none", "same-origin")
        expected = "plain" if is_ours else "origin-forbidden"
    asks: dict[str, Any] = {"origin": origin, "sec_fetch_site": site}
    for method in METHODS:
        assert judged(method, **asks) == expected, method
        assert judged(method, host="evil.example", **asks) == "host-forbidden", method


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("localhost:65535", True),
        ("127.0.0.1:4000", True),
        ("[::1]", True),
        ("[::1]:4000", True),
        ("[0:0:0:0:0:0:0:1]:4000", True),
        (None, False),
        ("", False),
        (" ", False),
        ("localhost:", False),
        ("localhost:0", False),
        ("localhost:65536", False),
        ("localhost:4000:4000", False),
        ("localhost:٤", False),
        ("localhost.", False),
        ("localhost.evil.example", False),
        ("evil.example#localhost", False),
        ("localhost@evil.example", False),
        ("evil.example@localhost", False),
        ("localhost/", False),
        ("localhost, evil.example", False),
        ("localhost evil.example", False),
        ("xlocalhost", False),
        ("::1", False),
        ("[::1", False),
        ("[::1]x", False),
        ("[::2]", False),
        ("[::1%25lo]", False),
        ("[:::]", False),
        ("127.0.0.1.evil.example", False),
        ("127.1", False),
        ("0.0.0.0:4000", False),
        ("192.168.1.5:4000", False),
        ("*", False),
        ("localhost" + "x" * 100_000, False),
    ],
)
def test_under_which_names_it_is_asked(host: str | None, *, is_allowed: bool) -> None:
    assert judged(host=host) == ("plain" if is_allowed else "host-forbidden")


def test_what_a_proxy_claims_is_not_believed() -> None:
    claimed: dict[str, Any] = {
        "x_forwarded_host": "localhost",
        "forwarded": "host=localhost",
        "x_host": HERE,
    }
    assert judged(host="evil.example", **claimed) == "host-forbidden"
    assert judged(origin=EVIL, x_forwarded_host="evil.example") == "origin-forbidden"


@pytest.mark.parametrize(
    ("entry", "scheme", "host", "is_allowed"),
    [
        ("*.example.com", "http", "a.example.com", True),
        ("*.example.com", "http", "A.b.Example.com:8", True),
        ("*.example.com", "http", "example.com", False),
        ("*.example.com", "http", ".example.com", False),
        ("*.example.com", "http", "badexample.com", False),
        ("*.example.com", "http", "a.example.com.evil", False),
        ("*.example.com:8", "http", "a.example.com:8", True),
        ("*.example.com:8", "http", "a.example.com:9", False),
        ("EXAMPLE.com:8443", "https", "example.com:8443", True),
        ("example.com:8443", "https", "example.com", False),
        ("example.com:443", "https", "example.com", True),
        ("example.com:443", "wss", "example.com", True),
        ("example.com:443", "http", "example.com", False),
        ("example.com", "https", "example.com:443", True),
        ("my_app", "http", "my_app:4000", True),
        ("[2001:DB8::0:1]", "http", "[2001:db8::1]:4000", True),
    ],
)
def test_names_and_ports(entry: str, scheme: str, host: str, *, is_allowed: bool) -> None:
    verdict = Origins([entry]).decide("GET", sent(host), scheme)
    assert (verdict == PLAIN) is is_allowed


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "is_own"),
    [
        ("http", "localhost:80", "http://localhost", True),
        ("https", "localhost:443", "https://localhost", True),
        ("https", "localhost", "https://localhost:443", True),
        ("ws", "localhost:4000", "http://localhost:4000", True),
        ("wss", "localhost", "https://localhost", True),
        ("http", "[0::1]:4000", "http://[::1]:4000", True),
        ("https", "localhost", "http://localhost", False),
        ("wss", "localhost", "http://localhost", False),
        ("http", "localhost:443", "https://localhost", False),
        ("gopher", "localhost", "gopher://localhost", False),
    ],
)
def test_ones_own_origin(scheme: str, host: str, origin: str, *, is_own: bool) -> None:
    verdict = ORIGINS.decide("POST", sent(host, origin=origin), scheme)
    assert (verdict == PLAIN) is is_own
    assert is_own or isinstance(verdict.refusal, OriginForbidden)


@pytest.mark.parametrize("site", ["same-site", "cross-site"])
@pytest.mark.parametrize(
    ("method", "mode", "dest", "is_allowed"),
    [
        ("GET", "navigate", "document", True),
        ("POST", "navigate", "document", False),
        ("HEAD", "navigate", "document", False),
        ("GET", "navigate", "iframe", False),
        ("GET", "no-cors", "document", False),
        ("GET", "no-cors", "image", False),
        ("GET", "cors", "empty", False),
        ("GET", "navigate", None, False),
        ("GET", None, "document", False),
        ("GET", None, None, False),
    ],
)
def test_a_link_may_be_followed(
    site: str, method: str, mode: str | None, dest: str | None, *, is_allowed: bool
) -> None:
    verdict = judged(method, sec_fetch_site=site, sec_fetch_mode=mode, sec_fetch_dest=dest)
    assert verdict == ("plain" if is_allowed else "origin-forbidden")


@pytest.mark.parametrize(
    ("twice", "expected"),
    [
        ((b"host", HERE.encode()), HostForbidden),
        ((b"origin", OWN.encode()), OriginForbidden),
        ((b"sec-fetch-site", b"none"), OriginForbidden),
    ],
)
def test_a_header_that_stands_twice_is_not_believed(
    twice: tuple[bytes, bytes], expected: type[TailraceError]
) -> None:
    once = [pair for pair in sent() if pair[0] != twice[0]]
    assert ORIGINS.decide("GET", [*once, twice]) == PLAIN
    assert isinstance(ORIGINS.decide("GET", [*once, twice, twice]).refusal, expected)


def test_a_preflight_is_one_of_a_site_that_may_ask() -> None:
    asks: dict[str, Any] = {"access_control_request_method": "POST"}
    assert judged("OPTIONS", origin=FRIEND, **asks) == "preflight"
    assert judged("OPTIONS", origin=FRIEND) == FRIEND
    assert judged("POST", origin=FRIEND, **asks) == FRIEND
    assert judged("OPTIONS", origin=OWN, **asks) == "plain"
    assert judged("OPTIONS", **asks) == "plain"
    assert judged("OPTIONS", origin=EVIL, **asks) == "origin-forbidden"


# --- whatever is sent --------------------------------------------------------------------------

NAMES = [b"host", b"origin", b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest",
         b"access-control-request-method", b"x-forwarded-host"]  # fmt: skip
KNOWN = [HERE, OWN, FRIEND, EVIL, "null", "none", "same-origin", "cross-site", "navigate",
         "document", "[::1]", "http://[::1]", "http://[", "://", "localhost:99999"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from(KNOWN).map(str.encode),
    st.binary(max_size=40),
    # Nearly right is where mistakes are.
    st.tuples(st.sampled_from(KNOWN), st.binary(max_size=3), st.integers(0, 24)).map(
        lambda made: made[0].encode()[: made[2]] + made[1] + made[0].encode()[made[2] :]
    ),
)


@given(
    method=st.one_of(st.sampled_from(METHODS), st.text(max_size=8)),
    headers=st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=8),
    scheme=st.sampled_from(["http", "https", "ws", "wss", "", "x"]),
)
def test_any_headers_get_a_verdict(method: str, headers: Headers, scheme: str) -> None:
    verdict = ORIGINS.decide(method, headers, scheme)
    # What is answered is what the server was told, and never what was sent.
    assert verdict.origin in (None, FRIEND)
    assert not verdict.is_preflight or verdict.origin
    if verdict.refusal is None:
        hosts = [value for name, value in headers if name == b"host"]
        assert len(hosts) == 1
        assert hosts[0].lower().split(b":")[0] in (b"localhost", b"127.0.0.1", b"[")
        found = [value for name, value in headers if name == b"origin"]
        assert len(found) <= 1
        for value in [*hosts, *found]:
            assert value.isascii()
            assert value.decode().isprintable()


@pytest.mark.parametrize("broken", ["\r\nset-cookie: a=b", "\r", "\n", "\0", "\t", "\x85", " "])
@pytest.mark.parametrize("place", ["after", "before"])
def test_no_line_can_be_added(broken: str, place: str) -> None:
    def with_it(text: str) -> bytes:
        whole = text + broken if place == "after" else broken + text
        return whole.encode("latin-1")

    for name, text in {"host": HERE, "origin": FRIEND, "sec-fetch-site": "none"}.items():
        kept = [pair for pair in sent() if pair[0] != name.encode()]
        verdict = ORIGINS.decide("GET", [*kept, (name.encode(), with_it(text))])
        assert verdict.refusal is not None
        assert not {*"\r\n\0"} & {*str(verdict.refusal)}
    for hosts, origins in (([with_it(HERE).decode("latin-1")], []),
                           ([HERE], [with_it(FRIEND).decode("latin-1")])):  # fmt: skip
        with pytest.raises(SettingsInvalid):
            Origins(hosts, origins)


def test_nothing_long_is_remembered() -> None:
    judged()
    before = (_parsed.cache_info().currsize, _serialised.cache_info().currsize)
    assert judged(host="x" * 10_000) == "host-forbidden"
    assert judged(origin="http://" + "x" * 10_000) == "origin-forbidden"
    assert (_parsed.cache_info().currsize, _serialised.cache_info().currsize) == before


# --- what a server is told -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "normal"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("HTTPS://App.Example.COM:443/", "https://app.example.com"),
        ("http://localhost:80", "http://localhost"),
        ("http://localhost:443", "http://localhost:443"),
        ("http://[0::1]:5173", "http://[::1]:5173"),
    ],
)
def test_origins_are_told_in_any_spelling(told: str, normal: str) -> None:
    origins = Origins(LOOPBACK_HOSTS, [told])
    assert judged(origins=origins, origin=normal) == normal


@pytest.mark.parametrize(
    "origin",
    ["*", "https://*.example.com", "https://*", "null", "", "/", "example.com", "//example.com",
     "https://", "https://example.com/app", "https://example.com//", "https://example.com?x",
     "https://me@example.com", "https://example.com:x", "https://example.com:0",
     "ftp://example.com", "https://bücher.example", " https://example.com",
     "https://a.example,https://b.example", "https://" + "x" * 400],
)  # fmt: skip
def test_no_such_origin(origin: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Origins(LOOPBACK_HOSTS, [origin])
    assert "https://app.example.com" in refused.value.fix
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    "host",
    ["*", "*.", "*.*.example.com", "a.*.com", "", "http://localhost", "localhost/", "::1",
     "*.[::1]", "[::x]", "localhost:0", "localhost:x", "bücher.example", "-a", "a..b", "\ud800"],
)  # fmt: skip
def test_no_such_host(host: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        Origins([host])
    assert "localhost" in refused.value.fix


def test_why_a_wildcard_is_no_origin() -> None:
    for origin in ("*", "https://*.example.com"):
        with pytest.raises(SettingsInvalid, match="stands for many sites"):
            Origins(LOOPBACK_HOSTS, [origin])


def test_lists_are_lists() -> None:
    with pytest.raises(SettingsInvalid, match="hosts is empty"):
        Origins([])
    with pytest.raises(SettingsInvalid, match="must be a list"):
        Origins("localhost")
    with pytest.raises(SettingsInvalid, match="must be a list"):
        Origins(["localhost"], FRIEND)


# --- the gate ------------------------------------------------------------------------------------


class Inner:
    """An app that keeps what it is called with."""

    def __init__(self, answer: Any = None) -> None:
        self.calls: list[tuple[Any, Any, Any]] = []
        self._answer = answer or PlainTextResponse("in")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append((scope, receive, send))
        if scope["type"] == "http":
            await self._answer(scope, receive, send)


async def asked(
    method: str = "GET", headers: Iterable[tuple[str, str]] = (), answer: Any = None
) -> tuple[Visit, Inner]:
    """By a visitor who calls the server `testserver`."""
    inner = Inner(answer)
    gate = Gate(inner, Origins(["testserver"], [FRIEND]))
    return await Visitor(gate).ask(method, "/", [*headers]), inner


def scoped(kind: str, headers: Headers | None = None, **others: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "method": "GET",
        "scheme": "http",
        "path": "/",
        "headers": sent() if headers is None else headers,
        **others,
    }


class Wire:
    """A server's side of one scope, which keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        raise AssertionError("nobody has to wait")

    async def send(self, message: Any) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("kind", ["http", "websocket", "lifespan", "anything"])
async def test_what_is_plain_passes_untouched(kind: str) -> None:
    inner, wire = Inner(), Wire()
    scope = scoped(kind, extensions={"tailrace.direct": {}})
    if kind not in ("http", "websocket"):
        del scope["headers"]
    receive, send = wire.receive, wire.send
    await Gate(inner, ORIGINS)(scope, receive, send)
    ((got, its_receive, its_send),) = inner.calls
    assert got is scope
    assert its_receive is receive
    assert its_send is send
    assert ADMITTED not in scope


async def test_a_scope_without_scheme_is_http() -> None:
    inner, wire = Inner(), Wire()
    scope = scoped("http", sent(origin=OWN))
    del scope["scheme"]
    await Gate(inner, ORIGINS)(scope, wire.receive, wire.send)
    assert inner.calls


async def test_a_refusal_is_a_problem() -> None:
    for headers, code in (
        ([("origin", EVIL)], "origin-forbidden"),
        ([("sec-fetch-site", "cross-site")], "origin-forbidden"),
        ([("host", "testserver")], "host-forbidden"),
    ):
        answer, inner = await asked("POST", headers)
        assert not inner.calls
        assert (answer.status, answer.json["code"]) == (403, code)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json["fix"]
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_a_friend_may_read_the_answer() -> None:
    answer, inner = await asked("GET", [("origin", FRIEND), ("sec-fetch-site", "cross-site")])
    assert inner.calls[0][0][ADMITTED] == FRIEND
    assert answer.text == "in"
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert answer.headers["vary"] == "Origin"
    assert answer.headers["access-control-expose-headers"] == (
        "location, content-location, tailrace-run, last-event-id, retry-after, ratelimit, "
        "mcp-session-id"
    )
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("given", "vary"),
    [
        ({"Vary": "Accept"}, "Accept, Origin"),
        ({"vary": "accept, ORIGIN"}, "accept, ORIGIN"),
        ({"vary": "X-Origin"}, "X-Origin, Origin"),
        ({"vary": "*"}, "*"),
        ({"access-control-allow-origin": "*"}, "Origin"),
    ],
)
async def test_what_the_app_said_itself(given: dict[str, str], vary: str) -> None:
    answer, _ = await asked("GET", [("origin", FRIEND)], PlainTextResponse("in", headers=given))
    # `headers` fails where one stands twice.
    assert answer.headers["vary"] == vary
    assert answer.headers["access-control-allow-origin"] == FRIEND


async def test_a_preflight_is_answered_here() -> None:
    asks = [("origin", FRIEND), ("access-control-request-method", "POST"),
            ("access-control-request-headers", "x-evil\r\nset-cookie: a=b")]  # fmt: skip
    answer, inner = await asked("OPTIONS", asks)
    assert not inner.calls
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers == {
        **PRIVATE,
        "access-control-allow-origin": FRIEND,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, HEAD, POST, DELETE",
        "access-control-allow-headers": (
            "authorization, content-type, last-event-id, idempotency-key, x-api-key, "
            "mcp-protocol-version, mcp-session-id, mcp-method, mcp-name"
        ),
        "access-control-max-age": "600",
        "vary": "Origin",
    }


async def test_a_friends_stream_flows() -> None:
    async def bits() -> Any:
        for bit in (b"1", b"2"):
            yield bit

    answer, _ = await asked("GET", [("origin", FRIEND)], StreamingResponse(bits()))
    assert answer.chunks == [b"1", b"2", b""]


def test_a_friends_messages_are_handed_on_as_they_are() -> None:
    # In one step, without a coroutine in between: so the hub may take it itself.
    wire = Wire()
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        assert receive == wire.receive
        body = {"type": "http.response.body", "body": b"x", "more_body": True}
        waits = send(body)
        assert waits.__qualname__ == "Wire.send"
        await waits
        seen.append(body)
        head = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
        await send(head)
        # It is the app's, which may send it again.
        assert head["headers"] == [(b"a", b"b")]

    scope = scoped("http", sent(origin=FRIEND))
    with contextlib.suppress(StopIteration):
        Gate(inner, ORIGINS)(scope, wire.receive, wire.send).send(None)
    assert wire.sent[0] is seen[0]
    assert len(wire.sent) == 2
    assert ADMITTED not in scope


async def test_a_websocket_is_refused_before_it_is_open() -> None:
    inner, wire = Inner(), Wire()
    scope = scoped("websocket", sent(origin=EVIL), scheme="ws")
    await Gate(inner, ORIGINS)(scope, wire.receive, wire.send)
    (message,) = wire.sent
    assert (message["type"], message["code"]) == ("websocket.close", 1008)

    wire.sent.clear()
    scope["extensions"] = {"websocket.http.response": {}}
    await Gate(inner, ORIGINS)(scope, wire.receive, wire.send)
    assert [one["type"] for one in wire.sent] == [
        "websocket.http.response.start", "websocket.http.response.body",
    ]  # fmt: skip
    assert wire.sent[0]["status"] == 403
    assert not inner.calls


async def test_a_friends_websocket_needs_no_headers() -> None:
    inner, wire = Inner(), Wire()
    send = wire.send
    scope = scoped("websocket", sent(origin=FRIEND), scheme="ws")
    await Gate(inner, ORIGINS)(scope, wire.receive, send)
    ((got, _, its_send),) = inner.calls
    assert its_send is send
    assert got[ADMITTED] == FRIEND


# --- what is stricter than the gate --------------------------------------------------------------


@pytest.mark.parametrize(
    ("site", "admitted", "expected"),
    [
        (None, False, False),
        ("none", False, False),
        ("same-origin", False, False),
        ("same-site", False, True),
        ("cross-site", False, True),
        ("", False, True),
        ("cross-site", True, False),
    ],
)
def test_strangers(site: str | None, *, admitted: bool, expected: bool) -> None:
    scope = scoped("http", sent(sec_fetch_site=site)) | ({ADMITTED: FRIEND} if admitted else {})
    assert is_strangers(scope) is expected


def test_no_header_admits_anybody() -> None:
    headers = [*sent(sec_fetch_site="cross-site"), (ADMITTED.encode(), FRIEND.encode())]
    assert is_strangers(scoped("http", headers))


async def test_a_link_starts_no_script_and_a_friend_does(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "it.sh").write_text("echo hello\n", encoding="utf-8")
    stage.runs.allow_scripts(tmp_path)
    gate = Visitor(Gate(stage.runs.asgi, Origins(["testserver"], [FRIEND])))
    from_a_link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate",
                   "sec-fetch-dest": "document"}  # fmt: skip
    assert (await gate.get("/healthz", from_a_link)).status == 200
    answer = await gate.get("/run_file?file_path=it.sh", from_a_link)
    assert (answer.status, answer.json["code"]) == (403, "origin-forbidden")
    assert await stage.runs.find(RunQuery()) == []

    friend = {"origin": FRIEND, "sec-fetch-site": "cross-site"}
    answer = await gate.get("/run_file?file_path=it.sh", friend)
    assert answer.status == 200
    assert "hello" in answer.text
    assert answer.headers["access-control-allow-origin"] == FRIEND

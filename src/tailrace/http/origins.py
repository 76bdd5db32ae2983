"""From where a request may come: under which names the server is asked, and by whose pages.

To listen on this machine alone keeps nobody out who can have a browser here open a page. Such a
page can send requests that need nobody's consent (an image, a form, an `EventSource`), and by a
name that turns into this machine's address (DNS rebinding) it may even read the answers. A
program can write into these headers what it likes; a browser cannot be made to.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.errors import HostForbidden, OriginForbidden, SettingsInvalid, TailraceError
from tailrace.http import problems
from tailrace.protocol.problems import shortened
from tailrace.protocol.wire import IDEMPOTENCY_KEY, LAST_EVENT_ID, RUN

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine that nobody else's name server has a say in."""

# Asked by the address of a container, which no setting knows. They tell nothing of anybody.
_PROBES: Final = ("/healthz", "/readyz")

ADMITTED: Final = "tailrace.admitted"
"""Where the scope tells which other site's page was let in, by its origin."""

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# A WebSocket's page has an origin of HTTP's schemes.
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

# A name has at most 253 characters. Longer texts are not looked at, and not remembered.
_MAX_TEXT: Final = 300
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(
    rf"({_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?", re.ASCII
)

_READ: Final = frozenset(
    {
        b"host",
        b"origin",
        b"sec-fetch-site",
        b"sec-fetch-mode",
        b"sec-fetch-dest",
        b"access-control-request-method",
    }
)

_MAY_SEND: Final = (
    *("authorization", "content-type", LAST_EVENT_ID, IDEMPOTENCY_KEY, "x-api-key"),
    *("mcp-protocol-version", "mcp-session-id", "mcp-method", "mcp-name"),
)
_MAY_READ: Final = (
    *("location", "content-location", RUN, LAST_EVENT_ID, "retry-after", "ratelimit"),
    "mcp-session-id",
)
_REMEMBER_SECONDS: Final = 600
_VARY: Final = b"vary"

_Headers = Iterable[tuple[bytes, bytes]]
# What a name is, without its port, and the port where one was given.
_Host = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a request. `refusal` is its answer, if it is refused; `origin` the other
    site whose page may read what is answered; `is_preflight` whether a browser only asks, before
    it sends that page's request.
    """

    refusal: TailraceError | None = None
    origin: str | None = None
    is_preflight: bool = False


_PLAIN: Final = Verdict()


class Origins:
    """Who may ask. `hosts` are the names and addresses that the server answers to, with a port
    where only that one is meant; `*.example.com` are all names below that one. `origins` are the
    other sites whose pages may call, as scheme://host[:port].

    Raises SettingsInvalid.
    """

    def __init__(self, hosts: Sequence[str], origins: Sequence[str] = ()) -> None:
        _check_list("hosts", hosts)
        _check_list("origins", origins)
        if not hosts:
            raise SettingsInvalid(
                "hosts is empty, so every request would be refused.",
                fix=f"Name what the server is asked by: {', '.join(LOOPBACK_HOSTS)}.",
            )
        self._hosts: set[_Host] = set()
        self._below: set[_Host] = set()
        for text in hosts:
            is_below, host = _host_setting(text)
            (self._below if is_below else self._hosts).add(host)
        self._origins = frozenset(map(_origin_setting, origins))

    def decide(self, method: str, headers: _Headers, scheme: str = "http") -> Verdict:
        """Judge a request by its raw headers, their names in lower case. Raises nothing.

        X-Forwarded-Host is not read: whoever sends the request can write it.
        """
        found = _read(headers)
        scheme = _SCHEMES.get(scheme, scheme)
        host = _host(found.get(b"host", b""))
        if host is None or not self._answers_to(host, scheme):
            return Verdict(_unknown_host(found.get(b"host", b"")))
        sent = found.get(b"origin")
        if sent is None:
            if not _is_foreign(found.get(b"sec-fetch-site")) or _is_navigation(method, found):
                return _PLAIN
            return Verdict(_foreign_site())
        origin = _origin(sent)
        if origin is not None and origin == _shown(scheme, host):
            return _PLAIN
        if origin is None or origin not in self._origins:
            return Verdict(_foreign_page(sent))
        asks = method == "OPTIONS" and b"access-control-request-method" in found
        return Verdict(origin=origin, is_preflight=asks)

    def _answers_to(self, host: _Host, scheme: str) -> bool:
        name, port = host
        port = port or _DEFAULT_PORTS.get(scheme)
        if (name, None) in self._hosts or (name, port) in self._hosts:
            return True
        return any(
            name.endswith(parent) and wanted in (None, port) for parent, wanted in self._below
        )


class Gate:
    """ASGI middleware: lets in what `origins` admits, and answers the rest.

    What is not from another site's page reaches the app with the server's own `receive` and
    `send`: whatever wraps them costs every watcher, for as long as it watches.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] not in ("http", "websocket") or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        verdict = self._origins.decide(
            scope.get("method", "GET"), scope["headers"], scope.get("scheme", "http")
        )
        origin = verdict.origin
        if verdict.refusal is not None:
            await _refuse(verdict.refusal, scope, receive, send)
        elif origin is None:
            await self._app(scope, receive, send)
        elif verdict.is_preflight:
            await _preflight(origin)(scope, receive, send)
        else:
            is_http = scope["type"] == "http"
            readable = _readable(send, origin) if is_http else send
            await self._app({**scope, ADMITTED: origin}, receive, readable)


def is_strangers(scope: Scope) -> bool:
    """Whether the browser says that a page of another site asks, and no Gate has let it in."""
    return ADMITTED not in scope and _is_foreign(_read(scope["headers"]).get(b"sec-fetch-site"))


# --- what a request says -----------------------------------------------------------------------


def _read(headers: _Headers) -> dict[bytes, bytes]:
    """Those of the headers that count here. One that stands twice is empty, which no rule
    admits: two readers would take two different ones (RFC 9112 §3.2).
    """
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _READ:
            found[name] = b"" if name in found else value
    return found


def _is_foreign(site: bytes | None) -> bool:
    """Whether a Sec-Fetch-Site means another site (Fetch Metadata, W3C). Programs send none;
    what browsers may say in years to come is not trusted.
    """
    return site not in (None, b"none", b"same-origin")


def _is_navigation(method: str, found: dict[bytes, bytes]) -> bool:
    """Whether somebody follows a link to us: what comes is shown to them, and to no page."""
    return (
        method == "GET"
        and found.get(b"sec-fetch-mode") == b"navigate"
        and found.get(b"sec-fetch-dest") == b"document"
    )


def _host(sent: bytes) -> _Host | None:
    return _parsed(sent) if len(sent) <= _MAX_TEXT else None


def _origin(sent: bytes) -> str | None:
    return _serialised(sent) if len(sent) <= _MAX_TEXT else None


@lru_cache(maxsize=1024)
def _parsed(sent: bytes) -> _Host | None:
    """A host and its port, in the one way they are compared; None if it is none."""
    match = _HOST.fullmatch(sent.decode("latin-1").lower())
    if match is None:
        return None
    name, digits = match.groups()
    port = None if digits is None else int(digits)
    if port is not None and not 0 < port < 65536:
        return None
    if name[0] == "[":
        try:
            name = f"[{ipaddress.IPv6Address(name[1:-1]).compressed}]"
        except ValueError:
            return None
    return name, port


@lru_cache(maxsize=1024)
def _serialised(sent: bytes) -> str | None:
    """An origin as browsers write it (RFC 6454 §6.2); None if it is `null`, or none at all."""
    scheme, _, rest = sent.partition(b"://")
    host = _parsed(rest)
    name = scheme.decode("latin-1").lower()
    return None if host is None or name not in _DEFAULT_PORTS else _shown(name, host)


def _shown(scheme: str, host: _Host) -> str:
    name, port = host
    if port is None or port == _DEFAULT_PORTS.get(scheme):
        return f"{scheme}://{name}"
    return f"{scheme}://{name}:{port}"


# --- what a server is told ---------------------------------------------------------------------


def _check_list(name: str, given: Sequence[str]) -> None:
    if isinstance(given, str):
        raise SettingsInvalid(
            f"{name} is the text {shortened(given, 80)!r}, and must be a list of texts.",
            fix=f"Write {name}=[{shortened(given, 80)!r}].",
        )


def _host_setting(text: str) -> tuple[bool, _Host]:
    is_below = text.startswith("*.")
    host = _host(text.removeprefix("*.").encode("utf-8", "replace"))
    if host is None or (is_below and host[0][0] == "["):
        raise SettingsInvalid(
            f"The host {shortened(text, 80)!r} is no name that a request could have.",
            fix="Write a name or an address, and a port if only that one is meant: localhost, "
            "example.com:8443, *.example.com, [::1]. Names beyond ASCII are written as xn--….",
        )
    name, port = host
    return is_below, (f".{name}" if is_below else name, port)


def _origin_setting(text: str) -> str:
    if "*" in text:
        raise SettingsInvalid(
            f"The origin {shortened(text, 80)!r} stands for many sites, and a browser sends its "
            "user's cookies and keys with what their pages ask.",
            fix="Name each site whose pages may call: https://app.example.com.",
        )
    origin = _origin(text.removesuffix("/").encode("utf-8", "replace"))
    if origin is None:
        raise SettingsInvalid(
            f"The origin {shortened(text, 80)!r} is not of the form scheme://host[:port].",
            fix="Write what the browser shows of the site's address, up to its first path: "
            "https://app.example.com, http://localhost:5173.",
        )
    return origin


# --- what is answered --------------------------------------------------------------------------


def _told(sent: bytes) -> str:
    return repr(shortened(sent.decode("latin-1"), 120))


def _unknown_host(sent: bytes) -> HostForbidden:
    return HostForbidden(
        f"The request is for the host {_told(sent)}, to which this server does not answer."
        if sent
        else "The request does not say, once, which host it is for.",
        fix="Use an address the server was started with, or add this one to its hosts.",
    )


def _foreign_page(sent: bytes) -> OriginForbidden:
    return OriginForbidden(
        f"A page of the origin {_told(sent)} sent this request, and only pages of this server may.",
        fix="Add that origin to the server's origins, if its pages may do all that you may. "
        "Behind a proxy that speaks TLS, have it send X-Forwarded-Proto, and name it with "
        "--trusted-proxy.",
    )


def _foreign_site() -> OriginForbidden:
    return OriginForbidden(
        "A page of another site had the browser send this request.",
        fix="Ask from a page of this server, or from a program. A page whose origin is among "
        "the server's origins asks by fetch, or by an EventSource.",
    )


async def _refuse(refusal: TailraceError, scope: Scope, receive: Receive, send: Send) -> None:
    is_http = scope["type"] == "http"
    if is_http or "websocket.http.response" in scope.get("extensions", {}):
        await problems.response(refusal)(scope, receive, send)
    else:
        # Before it is accepted, this is a 403 (ASGI, WebSocket connection scope).
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.title})


def _consent(origin: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"access-control-allow-origin", origin.encode()),
        (b"access-control-allow-credentials", b"true"),
    ]


def _preflight(origin: str) -> Response:
    answer = Response(status_code=204)
    answer.raw_headers = [
        *((name.encode(), value.encode()) for name, value in problems.PRIVATE.items()),
        *_consent(origin),
        (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE"),
        (b"access-control-allow-headers", ", ".join(_MAY_SEND).encode()),
        (b"access-control-max-age", str(_REMEMBER_SECONDS).encode()),
        (_VARY, b"Origin"),
    ]
    return answer


def _readable(send: Send, origin: str) -> Send:
    """`send`, with a head that lets a page of `origin` read the response."""
    added = [
        *_consent(origin),
        (b"access-control-expose-headers", ", ".join(_MAY_READ).encode()),
    ]
    replaced = {_VARY, *(name for name, _ in added)}

    # No coroutine of its own: the hub takes the first step of the server's.
    def telling(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            given = [*message.get("headers", ())]
            kept = [pair for pair in given if pair[0].lower() not in replaced]
            vary = b", ".join([value for name, value in given if name.lower() == _VARY])
            if not {b"*", b"origin"} & {each.strip() for each in vary.lower().split(b",")}:
                vary = b"%b, Origin" % vary if vary else b"Origin"
            message = {**message, "headers": [*kept, *added, (_VARY, vary)]}
        return send(message)

    return telling


__all__ = ["ADMITTED", "LOOPBACK_HOSTS", "Gate", "Origins", "Verdict",
           "is_strangers"]  # fmt: skip

"""What the clients say to a server and how they read its answers. Pure: no I/O.

Both shells, `sync` and `aio`, only carry the bytes of what is decided here and in `reconnect`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

from tailrace.client.launch import Launched
from tailrace.client.problems import media_type, problem, unreachable
from tailrace.client.reconnect import WatchedEvent
from tailrace.errors import EventInvalid, InputInvalid, ProtocolViolation, RequestError
from tailrace.protocol import jsonrpc
from tailrace.protocol.cursor import parse
from tailrace.protocol.events import GAP, OUTPUT, RESET, loads, to_json
from tailrace.protocol.output import raw
from tailrace.protocol.runs import check_run_id
from tailrace.protocol.wire import IDEMPOTENCY_KEY, JSON

__all__ = ["Call", "Events", "Json", "Page", "Server", "message_of", "written"]

T = TypeVar("T")
Json = dict[str, Any]

# ------------------------------------------------------------------ what is asked


class Page(NamedTuple):
    """A page of runs, newest first; `next` is the `cursor` of the following one, or None."""

    runs: list[Json]
    next: str | None


# Seconds before the second and the third attempt of a request that broke off.
_PAUSES: Final = (0.1, 0.5)


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and how its answer is read."""

    method: str
    url: str
    read: Callable[[Any], T]
    headers: Mapping[str, str]
    content: bytes = b""
    shown: str = ""
    may_repeat: bool = True

    def answer(self, status: int, headers: Mapping[str, str], body: bytes, attempt: int = 0) -> T:
        """The value answered. Raises the problem's error, or ProtocolViolation."""
        if status == 404 and attempt and self.method == "DELETE":
            # The attempt that broke off was carried out: what was to be gone is gone.
            status, body = 204, b""
        if not 200 <= status < 300:
            raise problem(status, headers, body)
        try:
            return self.read({} if status == 204 else loads(body))
        except (ValueError, KeyError, TypeError):
            raise ProtocolViolation(
                f"{self.shown} answered {self.method} {urlsplit(self.url).path} with something "
                f"that is no answer of a Tailrace server ({media_type(headers) or 'no type'}).",
                fix="Check the address; a mounted server needs its prefix, such as /tailrace.",
            ) from None

    def again(self, attempt: int, error: Exception, *, was_sent: bool) -> float:
        """Seconds to wait before the same request is sent again, after `attempt` others.

        Most requests may be repeated: GET, cancel and DELETE by nature, a start by its
        Idempotency-Key. Raises ServerUnreachable when there is no point, or no more.
        """
        if was_sent and self.may_repeat and attempt < len(_PAUSES):
            return _PAUSES[attempt]
        raise unreachable(self.reason(error)) from error

    def reason(self, error: Exception) -> str:
        """What to tell when `error` ends the connection."""
        return _reason(self.shown, error)


@dataclass(frozen=True, slots=True)
class Events:
    """Where a run's events are, and what the address itself asked for."""

    address: str
    headers: Mapping[str, str]
    shown: str
    after: str = "0"
    types: str | None = None

    def url(self, params: Mapping[str, str]) -> str:
        """The address with a request's own parameters."""
        if not params:
            return self.address
        return f"{self.address}{'&' if '?' in self.address else '?'}{urlencode(params)}"

    def reason(self, error: Exception) -> str:
        """What to tell when `error` ends the connection."""
        return _reason(self.shown, error)


def _reason(shown: str, error: Exception) -> str:
    said = f"{type(error).__name__}: {error}".rstrip(": ").rstrip(".")
    return f"No answer from {shown} ({said})."


# ------------------------------------------------------------------ whom is asked

_LOOPBACK: Final = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1", re.ASCII)
# RFC 9110 §5.5, without the spaces that no key or token has.
_HEADER: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)


class Server:
    """Makes the requests to one server.

    `base_url` is http(s)://host[:port][/prefix]. Raises RequestError for anything else, and
    for a token that no header can carry. Without a token, a server on this machine is told who
    asks by this user's launch key, if there is one.
    """

    def __init__(self, base_url: str, token: str | None) -> None:
        self._origin, path = _split(base_url)
        self._base = self._origin + path.rstrip("/")
        self.is_secure = self._origin.startswith("https:")
        where = urlsplit(self._base)
        self.is_loopback = bool(_LOOPBACK.fullmatch(where.hostname or ""))
        """Whether a proxy named by the environment could not even know the address."""
        self._token: Mapping[str, str] = {}
        if token is not None:
            self._token = {"authorization": f"Bearer {_value('token', token)}"}
        elif self.is_loopback and not self.is_secure:
            self._token = Launched(where.port or 80)

    @property
    def token(self) -> Mapping[str, str]:
        """The header that says who asks, as it is now."""
        return dict(self._token)

    def operations(self) -> Call[list[Json]]:
        """GET /operations."""
        return self._call("GET", "/operations", lambda answer: _list(answer["operations"]))

    def start(
        self,
        operation: str,
        input: Any,
        *,
        timeout: float | None,
        abandon_after: float | None,
        key: str,
        thread: str | None,
    ) -> Call[Json]:
        """POST /runs. Raises InputInvalid for input that JSON cannot say."""
        asked = {
            "operation": operation,
            "input": {} if input is None else input,
            "timeout": timeout,
            "abandon_after": abandon_after,
            "thread": thread,
        }
        try:
            content = to_json({name: value for name, value in asked.items() if value is not None})
        except EventInvalid as error:
            raise InputInvalid(
                str(error).replace("payload", "input"),
                fix="Give numbers, strings, lists, dicts, dataclasses or pydantic models.",
            ) from None
        headers = {"content-type": JSON, IDEMPOTENCY_KEY: _value("key", key)}
        return self._call("POST", "/runs", _dict, headers, content)

    def run(self, run: str) -> Call[Json]:
        """GET /runs/{id}. Raises RunUnknown for what is no id."""
        return self._call("GET", f"/runs/{check_run_id(run)}", _dict)

    def runs(
        self,
        *,
        state: str | Iterable[str] | None,
        operation: str | None,
        thread: str | None,
        q: str | None,
        limit: int | None,
        cursor: str | None,
    ) -> Call[Page]:
        """GET /runs."""
        states = state if state is None or isinstance(state, str) else ",".join(state)
        asked = {
            "state": states, "operation": operation, "thread": thread, "q": q, "limit": limit,
            "cursor": cursor,
        }  # fmt: skip
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        return self._call(
            "GET",
            f"/runs?{query}" if query else "/runs",
            lambda answer: Page(_list(answer["runs"]), answer.get("next")),
        )

    def cancel(self, run: str) -> Call[Json]:
        """POST /runs/{id}/cancel. Raises RunUnknown for what is no id."""
        return self._call("POST", f"/runs/{check_run_id(run)}/cancel", _dict)

    def rerun(self, run: str) -> Call[Json]:
        """POST /runs/{id}/rerun. Raises RunUnknown for what is no id."""
        call = self._call("POST", f"/runs/{check_run_id(run)}/rerun", _dict)
        return replace(call, may_repeat=False)

    def append(self, run: str, content: bytes) -> Call[Json]:
        """POST /runs/{id}/events, as a `Sender` writes it. Raises RunUnknown for what is no id."""
        headers = {"content-type": JSON}
        return self._call("POST", f"/runs/{check_run_id(run)}/events", _dict, headers, content)

    def forget(self, run: str) -> Call[None]:
        """DELETE /runs/{id}. Raises RunUnknown for what is no id."""
        return self._call("DELETE", f"/runs/{check_run_id(run)}", lambda _: None)

    def events(self, run: str) -> Events:
        """Where the events of a run are: its id, or the address (or path) of its events.

        `after` and `types` in an address are taken over, a `format` is dropped: the clients
        read one format. Raises RunUnknown for what is neither, and RequestError for an
        https address when the client was made for plain http.
        """
        if run.startswith("/"):
            address = self._origin + run
        elif "://" in run:
            address = run
        else:
            address = f"{self._base}/runs/{check_run_id(run)}/events"
        origin, path = _split(address)
        if origin.startswith("https:") and not self.is_secure:
            raise RequestError(
                f"{_shown(origin)} needs TLS; this client was made for {_shown(self._origin)}.",
                fix="Make a client with that server's own base URL.",
            )
        query = dict(parse_qsl(urlsplit(address).query))
        query.pop("format", None)
        after, types = query.pop("after", "0"), query.pop("types", None)
        rest = f"?{urlencode(query)}" if query else ""
        # The token is for its own server only; an address may come from anywhere.
        headers = self._token if origin == self._origin else {}
        return Events(origin + path + rest, headers, _shown(origin), after, types)

    def _call(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        headers: Mapping[str, str] = MappingProxyType({}),
        content: bytes = b"",
    ) -> Call[T]:
        sent = {"accept": JSON, **self._token, **headers}
        return Call(method, self._base + path, read, sent, content, _shown(self._base))


def _split(url: str) -> tuple[str, str]:
    """Origin and path. Raises RequestError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        raise RequestError(
            f"{_shown(url)!r} is not the URL of a server.",
            fix="Write it like http://127.0.0.1:4000, or https://host/prefix.",
        )
    if port == (443 if parts.scheme == "https" else 80):
        host = host.rpartition(":")[0]
    return f"{parts.scheme}://{user}{at}{host.lower()}", parts.path


def _shown(url: str) -> str:
    """Without user:password@, which no message shall repeat."""
    return re.sub(r"(?<=://)[^/@]*@", "", url[:200])


def _value(name: str, value: str) -> str:
    if _HEADER.fullmatch(value) is None:
        raise RequestError(
            f"The {name} has characters that no HTTP header can carry.",
            fix="Use printable ASCII without spaces; perhaps a line end came along.",
        )
    return value


def _dict(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise TypeError
    return answer


def _list(answer: Any) -> list[Json]:
    if not isinstance(answer, list):
        raise TypeError
    return answer


def written(event: WatchedEvent, stream: str | None) -> bytes:
    """The bytes of a script that an event carries; of one `stream`, or of any.

    Where bytes are missing a line says so, as GET /runs/{id}/output has it.
    """
    data = event.data
    if event.type in (GAP, RESET):
        lost = f"events {data['from']} to {data['to']}"
        return f"\n[tailrace: {lost} are no longer kept]\n".encode()
    if event.type != OUTPUT or (stream is not None and data.get("stream") != stream):
        return b""
    return raw(data)


def message_of(run: str, event: WatchedEvent) -> Json:
    """What an event of a run is as a JSON-RPC message, as `?format=jsonrpc` has it."""
    if not event.id:
        return jsonrpc.control(event.type, event.data)
    return jsonrpc.message(run, parse(event.id).seq, event.type, event.data)

"""Who did what: one record for each request that did something, by the logger `tailrace.audit`.

What a request was about is told by its route and its run. Never its query, its headers or its body:
they may have a ticket, a key, or what somebody gave to a script.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from tailrace.protocol.access import Access
from tailrace.protocol.problems import shortened

ACTIONS: Final[dict[tuple[str, str], str]] = {
    ("GET", "/operations"): "listed",
    ("POST", "/runs"): "started",
    ("GET", "/runs"): "listed",
    ("GET", "/runs/{run}"): "looked at",
    ("DELETE", "/runs/{run}"): "forgot",
    ("GET", "/runs/{run}/events"): "watched",
    ("POST", "/runs/{run}/events"): "appended to",
    ("GET", "/runs/{run}/output"): "watched",
    ("POST", "/runs/{run}/cancel"): "cancelled",
    ("POST", "/runs/{run}/rerun"): "started",
    ("GET", "/events"): "watched",
    ("GET", "/run_file"): "started",
    ("POST", "/run_file"): "started",
    ("POST", "/tickets"): "got a ticket for",
    ("POST", "/login"): "got a link",
    ("GET", "/"): "logged in",
    ("GET", "/metrics"): "measured",
    ("POST", "/mcp/chat/stream"): "started",
    ("GET", "/mcp/chat/{run}/stream"): "watched",
    ("POST", "/mcp/analyze-query"): "analysed",
    ("POST", "/agui"): "started",
    ("GET", "/agui/{thread}/stream"): "watched",
    ("POST", "/api/chat"): "started",
    ("GET", "/api/chat/{chat}"): "looked at",
    ("GET", "/api/chat/{chat}/stream"): "watched",
    ("POST", "/api/chat/{chat}/stop"): "cancelled",
    ("POST", "/v1/responses"): "started",
    ("GET", "/v1/responses/{id}"): "watched",
    ("DELETE", "/v1/responses/{id}"): "forgot",
    ("POST", "/v1/responses/{id}/cancel"): "cancelled",
    ("GET", "/v1/responses/{id}/input_items"): "looked at",
    ("GET", "/v1/models"): "listed",
    ("MCP", "tools/call"): "called",
    ("MCP", "tasks/get"): "looked at",
    ("MCP", "tasks/cancel"): "cancelled",
    ("MCP", "resources/read"): "looked at",
    ("GET", "/healthz"): "probed",
    ("GET", "/readyz"): "probed",
}
"""What each route does, in a word; of another route it is `asked`."""

DEED: Final = "tailrace.deed"
"""Where in ASGI's scope a request has its word, if that is another than its route's."""

REFUSED: Final = "refused"
FAILED: Final = "failed"

# Who may not, who must not now, and what would tell whether something is there.
_REFUSALS: Final = frozenset({401, 403, 404, 429})

_MAX_NAME: Final = 200
_MAX_METHOD: Final = 20

logger = logging.getLogger("tailrace.audit")


def is_audited() -> bool:
    """Whether somebody listens."""
    return logger.isEnabledFor(logging.INFO)


def audited(  # noqa: PLR0917 - each is known wherever a request ends
    access: Access | None,
    method: str,
    route: str,
    run: str | None,
    status: int,
    client: str | Sequence[Any] | None,
    *,
    operation: str | None = None,
    request: str | None = None,
    deed: str | None = None,
) -> None:
    """Record a request that was answered with `status`.

    `access`: who asked; None: nobody knows. `route`: the template of its path, which may have a
    prefix. `run`: the run it was about, or has started. `client`: the address, or the pair that
    ASGI has for it. `request`: the request's own id, if it has one. `deed`: a word of ACTIONS, for
    a request that does something else than its route says. Free unless somebody listens.

    The record's `audit` is a dict of these, whose texts are bounded and have no control
    characters; `action` is a word of ACTIONS, or `refused` or `failed`, and `wanted` that word.
    """
    if not is_audited():
        return
    wanted = deed or _word(method, route)
    action = wanted if status < 400 else REFUSED if status in _REFUSALS else FAILED
    host = client if isinstance(client, str) else client[0] if client else None
    told: dict[str, Any] = {
        "action": action,
        "wanted": wanted,
        "principal": None if access is None else visible(access.principal, _MAX_NAME),
        "run": None if run is None else visible(run, _MAX_NAME),
        "operation": None if operation is None else visible(operation, _MAX_NAME),
        "status": status,
        "method": visible(method, _MAX_METHOD),
        "route": visible(route, _MAX_NAME),
        "client": None if host is None else visible(str(host), _MAX_NAME),
        "request": None if request is None else visible(request, _MAX_NAME),
    }
    logger.info("%s", _sentence(told), extra={"audit": told})


def _sentence(told: dict[str, Any]) -> str:
    what = told["run"] or told["route"]
    who = f"by {told['principal'] or 'nobody known'} from {told['client'] or 'nowhere known'}"
    if told["action"] == told["wanted"]:
        return f"{told['wanted']} {what} {who}"
    return f"{told['action']} ({told['status']}): {told['method']} {what} {who}"


def _word(method: str, route: str) -> str:
    # Of an MCP call, the tool's name follows.
    known = ACTIONS.get((method, route.partition(" ")[0] if method == "MCP" else route))
    if known is not None:
        return known
    # Included with a prefix, it has something in front.
    ends = [path for other, path in ACTIONS if other == method and route.endswith(path)]
    return ACTIONS[method, max(ends, key=len)] if ends else "asked"


def visible(text: str, bound: int) -> str:
    """At most `bound` characters of a text, in which nothing ends a line or moves a cursor: a name
    must not be able to write lines of its own.
    """
    text = shortened(text, bound)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


__all__ = ["ACTIONS", "DEED", "FAILED", "REFUSED", "audited", "is_audited", "visible"]

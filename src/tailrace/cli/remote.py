"""Reaching a server from the command line: which one, which run, and completing its ids."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

    from tailrace.client import Client

F = TypeVar("F", bound="Callable[..., Any]")

DEFAULT_URL: Final = "http://127.0.0.1:4000"
ENV: Final = "TAILRACE_URL"
KEY: Final = "TAILRACE_KEY"
"""The environment variable with the key for the server of TAILRACE_URL. Not an option: others can
read those.
"""

_COMPLETION_SECONDS: Final = 1.0
_ADDRESS_SECONDS: Final = 0.3
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/@]*@")
_RUN: Final = re.compile(
    r"(?P<base>https?://.+?)/runs/(?P<run>run_[a-z2-7]{26})(/[a-z]*)?(\?(?P<query>[^#]*))?(#.*)?",
    re.ASCII,
)


def url_option(function: F) -> F:
    """`--url`, for a command that speaks to a server."""
    help_ = f"The server. [default: ${ENV}, or {DEFAULT_URL}]"
    return click.option("--url", metavar="URL", help=help_)(function)


def base_url(url: str | None) -> str:
    """The server to speak to: `--url`, or TAILRACE_URL, or the default."""
    chosen = (url or os.environ.get(ENV) or DEFAULT_URL).strip().rstrip("/")
    return chosen if "://" in chosen else f"http://{chosen}"


def key(base: str) -> str | None:
    """The key to send to a server: that of TAILRACE_KEY, if it is the server of TAILRACE_URL.
    An address that somebody has sent us must not get it.
    """
    return os.environ.get(KEY) or None if _origin(base) == _origin(base_url(None)) else None


def _origin(url: str) -> tuple[str, str]:
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.rpartition("@")[2].lower()


def connected(url: str | None) -> Client:
    """A client of the server, for `with`."""
    from tailrace.client import Client

    base = base_url(url)
    return Client(base, token=key(base))


class Target(NamedTuple):
    """A run of a server. `address` is what a client watches: the id, or the URL as given."""

    base: str
    run: str
    address: str

    @property
    def link(self) -> str:
        """Where it is, for whoever reads it: without user:password@."""
        return f"{shown(self.base)}/runs/{self.run}"


def target(text: str, url: str | None) -> Target:
    """Read RUN|URL: an id, or any address of a run, as it stands in its links.

    Raises RunUnknown for what is neither.
    """
    found = _RUN.fullmatch(text)
    if found is None:
        from tailrace.protocol.runs import check_run_id

        return Target(base_url(url), check_run_id(text), text)
    base, run, query = found["base"], found["run"], found["query"]
    return Target(base, run, f"{base}/runs/{run}/events?{query}" if query else run)


def shown(base: str) -> str:
    """A server as it may stand on a terminal, in a log, in a screenshot."""
    return _CREDENTIALS.sub("", base)


async def address(run: str) -> str | None:
    """Where a run that was kept here can be seen: None unless the default server answers at
    once, and knows it.
    """
    import asyncio

    try:
        from tailrace.client import AsyncClient

        base = base_url(None)
        async with AsyncClient(base, token=key(base)) as client, asyncio.timeout(_ADDRESS_SECONDS):
            await client.run(run)
    except Exception:  # noqa: BLE001 - nobody has asked for a server
        return None
    return Target(base, run, run).link


def complete_run(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The newest runs of the server, if it answers at once."""
    del param
    from click.shell_completion import CompletionItem

    try:
        import httpx2

        from tailrace.client import Client

        base = base_url(ctx.params.get("url"))
        with (
            httpx2.Client(timeout=_COMPLETION_SECONDS, trust_env=False) as http,
            Client(base, token=key(base), http=http) as client,
        ):
            found = client.runs(limit=100).runs
        return [
            CompletionItem(run["id"], help=f"{run['operation']}, {run['state']}")
            for run in found
            if run["id"].startswith(incomplete)
        ]
    except Exception:  # noqa: BLE001 - in the middle of somebody's typing there is no place for it
        return []


__all__ = [
    "DEFAULT_URL",
    "ENV",
    "Target",
    "address",
    "base_url",
    "complete_run",
    "connected",
    "key",
    "shown",
    "target",
    "url_option",
]

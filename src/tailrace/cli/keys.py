"""`tailrace keys`: create, list and revoke the keys that a server asks for."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace.server.keys import Key

F = TypeVar("F", bound="Callable[..., Any]")

_HEADING: Final = ("ID", "NAME", "SCOPES", "PRINCIPAL", "CREATED", "EXPIRES")

_TIME: Final = re.compile(r"([0-9]{1,6})([smhdw])", re.ASCII)
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

# Not the secret: what is said here may end in a log, while stdout goes to where it belongs.
_USE: Final = """\
The key {name} is {id}. This is the only time that its secret is shown.
To use it:

  curl {url}/runs -H 'Authorization: Bearer …'
"""


class _Time(click.ParamType[float]):
    """How long from now: `90m`, `12h`, `30d`; in seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = _TIME.fullmatch(value)
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is not a time such as 90m, 12h, 30d or 8w.", param, ctx)
        return float(int(found[1]) * _UNITS[found[2]])


def _file_option(function: F) -> F:
    help_ = "The file of the keys. [default: $TAILRACE_KEYS, or keys.json in the user's settings]"
    path = click.Path(path_type=Path)
    return click.option("--file", "file", metavar="PATH", type=path, help=help_)(function)


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


@keys.command()
@_file_option
@click.option("--name", required=True, metavar="NAME", help="What the key is called.")
@click.option(
    "--scopes",
    required=True,
    metavar="A,B",
    help="What it may, of: run, watch, cancel, emit, admin.",
)
@click.option(
    "--expires", type=_Time(), metavar="TIME", help="How long it is good: 12h, 30d. [for ever]"
)
@click.option(
    "--principal", metavar="NAME", help="Who owns the runs it starts. [default: key:NAME]"
)
def create(
    name: str, scopes: str, expires: float | None, principal: str | None, file: Path | None
) -> None:
    """Create a key and print its secret, which is kept nowhere."""
    from tailrace.cli.remote import base_url, shown
    from tailrace.server.keys import Keys

    wanted = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    until = None if expires is None else time.time() + expires
    key, secret = Keys(file).create(name, wanted, principal=principal, expires_at=until)
    click.echo(secret)
    click.echo(_USE.format(name=key.name, id=key.id, url=shown(base_url(None))), err=True, nl=False)


@keys.command()
@_file_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line for each key.")
def ls(file: Path | None, as_json: bool) -> None:
    """List the keys, oldest first, without their secrets."""
    from tailrace.cli import render
    from tailrace.protocol.events import to_json
    from tailrace.server.keys import Keys

    found = Keys(file).list()
    if as_json:
        for key in found:
            click.echo(to_json(key.shown()))
        return
    now = time.time()
    click.echo(render.table([_HEADING, *(_row(key, now) for key in found)]), nl=False)


def _row(key: Key, now: float) -> tuple[str, ...]:
    from tailrace.cli import render

    expires = "never"
    if key.expires_at is not None:
        left = key.expires_at - now
        expires = "expired" if key.is_expired(now) else f"in {render.duration(left)}"
    return (
        key.id,
        key.name,
        ",".join(key.shown()["scopes"]),
        render.clip(render.plain(key.principal), 30),
        render.age(now - key.created_at),
        expires,
    )


@keys.command()
@_file_option
@click.argument("key", metavar="ID|NAME")
def rm(key: str, file: Path | None) -> None:
    """Revoke a key. A server that runs refuses it within a second."""
    from tailrace.server.keys import Keys

    revoked = Keys(file).revoke(key)
    click.echo(f"{revoked.name} ({revoked.id}) is revoked", err=True)

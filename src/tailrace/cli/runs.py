"""`tailrace runs`: list, show, cancel, repeat and forget the runs of a server."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from tailrace.cli.remote import base_url, complete_run, connected, key, shown, url_option

if TYPE_CHECKING:
    from tailrace.client import Client

_PAGE: Final = 200
_HEADING: Final = ("ID", "OPERATION", "STATE", "STARTED", "DURATION", "PROGRESS")


@click.group()
def runs() -> None:
    """List, show, cancel, repeat and forget runs."""


@runs.command()
@url_option
@click.option("--state", metavar="A,B", help="Only runs in these states: running, failed, …")
@click.option("--thread", metavar="NAME", help="Only runs of this thread.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on a line for each run.")
def ls(url: str | None, state: str | None, thread: str | None, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    from tailrace.cli import render
    from tailrace.protocol.events import to_json

    found: list[dict[str, Any]] = []
    cursor: str | None = None
    with connected(url) as client:
        while len(found) < limit:
            size = min(limit - len(found), _PAGE)
            page = client.runs(state=state, thread=thread, limit=size, cursor=cursor)
            found += page.runs
            cursor = page.next
            if cursor is None:
                break
    if as_json:
        for run in found:
            click.echo(to_json(run))
        return
    now = time.time()
    click.echo(render.table([_HEADING, *(_row(run, now) for run in found)]), nl=False)


def _row(run: Mapping[str, Any], now: float) -> tuple[str, ...]:
    from tailrace.cli import render
    from tailrace.protocol.events import seconds

    began = seconds(run["started_at"] or run["created_at"])
    took = run["duration_seconds"]
    if took is None and run["ended_at"] is None and run["started_at"] and began is not None:
        took = max(now - began, 0.0)
    return (
        run["id"],
        render.clip(render.plain(run["operation"]), 30),
        run["state"],
        "-" if began is None else render.age(now - began),
        render.duration(took),
        render.amount(run["progress"]) or "-",
    )


@runs.command()
@url_option
@click.option("--json", "as_json", is_flag=True, help="The run as one line of JSON.")
@click.argument("id", metavar="ID", shell_complete=complete_run)
def show(id: str, url: str | None, as_json: bool) -> None:
    """Show a run: state, times, input, progress, result or error."""
    from tailrace.cli import render
    from tailrace.client import Client
    from tailrace.protocol.events import to_json

    base = base_url(url)
    with Client(base, token=key(base)) as client:
        run = client.run(id)
    if as_json:
        click.echo(to_json(run))
        return
    told = {**run, "links": f"{shown(base)}{run['links']['self']}"}
    names = (
        "id",
        "operation",
        "state",
        *(n for n in told if n not in ("id", "operation", "state")),
    )
    rows = [(_label(name), _value(name, told[name])) for name in names]
    click.echo(render.table([row for row in rows if row[1]]), nl=False)


@runs.command()
@url_option
@click.option("--json", "as_json", is_flag=True, help="The new run as one line of JSON.")
@click.argument("id", metavar="ID", shell_complete=complete_run)
def rerun(id: str, url: str | None, as_json: bool) -> None:
    """Start another run like that one, with its input and limits, and print its id."""
    from tailrace.protocol.events import to_json

    with connected(url) as client:
        run = client.rerun(id)
    click.echo(to_json(run) if as_json else run["id"])


def _label(name: str) -> str:
    return name.removesuffix("_seconds").replace("_", " ")


def _value(name: str, value: Any) -> str:
    from tailrace.cli import render
    from tailrace.protocol.events import to_json

    if value is None:
        return ""
    if name == "duration_seconds":
        return render.duration(value)
    return render.plain(value if isinstance(value, str) else to_json(value).decode())


@runs.command()
@url_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_run)
def cancel(ids: tuple[str, ...], url: str | None) -> int:
    """Ask runs to stop. Each ends within its grace and a second."""

    def act(client: Client, id: str) -> str:
        return f"{id} is {client.cancel(id)['state']}"

    return _each(ids, url, act)


@runs.command()
@url_option
@click.argument("ids", metavar="ID...", nargs=-1, required=True, shell_complete=complete_run)
def rm(ids: tuple[str, ...], url: str | None) -> int:
    """Forget finished runs and all they told."""

    def act(client: Client, id: str) -> str:
        client.forget(id)
        return f"{id} is forgotten"

    return _each(ids, url, act)


def _each(ids: tuple[str, ...], url: str | None, act: Callable[[Client, str], str]) -> int:
    """Do the same to all of them, also after one that was refused; the exit code."""
    from tailrace.cli import render
    from tailrace.errors import ServerUnreachable, TailraceError

    code = 0
    with connected(url) as client:
        for id in ids:
            try:
                click.echo(act(client, id), err=True)
            except ServerUnreachable:
                raise
            except TailraceError as error:
                click.echo(render.fault(error), err=True, nl=False)
                code = render.OWN_FAULT
    return code

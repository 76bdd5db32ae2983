"""`tailrace run`: a script or a command, here, or at a server."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from tailrace.cli.remote import key, url_option

if TYPE_CHECKING:
    from tailrace.cli.main import Wishes

_COMMAND: Final = "tailrace.is_command"


class _RunCommand(click.Command):
    """Tells `run -- COMMAND` from `run FILE`; click takes the `--` away."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        rest = super().parse_args(ctx, args)
        own = len(given) - len(ctx.params.get("argv") or ())
        ctx.meta[_COMMAND] = 0 < own <= len(given) and given[own - 1] == "--"
        return rest


@click.command(cls=_RunCommand, context_settings={"allow_interspersed_args": False})
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    help="End it when it takes longer; exit code 124.",
)
@click.option("--detach", is_flag=True, help="Start it at the server and print only its id.")
@click.option("--json", "as_json", is_flag=True, help="The exact events on stdout, as NDJSON.")
@click.option("-q", "--quiet", is_flag=True, help="Nothing but the program's own output.")
@click.option(
    "--log",
    metavar="PLACE",
    help="Where the run is kept: a path, or memory:. [default: as `tailrace serve`]",
)
@url_option
@click.argument(
    "argv",
    metavar="FILE [ARGS]... | -- COMMAND...",
    nargs=-1,
    required=True,
    type=click.UNPROCESSED,
)
@click.pass_context
def run(ctx: click.Context, /, argv: tuple[str, ...], **options: Any) -> int:
    """Run a script, or a command after `--`, and keep what it tells.

    It runs here, in this folder and environment, without stdin. Its output goes to stdout and
    stderr as it is written, byte for byte; the exit code is its own. Ctrl-C stops it, a second
    time kills it. With --url (or --detach) a `tailrace serve` runs FILE instead.
    """
    is_command = bool(ctx.meta[_COMMAND])
    if options["url"] is None and not options["detach"]:
        return _here(argv, is_command, ctx.find_root().obj, options)
    if is_command:
        raise click.UsageError("A server runs scripts only: give a FILE, or leave --url out.", ctx)
    if options["log"] is not None:
        raise click.UsageError("With --url or --detach the server's own log is used.", ctx)
    return _there(argv, options)


def _here(
    argv: tuple[str, ...], is_command: bool, wishes: Wishes | None, options: dict[str, Any]
) -> int:
    from tailrace.builtin import COMMAND, SCRIPT
    from tailrace.cli.local import attend
    from tailrace.cli.screen import Screen
    from tailrace.engine import Engine
    from tailrace.errors import SettingsInvalid

    unclear = next((word for word in argv if not _is_text(word)), None)
    if unclear is not None:
        click.echo(
            f"tailrace: {unclear!a} is no UTF-8, and could not be kept with the run.\n"
            "          Rename the file, or give the argument in another way.",
            err=True,
        )
        return 126
    given: dict[str, Any] = {"argv": list(argv)}
    if not is_command:
        refused = _refused(argv[0])
        if refused is not None:
            code, said = refused
            click.echo(said, err=True, nl=False)
            return code
        given = {"file": str(Path(argv[0]).absolute()), "args": list(argv[1:])}
    try:
        engine = Engine(_log(options["log"]))
    except ValueError as error:
        raise SettingsInvalid(str(error), fix="Give a path, or memory:.") from None
    return attend(
        COMMAND if is_command else SCRIPT,
        given,
        engine,
        Screen(quiet=options["quiet"]),
        timeout=options["timeout"],
        as_json=options["as_json"],
        debug=wishes is not None and wishes.debug,
    )


def _is_text(word: str) -> bool:
    """Whether JSON can say it."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(file: str) -> tuple[int, str] | None:
    """The exit code for a file that cannot be run, and what to say; None for one that can."""
    from tailrace.cli.render import fault
    from tailrace.errors import PathForbidden, TailraceError
    from tailrace.runners.profiles import Profiles

    path = Path(file)
    if not path.is_file():
        said = "is a folder" if path.is_dir() else "is no file here"
        hint = f"`tailrace run -- {file}` runs a command of that name."
        return 126 if path.exists() else 127, fault(TailraceError(f"{file} {said}.", fix=hint))
    try:
        Profiles().anyhow(path)
    except PathForbidden as error:
        error.fix = f"`tailrace run -- PROGRAM {file}` runs it with a program of your choice."
        return 126, fault(error)
    return None


def _log(place: str | None) -> str | None:
    import os

    # As the server's, so that it lists what was run here.
    return place or os.environ.get("TAILRACE_LOG") or None


def _there(argv: tuple[str, ...], options: dict[str, Any]) -> int:
    from tailrace.cli.remote import base_url
    from tailrace.cli.watch import attached
    from tailrace.client import Client
    from tailrace.errors import OperationUnknown
    from tailrace.protocol.events import to_json

    base = base_url(options["url"])
    given = {"file": _file(argv[0], base), "args": list(argv[1:])}
    with Client(base, token=key(base)) as client:
        try:
            snapshot = client.start("script", given, timeout=options["timeout"])
        except OperationUnknown as error:
            error.fix = "Start the server with --allow-root DIR, the folder of its scripts."
            raise
    if options["detach"]:
        click.echo(to_json(snapshot) if options["as_json"] else snapshot["id"])
        return 0
    return attached(
        base, snapshot, url=options["url"], as_json=options["as_json"], quiet=options["quiet"]
    )


def _file(name: str, base: str) -> str:
    """What the server is told. On this machine it may look from another folder than ours."""
    host = urlsplit(base).hostname or ""
    try:
        is_here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = False
    path = Path(name)
    return str(path.absolute()) if is_here and path.is_file() else name

"""`tailrace`: the entry point. Each command's module loads when the command is asked for, and
what a command needs loads when it runs, so `--version` and `--help` answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

import click

_COMMANDS: Final = {
    "run": "tailrace.cli.run:run",
    "serve": "tailrace.cli.serve:serve",
    "watch": "tailrace.cli.watch:watch",
    "replay": "tailrace.cli.watch:replay",
    "runs": "tailrace.cli.runs:runs",
    "keys": "tailrace.cli.keys:keys",
    "login": "tailrace.cli.login:login",
    "mcp": "tailrace.cli.mcp:mcp",
    "market-news": "tailrace.cli.market_news:market_news",
}

_EPILOG: Final = """\
Exit codes: the program's own; 128+n when signal n ended it; 124 timed out; 130 cancelled;
125 a fault of Tailrace's own; 126 and 127 as shells. Shell completion, for bash, zsh or fish:
eval "$(_TAILRACE_COMPLETE=bash_source tailrace)"
"""


class _Commands(click.Group):
    """Loads commands on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)  # noqa: S101
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """With a proposal: click looks for those among the loaded commands only."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            name = error.command_name
            raise click.exceptions.NoSuchCommand(name, possibilities=_COMMANDS, ctx=ctx) from None

    def invoke(self, ctx: click.Context) -> object:
        """Before click sees it: its answer to a broken pipe is exit code 1."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # `| head` has seen enough. What is left in the buffers must not complain at the end.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            return 141
        return result


class Wishes:
    """What was asked of all commands: `--debug`."""

    def __init__(self) -> None:
        self.debug = False


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    del param
    if not value or ctx.resilient_parsing:
        return
    import tailrace

    version = getattr(tailrace, "__version__", None)
    if version is None:
        from importlib.metadata import version as installed

        version = installed("tailrace")
    click.echo(f"tailrace {version}")
    ctx.exit()


@click.group(
    cls=_Commands,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version and exit.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks, and what goes on inside.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Run anything long. Watch it live. Lose nothing."""
    ctx.ensure_object(Wishes).debug = debug
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(name)s: %(message)s")


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    _open_standard_files()
    wishes = Wishes()
    code: int | None = None
    try:
        code = cli.main(args, prog_name="tailrace", standalone_mode=False, obj=wishes)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except Exception as error:
        if wishes.debug:
            raise
        _report(error)
        code = 125
    sys.exit(code or 0)


def _report(error: Exception) -> None:
    """What and why, and what to do: a line each."""
    from tailrace.cli.render import fault
    from tailrace.errors import TailraceError

    if not isinstance(error, TailraceError):
        error = TailraceError(
            f"{type(error).__name__}: {error}",
            fix="This is a fault of Tailrace's own; `tailrace --debug …` shows where.",
        )
    click.echo(fault(error), err=True, nl=False)


def _open_standard_files() -> None:
    """Whatever is opened first would otherwise get the number of a closed stdout, and our
    output with it: `tailrace run … >&-`.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # pythonw, and streams closed from the start, have none.
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


if __name__ == "__main__":
    main()

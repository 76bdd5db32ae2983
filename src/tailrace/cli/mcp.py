"""`tailrace mcp`: operations as tools of a desktop MCP client."""

from __future__ import annotations

from typing import Any

import click


@click.command()
@click.option(
    "--log",
    metavar="PLACE",
    help="Where runs are kept: a path, or memory:. [default: as `tailrace serve`]",
)
@click.option(
    "--allow-root",
    metavar="DIR",
    multiple=True,
    help="A folder whose scripts may be run (the tool `script`). May be repeated.",
)
@click.option(
    "--survive",
    "survives",
    is_flag=True,
    default=None,
    help="Scripts go on when the client ends, and the next start takes them up.",
)
@click.option(
    "--at-once",
    metavar="N",
    type=int,
    help="How many scripts may run at the same time; the others are queued. [default: 10]",
)
@click.option(
    "--config",
    metavar="FILE",
    help="A TOML file, as for `tailrace serve`: scripts, profiles, other MCP servers.",
)
def mcp(**flags: Any) -> None:
    """Serve one MCP client over stdin and stdout: its configuration names this command.

    Its runs are kept in the log, so `tailrace runs` and `tailrace serve` show them as well.
    """
    import asyncio
    import logging

    from tailrace.errors import SettingsInvalid
    from tailrace.server import app as server
    from tailrace.server import settings

    try:
        from tailrace.mcp.stdio import serve
    except ModuleNotFoundError as error:
        raise SettingsInvalid(
            f"MCP needs the package {error.name}.", fix="Run: pip install 'tailrace[mcp]'"
        ) from None
    chosen = settings.load(flags)
    if chosen.app is not None:
        raise SettingsInvalid(
            f"{chosen.app} is an app, which speaks HTTP.",
            fix="Serve it by `tailrace serve`, and give the client the URL of its MCP face.",
        )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    asyncio.run(serve(server.build(chosen)))

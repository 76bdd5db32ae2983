"""`tailrace serve`."""

from __future__ import annotations

from typing import Any

import click


@click.command()
@click.argument("app", required=False, metavar="[MODULE:APP]")
@click.option("--host", help="The address to listen at. [default: 127.0.0.1]")
@click.option("--port", type=int, help="The port; 0 has one chosen. [default: 4000]")
@click.option(
    "--log",
    metavar="PLACE",
    help="Where runs are kept: a path, or memory:. [default: a file in the state folder]",
)
@click.option(
    "--allow-root",
    metavar="DIR",
    multiple=True,
    help="A folder whose scripts may be run (the operation `script`). May be repeated.",
)
@click.option(
    "--grace",
    metavar="SECONDS",
    type=float,
    help="How long a run that is asked to stop may take. [default: 5]",
)
@click.option(
    "--survive",
    "survives",
    is_flag=True,
    default=None,
    help="Scripts go on when the server ends or is killed, and the next start takes them up.",
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
    help="A TOML file. Its table [server] has these same names; [scripts] has survives, at_once, "
    "timeout and limits for scripts; [profiles.NAME] says how a kind of script is run; [limits] "
    "and [limits.keyed] bound what one may do; [jwt] names an issuer whose tokens are believed; "
    "[chat] says what a language model has.",
)
@click.option(
    "--keys",
    metavar="FILE",
    help="The file with the keys. [default: that of `tailrace keys`]",
)
@click.option(
    "--no-auth",
    is_flag=True,
    default=None,
    help="Let everybody of this machine in, without a key.",
)
@click.option(
    "--allow-host",
    metavar="NAME",
    multiple=True,
    help="A further name by which the server is called, as behind a proxy. May be repeated.",
)
@click.option(
    "--allow-origin",
    metavar="ORIGIN",
    multiple=True,
    help="A site whose pages may call the server, like https://app.example.com. May be repeated.",
)
@click.option(
    "--trusted-proxy",
    metavar="CIDR",
    multiple=True,
    help="Where a proxy is whose X-Forwarded-For and -Proto are believed. May be repeated.",
)
@click.option(
    "--rate",
    "rates",
    metavar="SCOPE=RATE",
    multiple=True,
    help="How often each address may do it without a key, like run=60/minute; run=none lifts the "
    "bound. May be repeated.",
)
@click.option(
    "--chat",
    metavar="MODEL",
    help="Offer a language model with tools, like openai:gpt-5; demo is built in and needs no key.",
)
@click.option(
    "--audit",
    metavar="FILE",
    help="Where to append who did what, a line of JSON each; - is stderr.",
)
@click.option(
    "--mask",
    metavar="NAME",
    multiple=True,
    help="An environment variable whose value is neither kept nor shown. May be repeated.",
)
def serve(**flags: Any) -> None:
    """Serve runs over HTTP: on this machine, or to others as well once there are keys.

    Nobody gets in without a key. Yours is made by itself: `tailrace` sends it, curl with the
    option that is printed, and a browser is let in by the link that is printed. `tailrace keys
    create` makes keys for others.

    With MODULE:APP, serve any ASGI app instead, from the folder you are in. One that mounts
    Tailrace gets its watchers for a fraction of what they cost elsewhere.

    Each option may also be an environment variable (TAILRACE_PORT, TAILRACE_ALLOW_ROOT, …) or
    stand in the --config file. Flags win over the environment, and that over the file.
    """
    import logging

    from tailrace.server import app as server
    from tailrace.server import settings

    chosen = settings.load(flags)
    # Does nothing under --debug, which was first.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    server.serve(chosen)

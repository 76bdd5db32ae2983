"""`tailrace market-news`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    import socket

_PORT: Final = 4100
_MIN_KEY: Final = 16


@click.command("market-news")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=_PORT,
    show_default=True,
    help="The port; 0 has one chosen.",
)
@click.option(
    "--feed",
    "feeds",
    metavar="URL",
    multiple=True,
    help="An RSS or Atom feed to read instead of the others. May be repeated.",
)
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A TOML file with tables [[feeds]] of name, url and category, [companies] with names by "
    'symbol, user_agent = "…" with a mail address, as the SEC asks for one, and samples = false.',
)
@click.option(
    "--key-env",
    metavar="NAME",
    help="The environment variable with the key that is asked for. [default: none is]",
)
@click.option("--stdio", is_flag=True, help="Serve one client by standard input and output.")
def market_news(
    *,
    host: str,
    port: int,
    feeds: tuple[str, ...],
    config: Path | None,
    key_env: str | None,
    stdio: bool,
) -> None:
    """Serve news of the markets over MCP, from RSS and Atom feeds.

    An example of a tool that takes its time: stream_market_news follows the feeds, and tells the
    articles as progress. Without a network it tells samples, and says so.
    """
    import logging

    from tailrace.errors import SettingsInvalid

    try:
        import feedparser  # type: ignore[import-untyped]  # noqa: F401

        from tailrace.market_news import server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types", "feedparser"):
            raise
        raise SettingsInvalid(
            f"The news server needs the package {error.name}, which is not installed.",
            fix="pip install 'tailrace[news]'",
        ) from None
    from tailrace.market_news.settings import load

    # The SDK would make it INFO, in colours. Does nothing under --debug, which was first.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s: %(message)s")
    settings = load(config, feeds)
    if stdio:
        server.talk(settings)
        return
    key = None if key_env is None else _key(key_env)
    with _listener(host, port, key) as listener:
        server.serve(listener, settings, key=key)


def _key(name: str) -> str:
    """The key in an environment variable."""
    import os

    from tailrace.errors import SettingsInvalid

    key = os.environ.get(name, "").strip()
    if len(key) < _MIN_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsInvalid(
            f"{name} must hold a key: at least {_MIN_KEY} characters, without spaces.",
            fix=f"export {name}=$(openssl rand -hex 32)",
        )
    return key


def _listener(host: str, port: int, key: str | None) -> socket.socket:
    """Raises AddressUnusable, also for an address others can reach while no key is asked for."""
    import ipaddress

    from tailrace.errors import AddressUnusable
    from tailrace.server.listener import listen

    listener = listen(host, port, has_keys=True)
    address = str(listener.getsockname()[0]).partition("%")[0]
    if key is None and not ipaddress.ip_address(address).is_loopback:
        listener.close()
        raise AddressUnusable(
            f"{host} can be reached from other machines, and there is no key to ask for.",
            fix="Use --key-env NAME, or --host 127.0.0.1.",
        )
    return listener

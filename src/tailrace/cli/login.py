"""`tailrace login`: a link for the browser."""

from __future__ import annotations

import click

from tailrace.cli.remote import base_url, key, url_option


@click.command()
@url_option
def login(url: str | None) -> None:
    """Print a link that lets a browser into the server you have started on this machine.

    It is good for one time. The browser gets a cookie for it, which is good for 30 days.
    """
    import httpx2

    from tailrace.client.problems import problem, unreachable
    from tailrace.client.requests import Server

    base = base_url(url)
    headers = Server(base, key(base)).token
    try:
        answer = httpx2.post(f"{base}/login", headers=headers, trust_env=False, timeout=10)
    except httpx2.HTTPError as error:
        raise unreachable(f"{base}: {error}") from None
    if answer.status_code != 201:
        raise problem(answer.status_code, answer.headers, answer.content)
    click.echo(answer.json()["url"])

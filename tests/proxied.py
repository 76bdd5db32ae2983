"""A real nginx with the file of the documentation, in front of a server of ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.processes import ROOT, START_SECONDS, free_port, until

FILE: Final = ROOT / "examples" / "proxies" / "nginx.conf"

# What a system's own nginx.conf has around the file.
_AROUND: Final = """
{user}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/tailrace.conf;
}}
"""


@dataclass(frozen=True)
class Proxy:
    """It listens at `port`, and for HTTP/2 without TLS at `http2`."""

    port: int
    http2: int
    log: Path


@contextlib.contextmanager
def proxied(folder: Path, port: int, prefix: str = "/") -> Iterator[Proxy]:
    """nginx in front of whatever listens at `port`, for what is below `prefix`."""
    folder.mkdir()
    proxy = Proxy(free_port(), free_port(), folder / "nginx.log")
    text = FILE.read_text(encoding="utf-8")
    for said, here in (
        ("server 127.0.0.1:4000;", f"server 127.0.0.1:{port};"),
        ("listen 80;", f"listen 127.0.0.1:{proxy.port}; listen 127.0.0.1:{proxy.http2} http2;"),
        ("location /tailrace/ {", f"location {prefix} {{"),
    ):
        assert text.count(said) == 1, said
        text = text.replace(said, here)
    (folder / "tailrace.conf").write_text(text, encoding="utf-8")
    main = folder / "nginx.conf"
    # Only who is root may say who the workers are, and they must be able to write here.
    user = "user root;" if os.geteuid() == 0 else ""
    main.write_text(_AROUND.format(folder=folder, user=user), encoding="utf-8")
    nginx = shutil.which("nginx") or "nginx"
    process = subprocess.Popen(
        [nginx, "-p", str(folder), "-e", str(proxy.log), "-c", str(main)],
        stdin=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip

    def answers() -> bool:
        assert process.poll() is None, proxy.log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", proxy.port), 1):
            return True
        return False

    try:
        until(answers, "nginx listens", START_SECONDS)
        yield proxy
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            # The group is its own, made at its start: nobody else is in it.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

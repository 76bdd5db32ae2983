"""Who is measured: how each server is started, what it speaks, what it must have."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.places import BUILT, NODE, ROOT, SERVERS, Unbuilt, is_importable, program

BIN = Path(sys.executable).parent
NCHAN = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")


@dataclass(frozen=True, slots=True)
class Ground:
    """What a server is started with: a folder of its own and six free ports."""

    folder: Path
    ports: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server of the line-up.

    `commands`: the programs to start, the one that is watched first. `speaks`: the dialect
    (`tailrace`, `peer`, `published`). `missing`: why it cannot be started here, or nothing.
    `offers`: what it can do besides fan-out. `payload`: what the JSON of an event must be
    asked for to make a frame of about 206 bytes. `inflight`: how many may connect at a time.
    """

    name: str
    about: str
    commands: Callable[[Ground], list[list[str]]]
    missing: Callable[[], str] = lambda: ""
    speaks: str = "peer"
    offers: frozenset[str] = frozenset()
    payload: int = 198
    prefix: str = ""
    log: str = ""
    wrap: str = "%s"
    publish: str = "/publish"
    publish_port: int = 0
    inflight: int = 100
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_seconds: float = 0.2
    is_faulty: bool = False


FINITE = frozenset({"firehose", "tokens", "replay"})
ALL = FINITE | {"one", "idle"}


def _uvicorn(app: str) -> Callable[[Ground], list[list[str]]]:
    return lambda ground: [
        [
            sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1",
            "--port", str(ground.ports[0]), "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--log-level", "warning", "--backlog", "4096",
        ]
    ]  # fmt: skip


def _granian(app: str) -> Callable[[Ground], list[list[str]]]:
    return lambda ground: [
        [
            str(BIN / "granian"), "--interface", "asgi", "--host", "127.0.0.1",
            "--port", str(ground.ports[0]), "--workers", "1", "--loop", "uvloop",
            "--no-access-log", "--log-level", "warning", "--backlog", "4096", app,
        ]
    ]  # fmt: skip


def _hypercorn(app: str) -> Callable[[Ground], list[list[str]]]:
    return lambda ground: [
        [
            str(BIN / "hypercorn"), "--bind", f"127.0.0.1:{ground.ports[0]}",
            "--worker-class", "uvloop", "--backlog", "4096", "--log-level", "warning", app,
        ]
    ]  # fmt: skip


def _tailrace(app: str) -> Callable[[Ground], list[list[str]]]:
    return lambda ground: [
        [str(BIN / "tailrace"), "serve", app, "--port", str(ground.ports[0])],
    ]


def _filled(template: str, ground: Ground) -> Path:
    names = ("port", "second", "third", "fourth", "fifth")
    filling = dict(zip(names, map(str, ground.ports), strict=False), folder=str(ground.folder))
    made = ground.folder / template
    made.write_text((SERVERS / template).read_text().format(**filling))
    return made


def _nchan(ground: Ground) -> list[list[str]]:
    return [["nginx", "-p", str(ground.folder), "-c", str(_filled("nchan.conf", ground))]]


def _pushpin(ground: Ground) -> list[list[str]]:
    origin = ground.ports[5]
    (ground.folder / "routes").write_text(f"* 127.0.0.1:{origin}\n")
    return [
        ["pushpin", f"--config={_filled('pushpin.conf', ground)}"],
        ["zurl", "--loglevel=0", f"--config={_filled('zurl.conf', ground)}"],
        *_uvicorn("bench.servers.grip_origin:app")(Ground(ground.folder, [origin])),
    ]


def _floor(*fault: str) -> Callable[[Ground], list[list[str]]]:
    return lambda ground: [[str(program("floor")), str(ground.ports[0]), *fault]]


def _hub(ground: Ground) -> list[list[str]]:
    return [[str(program("hub")), str(ground.ports[0])]]


# ------------------------------------------------------------------ what must be there


def _builds(name: str) -> Callable[[], str]:
    def missing() -> str:
        try:
            program(name)
        except Unbuilt as error:
            return str(error)
        return ""

    return missing


def _package(name: str) -> Callable[[], str]:
    return lambda: "" if is_importable(name) else f"{name} is not installed (--install)"


def _found(name: str, *paths: Path) -> Callable[[], str]:
    def missing() -> str:
        if shutil.which(name) is None:
            return f"there is no program `{name}`"
        return next((f"{path} is missing" for path in paths if not path.exists()), "")

    return missing


@cache
def _serves_apps() -> str:
    said = subprocess.run(
        [str(BIN / "tailrace"), "serve", "--help"], capture_output=True, text=True, check=False
    )
    usage = said.stdout.strip().splitlines()[:1]
    if usage and not usage[0].rstrip().endswith("[OPTIONS]"):
        return ""
    return "`tailrace serve` takes no module:app yet; see the row `uvicorn`"


@cache
def _responds() -> str:
    code = "from tailrace import EventSourceResponse"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, cwd=ROOT)
    return "tailrace has no EventSourceResponse yet" if done.returncode else ""


def _both(*checks: Callable[[], str]) -> Callable[[], str]:
    return lambda: next((said for check in checks if (said := check())), "")


# ------------------------------------------------------------------ the table

_APP = "bench.servers.tailrace_app:app"
_MOUNTED = "bench.servers.tailrace_mounted:app"
_OURS = ALL | {"append", "busy", "stalled"}


def _ours(
    name: str,
    about: str,
    commands: Callable[[Ground], list[list[str]]],
    missing: Callable[[], str] = lambda: "",
    *,
    prefix: str = "",
    more: frozenset[str] = frozenset(),
) -> list[Server]:
    """With a log in memory, and with one in SQLite."""
    return [
        Server(
            name=name + suffix, about=f"{about}, {log}", commands=commands, missing=missing,
            speaks="tailrace", offers=_OURS | more, payload=206, prefix=prefix, log=log,
        )
        for suffix, log in (("", "memory"), ("-sqlite", "SQLite"))
    ]  # fmt: skip


_SERVERS = [
    Server(
        name="floor", about="C, nothing but send()", commands=_floor(), missing=_builds("floor"),
        offers=frozenset({"replay", "one", "idle"}), payload=206, ready_seconds=0.05,
    ),
    # Elsewhere the kernel takes all that is published here, and nothing ever waits.
    *_ours(
        "direct", "Tailrace: tailrace serve", _tailrace(_APP), _serves_apps,
        more=frozenset({"cuts"}),
    ),
    *_ours("uvicorn", "Tailrace on uvicorn", _uvicorn(_APP)),
    *_ours("granian", "Tailrace on granian", _granian(_APP), _found(str(BIN / "granian"))),
    *_ours("hypercorn", "Tailrace on hypercorn", _hypercorn(_APP), _found(str(BIN / "hypercorn"))),
    *_ours("mounted", "Tailrace mounted in FastAPI", _uvicorn(_MOUNTED), prefix="/tailrace"),
    Server(
        name="response", about="Tailrace's EventSourceResponse on uvicorn, no log",
        commands=_uvicorn("bench.servers.drop_in:app"), missing=_responds, offers=FINITE,
    ),
    Server(
        name="response-direct", about="the same on tailrace serve",
        commands=_tailrace("bench.servers.drop_in:app"), missing=_both(_responds, _serves_apps),
        offers=FINITE,
    ),
    Server(
        name="nchan", about="nginx with Nchan, published to over HTTP", commands=_nchan,
        missing=_found("nginx", NCHAN), speaks="published", payload=178,
        offers=frozenset({"one", "idle", "stalled"}),
    ),
    Server(
        name="pushpin", about="Pushpin, published to over HTTP", commands=_pushpin,
        missing=_both(_found("pushpin"), _found("zurl")), speaks="published",
        offers=frozenset({"one", "idle"}),
        wrap='{"items":[{"channel":"bench","formats":{"http-stream":'
        '{"content":"data: %s\\n\\n"}}}]}',
        publish="/publish/", publish_port=1, inflight=20, ready_seconds=3,
    ),
    Server(
        name="go", about="Go net/http, a channel per watcher", commands=_hub,
        missing=_builds("hub"), offers=ALL | {"stalled"}, payload=206, ready_seconds=0.1,
    ),
    Server(
        name="node", about="plain Node http", missing=_found("node"), offers=ALL | {"stalled"},
        commands=lambda ground: [["node", str(SERVERS / "plain_node.js"), str(ground.ports[0])]],
    ),
    Server(
        name="better-sse", about="better-sse on Node http", offers=ALL, payload=206,
        commands=lambda ground: [
            ["node", str(SERVERS / "better_sse.mjs"), str(ground.ports[0]), str(BUILT)]
        ],
        missing=_found("node", NODE / "better-sse"),
    ),
    Server(
        name="sse-starlette", about="FastAPI with sse-starlette, a queue per watcher",
        commands=_uvicorn("bench.servers.sse_starlette_app:app"),
        missing=_package("sse_starlette"), offers=ALL | {"busy", "stalled"},
    ),
    Server(
        name="starlette", about="Starlette's StreamingResponse, a queue per watcher",
        commands=_uvicorn("bench.servers.starlette_app:app"), offers=ALL - {"idle"},
    ),
    Server(
        name="fastapi-sse", about="fastapi.sse, a queue per watcher",
        commands=_uvicorn("bench.servers.fastapi_sse_app:app"),
        missing=_package("fastapi.sse".partition(".")[0]), offers=ALL,
    ),
    *(
        Server(
            name=f"faulty-{fault}", about=f"the floor, which commits one fault: {fault}",
            commands=_floor(fault), missing=_builds("floor"), payload=206, is_faulty=True,
        )
        for fault in ("drop", "double", "swap")
    ),
]  # fmt: skip

LINEUP = {server.name: server for server in _SERVERS}

"""What is measured: the table of scenarios, each with its servers and its columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench import plays
from bench.plays import Figures, Stage


@dataclass(frozen=True, slots=True)
class Column:
    """A figure in the table. `text` is how it is written."""

    key: str
    heading: str
    text: str = "{:.2f}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """`columns`: the first is what is compared. `runs`: at most so many, where one takes long."""

    name: str
    about: str
    play: Callable[[Stage], Figures]
    servers: Sequence[str]
    columns: Sequence[Column]
    runs: int = 100


CPU = Column("cpu_us_per_event", "µs CPU/event")
P50 = Column("p50_ms", "p50 ms")
P99 = Column("p99_ms", "p99 ms")
RATE = Column("delivered_per_s", "events/s", "{:,.0f}")

_LIVE = (CPU, P50, P99)
_BULK = (CPU, RATE)

_OURS = ("direct", "direct-sqlite", "uvicorn", "mounted")
_PEERS = ("nchan", "go", "node", "sse-starlette", "fastapi-sse")
_MANY = ("floor", *_OURS, *_PEERS)
_ALL = (
    "floor", *_OURS, "uvicorn-sqlite", "granian", "hypercorn", *_PEERS,
    "better-sse", "starlette", "pushpin",
)  # fmt: skip
_SOME = ("floor", "direct", "direct-sqlite", "uvicorn", "nchan", "go", "sse-starlette")
_FINITE = (
    "direct", "direct-sqlite", "uvicorn", "uvicorn-sqlite", "response", "response-direct",
    "go", "node", "sse-starlette", "fastapi-sse",
)  # fmt: skip
_STORED = (
    "floor", "direct", "direct-sqlite", "uvicorn", "response", "go", "sse-starlette", "fastapi-sse",
)  # fmt: skip
_LOGS = ("direct", "direct-sqlite")

_APPENDED = (
    RATE,
    P50,
    P99,
    Column("fsync_p50_ms", "fsync ms"),
    Column("p99_per_fsync", "p99/fsync", "{:.1f}"),
)
_BESIDE = (
    Column("p50_ratio", "p50 beside/quiet"),
    P50,
    P99,
    Column("quiet_p50_ms", "quiet p50 ms"),
)

_SCENARIOS = [
    Scenario(
        "fanout-100", "100 watchers × 100 events/s", plays.fanout(100, 100), _SOME, _LIVE
    ),
    Scenario(
        "fanout-1000", "1,000 watchers × 10 events/s", plays.fanout(1000, 10), _ALL, _LIVE
    ),
    Scenario(
        "fanout-5000", "5,000 watchers × 2 events/s", plays.fanout(5000, 2), _SOME, _LIVE
    ),
    Scenario(
        "saturated", "1,000 watchers, 8 publishers in a closed loop", plays.saturated, _MANY,
        (RATE, CPU, P50, P99),
    ),
    Scenario(
        "firehose", "200,000 events to one watcher, published inside the server",
        plays.firehose, _FINITE, _BULK,
    ),
    Scenario(
        "tokens", "100 streams × 2,000 tokens", plays.tokens, (*_FINITE, "mounted"), (*_BULK, P99)
    ),
    Scenario(
        "idle", "5,000 watchers of a silent run, with keep-alives", plays.idle,
        ("floor", "direct", "uvicorn", "nchan", "go", "node", "sse-starlette", "fastapi-sse"),
        (
            Column("kib_per_watcher", "KiB/watcher", "{:.1f}"),
            Column("cpu_us_per_keepalive", "µs/keep-alive", "{:.1f}"),
        ),
        runs=1,
    ),
    Scenario(
        "connect", "10,000 times: connect, first event, leave", plays.connect,
        (*_SOME, "mounted", "fastapi-sse"),
        (
            Column("cpu_us_per_connection", "µs CPU/connection", "{:.0f}"),
            Column("connections_per_s", "connections/s", "{:,.0f}"),
        ),
    ),
    Scenario(
        "replay-1", "a history of 100,000 events to one", plays.replay(1, 100_000),
        _STORED, (RATE, CPU),
    ),
    Scenario(
        "replay-100", "a history of 1,000 events to each of 100", plays.replay(100, 1000),
        _STORED, (RATE, CPU),
    ),
    *(
        Scenario(
            f"append-{runs}", f"{runs:,} runs, each writing in a closed loop",
            plays.append(runs, 0), _LOGS, _APPENDED,
        )
        for runs in (1, 100, 1000)
    ),
    Scenario(
        "append-paced", "1,000 runs × 5 events/s", plays.append(1000, 5), _LOGS, _APPENDED
    ),
    Scenario(
        "stalled", "1,000 readers that do not read, beside 1,000 live ones (4 KiB × 10/s)",
        plays.stalled, ("direct", "uvicorn", "nchan", "go", "node", "sse-starlette"),
        (
            Column("p99_ratio", "p99 with/without"),
            P99,
            Column("alone_p99_ms", "without ms"),
            Column("kib_per_stalled", "KiB/stalled", "{:.0f}"),
            Column("cut", "cut", "{:.0f}"),
            Column("cut_s", "after s", "{:.1f}"),
        ),
        runs=1,
    ),
    Scenario(
        "busy", "100 watchers × 10 events/s over HTTP, beside a busy thread", plays.busy("busy"),
        ("direct", "uvicorn", "sse-starlette"), _BESIDE,
    ),
    Scenario(
        "busy-process", "the same beside @operation(process=True)", plays.busy("busy-process"),
        ("direct",), _BESIDE,
    ),
]  # fmt: skip

SCENARIOS = {scenario.name: scenario for scenario in _SCENARIOS}

QUICK = frozenset({
    "floor", "direct", "direct-sqlite", "uvicorn", "response", "nchan", "sse-starlette",
})  # fmt: skip
"""The servers of a quick look."""

LONG = frozenset({"fanout-100", "replay-100", "append-100", "busy-process"})
"""The scenarios that a quick look leaves out, because another is like them."""

REFERENCES = ("floor", "nchan", "sse-starlette")
"""What the others are compared with."""

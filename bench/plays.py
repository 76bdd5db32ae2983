"""How each scenario is played, and what is measured while it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bench import measure
from bench.client import Load, Wrong
from bench.dialects import Watch, dialect
from bench.processes import Running

Figures = dict[str, float]

# Until heads are sent, queues are joined and the last connection's work is over.
SETTLE_SECONDS = 0.3

# So long after the beginning somebody who does not read must have been cut.
CUT_SECONDS = 45


class NotOffered(Exception):
    """This server cannot play this scenario; the message says why."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long and how much: 1 as it is, less for a quick look."""

    scale: float = 1.0

    def seconds(self, full: float) -> float:
        return max(1.0, full * self.scale)

    def count(self, full: int) -> int:
        return max(1, round(full * self.scale))


class Stage:
    """One server, one scenario, one run of it."""

    def __init__(self, running: Running, pace: Pace) -> None:
        self.running = running
        self.pace = pace
        self.dialect = dialect(running)

    def offers(self, what: str) -> bool:
        return what in self.running.server.offers

    def need(self, what: str, why: str) -> None:
        """Raises NotOffered."""
        if not self.offers(what):
            raise NotOffered(why)

    @contextmanager
    def load(self, watch: Watch, watchers: int, **options: Any) -> Iterator[Load]:
        inflight = self.running.server.inflight
        given = {"watchers": watchers, "inflight": inflight, **watch.options, **options}
        with Load(self.running.port, watch.paths, self.running.folder, **given) as load:
            yield load

    def watched(
        self,
        watch: Watch,
        watchers: int,
        *,
        begin: Callable[[], int | None] | None = None,
        at_once: bool = False,
        **options: Any,
    ) -> Figures:
        """Watch to the end. `at_once`: what is watched begins when somebody comes, so that
        connecting is a part of what is measured.
        """
        before = self.running.cpu()
        with self.load(watch, watchers, at_once=int(at_once), **options) as load:
            if not at_once:
                load.until("ready")
                time.sleep(SETTLE_SECONDS)
                before = self.running.cpu()
                load.say("begin")
            published = begin() if begin is not None else None
            if published is not None:
                load.say(f"expect {published}")
            load.until("done")
            used = self.running.cpu() - before
            said = load.result()
        return _figures(said, used)


def _figures(said: dict[str, Any], used: float) -> Figures:
    delivered = said["delivered"]
    if not delivered:
        raise Wrong("nothing was delivered")
    return {
        "cpu_us_per_event": used / delivered * 1e6,
        "delivered": delivered,
        "delivered_per_s": delivered / max(said["seconds"], 1e-6),
        "p50_ms": said["p50_us"] / 1000,
        "p99_ms": said["p99_us"] / 1000,
        "max_ms": said["max_us"] / 1000,
        "frame_bytes": said["bytes"] / delivered,
        "server_cpu_s": used,
        "client_cpu_us_per_event": said["cpu_seconds"] / delivered * 1e6,
        # Above 0.9 the client, not the server, may be what was measured.
        "client_busy": said["cpu_seconds"] / said["wall_seconds"],
        "wall_s": said["wall_seconds"],
    }


# ------------------------------------------------------------------ fan-out


def fanout(watchers: int, rate: float) -> Callable[[Stage], Figures]:
    def play(stage: Stage) -> Figures:
        seconds = stage.pace.seconds(3)
        watch = stage.dialect.fanout(rate, seconds, 1, 0)
        figures = stage.watched(watch, watchers, begin=stage.dialect.begin)
        wanted = watchers * round(rate * seconds)
        if figures["delivered"] != wanted:
            raise Wrong(f"{figures['delivered']:.0f} events were delivered, {wanted} were due")
        return figures

    return play


def saturated(stage: Stage) -> Figures:
    watch = stage.dialect.fanout(0, stage.pace.seconds(3), 8, 0)
    return stage.watched(watch, 1000, begin=stage.dialect.begin)


def stalled(stage: Stage) -> Figures:
    """The same live watchers twice, the second time with as many beside them that do not
    read. Events are of 4 KiB, so that what is not read has nowhere to stay.
    """
    stage.need("stalled", "not measured here")
    count, rate, seconds = 1000, 10, stage.pace.seconds(5)
    extra = 4096 - 206

    # Latencies count from when those that do not read have been sent all that they take.
    skip = round(rate * seconds * 0.4)
    first = stage.dialect.fanout(rate, seconds, 1, extra)
    alone = stage.watched(first, count, begin=stage.dialect.begin, skip=skip)
    held = stage.running.rss() + measure.socket_bytes()
    # The stalled are watched by a client of their own: what cuts them need not end the live.
    lasting = stage.dialect.fanout(rate, seconds, 1, extra)
    stalling = Watch(lasting.paths)
    with stage.load(stalling, 0, stalled=count, timeout_ms=CUT_SECONDS * 1000) as bad:
        bad.until("ready")
        bad.say("begin")
        beside = stage.watched(lasting, count, begin=stage.dialect.begin, skip=skip)
        more = stage.running.rss() + measure.socket_bytes() - held
        if stage.offers("cuts") and stage.pace.scale >= 1:
            bad.until("done")
        else:
            bad.say("stop")
        said = bad.until("result")
    return {
        "p99_ratio": beside["p99_ms"] / max(alone["p99_ms"], 1e-6),
        "p99_ms": beside["p99_ms"],
        "alone_p99_ms": alone["p99_ms"],
        "kib_per_stalled": more / count / 1024,
        "cut": said["cuts"],
        **({"cut_s": said["last_cut_seconds"]} if said["cuts"] else {}),
    }


def busy(operation: str) -> Callable[[Stage], Figures]:
    """Events for a hundred, first in quiet, then beside something that only computes. The
    load client publishes them: a server that stamps its own events when its loop has come to
    its turn does not see what it has waited for that.
    """

    def play(stage: Stage) -> Figures:
        stage.need("busy", "only servers that run work have it beside them")
        if operation == "busy-process" and stage.running.server.speaks != "tailrace":
            raise NotOffered("it has no operations")
        seconds = stage.pace.seconds(3)

        def live() -> Figures:
            return stage.watched(stage.dialect.said(10, seconds), 100)

        quiet = live()
        work = threading.Thread(target=stage.dialect.busy, args=(seconds + 2.5, operation))
        work.start()
        try:
            time.sleep(0.5)
            beside = live()
        finally:
            work.join()
        return {
            "p50_ratio": beside["p50_ms"] / max(quiet["p50_ms"], 1e-6),
            "p50_ms": beside["p50_ms"],
            "p99_ms": beside["p99_ms"],
            "quiet_p50_ms": quiet["p50_ms"],
            "quiet_p99_ms": quiet["p99_ms"],
        }

    return play


# ------------------------------------------------------------------ streams of their own


def firehose(stage: Stage) -> Figures:
    stage.need("firehose", "it does not publish by itself")
    watch = stage.dialect.firehose(stage.pace.count(200_000))
    # A peer's begins when it is asked for, a run when its gate is opened.
    if stage.running.server.speaks == "tailrace":
        return stage.watched(watch, 1, begin=stage.dialect.begin)
    return stage.watched(watch, 1, at_once=True)


def tokens(stage: Stage) -> Figures:
    stage.need("tokens", "it does not publish by itself")
    watch = stage.dialect.tokens(stage.pace.count(2000))
    return stage.watched(watch, 100, at_once=True)


def replay(watchers: int, count: int) -> Callable[[Stage], Figures]:
    def play(stage: Stage) -> Figures:
        stage.need("replay", "it keeps no such history, or was not asked to")
        watch = stage.dialect.replay(stage.pace.count(count))
        time.sleep(SETTLE_SECONDS)
        figures = stage.watched(watch, watchers, at_once=True)
        # They were published long before.
        for name in ("p50_ms", "p99_ms", "max_ms"):
            del figures[name]
        return figures

    return play


# ------------------------------------------------------------------ connections


def idle(stage: Stage) -> Figures:
    stage.need("idle", "it sends no keep-alives")
    watchers = stage.pace.count(5000)
    watch = Watch(stage.dialect.one().paths)
    # The first connections pay for what is made once.
    with stage.load(watch, 50) as load:
        load.until("ready")
    time.sleep(SETTLE_SECONDS)
    before = stage.running.rss()
    with stage.load(watch, watchers, comments=1, timeout_ms=40_000) as load:
        said = load.until("ready")
        if said.get("refused") or said.get("connections") != watchers:
            raise Wrong(load.result()["fault"] or "not everybody could connect")
        time.sleep(1)
        after = stage.running.rss()
        used = -stage.running.cpu()
        load.say("begin")
        load.until("done")
        used += stage.running.cpu()
        said = load.result()
    if said["comments"] < watchers:
        raise Wrong(f"{said['comments']} keep-alives came to {watchers} watchers")
    return {
        "kib_per_watcher": (after - before) / watchers / 1024,
        "cpu_us_per_keepalive": used / said["comments"] * 1e6,
        "keepalives": said["comments"],
    }


def connect(stage: Stage) -> Figures:
    stage.need("one", "it has no first event")
    count = stage.pace.count(10_000)
    watch = Watch(stage.dialect.one().paths)
    time.sleep(SETTLE_SECONDS)
    before = stage.running.cpu()
    with stage.load(watch, 0, storm=count, inflight=64) as load:
        load.until("done")
        # Those that left have to be noticed as well.
        time.sleep(SETTLE_SECONDS)
        used = stage.running.cpu() - before
        said = load.result()
    return {
        "cpu_us_per_connection": used / count * 1e6,
        "connections_per_s": count / said["wall_seconds"],
        "client_busy": said["cpu_seconds"] / said["wall_seconds"],
    }


# ------------------------------------------------------------------ durable appends


def append(runs: int, rate: float) -> Callable[[Stage], Figures]:
    def play(stage: Stage) -> Figures:
        stage.need("append", "it keeps nothing")
        before = measure.fsync_seconds(stage.running.folder)
        watch = stage.dialect.writers(runs, rate, stage.pace.seconds(3))
        figures = stage.watched(watch, runs, begin=stage.dialect.begin)
        after = measure.fsync_seconds(stage.running.folder)
        median = (before[0] + after[0]) * 500
        return {
            **figures,
            "fsync_p50_ms": median,
            "fsync_p99_ms": max(before[1], after[1]) * 1000,
            "p99_per_fsync": figures["p99_ms"] / median,
        }

    return play

"""What Tailrace promises of its speed, each held against what was just measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.table import Row, medians

Figures = dict[tuple[str, str], dict[str, float]]


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of one server, compared with another's, or alone where `against` is nothing.
    At most `limit`, or at least, where `is_floor`.
    """

    scenario: str
    key: str
    server: str
    against: str
    limit: float
    is_floor: bool = False

    @property
    def about(self) -> str:
        """The figure in words."""
        compared = f" / {self.against}" if self.against else ""
        return f"{self.scenario}: {self.server}{compared}"

    def measured(self, figures: Figures) -> float | None:
        """The figure; None where it, or what it is compared with, was not measured."""
        own = figures.get((self.scenario, self.server), {}).get(self.key)
        if own is None or not self.against:
            return own
        other = figures.get((self.scenario, self.against), {}).get(self.key)
        return own / other if other else None

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.is_floor else value <= self.limit


_CPU = "cpu_us_per_event"
_RATE = "delivered_per_s"

GOALS: Sequence[Goal] = (
    Goal("fanout-1000", _CPU, "direct", "floor", 1.3),
    Goal("fanout-1000", _CPU, "direct", "nchan", 0.8),
    Goal("fanout-1000", _CPU, "uvicorn", "nchan", 1.2),
    Goal("fanout-1000", _CPU, "direct", "sse-starlette", 1 / 4),
    Goal("fanout-1000", _CPU, "uvicorn", "sse-starlette", 1 / 3),
    Goal("fanout-1000", _CPU, "direct", "fastapi-sse", 1 / 12),
    Goal("saturated", _RATE, "direct", "nchan", 8, is_floor=True),
    Goal("saturated", _RATE, "direct", "sse-starlette", 20, is_floor=True),
    Goal("firehose", _CPU, "direct-sqlite", "sse-starlette", 1 / 10),
    Goal("firehose", _CPU, "response", "sse-starlette", 1 / 14),
    Goal("tokens", _CPU, "direct", "sse-starlette", 1 / 5),
    Goal("tokens", _CPU, "direct-sqlite", "sse-starlette", 1 / 4),
    Goal("replay-1", _RATE, "direct", "sse-starlette", 50, is_floor=True),
    Goal("replay-1", _RATE, "direct-sqlite", "sse-starlette", 10, is_floor=True),
    Goal("connect", "cpu_us_per_connection", "direct", "sse-starlette", 1 / 5),
    Goal("connect", "cpu_us_per_connection", "mounted", "sse-starlette", 1 / 3),
    Goal("idle", "kib_per_watcher", "direct", "", 2),
    Goal("idle", "kib_per_watcher", "uvicorn", "", 16),
    Goal("busy", "p50_ratio", "direct", "", 2),
    Goal("busy-process", "p50_ratio", "direct", "", 2),
    Goal("append-1000", _RATE, "direct-sqlite", "", 20_000, is_floor=True),
    Goal("append-paced", "p99_per_fsync", "direct-sqlite", "", 3),
    Goal("stalled", "p99_ratio", "direct", "", 1.1),
    Goal("stalled", "kib_per_stalled", "direct", "", 64),
    Goal("stalled", "cut_s", "direct", "", 30),
)


def render(rows: Iterable[Row]) -> str:
    """A line for each goal of which something was measured; nothing where none was."""
    rows = list(rows)
    figures = {
        place: medians(row for row in rows if (row.scenario, row.server) == place)
        for place in {(row.scenario, row.server) for row in rows}
    }
    lines = []
    for goal in GOALS:
        value = goal.measured(figures)
        if value is not None:
            sign = "≥" if goal.is_floor else "≤"
            verdict = "met" if goal.is_met(value) else "NOT met"
            lines.append(
                f"  {goal.about:<42} {_short(value):>8}  {sign} {_short(goal.limit):<8} {verdict}"
            )
    return "\n".join(["goals: measured, promised", *lines]) if lines else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

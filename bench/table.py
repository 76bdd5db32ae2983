"""From single runs to the table: medians, ratios, reasons."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.scenarios import REFERENCES, Scenario


@dataclass(frozen=True, slots=True)
class Row:
    """One run of a scenario on a server: its figures, or the reason why there are none;
    `seconds`: what it took, with starting and stopping."""

    scenario: str
    server: str
    run: int
    figures: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    is_skipped: bool = False
    seconds: float = 0.0

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def medians(rows: Iterable[Row]) -> dict[str, float]:
    """Each figure's median over the runs that have it; nothing if any run failed.

    A server that lost an event in one run of three has no speed worth telling.
    """
    kept = [row for row in rows if not row.is_skipped]
    if not kept or any(row.reason for row in kept):
        return {}
    keys = dict.fromkeys(key for row in kept for key in row.figures)
    return {
        key: statistics.median(row.figures[key] for row in kept if key in row.figures)
        for key in keys
    }


def ratios(figures: dict[str, dict[str, float]], key: str, server: str) -> list[float | None]:
    """How a server's figure compares with those of the references."""
    own = figures.get(server, {}).get(key)
    found: list[float | None] = []
    for name in REFERENCES:
        other = figures.get(name, {}).get(key)
        found.append(own / other if own is not None and other else None)
    return found


def render(scenario: Scenario, rows: Sequence[Row]) -> str:
    """One scenario's part of the table, as text."""
    servers = list(dict.fromkeys(row.server for row in rows))
    servers.sort(key=_order(scenario))
    runs = {name: [row for row in rows if row.server == name] for name in servers}
    figures = {name: medians(runs[name]) for name in servers}
    main = scenario.columns[0]
    heads = ["server", *(column.heading for column in scenario.columns)]
    heads += [f"× {name}" for name in REFERENCES]
    lines, reasons = [heads], []
    for name in servers:
        if not figures[name]:
            reason = next((row.reason for row in runs[name] if row.reason), "no figure")
            verb = "skipped" if all(row.is_skipped for row in runs[name]) else "FAILED"
            reasons.append(f"  {name}: {verb}: {reason}")
            continue
        cells = [
            column.text.format(figures[name][column.key]) if column.key in figures[name] else "–"
            for column in scenario.columns
        ]
        compared = ratios(figures, main.key, name)
        cells += ["–" if ratio is None else _short(ratio) for ratio in compared]
        lines.append([name, *cells])
        if figures[name].get("client_busy", 0) > 0.9:
            reasons.append(f"  {name}: the load client was busy; take it as a lower bound")
    title = f"{scenario.name}: {scenario.about}"
    return "\n".join([title, *_aligned(lines), *reasons])


def _order(scenario: Scenario) -> Any:
    known = list(scenario.servers)
    return lambda name: known.index(name) if name in known else len(known)


def _short(ratio: float) -> str:
    if ratio >= 1000:
        # The reference is nothing, or nearly.
        return "–"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    if len(lines) == 1:
        return []
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]

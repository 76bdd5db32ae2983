"""Medians, ratios and reasons."""

from bench.plays import fanout
from bench.scenarios import SCENARIOS, Column, Scenario
from bench.table import Row, medians, ratios, render

PROBE = Scenario(
    "probe", "for this test", fanout(1, 1), ("floor", "direct", "nchan"), (Column("cost", "µs"),)
)


def row(server: str, cost: float = 0, *, run: int = 1, reason: str = "") -> Row:
    return Row("probe", server, run, {} if reason else {"cost": cost}, reason)


def test_the_middle_run_counts() -> None:
    assert medians([row("direct", cost) for cost in (9, 1, 2)]) == {"cost": 2}


def test_one_failed_run_leaves_no_figure() -> None:
    assert medians([row("direct", 1), row("direct", reason="lost one")]) == {}


def test_a_skipped_run_is_no_failure() -> None:
    skipped = Row("probe", "direct", 2, reason="not here", is_skipped=True)
    assert medians([row("direct", 1), skipped]) == {"cost": 1}


def test_a_ratio_needs_both() -> None:
    figures = {"floor": {"cost": 2.0}, "direct": {"cost": 3.0}, "nchan": {}}
    assert ratios(figures, "cost", "direct") == [1.5, None, None]
    assert ratios(figures, "cost", "nchan") == [None, None, None]


def test_the_table_says_who_failed_and_why() -> None:
    rows = [row("direct", 3), row("floor", 2), row("nchan", reason="2 gaps")]
    assert render(PROBE, rows).splitlines() == [
        "probe: for this test",
        "  server    µs  × floor  × nchan  × sse-starlette",
        "  floor   2.00     1.00        –                –",
        "  direct  3.00     1.50        –                –",
        "  nchan: FAILED: 2 gaps",
    ]


def test_a_busy_client_is_told_of() -> None:
    measured = Row("probe", "direct", 1, {"cost": 1, "client_busy": 0.95})
    assert "lower bound" in render(PROBE, [measured])


def test_every_scenario_names_known_servers() -> None:
    from bench.lineup import LINEUP

    assert {name for scenario in SCENARIOS.values() for name in scenario.servers} <= set(LINEUP)

"""How long runs are kept: the rules as tables."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.eventlog.retention import (
    DAY,
    Ended,
    Retention,
    Stretch,
    crowded,
    expired,
    trimmed,
)

OFF: dict[str, Any] = {"max_age": None, "max_runs": None, "max_bytes": None, "run_bytes": None}
# In no order: a store need not sort.
RUNS = [Ended("b", 20.0, 100), Ended("d", 40.0, 100), Ended("a", 10.0, 100), Ended("c", 30.0, 100)]


@pytest.mark.parametrize(
    ("rules", "now", "gone"),
    [
        ({}, 100.0, []),
        ({"max_age": 60.0}, 100.0, ["c", "b", "a"]),
        ({"max_age": 70.0}, 100.0, ["b", "a"]),
        ({"max_age": 5.0}, 100.0, ["d", "c", "b", "a"]),
        ({"max_runs": 4}, 100.0, []),
        ({"max_runs": 1}, 100.0, ["c", "b", "a"]),
        ({"max_bytes": 400}, 100.0, []),
        ({"max_bytes": 399}, 100.0, ["a"]),
        ({"max_bytes": 99}, 100.0, ["d", "c", "b", "a"]),
        ({"max_age": 85.0, "max_runs": 3, "max_bytes": 200}, 100.0, ["b", "a"]),
        ({"max_age": 75.0, "max_runs": 3, "max_bytes": 300}, 100.0, ["b", "a"]),
        # A clock that was set back keeps runs longer rather than dropping them.
        ({"max_age": 1.0}, -1000.0, []),
    ],
)
def test_which_finished_runs_go(rules: dict[str, Any], now: float, gone: list[str]) -> None:
    assert expired(Retention(**{**OFF, **rules}), RUNS, now) == gone


def test_without_runs_nothing_goes() -> None:
    assert expired(Retention(max_runs=1), [], 0.0) == []


@pytest.mark.parametrize(
    ("rules", "events", "size", "expected"),
    [
        ({}, 10**9, 10**15, False),
        ({"run_events": 10}, 10, 0, False),
        ({"run_events": 10}, 11, 0, True),
        ({"run_bytes": 10}, 0, 10, False),
        ({"run_bytes": 10}, 0, 11, True),
    ],
)
def test_when_a_run_is_crowded(
    rules: dict[str, Any], events: int, size: int, expected: bool
) -> None:
    assert crowded(Retention(**{**OFF, **rules}), events, size) is expected


# Ten blocks of three events and 100 bytes: 1-3, 4-6, … 28-30.
BLOCKS = [Stretch(first, first + 2, 100) for first in range(1, 31, 3)]


@pytest.mark.parametrize(
    ("rules", "blocks", "expected"),
    [
        # A tenth below the bound, so that not every append has to cut.
        ({"run_events": 29}, BLOCKS, (7, 200)),
        ({"run_events": 20}, BLOCKS, (13, 400)),
        ({"run_bytes": 999}, BLOCKS, (7, 200)),
        ({"run_bytes": 1000}, BLOCKS, (4, 100)),
        ({"run_events": 20, "run_bytes": 400}, BLOCKS, (22, 700)),
        # The newest block stays, whatever its size.
        ({"run_events": 1}, BLOCKS, (28, 900)),
        ({"run_bytes": 1}, BLOCKS, (28, 900)),
        ({"run_events": 1}, BLOCKS[-1:], (28, 0)),
        # After an earlier cut.
        ({"run_events": 10}, BLOCKS[5:], (22, 200)),
    ],
)
def test_what_a_crowded_run_loses(
    rules: dict[str, Any], blocks: list[Stretch], expected: tuple[int, int]
) -> None:
    size = sum(block.size for block in blocks)
    assert trimmed(Retention(**{**OFF, **rules}), blocks, size) == expected


@pytest.mark.parametrize("name", ["max_age", "max_runs", "max_bytes", "run_events", "run_bytes"])
@pytest.mark.parametrize("bound", [0, -1])
def test_a_bound_that_keeps_nothing_is_a_mistake(name: str, bound: int) -> None:
    with pytest.raises(ValueError, match=f"Retention.{name}"):
        Retention(**{name: bound})


def test_the_defaults_bound_everything_but_the_number_of_events() -> None:
    rules = Retention()
    assert rules.max_age == 30 * DAY
    assert rules.run_events is None
    assert None not in (rules.max_runs, rules.max_bytes, rules.run_bytes)

from bench.goals import GOALS, Goal, render
from bench.lineup import LINEUP
from bench.scenarios import SCENARIOS
from bench.table import Row


def test_every_goal_is_of_something_that_is_measured() -> None:
    for goal in GOALS:
        servers = SCENARIOS[goal.scenario].servers
        assert goal.server in servers
        assert not goal.against or goal.against in servers
        assert {goal.server, goal.against or goal.server} <= set(LINEUP)


def rows(scenario: str, server: str, key: str, *values: float) -> list[Row]:
    return [Row(scenario, server, run, {key: value}) for run, value in enumerate(values)]


def test_a_goal_is_held_against_the_medians() -> None:
    key = "cpu_us_per_event"
    told = render(
        [
            *rows("fanout-1000", "direct", key, 7, 6, 100),
            *rows("fanout-1000", "floor", key, 5, 5, 5),
            *rows("fanout-1000", "nchan", key, 10, 10, 10),
        ]
    )
    assert [line.split() for line in told.splitlines()[1:]] == [
        ["fanout-1000:", "direct", "/", "floor", "1.4", "≤", "1.3", "NOT", "met"],
        ["fanout-1000:", "direct", "/", "nchan", "0.7", "≤", "0.8", "met"],
    ]
    assert render([]) == ""


def test_what_failed_meets_nothing() -> None:
    failed = Row("idle", "direct", 2, reason="lost one")
    assert render([*rows("idle", "direct", "kib_per_watcher", 0.3), failed]) == ""


def test_more_is_better_where_it_is_a_floor() -> None:
    goal = Goal("s", "k", "direct", "", 10, is_floor=True)
    assert goal.is_met(10)
    assert not goal.is_met(9.9)

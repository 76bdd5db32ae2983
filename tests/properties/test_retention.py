"""Retention: within the bounds, never more than needed, the newest last."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tailrace.eventlog.retention import Ended, Retention, Stretch, crowded, expired, trimmed

bounds = st.none() | st.integers(1, 60)
rules = st.builds(
    Retention,
    max_age=bounds,
    max_runs=st.none() | st.integers(1, 8),
    max_bytes=bounds,
    run_events=bounds,
    run_bytes=bounds,
)
ended = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=12).map(
    lambda pairs: [Ended(f"run {n}", float(at), size) for n, (at, size) in enumerate(pairs)]
)


def adjoining(first: int, sizes: list[tuple[int, int]]) -> list[Stretch]:
    made = []
    for count, size in sizes:
        made.append(Stretch(first, first + count - 1, size))
        first += count
    return made


blocks = st.builds(
    adjoining,
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20)), min_size=1, max_size=12),
)


@given(rules, ended, st.integers(0, 100))
def test_what_stays_is_within_the_bounds_and_newest(
    rules: Retention, runs: list[Ended], now: int
) -> None:
    gone = set(expired(rules, runs, float(now)))
    stay = [run for run in runs if run.id not in gone]
    go = [run for run in runs if run.id in gone]
    assert len(stay) + len(go) == len(runs)
    assert rules.max_age is None or all(now - run.ended_at <= rules.max_age for run in stay)
    assert rules.max_runs is None or len(stay) <= rules.max_runs
    assert rules.max_bytes is None or sum(run.size for run in stay) <= rules.max_bytes
    if stay and go:
        assert max(run.ended_at for run in go) <= min(run.ended_at for run in stay)
    assert expired(rules, stay, float(now)) == [], "once is enough"


@given(rules, ended, st.integers(0, 100))
def test_nothing_goes_without_need(rules: Retention, runs: list[Ended], now: int) -> None:
    gone = expired(rules, runs, float(now))
    if not gone:
        return
    newest = next(run for run in runs if run.id == gone[0])
    kept = [run for run in runs if run.id not in gone]
    assert (
        (rules.max_age is not None and now - newest.ended_at > rules.max_age)
        or (rules.max_runs is not None and len(kept) >= rules.max_runs)
        or (
            rules.max_bytes is not None
            and sum(r.size for r in kept) + newest.size > rules.max_bytes
        )
    )


@given(rules, blocks)
def test_a_crowded_run_loses_whole_blocks_from_the_front(
    rules: Retention, blocks: list[Stretch]
) -> None:
    size = sum(block.size for block in blocks)
    first, dropped = trimmed(rules, blocks, size)
    stay = [block for block in blocks if block.first >= first]
    go = [block for block in blocks if block.first < first]
    assert stay
    assert stay[0].first == first
    assert stay[-1] == blocks[-1]
    assert dropped == sum(block.size for block in go)
    left = (blocks[-1].last - first + 1, size - dropped)
    assert len(stay) == 1 or not crowded(rules, *left)
    if go:
        # One block less, and it would not be a tenth below the bounds.
        events, kept = left[0] + go[-1].last - go[-1].first + 1, left[1] + go[-1].size
        over_events = rules.run_events is not None and events > rules.run_events * 0.9
        over_bytes = rules.run_bytes is not None and kept > rules.run_bytes * 0.9
        assert over_events or over_bytes

"""`python -m bench`: every scenario on every server, in shuffled order; a table and a file."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from bench import goals, machine, measure, places, plays
from bench.client import Wrong
from bench.dialects import Refused
from bench.lineup import LINEUP, Server
from bench.plays import NotOffered, Pace, Stage
from bench.processes import NotStarted, Running
from bench.scenarios import LONG, QUICK, SCENARIOS, Scenario
from bench.table import Row, render

Thing = TypeVar("Thing")

QUICK_SCALE = 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Answers 1 if a run failed its check."""
    asked = _parser().parse_args(arguments)
    if asked.list:
        _list()
        return 0
    if asked.install:
        for line in places.install():
            _say(line)
    measure.raise_limits()
    # So that whoever is told to stop still stops the server.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with measure.pinned(1):
        return _measured(asked, arguments)


def _measured(asked: argparse.Namespace, arguments: Sequence[str] | None) -> int:
    scenarios = _chosen(asked.only, SCENARIOS, "scenario")
    if asked.quick and not asked.only:
        scenarios = [scenario for scenario in scenarios if scenario.name not in LONG]
    servers = _chosen(asked.servers, LINEUP, "server") if asked.servers else None
    pace = Pace(QUICK_SCALE if asked.quick else 1.0)
    runs = asked.runs or (1 if asked.quick else 3)
    told = machine.described()
    _say(machine.headline(told))
    rows: list[Row] = []
    began = time.monotonic()
    check = [] if asked.no_check else checked()
    jobs = list(_jobs(scenarios, servers, runs, asked.quick, asked.seed))
    try:
        for number, (scenario, server, run) in enumerate(jobs, 1):
            _say(f"[{number}/{len(jobs)}] {scenario.name} {server.name}", end=": ")
            since = time.monotonic()
            row = played(scenario, server, run, pace)
            rows.append(replace(row, seconds=round(time.monotonic() - since, 1)))
            _say(_brief(scenario, rows[-1]))
    except KeyboardInterrupt:
        _say("\nstopped; what is there is told")
    took = time.monotonic() - began
    parts = [
        render(scenario, own)
        for scenario in scenarios
        if (own := [row for row in rows if row.scenario == scenario.name])
    ]
    print("\n\n".join([*parts, goals.render(rows)]).rstrip())
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(
            ["python -m bench", *(sys.argv[1:] if arguments is None else arguments)]
        ),
        "runs": runs,
        "scale": pace.scale,
        "seed": asked.seed,
        "seconds": round(took),
        **told,
        "check": check,
        "rows": [row.told() for row in rows],
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(result, indent=1) + "\n")
    _say(f"\n{took:.0f} s; every run is in {asked.json}")
    return int(any(row.reason and not row.is_skipped for row in rows))


def played(scenario: Scenario, server: Server, run: int, pace: Pace) -> Row:
    """One run: a server of its own, the scenario, its end."""
    if reason := server.missing():
        return Row(scenario.name, server.name, run, reason=reason, is_skipped=True)
    try:
        with Running(server) as running:
            try:
                figures = scenario.play(Stage(running, pace))
            except (Wrong, Refused) as error:
                said = running.said()
                reason = f"{error} [{said}]" if said else str(error)
                return Row(scenario.name, server.name, run, reason=reason)
    except NotOffered as error:
        return Row(scenario.name, server.name, run, reason=str(error), is_skipped=True)
    except (NotStarted, places.Unbuilt) as error:
        return Row(scenario.name, server.name, run, reason=str(error))
    return Row(scenario.name, server.name, run, figures)


def checked() -> list[str]:
    """See that the check notices: three servers that commit a fault must have no figure."""
    said = []
    probe = Scenario("check", "a fault must be noticed", plays.fanout(20, 20), (), ())
    for server in LINEUP.values():
        if server.is_faulty:
            row = played(probe, server, 1, Pace(0.3))
            if not row.reason:
                raise SystemExit(f"{server.name} was not noticed: no figure can be trusted.")
            said.append(f"{server.name}: {row.reason}")
            _say(f"noticed, as it must be: {said[-1]}")
    return said


def _jobs(
    scenarios: Iterable[Scenario],
    servers: Sequence[Server] | None,
    runs: int,
    quick: bool,
    seed: int,
) -> Iterable[tuple[Scenario, Server, int]]:
    """Each round has everything once, in an order of its own: what drifts, drifts for all."""
    dice = random.Random(seed)
    for run in range(1, runs + 1):
        round_ = [
            (scenario, server, run)
            for scenario in scenarios
            if run <= scenario.runs
            for server in _competing(scenario, servers, quick)
        ]
        dice.shuffle(round_)
        yield from round_


def _competing(
    scenario: Scenario, servers: Sequence[Server] | None, quick: bool
) -> Iterable[Server]:
    if servers is not None:
        # By name also where they are not on the list.
        return servers
    return [LINEUP[name] for name in scenario.servers if not quick or name in QUICK]


def _chosen(text: str | None, known: dict[str, Thing], kind: str) -> list[Thing]:
    if text is None:
        return list(known.values())
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"There is no {kind} {unknown[0]!r}. There are {', '.join(known)}.")
    return [known[name] for name in names]


def _brief(scenario: Scenario, row: Row) -> str:
    if row.reason:
        return f"{'skipped' if row.is_skipped else 'FAILED'}: {row.reason}"
    return ", ".join(
        f"{column.heading} {column.text.format(row.figures[column.key])}"
        for column in scenario.columns
        if column.key in row.figures
    )


def _list() -> None:
    print("Scenarios:")
    for scenario in SCENARIOS.values():
        print(f"  {scenario.name:<14} {scenario.about}")
    print("\nServers:")
    for server in LINEUP.values():
        reason = server.missing()
        print(f"  {server.name:<18} {server.about}{f'  [{reason}]' if reason else ''}")


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", metavar="NAMES", help="scenarios, with commas between")
    parser.add_argument("--servers", metavar="NAMES", help="servers, with commas between")
    parser.add_argument("--runs", type=int, help="of each; the median counts [3]")
    parser.add_argument("--quick", action="store_true", help="a short look: fewer, shorter, once")
    parser.add_argument("--json", type=Path, default=places.BUILT / "results.json", metavar="FILE")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the shuffling")
    parser.add_argument("--list", action="store_true", help="say what there is")
    parser.add_argument("--install", action="store_true", help="first fetch the peers")
    parser.add_argument("--no-check", action="store_true", help="do not test the check itself")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

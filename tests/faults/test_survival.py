"""Scripts that outlive their server: `kill -9` at any moment, a restart, and nothing is missing."""

import contextlib
import os
import random
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tailrace.protocol.lifecycle import TERMINAL
from tests.processes import Served, marked, serving, until

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("TAILRACE_TEST_KILLS", "4"))
AT_ONCE = 3
LINES = 10_000
EXIT_CODE = 7

# On a pipe, and through a shell on a terminal; both with something on stderr.
NUMBERS = f"""
import sys, time
for number in range(1, {LINES} + 1):
    print(number)
    if number % 100 == 0:
        print("at", number, file=sys.stderr)
        time.sleep(0.02)
sys.exit({EXIT_CODE})
"""
SHELL = f"""
i=1
while [ $i -le {LINES} ]; do
    echo $i
    if [ $((i % 100)) = 0 ]; then echo at $i >&2; sleep 0.02; fi
    i=$((i + 1))
done
exit {EXIT_CODE}
"""
FILES = {"numbers.py": NUMBERS, "numbers.sh": SHELL}


@contextlib.contextmanager
def restarting(log: Path) -> Iterator[Iterator[Served]]:
    """One server after the other, each on the same log; each is killed before the next starts."""
    with contextlib.ExitStack() as stack:

        def servers() -> Iterator[Served]:
            port = None
            while True:
                served = stack.enter_context(serving("tailrace", log, port=port, survives=True))
                port = served.port
                yield served
                served.kill()

        yield servers()


def ended(served: Served, run: str) -> bool:
    return served.show(run)["state"] in TERMINAL


def numbers(served: Served, run: str, stream: str) -> list[str]:
    status, body = served.ask("GET", f"/runs/{run}/output?stream={stream}")
    assert status == 200
    return bytes(body).decode().splitlines()


def check(served: Served, run: str) -> None:
    """Every line once and in order, and the script's own exit code."""
    assert numbers(served, run, "stdout") == [str(n) for n in range(1, LINES + 1)]
    assert numbers(served, run, "stderr") == [f"at {n}" for n in range(100, LINES + 1, 100)]
    shown = served.show(run)
    assert (shown["state"], shown["error"]["exit_code"]) == ("failed", EXIT_CODE), shown
    assert marked(run) == []


def test_no_line_is_lost_and_none_is_doubled(tmp_path: Path) -> None:
    chance = random.Random(20261120)
    log = tmp_path / "log.db"
    before: list[str] = []
    attempts: list[int] = []
    with restarting(log) as servers:
        for number, served in enumerate(servers):
            for name, text in FILES.items():
                (tmp_path / "scripts" / name).write_text(text)
            for run in before:
                until(partial(ended, served, run), f"{run} has ended", 30)
                check(served, run)
                attempts.append(served.show(run)["attempt"])
            if number == KILLS:
                break
            before = [served.start("script", file=chance.choice([*FILES])) for _ in range(AT_ONCE)]
            # The moment is the point: anywhere in the script's life, or just after it.
            time.sleep(chance.uniform(0.0, 2.5))
    spools = tmp_path / "log.db.spools"
    assert list(spools.iterdir()) == []
    taken_up = sum(attempt > 1 for attempt in attempts)
    print(f"{len(attempts)} scripts, {KILLS} times kill -9; {taken_up} were taken up again")
    assert taken_up > KILLS

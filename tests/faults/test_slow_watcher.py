"""P8: a slow watcher harms nobody. It is cut after the write deadline, and loses nothing."""

from pathlib import Path

import pytest

from tests.processes import Served, eventually, serving
from tests.watching import Stalled, Watcher, decoded, drained, pent_up, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio]

WATCHERS = 20
EVENT_BYTES = 20_000
ALONE = 100
WRITE_DEADLINE = 1.0
GROWTH_KIB = 100 * 1024
OURS_BYTES = 64 * 1024


@pytest.mark.parametrize(
    ("kind", "shape", "many"),
    [
        ("tailrace", "alone", WATCHERS),
        ("tailrace", "wrapped", 4),
        ("direct-asyncio", "mounted", 4),
        ("uvicorn", "alone", WATCHERS),
        ("uvicorn", "wrapped", 4),
        ("uvicorn-asyncio", "alone", 4),
        ("granian", "alone", 4),
        ("granian", "wrapped", 4),
        ("hypercorn", "alone", 4),
    ],
)
async def test_those_who_do_not_read(kind: str, shape: str, many: int, tmp_path: Path) -> None:
    log = tmp_path / "log.db"
    with serving(kind, log, shape=shape, write_deadline=WRITE_DEADLINE) as served:
        before = served.probe()["resident_kib"]
        run = served.start("count", events=100_000, every=0.005, size=EVENT_BYTES)
        target = served.events_of(run)
        async with watchers() as party:
            for _ in range(many):
                party.append(await Watcher.open(served.port, target))
            await party[0].until(lambda w: len(w.events) > ALONE, "told a few")
            idle = [Stalled(served.port, target) for _ in range(many)]
            try:
                await watch_them_go(served, idle, many)
                grown = served.probe()["resident_kib"] - before
                firsts = [await drained(connection) for connection in idle]
            finally:
                for connection in idle:
                    connection.close()
            # Until here it went on as if nothing was.
            served.ask("POST", f"/runs/{run}/cancel")
            for watcher in party:
                await watcher.until(lambda w: w.is_complete, "told all", 30)
            whole = decoded(bytes(party[0].body))
            assert whole[-1][1] == "cancelled"
            assert [int(id) for id, _, _ in whole] == list(range(1, len(whole) + 1))
            assert all(decoded(bytes(watcher.body)) == whole for watcher in party)
            report(f"{kind} {shape}", party[0].delays("count"), many)
            print(f"the server grew by {grown} KiB")
            assert grown < GROWTH_KIB
            await check_resumed(served, target, firsts, whole)
        await eventually(lambda: served.probe()["connections"] == 0, "all have left")


async def watch_them_go(served: Served, idle: list[Stalled], reading: int) -> None:
    """Those who do not read are cut, and the others stay."""
    most = [0] * len(idle)
    # Our own server has the kernel keep little for each.
    least = 10_000 if served.kind == "tailrace" else 1_000_000

    def is_cut() -> bool:
        most[:] = map(max, most, pent_up(idle))
        # Cut with a reset, or the kernel would keep what it holds for minutes.
        return min(most) > least and not any(pent_up(idle))

    took = await eventually(is_cut, "they are cut", 30)
    await eventually(lambda: served.probe()["connections"] == reading, "the others stay")
    assert served.kind != "tailrace" or max(most) < OURS_BYTES
    print(f"cut after {took:.1f} s; the kernel held {sum(most) / 1e6:.1f} MB for {len(idle)}")


def report(name: str, delays: list[float], many: int) -> None:
    for part, some in (("before", delays[:ALONE]), ("beside", delays[ALONE:])):
        told = sorted(1000 * delay for delay in some)
        p50, p99 = told[len(told) // 2], told[len(told) * 99 // 100]
        print(
            f"{name}, publish to receive {part} {many} who do not read: "
            f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
        )


async def check_resumed(
    served: Served, target: str, firsts: list[bytes], whole: list[tuple[str, str, str]]
) -> None:
    for first in firsts:
        seen = decoded(first)
        last = seen[-1][0] if seen else ""
        watcher = await Watcher.open(served.port, target, headers={"last-event-id": last})
        try:
            await watcher.over(30)
            assert seen + decoded(bytes(watcher.body)) == whole
        finally:
            watcher.leave()

"""Behind nginx, by the file of the documentation: nothing waits, nothing is lost, nobody stays."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.closed import House
from tests.needs import needs
from tests.processes import (
    ROOT,
    START_SECONDS,
    Served,
    eventually,
    free_port,
    serving,
    until,
)
from tests.proxied import Proxy, proxied
from tests.watching import Stalled, Watcher, watchers

pytestmark = [pytest.mark.slow, pytest.mark.anyio, needs("nginx")]

PREFIX: Final = "/inner"
LATE_SECONDS: Final = 0.05
KEEP_ALIVE: Final = b": keep-alive"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("behind")
    with serving("tailrace", folder / "log.db", shape="mounted", write_deadline=2) as served:
        yield served


@pytest.fixture(scope="module")
def proxy(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy") / "nginx"
    with proxied(folder, served.port, f"{PREFIX}/") as proxy:
        yield proxy


def ask(
    port: int, path: str, headers: dict[str, str] | None = None, source: str = "127.0.0.1"
) -> tuple[int, dict[str, str], bytes]:
    """A plain request by the proxy, from an address of this machine."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", port, timeout=10, source_address=(source, 0)
    )
    try:
        connection.request("GET", path, headers={"connection": "close", **(headers or {})})
        answer = connection.getresponse()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, named, answer.read()
    finally:
        connection.close()


async def until_there_are(watcher: Watcher, count: int) -> Watcher:
    """Wait for so many events, or the end."""
    return await watcher.until(
        lambda seen: seen.is_complete or len(seen.events) >= count, "enough", 30
    )


# --- an app that mounts it -----------------------------------------------------------------------


async def test_events_come_as_they_are_told(served: Served, proxy: Proxy) -> None:
    found: list[tuple[float, float]] = []
    # What is buffered is late each time; a machine that is busy is so now and then.
    for _ in range(3):
        run = served.start("count", events=100, every=0.01)
        async with watchers() as party:
            party.append(await Watcher.open(proxy.port, served.events_of(run)))
            watcher = await party[0].over(30)
        assert watcher.is_complete
        assert [event.id for event in watcher.events] == [str(n) for n in range(1, 103)]
        delays = watcher.delays("count")
        assert len(delays) == 100
        found.append((statistics.median(delays), max(delays)))
        if max(found[-1]) <= LATE_SECONDS:
            break
    print(f"median and longest, in ms: {[(f'{a * 1e3:.1f}', f'{b * 1e3:.1f}') for a, b in found]}")
    assert max(found[-1]) <= LATE_SECONDS, found


async def test_a_post_that_is_the_stream(served: Served, proxy: Proxy) -> None:
    asked = {"operation": "burst", "input": {"events": 3, "hold": True}}
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    async with watchers() as party:
        party.append(
            await Watcher.open(
                proxy.port, f"{PREFIX}/runs", method="POST", headers=headers,
                body=json.dumps(asked).encode(),
            )
        )  # fmt: skip
        # It says no more: whoever buffers would keep it.
        await party[0].told(b"event: held")
        run = party[0].headers["content-location"].split("/")[-2]
    status, _, body = ask(proxy.port, f"{PREFIX}/runs/{run}")
    assert status == 200
    assert json.loads(body)["links"]["events"] == served.events_of(run)


async def test_a_silent_stream_is_kept(served: Served, proxy: Proxy) -> None:
    run = served.start("burst", events=1, hold=True)
    async with watchers() as party:
        for query in ("", "?tick=1"):
            party.append(await Watcher.open(proxy.port, served.events_of(run) + query))
        await party[0].told(KEEP_ALIVE, 25)
        assert party[1].body.count(b"event: tick") >= 10
        assert not party[0].is_closed


async def test_who_was_cut_gets_the_rest(served: Served, proxy: Proxy) -> None:
    run = served.start("count", events=100, every=0.01)
    seen: list[tuple[str, str]] = []
    last = ""
    for count in (10, 20, 1000):
        headers = {"last-event-id": last} if last else {}
        async with watchers() as party:
            party.append(await Watcher.open(proxy.port, served.events_of(run), headers=headers))
            enough = await until_there_are(party[0], count)
            enough.vanish()
        seen += [(event.id, event.event) for event in enough.events]
        last = enough.last_event_id
    assert [id for id, _ in seen] == [str(n) for n in range(1, 103)]
    assert seen[-1][1] == "complete"
    status, _, body = ask(proxy.port, served.events_of(run), {"last-event-id": last})
    assert (status, body) == (204, b"")


async def test_who_leaves_is_noticed(served: Served, proxy: Proxy) -> None:
    await eventually(lambda: served.probe()["connections"] == 0, "nobody is there")
    run = served.start("burst", events=1, hold=True)
    async with watchers() as party:
        for _ in range(5):
            party.append(await Watcher.open(proxy.port, served.events_of(run)))
            await party[-1].told(b"event: held")
        assert served.probe()["connections"] == 5
        for watcher in party:
            watcher.leave()
        await eventually(lambda: served.probe()["connections"] == 0, "all have left")
    assert served.show(run)["state"] == "running"


async def test_who_does_not_read_is_cut(served: Served, proxy: Proxy) -> None:
    run = served.start("burst", events=20_000, size=2000, hold=True)
    await eventually(lambda: served.show(run)["last_event_id"] == "20002", "written", 30)
    connection = Stalled(proxy.port, served.events_of(run))
    try:
        await eventually(lambda: served.probe()["connections"] == 1, "it is there")
        await eventually(lambda: served.probe()["connections"] == 0, "it is cut", 20)
    finally:
        connection.close()


def test_only_what_is_no_stream_is_compressed(served: Served, proxy: Proxy) -> None:
    asked = {"accept-encoding": "gzip"}
    run = served.start("burst", events=50)
    status, headers, _ = ask(proxy.port, f"{PREFIX}/operations", asked)
    assert (status, headers.get("content-encoding")) == (200, "gzip")
    for kind in ("text/event-stream", "application/x-ndjson"):
        status, headers, body = ask(proxy.port, served.events_of(run), {**asked, "accept": kind})
        assert (status, headers.get("content-encoding")) == (200, None)
        assert b"burst" in body


@needs("curl")
def test_http2(served: Served, proxy: Proxy) -> None:
    run = served.start("count", events=40, every=0.05)
    url = f"http://127.0.0.1:{proxy.http2}{served.events_of(run)}"
    words = ["curl", "-sSN", "--http2-prior-knowledge", "-w", "%{http_version}", url]
    late: list[float] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as curl:
        assert curl.stdout is not None
        said = b""
        for line in curl.stdout:
            said = line
            if line.startswith(b"data: ") and b'"sent"' in line:
                late.append(time.time() - json.loads(line[6:])["sent"])
    assert said == b"2", said
    assert curl.returncode == 0
    assert len(late) == 40
    # curl's own start is in the first ones: what was told before it is replayed.
    assert statistics.median(late) <= LATE_SECONDS, late


async def test_a_server_that_ends_says_goodbye(tmp_path: Path) -> None:
    with (
        serving("tailrace", tmp_path / "log.db", shape="mounted") as served,
        proxied(tmp_path / "nginx", served.port, f"{PREFIX}/") as proxy,
    ):
        run = served.start("burst", events=1, hold=True)
        async with watchers() as party:
            party.append(await Watcher.open(proxy.port, served.events_of(run)))
            await party[0].told(b"event: held")
            served.terminate()
            await party[0].over()
            assert party[0].is_complete
            assert party[0].body.endswith(b"retry: 500\n: end\n")


# --- who comes by it ---------------------------------------------------------------------------


def test_strangers_count_by_their_own_addresses(tmp_path: Path) -> None:
    port = free_port()
    words = ["serve", "tests.apps.counted:app", "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "tailrace.cli.main", *words, "--trusted-proxy", "127.0.0.1"],
        cwd=ROOT, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    # What a client says of itself is not believed.
    lie = {"x-forwarded-for": "127.0.0.9"}
    try:
        with proxied(tmp_path / "nginx", port, f"{PREFIX}/") as proxy:

            def status(path: str, source: str) -> int:
                return ask(proxy.port, f"{PREFIX}{path}", lie, source)[0]

            until(lambda: status("/healthz", "127.0.0.4") == 200, "it answers", START_SECONDS)
            assert [status("/runs", "127.0.0.2") for _ in range(4)] == [200, 200, 200, 429]
            assert [status("/runs", "127.0.0.3") for _ in range(2)] == [200, 200]
            # Who is not the proxy may say what they like.
            assert [ask(port, f"{PREFIX}/runs", lie, "127.0.0.2")[0]] == [429]
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """`tailrace serve` as it is from the start, with a name and a proxy that is believed."""
    for name, value in (
        ("TRUSTED_PROXY", "127.0.0.1"),
        ("ALLOW_HOST", "tailrace.example"),
        ("AUDIT", str(tmp_path / "audit")),
    ):
        monkeypatch.setenv(f"TAILRACE_{name}", value)
    house = House(tmp_path)
    try:
        yield house
    finally:
        house.process.terminate()
        house.process.wait(20)


async def test_a_script_by_name_with_a_key(house: House, tmp_path: Path) -> None:
    key = {"host": "tailrace.example", "x-api-key": house.key("ada", "run,watch")}
    with proxied(tmp_path / "nginx", house.port) as proxy:
        await eventually(lambda: ask(proxy.port, "/runs", key)[0] == 200, "the key is known")
        # The watcher has a Host of its own, which is ours as well.
        sent = {"x-api-key": key["x-api-key"]}
        async with watchers() as party:
            target = "/run_file?file_path=hello.sh"
            party.append(await Watcher.open(proxy.port, target, headers=sent))
            await party[0].over()
            assert party[0].is_complete
            assert b"data: hello" in party[0].body
        assert ask(proxy.port, "/runs", {**key, "host": "evil.example"})[0] == 403
        assert ask(proxy.port, "/runs", {"host": "tailrace.example"}, "127.0.0.5")[0] == 401
    lines = (tmp_path / "audit").read_text(encoding="utf-8").splitlines()
    refused = [line for line in map(json.loads, lines) if line["status"] == 401]
    assert refused[-1]["client"] == "127.0.0.5"

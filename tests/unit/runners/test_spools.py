from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace.runners.shim import KILL, ORDERS
from tailrace.runners.spools import FORMAT, Spools, is_alive, is_readable, note, note_marks, order
from tests.waiting import until_here

RUN = "run_aaaaaaaaaaaaaaaaaaaaaaaaaa"

# Takes orders, as a shim does; at `K` it ends.
STAND_IN = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
print(flush=True)
while b"K" not in os.read(fd, 100): pass
"""


@pytest.fixture
def spools(tmp_path: Path) -> Spools:
    return Spools(tmp_path / "spools")


@pytest.fixture
def shim(spools: Spools) -> Iterator[subprocess.Popen[bytes]]:
    folder = spools.folder(RUN)
    folder.mkdir(parents=True)
    os.mkfifo(folder / ORDERS)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", STAND_IN, str(folder / ORDERS)], stdout=subprocess.PIPE
    )
    note(folder, process.pid, survives=False)
    # It waits for somebody to open the other end.
    until_here(lambda: is_alive(folder), "it takes orders")
    yield process
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_a_run_that_was_not_started(spools: Spools) -> None:
    assert not spools.has(RUN)
    assert not spools.goes_on(RUN)
    assert list(spools) == []
    spools.clear(RUN)


def test_a_run_that_goes_on(spools: Spools, shim: subprocess.Popen[bytes]) -> None:
    assert spools.has(RUN)
    assert spools.goes_on(RUN)
    assert not spools.survives(RUN)
    assert list(spools) == [RUN]
    note(spools.folder(RUN), shim.pid, survives=True)
    assert spools.survives(RUN)


def test_what_has_ended_can_wait_for_whoever_comes(
    spools: Spools, shim: subprocess.Popen[bytes]
) -> None:
    shim.kill()
    shim.wait()
    assert spools.has(RUN)
    assert spools.survives(RUN)


def test_what_goes_on_is_ended_before_it_is_forgotten(
    spools: Spools, shim: subprocess.Popen[bytes]
) -> None:
    spools.clear(RUN)
    assert shim.wait(5) is not None
    assert not spools.has(RUN)


def test_a_shim_that_was_stopped_hears_its_orders(
    spools: Spools, shim: subprocess.Popen[bytes]
) -> None:
    shim.send_signal(19)
    assert order(spools.folder(RUN), KILL)
    assert shim.wait(5) == 0
    assert not order(spools.folder(RUN), KILL)


def test_another_version(tmp_path: Path) -> None:
    assert not is_readable(tmp_path)
    note(tmp_path, os.getpid(), survives=False)
    assert is_readable(tmp_path)
    (tmp_path / "shim").write_text(f"{FORMAT}0 1 2")
    assert not is_readable(tmp_path)
    (tmp_path / "shim").write_text("")
    assert not is_readable(tmp_path)


def test_for_a_log_that_goes_with_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    (tmp_path / f"tailrace-{gone.pid}-abc" / RUN).mkdir(parents=True)
    (tmp_path / f"tailrace-{os.getpid()}-abc").mkdir()
    (tmp_path / "tailrace-notes-abc").mkdir()

    class Owner:
        pass

    owner = Owner()
    spools = Spools.temporary(owner)
    kept = {f"tailrace-{os.getpid()}-abc", "tailrace-notes-abc"}
    assert {place.name for place in tmp_path.iterdir()} == {*kept, spools.root.name}
    assert spools.root.stat().st_mode & 0o777 == 0o700
    del owner
    assert {place.name for place in tmp_path.iterdir()} == kept


def test_by_what_its_secrets_are_recognised(spools: Spools) -> None:
    folder = spools.folder(RUN)
    folder.mkdir(parents=True)
    assert spools.marks(RUN) == frozenset()
    note_marks(folder, ())
    assert list(folder.iterdir()) == []
    note_marks(folder, {"b", "a"})
    assert spools.marks(RUN) == {"a", "b"}
    [noted] = folder.iterdir()
    assert noted.stat().st_mode & 0o777 == 0o600

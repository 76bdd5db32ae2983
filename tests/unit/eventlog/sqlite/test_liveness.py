"""Who is alive, by the kernel's word."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailrace.eventlog.sqlite import liveness
from tailrace.eventlog.sqlite.liveness import Liveness

from .conftest import Spawn

CLAIM = """
from pathlib import Path
from tailrace.eventlog.sqlite.liveness import Liveness
place = Liveness(Path(path))
place.claim()
say(place.worker)
sys.stdin.readline()
place.release()
say("released")
sys.stdin.readline()
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Liveness]:
    place = Liveness(tmp_path / "workers")
    place.claim()
    yield place
    place.release()


def test_a_worker_lives_from_claim_to_release(tmp_path: Path) -> None:
    place = Liveness(tmp_path)
    assert not place.alive(place.worker)
    place.claim()
    assert place.alive(place.worker)
    assert [file.name for file in tmp_path.iterdir()] == [place.worker]
    place.release()
    assert not place.alive(place.worker)
    assert list(tmp_path.iterdir()) == []
    place.release()
    place.claim()
    assert place.alive(place.worker)
    place.release()


def test_workers_of_one_process_know_each_other(place: Liveness, tmp_path: Path) -> None:
    other = Liveness(tmp_path / "workers")
    other.claim()
    assert place.alive(other.worker)
    assert other.alive(place.worker)
    other.release()
    assert not place.alive(other.worker)
    assert place.alive(place.worker), "probing must not drop one's own lock"


def test_a_process_that_is_killed_is_dead(place: Liveness, tmp_path: Path, spawn: Spawn) -> None:
    child = spawn(CLAIM, tmp_path / "workers")
    (worker,) = child.says()
    assert place.alive(worker)
    assert place.alive(worker), "a probe must not disturb"
    child.kill()
    assert not place.alive(worker)
    assert not (tmp_path / "workers" / worker).exists(), "cleared away"
    assert not place.alive(worker)


def test_a_process_that_leaves_is_dead(place: Liveness, tmp_path: Path, spawn: Spawn) -> None:
    child = spawn(CLAIM, tmp_path / "workers")
    (worker,) = child.says()
    child.tell("go")
    assert child.says() == ["released"]
    assert not place.alive(worker)


@pytest.mark.parametrize("name", ["", ".", "..", "memory-1", "a" * 33, "A" * 32, "x\0y"])
def test_a_name_that_is_none_of_ours_is_nobody(place: Liveness, name: str) -> None:
    assert not place.alive(name)


def test_a_name_is_never_a_path(place: Liveness, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("gold")
    assert not place.alive("../precious")
    assert not place.alive(str(precious))
    assert precious.read_text() == "gold"


def test_who_cannot_be_asked_counts_as_alive(
    place: Liveness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptors(*_: Any) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "open", no_descriptors)
    assert place.alive("a" * 32)


def test_a_failed_claim_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Liveness(tmp_path)

    def no_space(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", no_space)
    with pytest.raises(OSError, match="space"):
        place.claim()
    assert list(tmp_path.iterdir()) == []
    assert place.worker not in liveness._held
    assert not place.alive(place.worker)

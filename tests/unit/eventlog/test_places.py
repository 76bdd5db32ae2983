from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.eventlog.masked import MaskedLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.places import default_log, open_log
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.masking import Masks


@pytest.mark.parametrize("place", ["{}/a.db", "sqlite:{}/a.db", "sqlite://{}/a.db"])
def test_a_file(tmp_path: Path, place: str) -> None:
    log = open_log(place.format(tmp_path), None)
    assert isinstance(log, SqliteLog)
    assert log.folder == tmp_path / "a.db.spools"


def test_a_path(tmp_path: Path) -> None:
    log = open_log(tmp_path / "a.db", None)
    assert log.folder == tmp_path / "a.db.spools"


def test_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    log = open_log(None, None)
    assert log.folder == default_log().with_name("tailrace.db.spools")


def test_none_that_lasts() -> None:
    assert isinstance(open_log("memory:", None), MemoryLog)


def test_a_scheme_nobody_knows() -> None:
    with pytest.raises(ValueError, match="no event log for redis://"):
        open_log("redis://localhost", None, Masks(["hunter2-hunter2"]))


def test_one_that_keeps_no_secrets() -> None:
    log = MemoryLog()
    assert open_log(log, None) is log
    assert open_log(log, None, Masks()) is log
    assert isinstance(open_log(log, None, Masks(["hunter2-hunter2"])), MaskedLog)

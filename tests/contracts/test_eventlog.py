"""Every log we ship keeps the contract."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tailrace.eventlog.masked import MaskedLog
from tailrace.eventlog.memory import MemoryLog
from tailrace.eventlog.sqlite import SqliteLog
from tailrace.protocol.masking import Masks
from tailrace.testing.logs import EventLogContract, LogFactory

MASKS = Masks(["what-no-test-tells"])


class TestMemoryLog(EventLogContract):
    @pytest.fixture
    def log_factory(self) -> LogFactory:
        return MemoryLog


class TestSqliteLog(EventLogContract):
    @pytest.fixture
    def log_factory(self, tmp_path: Path) -> LogFactory:
        names = itertools.count()
        return lambda retention=None: SqliteLog(tmp_path / f"{next(names)}.db", retention)


class TestMaskedMemoryLog(EventLogContract):
    @pytest.fixture
    def log_factory(self) -> LogFactory:
        return lambda retention=None: MaskedLog(MemoryLog(retention), MASKS)


class TestMaskedSqliteLog(EventLogContract):
    @pytest.fixture
    def log_factory(self, tmp_path: Path) -> LogFactory:
        names = itertools.count()
        return lambda retention=None: MaskedLog(
            SqliteLog(tmp_path / f"{next(names)}.db", retention), MASKS
        )

"""The embedded log: one SQLite file, WAL, `synchronous=FULL`, group commit."""

from tailrace.eventlog.sqlite.log import SqliteLog

__all__ = ["SqliteLog"]

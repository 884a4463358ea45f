"""Moving the log into the database."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from channels_lite.store import checkpoint
from channels_lite.store.connection import Source


def test_23_long_log_is_cut(database, monkeypatch):
    """What a long reader has made of the log does not stay."""
    monkeypatch.setattr(checkpoint, "KEPT", 100_000)
    source = Source("channels")
    with closing(source.connect()) as connection:
        connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
        connection.execute("CREATE TABLE large AS SELECT zeroblob(1000000)").fetchall()
        assert source.log.stat().st_size > 1_000_000
        checkpoint.checkpoint(source)
        assert source.log.stat().st_size == 100_000


def test_other_journals_are_left_alone(database):
    """Where there is no log, nothing is opened: opening would begin one."""
    checkpoint.checkpoint(Source("channels"))
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)

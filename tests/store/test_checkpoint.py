"""Moving the log into the database."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from channels_lite import failpoints
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


def test_24_lock_goes_with_the_checkpoint(database, monkeypatch):
    """A child that was forked meanwhile has the descriptor, and must not have the lock."""
    source = Source("channels")
    source.sidecar.mkdir()
    inherited = []

    def fork():
        for fd in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if fd.readlink() == source.sidecar:
                    inherited.append(os.dup(int(fd.name)))

    monkeypatch.setitem(failpoints.actions, "holding_checkpoint", fork)
    with closing(source.connect()) as connection:
        connection.execute("CREATE TABLE large AS SELECT zeroblob(1000)").fetchall()
        assert [checkpoint.checkpoint(source) for _ in range(2)] == [True, True]
    for fd in inherited:
        os.close(fd)
    assert inherited

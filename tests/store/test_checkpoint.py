"""Moving the log into the database."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

from channels_lite import failpoints
from channels_lite.store import checkpoint
from channels_lite.store.connection import Source
from channels_lite.store.direct import DirectStore
from channels_lite.store.gate import Gate
from tests.conftest import until
from tests.store.conftest import Asked, fail_to_start, mark, marks


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


async def test_failed_checkpoint_costs_no_send(database, monkeypatch, caplog):
    """Works are done where no thread can be started; one warning, and the next one may do."""
    monkeypatch.setattr(checkpoint, "GROWTH", 0)
    monkeypatch.setattr(checkpoint, "EVERY", 1)
    store = DirectStore("channels", 1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail_to_start)
        for number in range(3):
            await Asked(store, mark(str(number)), "transact").value()
        assert await Asked(store, marks).value() == [*"012"]
    [warning] = caplog.records
    assert "can't start new thread" in warning.getMessage()
    reached = threading.Event()
    monkeypatch.setitem(failpoints.actions, "holding_checkpoint", reached.set)
    await Asked(store, mark("3"), "transact").value()
    await until(reached.is_set)
    await asyncio.to_thread(store.close)


def test_failure_is_told_once_for_each_cause(database, monkeypatch, caplog):
    """Until one has been made."""
    checkpointer = checkpoint.Checkpointer(Source("channels"), Gate())
    causes = iter(["disk I/O error", "disk I/O error", "", "disk I/O error", "out of memory"])

    def fail(source):
        cause = next(causes)
        if cause:
            raise sqlite3.OperationalError(cause)
        return True

    monkeypatch.setattr(checkpoint, "_checkpoint", fail)
    for _ in range(5):
        checkpointer.start()
        checkpointer._thread.join()
    told = [record.getMessage().rpartition(": ")[2] for record in caplog.records]
    assert told == ["disk I/O error", "disk I/O error", "out of memory"]

"""The store that runs SQL in the threads of aiosqlite."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from weakref import WeakSet

from channels_lite.store.aio import AioStore, WorkConnection
from channels_lite.store.gate import Gate
from tests.conftest import TIMEOUT
from tests.processes.conftest import wait_until

BOOT = "INSERT INTO channels_lite_boot VALUES (1, '{}', 0, 0, 0, 1)"
MARK = "UPDATE channels_lite_boot SET boot_id = 'marked'"


def test_20_nothing_goes_into_a_file_that_was_replaced(database, migrated):
    """What is submitted once that is noticed goes into the new file, whatever is under way."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(BOOT.format("first"))
    fresh = database.with_name("fresh")
    fresh.write_bytes(migrated)
    with closing(sqlite3.connect(fresh)) as connection, connection:
        connection.execute(BOOT.format("second"))
    store = AioStore("channels", 2)
    is_inside, may_end, is_idle, is_done = (threading.Event() for _ in range(4))

    def work(execute):
        execute("SELECT 1", ())
        is_inside.set()
        may_end.wait(TIMEOUT)

    store.submit(work, lambda outcome: None)
    assert is_inside.wait(TIMEOUT)
    store.submit(lambda execute: execute("SELECT 1", ()), lambda _: is_idle.set())
    assert is_idle.wait(TIMEOUT)
    fresh.replace(database)
    store.tidy()
    wait_until(lambda: store._pool is None)
    store.transact(lambda execute: execute(MARK, ()), lambda _: is_done.set())
    assert is_done.wait(TIMEOUT)
    may_end.set()
    store.close()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT boot_id FROM channels_lite_boot").fetchall() == [
            ("marked",)
        ]


def test_26_no_connection_closes_during_a_fork():
    """The child would wait for ever at a mutex of SQLite."""
    gate = Gate()
    connection = WorkConnection(":memory:", gate=gate, opened=WeakSet(), check_same_thread=False)
    gate.shut()
    thread = threading.Thread(target=connection.close)
    thread.start()
    thread.join(0.05)
    is_waiting = thread.is_alive()
    gate.open()
    thread.join(TIMEOUT)
    assert is_waiting
    assert not thread.is_alive()

"""Opening a database the way its alias says."""

from __future__ import annotations

import os
import sqlite3
import threading
import warnings
from contextlib import closing

import pytest
from django.db import connections

from channels_lite.store import Outcome
from channels_lite.store.aio import AioStore
from channels_lite.store.connection import Source
from tests.conftest import TIMEOUT
from tests.store.conftest import MARK, MARKS, marks


def test_no_command_of_init_command_makes_the_next_one_wait(database, monkeypatch):
    """SQLite's own wait is set anew after each: it may be a loop that would be held."""
    options = {
        "init_command": "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL",
        "timeout": 9,
    }
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", options)
    for timeout, expected in ((0, 0), (None, 9000), (1e9, 2**31 - 1)):
        commands: list[str] = []
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            connection.set_trace_callback(commands.append)
            Source("channels").set_up(connection, timeout)
        wait = f"PRAGMA busy_timeout = {expected}"
        assert [command.strip() for command in commands] == [
            "PRAGMA busy_timeout = 5000", wait, "PRAGMA journal_mode = WAL", wait,
            "PRAGMA journal_mode",
        ]  # fmt: skip


def in_a_child(function):
    """Runs ``function`` in a forked child, and fails if it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0


def test_26_child_undoes_nothing_that_its_parent_has_begun(database):
    """A transaction that has outgrown the page cache is in the file already."""
    rows = [(f"specific.x!{number}",) for number in range(2000)]
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA cache_size = 1")
        connection.executemany(MARK, rows)
        source = Source("channels")
        source.inherit([connection], are_idle=True)
        in_a_child(source.close_inherited)
        connection.commit()
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute(MARKS).fetchall() == rows


@pytest.mark.parametrize("had_a_fork", [False, True])
def test_26_connection_that_a_thread_uses_is_not_closed_in_a_child(direct, had_a_fork):
    """A fork without hooks: the child could wait for ever at a mutex of SQLite."""
    direct.submit(marks, Outcome.result)
    connection = direct._connection
    if had_a_fork:  # with hooks
        direct.pause()
        direct.resume()

    def child():
        direct.abandon()
        direct.submit(marks, Outcome.result)
        assert direct._connection is not connection
        assert connection.total_changes == 0  # raises if it is closed

    with direct._keeper:
        in_a_child(child)


def test_26_connections_that_threads_use_are_not_closed_in_a_child(logged):
    """The same of aiosqlite's threads."""
    store = AioStore("channels", 1)
    is_inside, may_end, is_done = (threading.Event() for _ in range(3))

    def work(execute):
        is_inside.set()
        assert may_end.wait(TIMEOUT)

    def child():
        [connection] = store._opened
        store.abandon()
        store._source.close_inherited()
        assert connection.total_changes == 0  # raises if it is closed

    try:
        store.submit(work, lambda _: is_done.set())
        assert is_inside.wait(TIMEOUT)
        in_a_child(child)
    finally:
        may_end.set()
        assert is_done.wait(TIMEOUT)
        store.close()

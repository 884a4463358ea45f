"""Opening a database the way its alias says."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from django.db import connections

from channels_lite.store.connection import Source


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

"""Opening a database the way its alias says."""

from __future__ import annotations

from django.db import connections

from channels_lite.store.connection import Source


class Recording:
    """In the place of a connection."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def execute(self, command):
        self.commands.append(command.strip())
        return self

    def fetchall(self):
        return []


def test_no_command_of_init_command_makes_the_next_one_wait(database, monkeypatch):
    """SQLite's own wait is set anew after each: it may be a loop that would be held."""
    options = {
        "init_command": "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL",
        "timeout": 9,
    }
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", options)
    for timeout, expected in ((0, 0), (None, 9000), (1e9, 2**31 - 1)):
        recording = Recording()
        Source("channels").set_up(recording, timeout)
        wait = f"PRAGMA busy_timeout = {expected}"
        assert recording.commands == [
            "PRAGMA busy_timeout = 5000", wait, "PRAGMA journal_mode = WAL", wait
        ]  # fmt: skip

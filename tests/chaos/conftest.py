"""The fault matrix: what is lost, doubled or left behind when things go wrong.

A test is named by its row.  ``CHAOS_SCALE`` is the share of the matrix's own amounts; ``make test``
takes a fiftieth, ``make chaos`` all.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.processes.conftest import (
    Child,
    empty_database,
    folder,
    start,
    wait_until,
    write_ahead_log,
)

__all__ = ["SCALE", "Ledger", "empty_database", "folder", "start", "wait_until", "write_ahead_log"]

SCALE = float(os.environ.get("CHAOS_SCALE", "0.02"))


class Ledger:
    """What was taken by ``send()``, and what came: kept here, outside of any database."""

    def __init__(self) -> None:
        self.sent: dict[str, list[int]] = {}
        self.received: dict[str, list[int]] = {}

    def send(self, child: Child, token: str, channel: str, count: int, **how: Any) -> int:
        """Has ``child`` send, and enters what it says was taken.  How many."""
        mine = self.sent.setdefault(token, [])
        child.begin("send_many", channel=channel, count=count, first=len(mine), **how)
        taken = child.finish(600)
        mine += taken
        return len(taken)

    def receive(self, *children: Child, count: int) -> None:
        """Enters the next ``count`` messages of these processes."""
        for child in children:
            for message in child.messages(count):
                self.received.setdefault(message["sender"], []).append(message["number"])

    def check(self, *, lost: int = 0, is_in_order: bool = True) -> None:
        """Nothing that was not sent, nothing twice, at most ``lost`` missing, in order."""
        missing = 0
        for token, numbers in self.received.items():
            assert len(set(numbers)) == len(numbers), "twice"
            assert set(numbers) <= set(self.sent[token]), "never sent"
            assert not is_in_order or numbers == sorted(numbers), "out of order"
        for token, numbers in self.sent.items():
            missing += len(set(numbers) - set(self.received.get(token, [])))
        assert missing <= lost


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def public_folder(empty_database: bytes) -> Iterator[Path]:
    """A folder with a migrated database that everybody may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="cl"))
    path.chmod(0o755)
    (path / "default.sqlite3").write_bytes(empty_database)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def query(folder: Path) -> Callable[[str], list[Any]]:
    """Asks the database, from outside."""

    def query(sql: str) -> list[Any]:
        with closing(sqlite3.connect(folder / "default.sqlite3", timeout=20)) as connection:
            return connection.execute(sql).fetchall()

    return query


@pytest.fixture
def empty_the_log(query: Callable[..., Any]) -> Callable[[Any], None]:
    """Lets a process checkpoint until hundreds of messages are no longer in the log."""

    def empty_the_log(child: Any) -> None:
        def is_emptied() -> bool:
            child.do("checkpoint")  # does nothing while SQLite itself checkpoints in a commit
            [(_, frames, moved)] = query("PRAGMA wal_checkpoint(PASSIVE)")
            return bool(frames == moved < 100)

        wait_until(is_emptied)

    return empty_the_log


@pytest.fixture(autouse=True)
def _database_is_sound(request: pytest.FixtureRequest, folder: Path) -> Any:
    """After every row, unless it is about what breaks it."""
    yield
    if "breaks_database" not in request.fixturenames:
        with closing(sqlite3.connect(folder / "default.sqlite3", timeout=20)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def breaks_database() -> None:
    """For tests after which the database need not be sound."""

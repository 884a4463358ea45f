"""A store of each kind, and works whose outcome can be awaited."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from channels_lite.store import Outcome, Store, Work
from channels_lite.store.aio import AioStore
from channels_lite.store.direct import DirectStore
from channels_lite.store.django import DjangoStore
from tests.conftest import TIMEOUT

MARK = """
    INSERT INTO channels_lite_groupmembership (group_name, channel_name, expires_at, joined_at)
    VALUES ('group', ?, 0, 0)
"""
MARKS = "SELECT channel_name FROM channels_lite_groupmembership ORDER BY id"
STORES: dict[str, type[Store]] = {"direct": DirectStore, "aio": AioStore, "core": DjangoStore}


@pytest.fixture
def logged(database: Path) -> None:
    """The database has a log already."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = WAL").fetchall()


@pytest.fixture(params=STORES)
def make_store(request: pytest.FixtureRequest, logged: None) -> Iterator[Callable[[], Store]]:
    """Makes stores of that kind on the database."""
    made: list[Store] = []

    def make() -> Store:
        made.append(STORES[request.param]("channels", 2))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(make_store: Callable[[], Store]) -> Store:
    return make_store()


@pytest.fixture
def direct(logged: None) -> Iterator[DirectStore]:
    """The one that works on the loop's thread."""
    store = DirectStore("channels", 1)
    yield store
    store.close()


@pytest.fixture
def foreign(database: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else's, to hold the write lock."""
    with closing(
        sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    ) as connection:
        yield connection


class Asked:
    """A work that was given to a store, and what became of it."""

    def __init__(self, store: Store, work: Work[Any], how: str = "submit", **options: Any) -> None:
        self.outcomes: list[Outcome[Any]] = []
        self.thread = 0
        self._is_done = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._future = self._loop.create_future()
        getattr(store, how)(work, self._done, **options)

    def _done(self, outcome: Outcome[Any]) -> None:
        self.outcomes.append(outcome)
        self.thread = threading.get_ident()
        self._is_done.set()
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._future.set_result, None)

    async def outcome(self) -> Outcome[Any]:
        await asyncio.wait_for(self._future, TIMEOUT)
        [outcome] = self.outcomes
        return outcome

    async def value(self) -> Any:
        return (await self.outcome()).result()

    def value_without_loop(self) -> Any:
        assert self._is_done.wait(TIMEOUT)
        [outcome] = self.outcomes
        return outcome.result()


def mark(name: str) -> Work[None]:
    """Adds a row."""

    def work(execute: Any) -> None:
        execute(MARK, (name,))

    return work


def marks(execute: Any) -> list[str]:
    """The rows that were added, in their order."""
    return [name for (name,) in execute(MARKS, ())]


def fail_to_start(thread: threading.Thread) -> None:
    """In the place of ``threading.Thread.start``."""
    raise RuntimeError("can't start new thread")


@pytest.fixture
def execute(database):
    """An ``Execute`` on a connection of its own, with no transaction but those that it is told."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        yield lambda statement, parameters: connection.execute(statement, parameters).fetchall()

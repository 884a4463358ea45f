"""The store that runs SQL on the loop's own thread."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from channels_lite.errors import StoreUnavailable
from channels_lite.store.direct import DirectStore


def test_work_is_given_up_with_its_loop(database):
    """Who waits for a lock on a loop that is closed hears of it: nothing is for ever under way."""
    store = DirectStore("channels", 1)
    outcomes = []

    async def insert():
        store.submit(lambda execute: execute("SELECT 1", ()), outcomes.append, write=True)

    try:
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE").close()
            asyncio.run(insert())
            assert not outcomes
        asyncio.run(insert())
    finally:
        store.close()
    given_up, done = outcomes
    with pytest.raises(StoreUnavailable, match="event loop was closed"):
        given_up.result()
    assert done.result() == [(1,)]

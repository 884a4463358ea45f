"""What keeps the file small, while it is in use."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from channels_lite.delivery import sweeper
from tests.conftest import is_empty, until

MANY = """
    WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1000)
    INSERT INTO channels_lite_event (channel_name, recipients, data, created_at, expires_at)
    SELECT 'flood', '', zeroblob(4000), 0, 1 FROM numbers
"""


def flood(database):
    """Leaves 4 MB that have expired."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(MANY)
        assert connection.execute("PRAGMA page_count").fetchone() > (1000,)


async def test_file_shrinks_after_a_flood(make_layer, database, monkeypatch):
    """Who receives deletes what has expired, and gives the space back to the file system."""
    monkeypatch.setattr(sweeper, "KEPT", 10)
    monkeypatch.setattr(sweeper, "SWEEP_PAUSE", 0)
    layer = make_layer()
    await layer.send("first", {"type": "use"})
    flood(database)
    receiving = asyncio.ensure_future(layer.receive("another"))
    await until(lambda: database.stat().st_size < 200_000)
    receiving.cancel()
    assert not await is_empty(layer, "first")


async def test_all_space_is_given_back_on_request(make_layer, database):
    """``clean_expired(kept=0)`` leaves no page free."""
    layer = make_layer()
    flood(database)
    assert await layer.clean_expired(kept=0) == 1000
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchall() == [(0,)]

"""What keeps the file small, while it is in use."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from asgiref.sync import async_to_sync

from channels_lite import clock
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


async def test_expired_messages_are_freed_where_nobody_ever_waited(make_layer, monkeypatch):
    """A process sends messages to its own channels."""
    monkeypatch.setattr(sweeper, "TIDY_EVERY", 0)
    layer = make_layer(polling_interval=0.01, expiry=0.01)
    for _ in range(3):
        await layer.send(await layer.new_channel(), {"type": "x"})
    await until(lambda: not layer._engine.mailboxes._mailboxes)


def test_expired_messages_are_freed_where_no_loop_lives(make_layer_sync, monkeypatch):
    """Under async_to_sync no timer ever runs.  New messages free the memory of expired ones."""
    layer = make_layer_sync()
    ticks = clock.ticks

    def send(count):
        for _ in range(count):
            channel = async_to_sync(layer.new_channel)()
            async_to_sync(layer.send)(channel, {"type": "x"})

    send(50)
    monkeypatch.setattr(clock, "ticks", lambda: ticks() + 61)
    send(50)
    assert len(layer._engine.mailboxes._mailboxes) == 50


async def test_all_space_is_given_back_on_request(make_layer, database):
    """``clean_expired(kept=0)`` leaves no page free."""
    layer = make_layer()
    flood(database)
    assert await layer.clean_expired(kept=0) == 1000
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA freelist_count").fetchall() == [(0,)]

"""The first use of a database that nobody has put into WAL mode yet."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from tests.conftest import TIMEOUT, received


async def test_file_gets_a_log(layer, database):
    """So readers and writers do not wait for each other."""
    await layer.group_add("group", await layer.new_channel())
    with closing(sqlite3.connect(database)) as foreign:
        assert foreign.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_first_send_waits_for_another_writer(layer, database):
    """While a foreign writer holds the lock the very first send waits, and is then delivered."""
    with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
        assert foreign.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        foreign.execute("BEGIN IMMEDIATE")
        sending = asyncio.create_task(layer.send("channel", {"type": "x"}))
        await asyncio.wait([sending], timeout=0.2)
        assert not sending.done()
        foreign.execute("COMMIT")
    await asyncio.wait_for(sending, TIMEOUT)
    assert await received(layer, "channel") == {"type": "x"}


async def test_first_receive_waits_for_another_writer(make_layer, database, caplog):
    """While a foreign writer holds the lock the first receive waits, and says nothing of it."""
    sender, receiver = make_layer("core"), make_layer()
    await sender.send("channel", {"type": "x"})
    await sender.close()
    caplog.clear()
    with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        receiving = asyncio.create_task(receiver.receive("channel"))
        await asyncio.wait([receiving], timeout=0.2)
        assert not receiving.done()
        foreign.execute("COMMIT")
    assert await asyncio.wait_for(receiving, TIMEOUT) == {"type": "x"}
    assert "failed" not in caplog.text

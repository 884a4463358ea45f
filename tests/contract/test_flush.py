"""flush(): nothing of before comes after it, wherever it was."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest

from channels_lite import clock
from channels_lite.errors import StoreUnavailable
from channels_lite.store import upkeep
from tests.conftest import TIMEOUT, is_empty, received, until


async def buffer(sender, reader):
    """A channel of ``reader`` with a message in its memory that nobody received."""
    channel, live = await reader.new_channel(), await reader.new_channel()
    await sender.send(channel, {"type": "old"})
    await sender.send(live, {"type": "x"})
    await received(reader, live)
    return channel


async def test_other_layer_hands_out_nothing_after_flush(make_layer):
    """Once flush() has returned, another layer of the process hands out nothing of before."""
    here, there = make_layer(), make_layer()
    channel = await buffer(here, there)
    await here.flush()
    receiving = asyncio.create_task(there.receive(channel))
    await asyncio.sleep(0)
    await here.send(channel, {"type": "new"})
    assert await asyncio.wait_for(receiving, TIMEOUT) == {"type": "new"}


async def test_flush_is_heeded_by_a_layer_that_was_idle(make_layer):
    """A layer on which nobody received at the time of the flush hands out nothing of before."""
    here, there = make_layer(), make_layer()
    channel = await buffer(here, there)
    await asyncio.sleep(0.2)  # its clock has stopped; there is no event to await
    await here.flush()
    await asyncio.sleep(0.2)
    receiving = asyncio.create_task(there.receive(channel))
    await asyncio.sleep(0)
    await here.send(channel, {"type": "new"})
    assert await asyncio.wait_for(receiving, TIMEOUT) == {"type": "new"}


def flush_elsewhere(layer, database):
    """Flushes as another process does.  Only the table tells this process."""
    boot_id, began_at = clock.boot_id(), layer._engine.clock.origin()
    with closing(sqlite3.connect(database)) as connection, connection:

        def execute(statement, parameters):
            return connection.execute(statement, parameters).fetchall()

        upkeep.flush(execute, clock.ticks(), boot_id, began_at)


async def test_flush_elsewhere_is_heeded_where_nobody_ever_waited(make_layer, database):
    """The first receiver gets no message from before the flush, although it is in memory."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "old"})
    flush_elsewhere(layer, database)
    await layer.send(channel, {"type": "new"})
    assert await received(layer, channel) == {"type": "new"}


async def test_flush_elsewhere_frees_memory_where_nobody_ever_waited(make_layer, database):
    """A timer runs there only while messages are in memory."""
    layer = make_layer(polling_interval=0.01)
    await layer.send(await layer.new_channel(), {"type": "old"})
    flush_elsewhere(layer, database)
    await until(lambda: layer._engine.mailboxes.is_empty)
    await until(lambda: not layer._engine.waiter.loops)
    await layer.send(await layer.new_channel(), {"type": "old"})
    flush_elsewhere(layer, database)
    await until(lambda: layer._engine.mailboxes.is_empty)


async def test_receiver_waits_on_through_a_flush(layer):
    """A receiver that waits while flush() runs gets the next message."""
    channel = await layer.new_channel()
    receiving = asyncio.create_task(received(layer, channel))
    await asyncio.sleep(0)
    await layer.flush()
    await layer.send(channel, {"type": "new"})
    assert await receiving == {"type": "new"}


async def test_flush_makes_room(make_layer):
    """A full channel, read or unread, takes messages again after flush()."""
    layer = make_layer(capacity=1)
    channel = await layer.new_channel()
    for target in (channel, "plain"):
        await layer.send(target, {"type": "old"})
    await layer.flush()
    for target in (channel, "plain"):
        await layer.send(target, {"type": "new"})
        assert await received(layer, target) == {"type": "new"}


@pytest.mark.parametrize("turns", [3])
async def test_flush_may_be_repeated(layer, turns):
    """flush() of an empty layer, again and again, leaves nothing and fails nothing."""
    for _ in range(turns):
        await layer.flush()
    assert await is_empty(layer, "channel")


async def test_flush_is_one_transaction(make_layer, monkeypatch):
    """One that fails has deleted nothing; nobody sees one that is half done."""
    layer = make_layer()
    await layer.send("jobs", {"type": "x"})
    monkeypatch.setattr(upkeep, "SET_FLUSHED", "UPDATE nothing SET flushed_at = ?")
    with pytest.raises(StoreUnavailable):
        await layer.flush()
    assert await received(layer, "jobs") == {"type": "x"}

"""Ids that begin again: after a rollback, and after `manage.py flush`."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from django.core.management import call_command
from django.db import transaction

from tests.conftest import received


async def turn(layer, number):
    """A message to a new process-local channel, received."""
    channel = await layer.new_channel()
    await layer.send(channel, {"number": number})
    return await received(layer, channel)


def test_messages_arrive_after_manage_flush(make_layer_sync):
    """A process that has received still does after `manage.py flush`, which begins ids anew."""
    layer = make_layer_sync()
    for number in range(3):
        asyncio.run(turn(layer, number))
    call_command("flush", database="channels", interactive=False, verbosity=0)
    assert asyncio.run(turn(layer, 3)) == {"number": 3}


@pytest.mark.usefixtures("large_as_rows")
def test_messages_arrive_after_manage_flush_of_a_flushed_layer(make_layer_sync):
    """The ids that `layer.flush()` has voided are new messages' then."""
    sender, layer = make_layer_sync(), make_layer_sync()

    async def flush():
        await sender.send("jobs", {"number": 0})
        await turn(layer, 1)
        await layer.flush()

    async def row():
        channel = await layer.new_channel()
        # Too large for a frame; and not the layer's own, which goes straight into the mailbox.
        await sender.send(channel, {"number": 2, "pad": bytes(70_000)})
        return await received(layer, channel)

    asyncio.run(flush())
    call_command("flush", database="channels", interactive=False, verbosity=0)
    assert asyncio.run(row())["number"] == 2


async def test_generation_is_over_before_who_asked_goes_on(make_layer, database, monkeypatch):
    """As by a look that finds that the table was emptied: nobody works with no clock."""
    layer = make_layer(polling_interval=60)  # nobody else asks
    engine, channel = layer._engine, await layer.new_channel()
    ask, asked = engine.generations._ask, []

    async def ask_and_forget():
        await ask()
        asked.append(None)
        if len(asked) % 2:
            engine.clock.forget(engine.clock.generation)

    monkeypatch.setattr(engine.generations, "_ask", ask_and_forget)
    await layer.send(channel, {"number": 0})
    assert await received(layer, channel) == {"number": 0}
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:

        async def ask_in_vain():
            await ask()
            connection.execute("DELETE FROM channels_lite_boot")
            engine.clock.forget(engine.clock.generation)

        monkeypatch.setattr(engine.generations, "ask", ask_in_vain)
        engine.clock.forget(engine.clock.generation)
        await layer.flush()
        [(began_at, flushed_at)] = connection.execute(
            "SELECT began_at, flushed_at FROM channels_lite_boot"
        )
    assert 0 < began_at < flushed_at


def restore(database):
    """Acts as a copy of an older file into this one, with the same generation."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM channels_lite_event")
        connection.execute("DELETE FROM sqlite_sequence")


@pytest.mark.usefixtures("large_as_rows")
async def test_receiver_goes_on_when_a_file_was_restored_in_its_place(make_layer, database):
    """Rows from other processes arrive, although their ids were read before."""
    layer = make_layer()
    channel = await layer.new_channel()
    for number in range(4):
        if number == 3:
            restore(database)
        # Too large for a frame, and from a layer that has put no row before.
        await make_layer().send(channel, {"number": number, "pad": bytes(70_000)})
        assert (await received(layer, channel))["number"] == number


def test_order_holds_when_a_file_was_restored_in_its_place(make_layer_sync, database):
    """Ids start again in the same generation.  Direct messages do not overtake rows."""
    layer = make_layer_sync()
    for number in range(3):
        with transaction.atomic(using="channels"):
            channel = async_to_sync(layer.new_channel)()
            async_to_sync(layer.send)(channel, {"number": number})
        assert async_to_sync(received)(layer, channel) == {"number": number}
    restore(database)
    with transaction.atomic(using="channels"):
        async_to_sync(layer.send)(channel, {"number": 3})
    async_to_sync(layer.send)(channel, {"number": 4})

    async def test():
        return [(await received(layer, channel))["number"] for _ in range(2)]

    assert async_to_sync(test)() == [3, 4]
    assert async_to_sync(turn)(layer, 5) == {"number": 5}


def test_capacity_holds_after_a_rollback(make_layer_sync):
    """What a rolled-back transaction sent elsewhere makes no room on another channel."""
    layer = make_layer_sync(capacity=3, channel_capacity={"roomy": 100})
    with transaction.atomic(using="channels"):
        for _ in range(50):
            async_to_sync(layer.send)("roomy", {})
        async_to_sync(layer.send)("channel", {})
        transaction.set_rollback(True, using="channels")
    sent = 0
    try:
        while sent < 60:
            async_to_sync(layer.send)("channel", {})
            sent += 1
    except ChannelFull:
        pass
    assert sent == 3

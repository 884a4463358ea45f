"""Sends inside atomic(), on the layer's own database and on another."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing, nullcontext

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from channels_lite.errors import StoreUnavailable
from channels_lite.models import Event
from tests.conftest import TIMEOUT, is_empty, received


def first(layer, channel="channel"):
    """What a receiver finds."""
    return asyncio.run(received(layer, channel))


def test_rolled_back_sends_are_gone(make_layer_sync):
    """send, group_add and group_send inside atomic() are undone by its rollback."""
    layer = make_layer_sync()
    with transaction.atomic(using="channels"):
        async_to_sync(layer.send)("channel", {"type": "void"})
        async_to_sync(layer.group_add)("group", "channel")
        async_to_sync(layer.group_send)("group", {"type": "void"})
        transaction.set_rollback(True, using="channels")
    async_to_sync(layer.group_send)("group", {"type": "nobody"})
    async_to_sync(layer.send)("channel", {"type": "real"})
    assert first(layer) == {"type": "real"}


def test_committed_sends_are_delivered(make_layer_sync):
    """They wait for no lock of their own caller, see its group_add, and are delivered at commit."""
    layer = make_layer_sync()
    with transaction.atomic(using="channels"):
        Event.objects.using("channels").create(channel_name="other", data=b"takes the lock")
        async_to_sync(layer.group_add)("group", "channel")
        async_to_sync(layer.group_send)("group", {"type": "real"})
    assert first(layer) == {"type": "real"}


def test_refused_send_leaves_the_transaction_whole(make_layer_sync):
    """An error of send() inside atomic() undoes nothing else of the transaction."""
    layer = make_layer_sync()
    with transaction.atomic(using="channels"):
        async_to_sync(layer.send)("channel", {"type": "real"})
        with pytest.raises(TypeError):
            async_to_sync(layer.send)("channel", {"type": object()})
    assert first(layer) == {"type": "real"}


@pytest.mark.parametrize("is_atomic", [False, True])
def test_failed_send_writes_nothing(make_layer_sync, database, is_atomic):
    """When SQLite refuses one row of several, none is left; what was before and comes then is."""
    layer = make_layer_sync()
    for channel in ("channel", "refused"):
        async_to_sync(layer.group_add)("group", channel)
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(
            "CREATE TRIGGER refusing BEFORE INSERT ON channels_lite_event"
            " WHEN new.channel_name = 'refused' BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    with transaction.atomic(using="channels") if is_atomic else nullcontext():
        async_to_sync(layer.send)("channel", {"number": 1})
        with pytest.raises(StoreUnavailable, match="refused"):
            async_to_sync(layer.group_send)("group", {"number": "void"})
        async_to_sync(layer.send)("channel", {"number": 2})
    assert [first(layer)["number"] for _ in range(2)] == [1, 2]


def test_transaction_on_another_database_is_not_joined(make_layer_sync):
    """Inside atomic() on another alias a message is sent at once, whatever becomes of that."""
    layer = make_layer_sync()
    with transaction.atomic(using="default"):
        async_to_sync(layer.send)("channel", {"type": "sent"})
        transaction.set_rollback(True, using="default")
    assert first(layer) == {"type": "sent"}


def test_waits_for_another_writer(make_layer_sync, database):
    """group_send inside atomic() waits for a foreign transaction, and does not fail at once."""
    layer = make_layer_sync()
    async_to_sync(layer.group_add)("group", "channel")
    foreign = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    foreign.execute("BEGIN IMMEDIATE")
    foreign.execute("UPDATE channels_lite_groupmembership SET joined_at = 0")
    is_inside = threading.Event()

    def commit():
        # When the lock is asked for cannot be seen from here; earlier than that proves nothing,
        # but fails nothing either.
        is_inside.wait(TIMEOUT)
        foreign.execute("COMMIT")

    committing = threading.Timer(0.1, commit)
    committing.start()
    with transaction.atomic(using="channels"):
        is_inside.set()
        async_to_sync(layer.group_send)("group", {"type": "real"})
    committing.join()
    foreign.close()
    assert first(layer) == {"type": "real"}


def test_members_of_the_same_transaction_are_listed(make_layer_sync):
    """group_channels() inside atomic() sees what was done in it."""
    layer = make_layer_sync()
    with transaction.atomic(using="channels"):
        async_to_sync(layer.group_add)("group", "plain")
        assert async_to_sync(layer.group_channels)("group") == ["plain"]
        transaction.set_rollback(True, using="channels")
    assert async_to_sync(layer.group_channels)("group") == []


@pytest.mark.parametrize("is_rolled_back", [True, False])
def test_flush_belongs_to_the_transaction(make_layer_sync, is_rolled_back):
    """What is in memory is forgotten at commit, here and elsewhere, and not after a rollback."""
    layer, other = make_layer_sync(), make_layer_sync(polling_interval=0.05)
    channels = {}

    async def prepare():
        for each in (layer, other):
            channel = channels[each] = await each.new_channel()
            await each.send(channel, {"number": 0})
            await received(each, channel)
            await layer.send(channel, {"number": 1})

    asyncio.run(prepare())
    with transaction.atomic(using="channels"):
        async_to_sync(layer.flush)()
        transaction.set_rollback(is_rolled_back, using="channels")
    for each, channel in channels.items():
        if is_rolled_back:
            assert first(each, channel) == {"number": 1}
        else:
            assert asyncio.run(is_empty(each, channel))


def test_cleaning_inside_a_transaction(make_layer_sync):
    """It waits for no lock of its own caller."""
    layer = make_layer_sync()
    with transaction.atomic(using="channels"):
        Event.objects.using("channels").create(channel_name="old", data=b"", expires_at=1)
        assert async_to_sync(layer.clean_expired)() == 1

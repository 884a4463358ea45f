"""What a layer does with the database file, and with one that is locked."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from contextlib import closing

import django
import pytest
from django.db import connections

from channels_lite import clock
from channels_lite.delivery import sweeper
from channels_lite.errors import StoreUnavailable
from channels_lite.models import Event
from channels_lite.store import sql
from tests.conftest import TIMEOUT, received, until


def rows(database):
    """How many messages are in the table."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM channels_lite_event").fetchone()[0]


@pytest.mark.parametrize("is_local", [False, True], ids=["plain", "process-local"])
async def test_received_messages_are_deleted(layer, database, is_local):
    """Nothing is left in the table of what was received."""
    channel = await layer.new_channel() if is_local else "channel"
    for number in range(40):
        await layer.send(channel, {"number": number})
        await received(layer, channel)
    for _ in range(100 * TIMEOUT):  # the table has no event to await
        if not rows(database):
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{rows(database)} rows are left")


async def test_locked_database_is_waited_for(layer, database):
    """While a foreign writer holds the lock a send waits and the loop does not; then it is sent."""
    await layer.group_add("group", "channel")
    with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        sending = asyncio.create_task(layer.group_send("group", {"type": "x"}))
        for _ in range(100):  # the loop goes round
            await asyncio.sleep(0.001)
        assert not sending.done()
        foreign.execute("COMMIT")
    await asyncio.wait_for(sending, TIMEOUT)
    assert await received(layer, "channel") == {"type": "x"}


def test_lock_is_waited_for_up_to_the_timeout(make_layer_sync, database, monkeypatch):
    """After OPTIONS["timeout"] seconds a send raises StoreUnavailable, and the layer goes on."""
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"timeout": 0.2})
    layer = make_layer_sync()

    async def test():
        await layer.group_add("group", "channel")
        with closing(sqlite3.connect(database, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable, match="stayed locked"):
                await asyncio.wait_for(layer.group_send("group", {"type": "x"}), TIMEOUT)
        await layer.group_send("group", {"type": "y"})
        assert await received(layer, "channel") == {"type": "y"}

    asyncio.run(test())


def test_init_command_is_respected(make_layer_sync, database, kind, monkeypatch):
    """OPTIONS["init_command"] takes the place of our pragmas: no WAL unless it says so."""
    if kind == "core" and django.VERSION < (5, 1):
        pytest.skip("Django takes init_command from 5.1 on")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    options = {"init_command": "PRAGMA synchronous = FULL; PRAGMA cache_size = 77"}
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", options)
    layer = make_layer_sync()

    async def test():
        await layer.send("channel", {"type": "x"})
        assert await received(layer, "channel") == {"type": "x"}

    asyncio.run(test())
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django takes init_command from 5.1 on")
@pytest.mark.parametrize("kind", ["notify"])
async def test_database_that_gets_a_log_is_polled_no_longer(
    make_layer, database, monkeypatch, caplog
):
    """From then on receivers sleep until a commit wakes them.  The logger says so once."""
    monkeypatch.setattr(sweeper, "TIDY_EVERY", 0)
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"init_command": ""})
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    layer = make_layer(polling_interval=None)
    receiving = asyncio.ensure_future(received(layer, "jobs"))
    await until(lambda: "rollback journal" in layer.polling_reason)
    with closing(sqlite3.connect(database)) as connection, caplog.at_level(logging.INFO):
        connection.execute("PRAGMA journal_mode = WAL")
        await until(lambda: layer.polling_reason == "")
        assert layer.look_interval == layer.default_interval
        await asyncio.to_thread(create_event, layer)
        assert await receiving == {"type": "x"}
    assert layer.stats.found_by_clock == 0
    said = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert said == ["the notify layer polls no longer"]


def create_event(layer):
    """Inserts a row with the ORM, on the connection of another thread.  The commit wakes."""
    data = layer.serialize({"type": "x"})
    Event.objects.using("channels").create(channel_name="jobs", data=data)
    connections["channels"].close()


def test_claimed_message_outlives_the_process_that_did_not_receive_it(make_layer_sync, database):
    """At exit, a message that was claimed for a receiver, and not received, is given back."""
    layer = make_layer_sync()
    asyncio.run(layer.send("jobs", {"type": "x"}))
    claimed = sql.claim(connected(database), {"jobs": 1}, 0, is_in_transaction=False)
    assert rows(database) == 0
    layer._engine.mailboxes.put_claimed("jobs", [(row, row.data) for row in claimed["jobs"]])
    layer._engine.leave()
    assert asyncio.run(received(layer, "jobs")) == {"type": "x"}


def connected(database):
    """An ``Execute``."""

    def execute(statement, parameters):
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            return connection.execute(statement, parameters).fetchall()

    return execute


def test_wrong_options_are_said(make_layer_sync, monkeypatch):
    """What ``sqlite3.connect`` does not take is an error, for who sends and who receives."""
    layer = make_layer_sync()
    monkeypatch.setitem(connections.settings["channels"], "OPTIONS", {"time_out": 5})
    for method in (layer.send("jobs", {"type": "x"}), layer.group_channels("room")):
        with pytest.raises(TypeError, match="time_out"):
            asyncio.run(asyncio.wait_for(method, TIMEOUT))


@pytest.mark.parametrize("kind", ["core", "aio"])
async def test_no_thread_to_be_had(make_layer, monkeypatch):
    """A send that cannot be begun raises, and was not sent; looks go on when threads can start."""
    layer, sender = make_layer(), make_layer()
    await sender.send("jobs", {"number": 1})

    def start(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="start new thread"):
            await asyncio.wait_for(layer.send("jobs", {"number": "void"}), TIMEOUT)
        layer._engine.clock.set(time.time() - clock.ticks())
        receiving = asyncio.ensure_future(received(layer, "jobs"))
        await until(lambda: layer._engine.waiter.loops)
    assert (await receiving)["number"] == 1
    await layer.send("jobs", {"number": 2})
    assert (await received(layer, "jobs"))["number"] == 2


async def test_busy_worker_is_not_idle(make_layer):
    """Rows of a plain channel keep a process from looking less often."""
    layer = make_layer()
    layer._engine.availability.last_message = time.monotonic() - 1e6
    idle = layer.look_interval
    await layer.send("jobs", {"type": "x"})
    await received(layer, "jobs")
    assert layer.look_interval < idle

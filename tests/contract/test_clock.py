"""The clock that messages expire by."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing

import pytest

from channels_lite import clock
from tests.conftest import is_empty, received, until


def empty_tables(database):
    """As ``manage.py flush`` does."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM channels_lite_event")
        connection.execute("DELETE FROM channels_lite_boot")
        connection.execute("UPDATE sqlite_sequence SET seq = 0")


@pytest.mark.parametrize("days", [-1, 1])
async def test_setting_the_wall_clock_changes_nothing(make_layer, monkeypatch, days):
    """A jump of a day between send and receive, between processes: delivered, and expired, in time.

    Fault 38.
    """
    sender = make_layer()
    await sender.group_add("group", "waits")
    await sender.send("early", {"type": "before"})
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + days * 86400)
    receiver = make_layer()  # a process that was started after the jump
    assert await received(receiver, "early") == {"type": "before"}
    await sender.group_send("group", {"type": "member"})
    assert await received(receiver, "waits") == {"type": "member"}
    await receiver.send("late", {"type": "after"})
    ticks = clock.ticks()
    monkeypatch.setattr(clock, "ticks", lambda: ticks + 61)
    assert await is_empty(sender, "late")


async def test_emptied_table_goes_on_by_the_same_clock(make_layer, database, monkeypatch):
    """What is sent just after manage.py flush is delivered, though the wall clock was set."""
    layer = make_layer()
    await layer.send("jobs", {"type": "before"})
    assert await received(layer, "jobs") == {"type": "before"}
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 86400)
    empty_tables(database)
    await layer.send("jobs", {"type": "after"})
    assert await received(layer, "jobs") == {"type": "after"}


async def test_expired_stays_expired_by_another_clock(make_layer, database, monkeypatch):
    """A message in memory expires when it should, though a generation with another clock began."""
    layer = make_layer()
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "expired"})
    ticks = clock.ticks
    monkeypatch.setattr(clock, "ticks", lambda: ticks() + 61)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "UPDATE channels_lite_boot SET generation = generation + 1, began_at = began_at - 1000"
        )
        connection.execute("UPDATE sqlite_sequence SET seq = 0")
    await layer.send("jobs", {"type": "tells that it is another one"})
    assert await is_empty(layer, channel)


def test_expired_stays_expired_after_the_table_was_emptied(make_layer_sync, database, monkeypatch):
    """The receiver's own look is the first that finds it empty, and forgets the clock."""
    layer, other = make_layer_sync(), make_layer_sync()

    async def put():
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "expired"})
        return channel

    async def next_one():
        receiving = asyncio.ensure_future(received(layer, channel))
        await asyncio.sleep(0)
        await other.send(channel, {"type": "x"})
        return await receiving

    channel = asyncio.run(put())
    empty_tables(database)
    ticks = clock.ticks
    monkeypatch.setattr(clock, "ticks", lambda: ticks() + 61)
    assert asyncio.run(next_one()) == {"type": "x"}


async def test_expired_job_is_not_claimed_after_a_lock(make_layer, database, monkeypatch):
    """The claim has begun before the job expires, and waits for another writer."""
    layer = make_layer()
    await layer.send("jobs", {"type": "expired"})
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        receiving = asyncio.ensure_future(received(layer, "jobs"))
        await until(lambda: layer._engine.mailboxes.is_served("jobs"))
        await asyncio.sleep(0.05)  # the claim begins
        ticks = clock.ticks
        monkeypatch.setattr(clock, "ticks", lambda: ticks() + 61)
        writer.execute("COMMIT")
    await layer.send("jobs", {"type": "x"})
    assert await receiving == {"type": "x"}


@pytest.mark.skipif(not clock.boot_id(), reason="this system's ticks are the wall clock's")
@pytest.mark.parametrize("days", [-1, 1])
async def test_generation_goes_by_the_clock_of_the_living(make_layer, database, monkeypatch, days):
    """manage.py flush, after the wall clock was set: who was there before and who comes agree."""
    layer = make_layer()
    await layer.send("jobs", {"type": "before"})
    assert await received(layer, "jobs") == {"type": "before"}
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + days * 86400)
    empty_tables(database)
    newcomer = make_layer()
    await newcomer.send("other", {"type": "begins the generation"})
    await layer.send("jobs", {"type": "after"})
    assert await received(newcomer, "jobs") == {"type": "after"}
    await layer.send("late", {"type": "expires"})
    ticks = clock.ticks()
    monkeypatch.setattr(clock, "ticks", lambda: ticks + 61)
    assert await is_empty(newcomer, "late")


@pytest.mark.skipif(not clock.boot_id(), reason="this system has no name for a boot")
async def test_reboot_purges_what_was_before(make_layer, database, monkeypatch, tmp_path):
    """Messages of an earlier boot, and its processes' memberships, are gone.  Fault 39."""
    before = make_layer()
    await before.send("jobs", {"type": "old"})
    await before.group_add("group", await before.new_channel())
    await before.group_add("group", "jobs")
    await before.close()  # no process outlives a reboot
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")
    after = make_layer()
    await after.group_send("group", {"type": "new"})
    assert await received(after, "jobs") == {"type": "new"}
    with closing(sqlite3.connect(database)) as connection, connection:
        members = connection.execute("SELECT channel_name FROM channels_lite_groupmembership")
        assert members.fetchall() == [("jobs",)]
    await after.close()
    again = make_layer()
    await again.send("jobs", {"type": "kept"})
    assert await received(make_layer(), "jobs") == {"type": "kept"}


async def test_rows_of_an_earlier_release_are_kept(make_layer, database):
    """Where nobody has entered a boot yet, nothing is purged: after an upgrade, say."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data)"
            " VALUES (0, ?, 'jobs', '', ?)",
            (time.time() + 60, b'{"type": "old"}'),
        )
    assert await received(make_layer(), "jobs") == {"type": "old"}


@pytest.mark.parametrize("name", ["another", ""], ids=["another boot id", "none"])
async def test_another_boot_id_purges_nothing_that_is_alive(
    make_layer, monkeypatch, tmp_path, name
):
    """A process in a container has a boot id of its own, or sees none: others go on."""
    before = make_layer()
    channel = await before.new_channel()
    await before.group_add("group", channel)
    await before.send("jobs", {"type": "job"})
    (tmp_path / "boot_id").write_text(name)
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")
    other = make_layer()
    await other.group_send("group", {"type": "hello"})
    assert await received(before, channel) == {"type": "hello"}
    assert await received(other, "jobs") == {"type": "job"}


async def test_boot_without_a_name_is_known_by_its_time(make_layer, monkeypatch, tmp_path):
    """Where no process sees a boot id, a reboot is told by when it was; it purges as usual."""
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "none")
    first = make_layer()
    await first.send("jobs", {"type": "job"})
    await first.close()
    second = make_layer()
    await second.send("jobs", {"type": "another"})
    assert await received(second, "jobs") == {"type": "job"}
    await second.close()
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + 3600)  # and the ticks began later
    assert await is_empty(make_layer(), "jobs")

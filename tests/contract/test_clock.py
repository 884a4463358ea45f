"""The clock that messages expire by."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from channels_lite import clock
from tests.conftest import is_empty, received


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


@pytest.mark.skipif(not clock.boot_id(), reason="this system has no name for a boot")
async def test_reboot_purges_what_was_before(make_layer, database, monkeypatch, tmp_path):
    """Messages of an earlier boot, and its processes' memberships, are gone.  Fault 39."""
    before = make_layer()
    await before.send("jobs", {"type": "old"})
    await before.group_add("group", await before.new_channel())
    await before.group_add("group", "jobs")
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(clock, "BOOT_ID", tmp_path / "boot_id")
    after = make_layer()
    await after.group_send("group", {"type": "new"})
    assert await received(after, "jobs") == {"type": "new"}
    with closing(sqlite3.connect(database)) as connection, connection:
        members = connection.execute("SELECT channel_name FROM channels_lite_groupmembership")
        assert members.fetchall() == [("jobs",)]
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

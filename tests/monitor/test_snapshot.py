"""A picture of what waits, and for whom."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from contextlib import ExitStack

import pytest
from django.core.exceptions import ImproperlyConfigured

from channels_lite.layers.notify import NotifyChannelLayer
from channels_lite.models import Event, GroupMembership
from channels_lite.monitor import snapshot
from tests.conftest import use_database
from tests.processes.conftest import empty_database, folder, start, wait_until

__all__ = ["empty_database", "folder", "start"]

SOON = '{"polling_interval": 0.1}'


def files(folder):
    """Every file there, with content and time of change."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}


@pytest.fixture
def idle_layer(database):
    """Makes no connection."""
    return NotifyChannelLayer(database="channels")


def test_what_waits_is_counted(idle_layer):
    """Rows by channel, the fullest first; members by group; how much was ever stored."""
    for channel, count in (("few", 1), ("p.token!", 2), ("many", 3)):
        for _ in range(count):
            Event.objects.create(
                channel_name=channel, data=b"", created_at=time.time() - 100 * count
            )
    for group, count in (("small", 1), ("big", 2)):
        for number in range(count):
            GroupMembership.objects.create(
                group_name=group, channel_name=f"c{number}", expires_at=time.time() + 60
            )
    GroupMembership.objects.create(group_name="big", channel_name="old", expires_at=1)
    taken = snapshot.take(idle_layer)
    assert [(each.name, each.waiting) for each in taken.channels] == [
        ("many", 3),
        ("p.token!", 2),
        ("few", 1),
    ]
    assert [round(each.oldest, -2) for each in taken.channels] == [300, 200, 100]
    assert (taken.waiting, taken.stored) == (6, 6)
    assert [each.added for each in snapshot.take(idle_layer, 2).channels] == [3, 1, 0]
    assert taken.groups == [snapshot.Group("big", 2), snapshot.Group("small", 1)]
    assert (taken.memberships, taken.group_count) == (3, 2)
    assert taken.size > 0
    assert taken.processes == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who has a FIFO open")
async def test_own_process_is_named(database):
    """The process that asks is among those that receive, with its pid."""
    layer = NotifyChannelLayer(database="channels")
    with ExitStack() as files:  # which leave numbers free for what lists the others
        for _ in range(20):
            files.enter_context(tempfile.TemporaryFile())
        await layer.send("mails", {"type": "new"})
        await layer.receive("mails")
    (process,) = snapshot.take(layer).processes
    assert process.pid == os.getpid()
    await layer.close()


@pytest.mark.parametrize("way", ["frames", "rows"])
def test_processes_tell_what_they_receive(start, folder, way):
    """How many messages, whether they were rows or not, and how many a second."""
    receiver, sender = start(TEST_CONFIG=SOON), start()
    channel = receiver.do("new_channel") if way == "frames" else "jobs"
    receiver.do("receive", channel=channel, count=30)

    token = receiver.do("describe")["prefix"]

    def process():
        found = snapshot.processes_of(folder / "default.sqlite3-wake")
        return next(each for each in found if each.token == token)

    sender.do("send_many", channel=channel, count=20)
    wait_until(lambda: process().received == 20)
    assert 0 < process().rate <= 20
    wait_until(lambda: process().rate == 0)
    assert process().received == 20
    receiver.kill()
    assert (process().is_alive, process().rate) == (False, 0)


def test_nothing_is_written(idle_layer, database):
    """A database that nobody has open is the same afterwards, and nothing lies beside it."""
    before = files(database.parent)
    snapshot.take(idle_layer)
    assert files(database.parent) == before


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ImproperlyConfigured, r"has no file .* run manage\.py migrate"),
        (b"", ImproperlyConfigured, r"run manage\.py migrate"),
        (b"these are my notes" * 100, ImproperlyConfigured, "not a SQLite database"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, content, error, message):
    """No file, no tables, no database: with a hint, and nothing is created."""
    path = tmp_path / "channels.sqlite3"
    if content is not None:
        path.write_bytes(content)
    use_database("channels", path)
    before = files(tmp_path)
    with pytest.raises(error, match=message):
        snapshot.take(NotifyChannelLayer(database="channels"))
    assert files(tmp_path) == before

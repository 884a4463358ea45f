"""With the fallback look a minute away, what is delivered has come by a wake-up."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import django
import pytest

LAYERS = ["core.SQLiteChannelLayer", "aio.AIOSQLiteChannelLayer", "notify.NotifyChannelLayer"]


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_wakes_a_sleeping_receiver(start, layer):
    """A message sent by any of the three layers wakes the receiver on its process-local channel."""
    receiver, sender = start(), start(layer)
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel)
    sender.do("send", channel=channel, message={"type": "hello"})
    assert receiver.received()["received"] == {"type": "hello"}


def test_created_event_wakes_at_commit(start):
    """Event.objects.create() inside atomic() is delivered once it is committed, not before."""
    receiver, writer = start(), start("core.SQLiteChannelLayer")
    receiver.do("receive", channel="jobs")
    writer.do("begin")
    writer.do("create_event", channel="jobs", message={"type": "job"})
    committed = writer.do("end")
    assert receiver.received()["at"] > committed


def test_created_event_in_autocommit_wakes(start):
    """Event.objects.create() without a transaction is delivered at once."""
    receiver, writer = start(), start("core.SQLiteChannelLayer")
    receiver.do("receive", channel="jobs")
    writer.do("create_event", channel="jobs", message={"type": "job"})
    assert receiver.received()["received"] == {"type": "job"}


def test_rolled_back_event_is_not_delivered(start):
    """What is rolled back is never delivered; what is committed after it is."""
    receiver, writer = start(), start("core.SQLiteChannelLayer")
    receiver.do("receive", channel="jobs")
    writer.do("begin")
    writer.do("create_event", channel="jobs", message={"type": "void"})
    writer.do("end", is_error=True)
    writer.do("create_event", channel="jobs", message={"type": "real"})
    assert receiver.received()["received"] == {"type": "real"}


def test_raw_sql_wakes(start):
    """An INSERT on a Django cursor wakes the receiver."""
    receiver, writer = start(), start("core.SQLiteChannelLayer")
    receiver.do("receive", channel="jobs")
    writer.do("raw_sql", channel="jobs", message={"type": "raw"})
    assert receiver.received()["received"] == {"type": "raw"}


def test_group_over_four_processes(start):
    """A group message reaches every member in every process, once."""
    members, sender = [start() for _ in range(4)], start()
    for member in members:
        for _ in range(2):
            channel = member.do("new_channel")
            member.do("group_add", group="room", channel=channel)
            member.do("receive", channel=channel, count=2)
    sender.do("group_send", group="room", message={"type": "first"})
    sender.do("group_send", group="room", message={"type": "second"})
    for member in members:
        counted = Counter(message["type"] for message in member.messages(4))
        assert counted == {"first": 2, "second": 2}


def test_competing_readers_get_each_message_once(start):
    """Two processes that read one plain channel share its messages, each of which goes to one."""
    readers, sender = [start(), start()], start(TEST_CONFIG=json.dumps({"capacity": 1000}))
    count = 200
    for reader in readers:
        reader.do("receive", channel="jobs", count=count)
    for number in range(count):
        sender.do("send", channel="jobs", message={"type": "job", "number": number})
    received: list[int] = []
    deadline = time.monotonic() + 20
    while len(received) < count and time.monotonic() < deadline:
        for reader in readers:
            while reader.has_received():
                received.append(reader.received()["received"]["number"])
    assert sorted(received) == list(range(count))


@pytest.mark.parametrize("layer", LAYERS)
def test_send_in_atomic_belongs_to_the_transaction(start, layer):
    """group_send from a sync view waits for the commit, and neither for its own lock."""
    receiver, view = start(), start(layer)
    channel = receiver.do("new_channel")
    receiver.do("group_add", group="room", channel=channel)
    receiver.do("receive", channel=channel, count=2)
    view.do("begin")
    view.do("create_event", channel="elsewhere", message={"type": "takes the lock"})
    view.do("sync_group_send", group="room", message={"type": "void"})
    view.do("end", is_error=True)
    view.do("begin")
    view.do("create_event", channel="elsewhere", message={"type": "takes the lock"})
    view.do("sync_group_send", group="room", message={"type": "real"})
    committed = view.do("end")
    first = receiver.received()
    assert first["received"] == {"type": "real"}
    assert first["at"] > committed
    view.do("sync_group_send", group="room", message={"type": "outside"})
    assert receiver.received()["received"] == {"type": "outside"}


def test_unhooked_writer_is_found_by_the_fallback(start, folder: Path):
    """A row that a process without hooks inserts is delivered by the next look."""
    receiver = start(TEST_CONFIG=json.dumps({"polling_interval": 0.2}))
    receiver.do("receive", channel="jobs")
    connection = sqlite3.connect(folder / "default.sqlite3", timeout=10)
    with connection:
        connection.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data)"
            " VALUES (0, ?, 'jobs', '', ?)",
            (time.time() + 60, b'{"type": "foreign"}'),
        )
    connection.close()
    assert receiver.received()["received"] == {"type": "foreign"}


@pytest.mark.parametrize(
    "name",
    [
        "file:{}/%64efault.sqlite3",
        "file:{}/default.sqlite3#part",
        "file://{}/default.sqlite3?mode=rwc#part",
        "file://localhost{}/default.sqlite3",
    ],
)
def test_every_uri_of_the_file_leads_to_it(start, folder: Path, name):
    """A process that names the database by a URI wakes those that name it by its path."""
    receiver = start()
    writer = start("core.SQLiteChannelLayer", TEST_NAME=name.format(folder))
    receiver.do("receive", channel="jobs")
    writer.do("create_event", channel="jobs", message={"type": "job"})
    assert receiver.received()["received"] == {"type": "job"}


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django takes init_command from 5.1 on")
def test_rollback_journal_is_polled(start, folder: Path):
    """Its commits call no hook: the layer looks ten times per second, and says so once."""
    options = json.dumps({"init_command": "PRAGMA synchronous = NORMAL"})
    own = {"TEST_OPTIONS": options, "TEST_CONFIG": '{"polling_interval": null}'}
    with closing(sqlite3.connect(folder / "default.sqlite3")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
    receiver, writer = start(**own), start("core.SQLiteChannelLayer", **own)
    receiver.do("receive", channel="jobs")
    assert "rollback journal" in receiver.do("describe")["reason"]
    assert receiver.do("describe")["interval"] == 0.1
    writer.do("create_event", channel="jobs", message={"type": "job"})
    receiver.do("receive", channel="more")
    assert receiver.received()["received"] == {"type": "job"}
    receiver.end()
    assert (folder / "0.log").read_text().count("rollback journal") == 1


def test_instrumented_connections_wake(start):
    """What OpenTelemetry wraps is Python's own connection all the same."""
    receiver, writer = (start(TEST_INSTRUMENTED="1") for _ in range(2))
    receiver.do("receive", channel="jobs")
    writer.do("create_event", channel="jobs", message={"type": "job"})
    assert receiver.received()["received"] == {"type": "job"}

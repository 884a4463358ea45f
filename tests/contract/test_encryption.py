"""Encryption, and rows that cannot be read."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from tests.conftest import received

GARBAGE = [b"", b"garbage", b"\xc1", b"{", b"\x93\x01\x02\x03", b"[1]", b"\x91" * 5000]


def store(database, channel, data, recipients=""):
    """A row that anybody may have written."""
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        connection.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data) VALUES (0, ?, ?, ?, ?)",
            (time.time() + 60, channel, recipients, data),
        )


async def test_nothing_readable_is_stored(make_layer, database):
    """With keys, a message's text is not in the file, and its receiver reads it."""
    layer = make_layer(symmetric_encryption_keys=["one"])
    await layer.send("channel", {"secret": "plain words"})
    stored = b"".join(path.read_bytes() for path in database.parent.iterdir() if path.is_file())
    assert b"plain words" not in stored
    assert await received(layer, "channel") == {"secret": "plain words"}


async def test_keys_rotate(make_layer):
    """A layer with a new first key still reads what was written with the old one."""
    old = make_layer(symmetric_encryption_keys=["old"])
    new = make_layer(symmetric_encryption_keys=["new", "old"])
    await old.send("channel", {"type": "x"})
    assert await received(new, "channel") == {"type": "x"}


@pytest.mark.parametrize("is_local", [False, True], ids=["plain", "process-local"])
async def test_wrong_key_drops_the_message(make_layer, caplog, is_local):
    """A message under another key is dropped with one log line, and the next one delivered."""
    layer, sender = (make_layer(symmetric_encryption_keys=["one"]) for _ in range(2))
    other = make_layer(symmetric_encryption_keys=["other"])
    channel = await layer.new_channel() if is_local else "channel"
    await other.send(channel, {"type": "unreadable"})
    await sender.send(channel, {"type": "readable"})
    assert await received(layer, channel) == {"type": "readable"}
    assert [record.levelname for record in caplog.records if "dropped" in record.message] == [
        "ERROR"
    ]


@pytest.mark.parametrize("is_local", [False, True], ids=["plain", "process-local"])
async def test_garbage_is_dropped(make_layer, database, caplog, is_local):
    """A row that is no message is dropped with one log line each, and the next one delivered."""
    layer, sender = make_layer(), make_layer()
    channel = await layer.new_channel() if is_local else "channel"
    name, _, local = channel.partition("!")
    for data in GARBAGE:
        store(database, name + "!" * is_local, data, local)
    await sender.send(channel, {"type": "message"})
    assert await received(layer, channel) == {"type": "message"}
    assert len([record for record in caplog.records if "dropped" in record.message]) == len(GARBAGE)

"""Messages that are too large for a datagram, between real processes."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from channels_lite.wake.datagrams import LARGEST, MAX_DATAGRAM

pytestmark = [
    pytest.mark.usefixtures("write_ahead_log"),
    pytest.mark.skipif(LARGEST == MAX_DATAGRAM, reason="there are no memory files"),
]

SIZES = [10, 300_000, 10, 1_000_000, MAX_DATAGRAM]


def files(process):
    """The memory files that it has open."""
    links = []
    for each in Path(f"/proc/{process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # just closed
            links.append(str(each.readlink()))
    return [link for link in links if "memfd:channels-lite" in link]


@pytest.mark.parametrize("keys", [None, ["a key"]], ids=["plain", "encrypted"])
@pytest.mark.parametrize("to_group", [False, True], ids=["direct", "group"])
def test_killed_sender_leaves_its_messages_and_nothing_else(start, folder, keys, to_group):
    """They are in order, need no row, and no process has a file open afterwards."""
    config = json.dumps({"polling_interval": 60, "symmetric_encryption_keys": keys})
    receiver, sender = start(TEST_CONFIG=config), start(TEST_CONFIG=config)
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel, count=len(SIZES))
    receiver.do("group_add", group="room", channel=channel)
    receiver.stop()
    messages = [{"number": n, "text": "x" * size} for n, size in enumerate(SIZES)]
    for message in messages:
        if to_group:
            sender.do("group_send", group="room", message=message)
        else:
            sender.do("send", channel=channel, message=message)
    assert files(sender) == []
    sender.kill()
    with closing(sqlite3.connect(folder / "default.sqlite3")) as connection:
        assert connection.execute("SELECT count(*) FROM channels_lite_event").fetchone() == (0,)
    receiver.go_on()
    assert receiver.messages(len(SIZES)) == messages
    assert files(receiver) == []

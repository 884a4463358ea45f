"""Rows that somebody else wrote, of whatever types: dropped, and the next one comes.  Fault 37."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest

from tests.conftest import received

GOOD = b"\x81\xa4type\xa4good"  # MessagePack of {"type": "good"}
LATER = time.time() + 3600
#: created_at, expires_at, recipients, data; None: as it should be.
ROWS = {
    "no message": (0, LATER, None, b"\xc1"),
    "not a dict": (0, LATER, None, b"\x01"),
    "broken JSON": (0, LATER, None, b'{"type": '),
    "nested JSON": (0, LATER, None, b"{" + b'"a":{' * 5000),
    "empty": (0, LATER, None, b""),
    "text for bytes": (0, LATER, None, "no bytes"),
    "a number for bytes": (0, LATER, None, 17),
    "text for a time": ("yesterday", "tomorrow", None, GOOD),
    "a blob for a time": (b"\xff", b"\xff", None, GOOD),
    "text in no encoding": (0, LATER, b"\xff\xfe,", GOOD),
    "a number for recipients": (0, LATER, 12, GOOD),
    "nobody": (0, LATER, ",,,", GOOD),
    "infinity": (0, float("inf"), None, b"\xc1"),
    "long": (0, LATER, "x" * 100_000, b"\xc1" * 1_000_000),
}


def insert(database, channel, local, row):
    created_at, expires_at, recipients, data = row
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data) VALUES (?, ?, ?, ?, ?)",
            (created_at, expires_at, channel, local if recipients is None else recipients, data),
        )
        if isinstance(recipients, bytes):  # text that is none
            connection.execute(
                "UPDATE channels_lite_event SET recipients = CAST(? AS TEXT)", (recipients,)
            )


@pytest.mark.parametrize("is_local", [True, False], ids=["local", "plain"])
@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_malformed_row_is_dropped(make_layer, database, row, is_local):
    """It reaches nobody, and keeps nothing from those that come after it."""
    layer = make_layer(polling_interval=0.01)
    channel = await layer.new_channel() if is_local else "jobs"
    name, _, local = channel.partition("!")
    insert(database, name + "!" * is_local, local, row)
    insert(database, name + "!" * is_local, local, (0, LATER, None, GOOD))
    assert await received(layer, channel) == {"type": "good"}


async def test_malformed_membership_is_harmless(make_layer, database):
    """Members of whatever names and times: the real ones get the message."""
    layer = make_layer(polling_interval=0.01)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(
            "INSERT INTO channels_lite_groupmembership"
            " (group_name, channel_name, expires_at, joined_at) VALUES ('group', ?, ?, 0)",
            [("../x!y", LATER), ("", LATER), ("!", LATER), ("a" * 500, LATER), ("late", "never"),
             ("a!b!c", LATER), (channel.partition("!")[0] + "!,,", LATER)],
        )  # fmt: skip
    await layer.group_send("group", {"type": "good"})
    assert await received(layer, channel) == {"type": "good"}

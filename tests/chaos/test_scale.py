"""Many channels, big groups, and no files left to open."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.chaos.conftest import SCALE
from tests.conftest import received

COUNT = int(10_000 * SCALE)
SOON = json.dumps({"polling_interval": 0.3})


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


async def turns(done):
    """How many turns a coroutine had until ``done``, beside what it ran with."""
    count = 0
    while not done.is_set():
        await asyncio.sleep(0)
        count += 1
    return count


async def test_34_many_channels_in_one_process(make_layer):
    """Each gets its own message, once; another channel opens no file."""
    # One connection each: a pool opens the second when two things are done at once.
    receiver = make_layer(pool_size=1)
    sender = make_layer(pool_size=1, enforce_capacity=False)
    channel = await receiver.new_channel()
    await sender.send(channel, {"number": -1})
    assert await received(receiver, channel) == {"number": -1}
    before = open_files()
    channels = [await receiver.new_channel() for _ in range(COUNT)]
    receiving = [asyncio.ensure_future(receiver.receive(each)) for each in channels]
    for number, each in enumerate(channels):
        await sender.send(each, {"number": number})
    messages = await asyncio.wait_for(asyncio.gather(*receiving), 600)
    assert [message["number"] for message in messages] == list(range(COUNT))
    assert open_files() <= before + 4
    assert receiver._engine.mailboxes.is_empty


async def test_35_big_group(make_layer):
    """All members get the message once, and other coroutines of the loop have their turns."""
    receiver, sender = make_layer(), make_layer()
    channels = [await receiver.new_channel() for _ in range(COUNT)]
    await asyncio.gather(*(receiver.group_add("big", each) for each in channels))
    done = asyncio.Event()
    counting = asyncio.ensure_future(turns(done))
    receiving = [asyncio.ensure_future(receiver.receive(each)) for each in channels]
    await sender.group_send("big", {"type": "x"})
    messages = await asyncio.wait_for(asyncio.gather(*receiving), 600)
    done.set()
    assert messages == [{"type": "x"}] * COUNT
    assert await counting > 1
    assert receiver._engine.mailboxes.is_empty


def test_42_no_more_files(start, folder, ledger):
    """Without a file left to open it says so once, and all messages come as rows."""
    receiver, sender = start(TEST_CONFIG=SOON), start(TEST_CONFIG=SOON)
    receiver.do("send", channel="others", message={})
    receiver.do("limit_files")
    receiver.do("receive", channel="jobs", count=10)
    ledger.send(sender, sender.do("describe")["prefix"], "jobs", 10)
    ledger.receive(receiver, count=10)
    ledger.check()
    assert receiver.log.read_text().count("no socket can be made") == 1

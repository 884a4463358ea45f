"""Capacity, expiry, and receivers that do not read."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing, suppress

import pytest
from channels.exceptions import ChannelFull

from channels_lite import clock
from channels_lite.delivery import backpressure
from channels_lite.delivery.capacity import Limit
from tests.conftest import is_empty, received, until


async def fill(layer, channel, most=1000):
    """Sends until it is full; how many went in."""
    for number in range(most):
        try:
            await layer.send(channel, {"number": number})
        except ChannelFull:
            return number
    return most


async def test_full_channel_raises(make_layer):
    """At capacity send() raises ChannelFull; one message received makes room for one."""
    layer = make_layer(capacity=3)
    assert await fill(layer, "channel") == 3
    await received(layer, "channel")
    assert await fill(layer, "channel") == 1


async def test_channel_capacity_by_pattern(make_layer):
    """Globs and compiled patterns give channels a capacity of their own; the first match counts."""
    patterns = {"one*": 1, re.compile("^t.o$"): 2, "t*": 5}
    layer = make_layer(capacity=3, channel_capacity=patterns)
    assert [await fill(layer, name) for name in ("one.x", "two", "three", "four")] == [1, 2, 5, 3]


@pytest.mark.parametrize("is_same_layer", [True, False], ids=["own layer", "other layer"])
@pytest.mark.parametrize("capacity", [1, 3, 10])
async def test_each_local_channel_has_a_capacity_of_its_own(make_layer, capacity, is_same_layer):
    """Though nobody reads: as many as it says go into each, and no more."""
    layer = make_layer(capacity=capacity)
    sender = layer if is_same_layer else make_layer(capacity=capacity)
    channels = [await layer.new_channel() for _ in range(4)]
    assert [await fill(sender, channel) for channel in channels] == [capacity] * 4


async def test_patterns_are_for_full_names(make_layer):
    """A pattern that matches some channels of a process leaves the others their capacity."""
    layer = make_layer(capacity=3, channel_capacity={"*!1": 5})
    channels = [await layer.new_channel() for _ in range(3)]
    assert [await fill(layer, channel) for channel in channels] == [3, 5, 3]


async def test_default_capacity(make_layer):
    """A plain channel holds 100 messages, a process-local one as many as are 16 MiB."""
    layer, sender = make_layer(), make_layer()
    channel = await layer.new_channel()
    assert await fill(sender, "jobs") == 100
    assert await fill(layer, channel, most=1000) == 1000
    large, sent = {"data": bytes(1024 * 1024)}, 0
    with suppress(ChannelFull):
        while sent < 100:
            await layer.send(channel, large)
            sent += 1
    assert sent in (15, 16)


async def test_capacity_holds_for_what_is_sent_at_once(make_layer):
    """One gather of 200 to a channel that nobody reads: its capacity goes in, and what is lost is
    what was refused."""
    layer, sender = make_layer(capacity=10), make_layer(capacity=10)
    stuck, live = await layer.new_channel(), await layer.new_channel()
    receiving = asyncio.create_task(received(layer, live))
    await asyncio.sleep(0)
    sends = (sender.send(stuck, {"number": number}) for number in range(200))
    results = await asyncio.gather(*sends, return_exceptions=True)
    sent = [number for number, result in enumerate(results) if result is None]
    assert 10 <= len(sent) <= 12
    assert [(await received(layer, stuck))["number"] for _ in sent] == sent
    await sender.send(live, {"type": "hello"})
    assert await receiving == {"type": "hello"}


@pytest.mark.parametrize("size", [1, 2], ids=["group of one", "group of two"])
async def test_capacity_holds_for_groups(make_layer, size, caplog):
    """A member that nobody reads holds its capacity, and the warning says how to change that."""
    layer, sender = make_layer(capacity=10), make_layer(capacity=10)
    stuck, live, *more = [await layer.new_channel() for _ in range(size + 1)]
    for channel in (stuck, *more):
        await sender.group_add("room", channel)
    receiving = asyncio.create_task(received(layer, live))
    await asyncio.sleep(0)
    for number in range(30):
        await sender.group_send("room", {"number": number})
    await until(lambda: layer.stats.full == 20 * size)
    await sender.send(live, {"type": "hello"})
    assert await receiving == {"type": "hello"}
    assert [(await received(layer, stuck))["number"] for _ in range(10)] == list(range(10))
    said = [record.message for record in caplog.records if "missed" in record.message]
    assert len(said) == 1
    assert "10 messages" in said[0]
    assert 'CONFIG["channel_capacity"] = {"specific*": ...}' in said[0]


async def test_channel_that_is_read_again_is_open_again(make_layer, database):
    """At once: senders are not told by the clock."""
    layer, sender = make_layer(capacity=10), make_layer(capacity=10)
    channel, live = await layer.new_channel(), await layer.new_channel()
    receiving = asyncio.create_task(received(layer, live))
    await asyncio.sleep(0)
    sent = await fill(sender, channel)
    await until(lambda: layer._engine.mailboxes.full)
    assert await fill(sender, channel) == 0
    for _ in range(sent):
        await received(layer, channel)
    with closing(sqlite3.connect(database)) as connection:
        rows = "SELECT count(*) FROM channels_lite_event"
        await until(lambda: connection.execute(rows).fetchone() == (0,))  # it is acknowledged
    await sender.send(channel, {"type": "after"})
    assert await received(layer, channel) == {"type": "after"}
    receiving.cancel()


@pytest.mark.parametrize("is_same_layer", [True, False], ids=["own layer", "other layer"])
async def test_receiver_that_does_not_read_fills_up(make_layer, is_same_layer):
    """A live process with a channel that nobody reads brings ChannelFull to its senders."""
    layer = make_layer(capacity=10)
    sender = layer if is_same_layer else make_layer(capacity=10)
    stuck, live = await layer.new_channel(), await layer.new_channel()
    receiving = asyncio.create_task(received(layer, live))
    sent = 0
    for _ in range(200):
        sent += await fill(sender, stuck)
        await asyncio.sleep(0.001)
    assert 10 <= sent <= 30
    while True:
        try:
            await sender.send(live, {"type": "hello"})
            break
        except ChannelFull:
            await asyncio.sleep(0.01)
    assert await receiving == {"type": "hello"}
    assert [(await received(layer, stuck))["number"] for _ in range(10)] == list(range(10))


@pytest.mark.usefixtures("large_as_rows")
async def test_process_that_does_not_read_fills_no_disk(make_layer, monkeypatch):
    """Rows for one process are bounded, whatever the capacity of its channels."""
    monkeypatch.setattr(backpressure, "TRANSPORT", Limit(1_000_000, is_bytes=True))
    receiver, sender = make_layer(capacity=None), make_layer(capacity=None)
    channels = [await receiver.new_channel() for _ in range(2)]
    await asyncio.gather(*(receiver.group_add("room", each) for each in channels))
    sent = [0, 0]
    with pytest.raises(ChannelFull):  # noqa: PT012 - whichever it is
        for number in range(100):
            for place, channel in enumerate(channels):
                await sender.send(channel, {"number": number, "data": bytes(100_000)})
                sent[place] += 1
    assert 4 <= sum(sent) <= 30  # and what may be in a socket
    for place, channel in enumerate(channels):
        for number in range(sent[place]):
            assert (await received(receiver, channel))["number"] == number
    while await fill(sender, channels[0], 1) == 0:  # noqa: ASYNC110 - until the table was told
        await asyncio.sleep(0.001)
    assert await received(receiver, channels[0]) == {"number": 0}


async def test_capacity_can_be_turned_off(make_layer):
    """enforce_capacity=False accepts any number."""
    layer = make_layer(capacity=3, enforce_capacity=False)
    assert await fill(layer, "channel", most=20) == 20


async def test_expired_message_is_not_delivered_and_frees_capacity(make_layer, monkeypatch):
    """After `expiry` seconds unread messages are gone, and their places are free."""
    layer = make_layer(capacity=2, expiry=60)
    assert await fill(layer, "channel") == 2
    moment = clock.ticks()
    monkeypatch.setattr(clock, "ticks", lambda: moment + 61)
    assert await fill(layer, "channel") == 2
    assert (await received(layer, "channel"))["number"] == 0
    monkeypatch.setattr(clock, "ticks", lambda: moment + 125)
    assert await is_empty(layer, "channel")


async def test_message_expires_in_the_buffer(make_layer, monkeypatch):
    """A message that this process has read, and nobody received, expires all the same."""
    layer = make_layer(expiry=60)
    idle, live = await layer.new_channel(), await layer.new_channel()
    await layer.send(idle, {"type": "old"})
    await layer.send(live, {"type": "x"})
    await received(layer, live)
    moment = clock.ticks()
    monkeypatch.setattr(clock, "ticks", lambda: moment + 61)
    assert await is_empty(layer, idle)

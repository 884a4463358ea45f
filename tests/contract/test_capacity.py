"""Capacity, expiry, and receivers that do not read."""

from __future__ import annotations

import asyncio
import re

import pytest
from channels.exceptions import ChannelFull

from channels_lite import clock
from tests.conftest import is_empty, received


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


async def test_local_channels_share_their_capacity(make_layer):
    """Until they are read, a process's channels of one prefix share one capacity."""
    layer = make_layer(capacity=3)
    channels = [await layer.new_channel() for _ in range(4)]
    for channel in channels[:3]:
        await layer.send(channel, {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send(channels[3], {"type": "x"})


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

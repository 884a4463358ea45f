"""Ordinary busyness: senders in loops, receivers that have no time."""

from __future__ import annotations

import asyncio
import threading

import pytest
from channels.exceptions import ChannelFull

from channels_lite.store import sql
from tests.conftest import TIMEOUT, received


async def send_directly(layer, channel, message):
    await layer.send(channel, message)


async def send_to_group(layer, channel, message):
    await layer.group_send("room", message)


@pytest.mark.parametrize("send", [send_directly, send_to_group])
@pytest.mark.parametrize("capacity", [1, 100])
async def test_sender_in_a_loop_starves_nobody(make_layer, send, capacity):
    """A coroutine that sends 1000 messages without a pause: its process's member gets each."""
    layer = make_layer(capacity=capacity, expiry=60)
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    numbers = []
    turns = 0

    async def member():
        while len(numbers) < 1000:
            numbers.append((await layer.receive(channel))["number"])

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(member()), asyncio.create_task(others())]
    await asyncio.sleep(0)
    before = turns
    for number in range(1000):
        await send(layer, channel, {"type": "token", "number": number})
    assert turns - before >= 1000 // 16
    await asyncio.wait_for(tasks[0], TIMEOUT)
    assert numbers == list(range(1000))
    tasks[1].cancel()


async def test_refused_sender_gives_the_others_a_turn(make_layer):
    """Whoever tries again and again to send to a full channel does not hold the loop."""
    layer = make_layer(capacity=1)
    channel = await layer.new_channel()

    async def insist():
        while True:
            try:
                await layer.send(channel, {"type": "x"})
            except ChannelFull:
                continue

    task = asyncio.create_task(insist())
    for _ in range(3):
        assert await received(layer, channel) == {"type": "x"}
    task.cancel()


@pytest.mark.usefixtures("large_as_rows")
async def test_large_rows_are_not_deleted_on_the_loop(make_layer, monkeypatch):
    """SQLite would read and write each of their pages there."""
    loop = asyncio.get_running_loop()
    deleted = loop.create_future()
    acknowledge = sql.acknowledge

    def recording(execute, through):
        acknowledge(execute, through)
        loop.call_soon_threadsafe(deleted.set_result, threading.current_thread())

    monkeypatch.setattr(sql, "acknowledge", recording)
    sender, layer = make_layer(), make_layer()
    channel = await layer.new_channel()
    await sender.send(channel, {"type": "x", "data": b"x" * 1_000_000})
    assert len((await received(layer, channel))["data"]) == 1_000_000
    assert await asyncio.wait_for(deleted, TIMEOUT) is not threading.current_thread()

"""A storm of cancellations.  Fault 31."""

from __future__ import annotations

import asyncio
import os
import random

from channels_lite.loops import PER_ITERATION
from channels_lite.store.sql import FlushMark
from tests.conftest import TIMEOUT, until

CANCELLATIONS = int(100_000 * float(os.environ.get("CHAOS_SCALE", "0.02")))


async def test_31_nothing_is_lost_by_cancellation(make_layer):
    """Receivers are cancelled all the time: each message comes once, in the order of its sender."""
    here, there = make_layer(capacity=10_000), make_layer(capacity=10_000)
    channel = await here.new_channel()
    dice = random.Random(31)
    cancelled = 0
    got = {0: [], 1: []}
    sent = [0, 0]
    is_over = asyncio.Event()

    async def send(sender, layer):
        while not is_over.is_set():
            if sent[sender] - len(got[sender]) < 50:
                await layer.send(channel, {"sender": sender, "number": sent[sender]})
                sent[sender] += 1
            for _ in range(dice.randrange(4)):
                await asyncio.sleep(0)

    async def receive():
        nonlocal cancelled
        task = asyncio.ensure_future(here.receive(channel))
        for _ in range(dice.randrange(5)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if task.cancelled():
            cancelled += 1
        else:
            got[task.result()["sender"]].append(task.result()["number"])

    senders = [asyncio.ensure_future(send(0, here)), asyncio.ensure_future(send(1, there))]
    while cancelled < CANCELLATIONS:
        await receive()
    is_over.set()
    await asyncio.gather(*senders)
    while [len(numbers) for numbers in got.values()] != sent:
        message = await asyncio.wait_for(here.receive(channel), TIMEOUT)
        got[message["sender"]].append(message["number"])
    assert got == {sender: list(range(sent[sender])) for sender in got}


async def test_receiver_with_an_empty_hand_strands_nothing_when_it_is_cancelled(layer):
    """A flush has looked into its hand, and others on its loop have received much in a row."""
    channel, busy = await layer.new_channel(), await layer.new_channel()
    for number in range(PER_ITERATION + 1):
        await layer.send(busy, {"number": number})
    await layer.receive(busy)  # from now on its loop is watched
    earlier = asyncio.ensure_future(layer.receive(channel))
    await until(lambda: layer._engine.mailboxes.is_served(channel))
    earlier.cancel()
    await asyncio.wait([earlier])
    first, second = (asyncio.ensure_future(layer.receive(channel)) for _ in range(2))
    await asyncio.sleep(0)
    await layer.send(channel, {"number": 1})
    layer._engine.mailboxes.void(FlushMark(0, -1.0))  # voids nothing, but looks into each hand
    for _ in range(PER_ITERATION):
        await layer.receive(busy)
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    got = await asyncio.wait_for(second if first.cancelled() else first, TIMEOUT)
    second.cancel()
    assert got == {"number": 1}

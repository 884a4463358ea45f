"""A storm of cancellations.  Fault 31."""

from __future__ import annotations

import asyncio
import os
import random

from tests.conftest import TIMEOUT

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

"""Order, at most once, cancellation, loops and threads."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest
from channels.exceptions import ChannelFull

from tests.conftest import TIMEOUT, is_empty, received


@pytest.mark.parametrize("is_local", [False, True], ids=["plain", "process-local"])
async def test_messages_keep_their_order(make_layer, is_local):
    """One sender's messages to one channel are received in the order of sending."""
    layer = make_layer(capacity=1000)
    channel = await layer.new_channel() if is_local else "channel"
    for number in range(100):
        await layer.send(channel, {"number": number})
    assert [(await received(layer, channel))["number"] for _ in range(100)] == list(range(100))


async def test_concurrent_sends_all_arrive(make_layer):
    """What many coroutines send at once arrives, each message once."""
    layer = make_layer(capacity=1000)
    await asyncio.gather(*(layer.send("channel", {"number": n}) for n in range(200)))
    numbers = [(await received(layer, "channel"))["number"] for _ in range(200)]
    assert sorted(numbers) == list(range(200))


async def test_competing_receivers_get_each_message_once(make_layer):
    """Twelve receivers in two layers share a plain channel's messages, and none comes twice."""
    layers = [make_layer(capacity=1000), make_layer(capacity=1000)]
    got: list[int] = []
    all_here = asyncio.Event()

    async def work(layer):
        while True:
            got.append((await layer.receive("jobs"))["number"])
            if len(got) >= 100:
                all_here.set()

    workers = [asyncio.create_task(work(layer)) for layer in layers for _ in range(6)]
    for number in range(100):
        await layers[0].send("jobs", {"number": number})
    await asyncio.wait_for(all_here.wait(), TIMEOUT)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(got) == list(range(100))
    assert await is_empty(layers[0], "jobs")


async def test_local_channels_are_served_side_by_side(layer):
    """Receivers on several process-local channels each get their own, in any order of sending."""
    channels = [await layer.new_channel() for _ in range(5)]
    receiving = [asyncio.create_task(received(layer, channel)) for channel in channels]
    await asyncio.sleep(0)
    for number, channel in reversed(list(enumerate(channels))):
        await layer.send(channel, {"number": number})
    assert [message["number"] for message in await asyncio.gather(*receiving)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("is_local", [False, True], ids=["plain", "process-local"])
async def test_cancelled_receive_loses_nothing(make_layer, is_local):
    """Receivers that are cancelled at every moment lose no message, and double none."""
    layer = make_layer(capacity=1000)
    channel = await layer.new_channel() if is_local else "channel"
    got: list[int] = []

    async def storm():
        for turn in range(10_000):
            if len(got) == 100:
                return
            task = asyncio.create_task(layer.receive(channel))
            for _ in range(turn % 7):
                await asyncio.sleep(0)
            if turn % 3 == 0:
                await asyncio.sleep(0.001)
            task.cancel()
            with suppress(asyncio.CancelledError):
                got.append((await task)["number"])

    async def send():
        for number in range(100):
            await layer.send(channel, {"number": number})

    await asyncio.gather(storm(), send())
    while len(got) < 100:
        got.append((await received(layer, channel))["number"])
    assert sorted(got) == list(range(100))
    assert await is_empty(layer, channel)


async def test_cancelled_reader_leaves_the_message_to_another_layer(make_layer):
    """What a cancelled reader of a plain channel had claimed is given back, for other processes."""
    here, there = make_layer(), make_layer()
    for number in range(20):
        task = asyncio.create_task(here.receive("jobs"))
        await asyncio.sleep(0)
        await there.send("jobs", {"number": number})
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, BaseException):
            outcome = await received(there, "jobs")
        assert outcome == {"number": number}


async def test_what_a_cancelled_reader_had_claimed_comes_first(make_layer, monkeypatch):
    """The next reader, a moment later, gets it before what was sent after it."""
    layer = make_layer()
    for number in range(2):
        await layer.send("jobs", {"number": number})
    loop, store = asyncio.get_running_loop(), layer._engine.store
    submit, transact = store.submit, store.transact
    reading = asyncio.create_task(layer.receive("jobs"))

    def submit_and_cancel(work, done, *, size=0):
        def done_and_cancelled(outcome):
            done(outcome)
            reading.cancel()

        def done_on_the_loop(outcome):
            loop.call_soon_threadsafe(done_and_cancelled, outcome)

        submit(work, done_on_the_loop)

    def transact_late(work, done, *, size=0):
        loop.call_later(0.05, lambda: transact(work, done))

    monkeypatch.setattr(store, "submit", submit_and_cancel)
    # A write of its own would come late.
    monkeypatch.setattr(store, "transact", transact_late)
    await asyncio.wait([reading])
    assert reading.cancelled()
    layer._engine.reader.acknowledge()
    assert [(await received(layer, "jobs"))["number"] for _ in range(2)] == [0, 1]


async def test_a_busy_channel_does_not_starve_a_quiet_one(make_layer):
    """A message to a quiet channel is received though another channel of the process is full."""
    layer = make_layer(capacity=5)
    busy, quiet = await layer.new_channel(), await layer.new_channel()
    receiving = asyncio.create_task(received(layer, quiet))
    await layer.group_add("busy", busy)
    for number in range(20):
        await layer.group_send("busy", {"number": number})
        await asyncio.sleep(0)
    for _ in range(1000):
        try:
            await layer.send(quiet, {"type": "hello"})
            break
        except ChannelFull:  # until this process has read its rows
            await asyncio.sleep(0.005)
    assert await receiving == {"type": "hello"}


async def test_two_loops_receive_at_once(layer):
    """Receivers on the loops of two threads each get the messages of their channel."""
    channels = [await layer.new_channel() for _ in range(2)]
    got: dict[str, object] = {}

    def run(channel):
        got[channel] = asyncio.run(received(layer, channel))

    threads = [threading.Thread(target=run, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    for channel in channels:
        await layer.send(channel, {"to": channel})
    for thread in threads:
        await asyncio.to_thread(thread.join, TIMEOUT)
    assert got == {channel: {"to": channel} for channel in channels}


def test_successive_loops_receive(database, kind, make_layer_sync):
    """A layer works in one loop after another, also one that was closed with receivers alive."""
    layer = make_layer_sync()
    channel = asyncio.run(layer.new_channel())
    for number in range(5):

        async def turn(number=number):
            left_behind = asyncio.ensure_future(layer.receive(channel + "x"))
            await asyncio.sleep(0)
            assert not left_behind.done()
            await layer.send(channel, {"number": number})
            return await received(layer, channel)

        assert asyncio.run(turn()) == {"number": number}


@pytest.mark.parametrize("moment", ["before the table is asked", "before it is in line"])
@pytest.mark.usefixtures("large_as_rows")
async def test_name_that_is_forgotten_while_a_receiver_begins(make_layer, monkeypatch, moment):
    """By the sweeper, of this loop or of another thread's."""
    layer, sender = make_layer(), make_layer()
    engine, channel = layer._engine, await layer.new_channel()
    await layer.send(channel, {"number": 0})
    await received(layer, channel)
    ask, wait = engine.generations.ask, engine.mailboxes.wait

    def sweep():
        engine.mailboxes.sweep(engine.clock.now(), 100)
        engine.cursors.keep(engine.mailboxes.names)

    async def sweep_and_ask():
        sweep()
        return await ask()

    def sweep_and_wait(*arguments, **options):
        sweep()
        return wait(*arguments, **options)

    if moment == "before it is in line":
        monkeypatch.setattr(engine.mailboxes, "wait", sweep_and_wait)
    else:
        monkeypatch.setattr(engine.generations, "ask", sweep_and_ask)
        engine.clock.forget(engine.clock.generation)
    # Too large for a frame.
    await sender.send(channel, {"number": 1, "pad": bytes(70_000)})
    assert (await received(layer, channel))["number"] == 1

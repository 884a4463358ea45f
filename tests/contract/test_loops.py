"""Short loops, as async_to_sync makes them, leave nothing behind."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync

from tests.conftest import LAYERS, TIMEOUT, received, until

# Files and threads that may come on top once, whatever the number of loops: SQLite keeps the file
# of a closed connection open while another one of the process holds a lock, and uses it again.
ONCE = 4


def held():
    """Open files and running threads."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir())) + threading.active_count()


def test_a_thousand_loops_leave_nothing(make_layer_sync):
    """1 000 sends by async_to_sync, each in a loop of its own, leave no thread and no file."""
    layer = make_layer_sync(enforce_capacity=False, pool_size=1)
    for _ in range(20):
        async_to_sync(layer.send)("channel", {"type": "x"})
    before = held()
    for _ in range(1000):
        async_to_sync(layer.send)("channel", {"type": "x"})
    assert held() <= before + ONCE


def test_30_threads_that_come_and_go_leave_nothing(make_layer_sync):
    """Threads as a WSGI server's send by async_to_sync: all arrives, none and no file stays."""
    layer = make_layer_sync(enforce_capacity=False, pool_size=1)
    channel = async_to_sync(layer.new_channel)()

    def view(thread):
        for number in range(10):
            async_to_sync(layer.send)(channel, {"thread": thread, "number": number})

    def serve(first, count):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(view, range(first, first + count)))

    async def receive_all(count):
        numbers = defaultdict(list)
        for _ in range(count):
            message = await received(layer, channel)
            numbers[message["thread"]].append(message["number"])
        return numbers

    serve(0, 8)
    before = held()
    for first in range(8, 80, 8):
        serve(first, 8)
    assert held() <= before + ONCE
    numbers = asyncio.run(receive_all(800))
    assert numbers == {thread: list(range(10)) for thread in range(80)}


def test_receiving_loops_leave_nothing(make_layer_sync):
    """200 loops that receive leave no thread and no file."""
    layer = make_layer_sync(pool_size=1)

    async def turn():
        channel = await layer.new_channel()
        await layer.send(channel, {"type": "x"})
        await received(layer, channel)

    for _ in range(5):
        asyncio.run(turn())
    before = held()
    for _ in range(200):
        asyncio.run(turn())
    assert held() <= before + ONCE


async def test_closed_layer_stays_closed(layer, monkeypatch):
    """A look that was asked for before close() opens nothing after it."""
    channel = await layer.new_channel()
    await layer.send(channel, {"type": "x"})
    await received(layer, channel)
    await layer.close()
    submitted = []
    monkeypatch.setattr(
        layer._engine.store, "submit", lambda *args, **kwargs: submitted.append(args)
    )
    layer._engine.reader.look()
    assert not submitted


async def test_closing_is_no_end_for_who_waits(make_layer):
    """Receivers that wait while the layer is closed get what is sent after it."""
    layer, sender = make_layer(), make_layer()
    channel = await layer.new_channel()
    waiting = [asyncio.ensure_future(received(layer, each)) for each in (channel, "jobs")]
    await until(lambda: all(layer._engine.mailboxes.is_served(each) for each in (channel, "jobs")))
    await layer.close()
    for each in (channel, "jobs"):
        await sender.send(each, {"to": each})
    assert await asyncio.gather(*waiting) == [{"to": channel}, {"to": "jobs"}]


def test_receivers_of_closed_loops_claim_nothing(make_layer_sync):
    """What nobody can receive any more is left to others."""
    layer, other = make_layer_sync(), make_layer_sync()

    async def wait():
        layer._waiting_for_ever = asyncio.ensure_future(layer.receive("jobs"))
        await until(lambda: layer._engine.mailboxes.is_served("jobs") and layer.stats.looks)
        await until(lambda: layer._engine.claims._claiming is None)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait())
    loop.close()

    async def look():
        await layer.send("jobs", {"number": 1})
        await layer.send("others", {"type": "x"})
        await received(layer, "others")  # a look has been made
        assert layer._engine.mailboxes.take("jobs", 0.0) is None
        return await received(other, "jobs")

    assert asyncio.run(look()) == {"number": 1}
    layer._waiting_for_ever._log_destroy_pending = False
    del layer._waiting_for_ever


@pytest.mark.parametrize("kind", ["notify"])
def test_look_on_a_loop_that_stopped_keeps_nobody(make_layer_sync, database):
    """Its timer may never tick again, as between two runs of ``asyncio.Runner``."""
    layer, sender = make_layer_sync(polling_interval=0.05), make_layer_sync("aio")
    asyncio.run(sender.send("plain", {"number": 1}))
    stopped = asyncio.new_event_loop()
    stopped.run_until_complete(layer.send("others", {"type": "x"}))

    async def look():
        receiving = asyncio.ensure_future(layer.receive("plain"))
        await until(lambda: layer._engine.claims._claiming is not None)
        receiving.cancel()

    with closing(sqlite3.connect(database, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE").fetchall()
        stopped.run_until_complete(look())
        holder.execute("ROLLBACK").fetchall()
    assert asyncio.run(received(layer, "plain")) == {"number": 1}
    stopped.run_until_complete(asyncio.sleep(0))
    stopped.close()


def test_layers_that_are_dropped_are_gone(database, kind):
    """A closed layer is kept alive by nothing, as those that each test of a project makes."""
    layer = LAYERS[kind](database="channels")

    async def use(layer):
        await layer.send("jobs", {"type": "x"})
        await received(layer, "jobs")
        await layer.close()

    asyncio.run(use(layer))
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("kind", ["notify"])
def test_descriptors_are_closed_when_no_loop_waits_for_them(make_layer_sync):
    """Another loop's selector would take a file of the same number for ours."""
    layer = make_layer_sync()
    is_waiting, is_closed, is_checked = (threading.Event() for _ in range(3))

    async def wait():
        receiving = asyncio.ensure_future(layer.receive("jobs"))
        await until(lambda: layer._engine.waiter.loops)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        is_waiting.set()
        assert is_closed.wait(TIMEOUT)  # the loop is busy meanwhile
        opened.append(is_open(fifo))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        opened.append(is_open(fifo))
        is_checked.set()

    def is_open(fd):
        return Path(f"/proc/self/fd/{fd}").exists()

    opened = []
    thread = threading.Thread(target=asyncio.run, args=(wait(),))
    thread.start()
    assert is_waiting.wait(TIMEOUT)
    fifo = layer._engine.presence.fifo.fd
    asyncio.run(layer.close())
    is_closed.set()
    assert is_checked.wait(TIMEOUT)
    thread.join()
    assert opened == [True, False]


async def test_closing_that_is_cancelled(make_layer, database):
    """Who waits for a message gets it all the same."""
    layer, sender = make_layer(), make_layer("aio")
    channel = await layer.new_channel()
    waiting = asyncio.ensure_future(received(layer, channel))
    await until(lambda: layer._engine.mailboxes.is_served(channel))
    closing_ = asyncio.ensure_future(layer.close())
    await asyncio.sleep(0)
    closing_.cancel()
    await asyncio.gather(closing_, return_exceptions=True)
    await sender.send(channel, {"type": "x"})
    assert await waiting == {"type": "x"}


@pytest.mark.parametrize("kind", ["notify"])
def test_descriptors_of_closed_loops_are_closed(make_layer_sync):
    """Also of loops that never ran again between ``close()`` and their end."""
    layer = make_layer_sync()

    def turn():
        loop = asyncio.new_event_loop()
        receiving = loop.create_task(layer.receive("jobs"))
        loop.run_until_complete(until(lambda: layer._engine.presence.fifo is not None))
        asyncio.run(layer.close())
        receiving._log_destroy_pending = False
        loop.close()

    def held_when_closed():
        # A thread of a relay may have used it again, for a coroutine that still waited.
        asyncio.run(layer.close())
        return held()

    turn()
    before = held_when_closed()
    for _ in range(10):
        turn()
    assert held_when_closed() <= before + ONCE


@pytest.mark.parametrize("kind", ["notify"])
async def test_closing_waits_for_what_is_given_back(make_layer, database):
    """A claimed row that nobody received is in the table again when ``close()`` returns."""
    layer = make_layer()
    receiving = asyncio.ensure_future(layer.receive("jobs"))
    await until(lambda: layer._engine.mailboxes.is_served("jobs"))
    with closing(sqlite3.connect(database, isolation_level=None)) as holder:
        # All in one iteration of the loop, in which nobody can take it out.
        holder.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data)"
            " VALUES (0, 9e9, 'jobs', '', x'80')"
        )
        layer._engine.sweeper.look()
        assert not layer._engine.mailboxes.is_empty
        holder.execute("BEGIN IMMEDIATE").fetchall()
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        closing_ = asyncio.ensure_future(layer.close())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not closing_.done()  # and the loop goes on
        holder.execute("ROLLBACK").fetchall()
        await asyncio.wait_for(closing_, TIMEOUT)
        assert holder.execute("SELECT count(*) FROM channels_lite_event").fetchall() == [(1,)]

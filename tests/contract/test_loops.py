"""Short loops, as async_to_sync makes them, leave nothing behind."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from asgiref.sync import async_to_sync

from tests.conftest import received

# Files and threads that may come on top once, whatever the number of loops: SQLite keeps the file
# of a closed connection open while another one of the process holds a lock, and uses it again.
ONCE = 4


def held():
    """Open files and running threads."""
    return len(list(Path("/proc/self/fd").iterdir())) + threading.active_count()


def test_a_thousand_loops_leave_nothing(make_layer_sync):
    """1 000 sends by async_to_sync, each in a loop of its own, leave no thread and no file."""
    layer = make_layer_sync(enforce_capacity=False)
    for _ in range(20):
        async_to_sync(layer.send)("channel", {"type": "x"})
    before = held()
    for _ in range(1000):
        async_to_sync(layer.send)("channel", {"type": "x"})
    assert held() <= before + ONCE


def test_30_threads_that_come_and_go_leave_nothing(make_layer_sync):
    """Threads as a WSGI server's send by async_to_sync: all arrives, none and no file stays."""
    layer = make_layer_sync(enforce_capacity=False)
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
    layer = make_layer_sync()

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
    monkeypatch.setattr(layer._store, "submit", lambda *args, **kwargs: submitted.append(args))
    layer._reader.look()
    assert not submitted

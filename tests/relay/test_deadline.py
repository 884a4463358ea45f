"""How long the engine is waited for, on a loop that is late itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from channels_lite.relay import deadline
from channels_lite.relay.deadline import STEPS, Countdown, Deadline
from channels_lite.relay.posts import Post
from channels_lite.relay.wire import Entry
from tests.conftest import received


@pytest.fixture(autouse=True)
def _impatient(_patience, monkeypatch):
    monkeypatch.setattr(deadline, "DEADLINE", 0.2)


async def test_answer_that_nobody_had_time_to_read(nodes):
    """An engine that has answered is not away because this process was busy."""
    here, there = nodes
    channel = await there.new_channel()
    await here.send(channel, {"number": 0})
    relay = here._engine.relay

    async def publish_and_block():
        entry = Entry(channel, here._engine.serializer.encode({"number": 1}), 60)
        post = Post(relay.subjects.process(there._engine.token), entry, is_group=False)
        relay.publisher.post(post)
        relay.publisher.flush()
        ping = asyncio.ensure_future(relay.connection.do(lambda link: link.ping()))
        for _ in range(2):
            await asyncio.sleep(0)  # it is written
        time.sleep(0.5)  # noqa: ASYNC251 - as a process that gets no processor time
        await ping
        return post

    post = await relay.call(publish_and_block)
    assert post.error is None
    assert post.is_done
    assert await received(there, channel) == {"number": 0}
    assert await received(there, channel) == {"number": 1}


async def test_late_turns_do_not_count_and_end():
    """A loop that is late in each turn gives up in the end, but after more of them."""
    over, turns = [], 0
    Countdown(lambda: over.append(turns))
    while not over:
        time.sleep(3 * deadline.DEADLINE / STEPS)  # noqa: ASYNC251 - the same
        turns += 1
        await asyncio.sleep(0.001)
    assert STEPS + 2 < over[0] <= 2 * STEPS + 2


async def test_engine_that_does_not_answer():
    """It is waited for so long, and then what waits is cancelled."""
    forever = asyncio.Event()
    with pytest.raises(TimeoutError):
        async with Deadline():
            await forever.wait()


async def test_deadline_of_a_cancelled_task():
    """A task that somebody else cancels is cancelled, and not late."""

    async def wait():
        async with Deadline():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()

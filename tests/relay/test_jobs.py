"""Plain channels across nodes: the engine's queues."""

from __future__ import annotations

import asyncio
from operator import methodcaller

from channels.exceptions import ChannelFull

from tests.conftest import received, until


async def fill(layer, channel, most=1000):
    """Sends until it is full; how many went in."""
    for number in range(most):
        try:
            await layer.send(channel, {"number": number})
        except ChannelFull:
            return number
    return most


async def waits(layer, channel):
    """Returns when the engine has been told that a coroutine waits, and has answered since."""
    relay = layer._engine.relay
    await until(lambda: channel in relay.jobs._told)
    await relay.call(relay.connection.do, methodcaller("ping"))


async def nothing(layer, channel):
    """Whether a job sent now is the next that comes."""
    await layer.send(channel, {"type": "marker"})
    return await received(layer, channel) == {"type": "marker"}


async def test_job_for_a_worker_elsewhere(nodes):
    """A job is taken on whichever node somebody waits, before or after it is sent."""
    here, there = nodes
    await here.send("jobs", {"number": 1})
    assert await received(there, "jobs") == {"number": 1}
    waiting = asyncio.create_task(received(there, "jobs"))
    await waits(there, "jobs")
    await here.send("jobs", {"number": 2})
    assert await waiting == {"number": 2}
    await there.send("jobs", {"number": 3})
    assert await received(there, "jobs") == {"number": 3}


async def test_engine_is_told_once(nodes):
    """A coroutine that waits is counted once, and so is the job that is asked for."""
    _, there = nodes
    await there.new_channel()
    link, asked = there._engine.relay.connection.link, []
    want, link.want = link.want, lambda *what: asked.append(what) or want(*what)
    count, counted = there._engine.mailboxes.wanted, []
    there._engine.mailboxes.wanted = lambda names: counted.append(names) or count(names)
    waiting = asyncio.create_task(there.receive("jobs"))
    await waits(there, "jobs")
    assert asked == [("jobs", 100, 1)]
    assert counted == [("jobs",)]
    waiting.cancel()
    await asyncio.wait([waiting])
    await until(lambda: len(asked) == 2)
    assert asked[1] == ("jobs", 100, 0)


async def test_jobs_come_in_order(nodes):
    """With one who sends and one who receives."""
    here, there = nodes
    for number in range(50):
        await here.send("jobs", {"number": number})
    assert [(await received(there, "jobs"))["number"] for _ in range(50)] == list(range(50))


async def test_competing_workers_get_each_job_once(make_node, engine):
    """Four processes on two nodes, some with several coroutines: each job is one's."""
    layers = [make_node(node, engine.url) for node in ("here", "here", "there", "there")]
    found = []

    async def work(layer):
        while True:
            found.append((await layer.receive("jobs"))["number"])

    workers = [asyncio.create_task(work(layer)) for layer in (*layers, *layers)]
    for number in range(300):
        while True:
            try:
                await layers[number % 4].send("jobs", {"number": number})
            except ChannelFull:
                await asyncio.sleep(0.01)
            else:
                break
    await until(lambda: len(found) >= 300)
    for worker in workers:
        worker.cancel()
    await asyncio.wait(workers)
    assert sorted(found) == list(range(300))


async def test_full_channel_raises(make_node, engine):
    """The capacity is one for all nodes, as CONFIG has it; room is made when a job is taken."""
    config = {"capacity": 3, "channel_capacity": {"wide*": 5}}
    here, there = [make_node(node, engine.url, **config) for node in ("here", "there")]
    assert await fill(here, "jobs") == 3
    assert await fill(there, "jobs") == 0
    assert await fill(there, "wide.jobs") == 5
    assert there.stats.full == 2
    await received(there, "jobs")
    assert await fill(here, "jobs") == 1


async def test_capacity_that_is_not_enforced(make_node, engine):
    """A channel without a capacity takes everything."""
    here = make_node("here", engine.url, capacity=2, enforce_capacity=False)
    assert await fill(here, "jobs", most=20) == 20


async def test_jobs_expire(make_node, engine):
    """A job that nobody takes in time is never delivered, and makes room."""
    here, there = [
        make_node(node, engine.url, expiry=0.3, capacity=2) for node in ("here", "there")
    ]
    assert await fill(here, "jobs") == 2
    await asyncio.sleep(0.4)
    assert await fill(here, "jobs") == 2
    await asyncio.sleep(0.4)
    receiving = asyncio.create_task(received(there, "jobs"))  # it may take as long to connect
    await waits(there, "jobs")
    await here.send("jobs", {"type": "new"})
    assert await receiving == {"type": "new"}


async def test_job_of_a_cancelled_receive(nodes):
    """What comes for a receive() that was cancelled is the next worker's."""
    here, there = nodes
    for _ in range(5):
        waiting = asyncio.create_task(there.receive("jobs"))
        await waits(there, "jobs")
        waiting.cancel()
        await asyncio.wait([waiting])
    await here.send("jobs", {"number": 1})
    assert await received(here, "jobs") == {"number": 1}


async def test_job_that_comes_while_receive_is_cancelled(nodes):
    """Whatever the moment, each job is delivered once."""
    here, there = nodes
    found = []
    for number in range(60):
        waiting = asyncio.create_task(there.receive("jobs"))
        await here.send("jobs", {"number": number})
        if number % 2:
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            found.append(waiting.result()["number"])
    while len(found) < 60:
        found.append((await received(there, "jobs"))["number"])
    assert sorted(found) == list(range(60))
    assert await nothing(here, "jobs")


async def test_plain_channel_in_a_group(nodes):
    """It gets the group's messages from any node, until any node removes it."""
    here, there = nodes
    for channel in ("jobs", "more.jobs"):
        await here.group_add("room", channel)
    assert await there.group_channels("room") == ["jobs", "more.jobs"]
    await there.group_send("room", {"number": 1})
    assert await received(there, "jobs") == {"number": 1}
    assert await received(here, "more.jobs") == {"number": 1}
    await there.group_discard("room", "jobs")
    await here.group_send("room", {"number": 2})
    assert await received(here, "more.jobs") == {"number": 2}
    assert await nothing(there, "jobs")


async def test_full_plain_channel_in_a_group(make_node, engine):
    """It misses the message, which is counted; nobody gets an error."""
    here, there = [make_node(node, engine.url, capacity=1) for node in ("here", "there")]
    await here.group_add("room", "jobs")
    for number in range(3):
        await there.group_send("room", {"number": number})
    assert there.stats.full == 2
    assert await received(here, "jobs") == {"number": 0}


async def test_membership_of_a_plain_channel_expires(make_node, engine):
    """``group_expiry`` after it joined."""
    here, there = [make_node(node, engine.url, group_expiry=0.5) for node in ("here", "there")]
    await here.group_add("room", "jobs")
    await asyncio.sleep(0.7)
    await there.group_send("room", {"number": 1})
    assert await nothing(here, "jobs")


async def test_names_of_any_form(nodes):
    """What Channels lets pass for a name is one for the engine, too."""
    here, there = nodes
    longest = "a" * 99
    for name in ("a..b", ".x", "x.", "-", "_.-", "A.b-C_d", longest):
        await here.group_add(name, name)
        await there.group_send(name, {"to": name})
        assert await received(here, name) == {"to": name}
        channel = await there.new_channel(name[:40].strip("-") or "x")
        await there.group_add(name, channel)
        await here.group_send(name, {"to": channel})
        assert await received(there, channel) == {"to": channel}
        await here.group_discard(name, name)
        assert await received(there, name) == {"to": channel}

"""The promises of a layer, across two nodes, with each engine."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import received, until
from tests.relay.conftest import needs


@pytest.fixture(params=["nats-notify", "redis-notify", "nats-aio", "redis-core"])
def pair(request):
    """An engine and a layer: each with each other is for nobody."""
    return request.param.split("-")


@pytest.fixture
def engine_name(pair):
    needs(pair[0])
    return pair[0]


@pytest.fixture
def kind(pair):
    return pair[1]


async def is_next(layer, other, channel):
    """Whether a message sent now from the other node is the next that comes."""
    await other.send(channel, {"type": "marker"})
    return await received(layer, channel) == {"type": "marker"}


async def test_message_to_another_node(nodes):
    """send() to a process-local channel of another node is received there, as it was."""
    here, there = nodes
    channel = await there.new_channel()
    message = {"type": "x", "bytes": b"\0\xff", "int": 2**62, "none": None, "list": [1.5, True]}
    await here.send(channel, message)
    assert await received(there, channel) == message


async def test_group_with_members_on_both_nodes(nodes):
    """group_send() reaches each member once, on whichever node it is."""
    here, there = nodes
    mine, theirs, third = [await each.new_channel() for each in (here, there, there)]
    for layer, channel in ((here, mine), (there, theirs), (there, third)):
        await layer.group_add("room.1", channel)
    await here.group_send("room.1", {"number": 1})
    for layer, channel in ((here, mine), (there, theirs), (there, third)):
        assert await received(layer, channel) == {"number": 1}
        assert await is_next(layer, here, channel)


async def test_processes_of_one_node_hear_no_echo(make_node, engine):
    """Two processes on one database hear a group's message once, by the database."""
    one, two, there = [make_node(node, engine.url) for node in ("here", "here", "there")]
    channels = []
    for layer in (one, two, there):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        channels.append((layer, channel))
    for number in range(3):
        await one.group_send("room", {"number": number})
    for layer, channel in channels:
        assert [await received(layer, channel) for _ in range(3)] == [
            {"number": n} for n in range(3)
        ]
        assert await is_next(layer, there, channel)


async def test_order_of_direct_and_group_messages(nodes):
    """One sender's messages to one channel come in order, whichever way they were addressed."""
    here, there = nodes
    channel = await there.new_channel()
    for group in ("one", "two"):
        await there.group_add(group, channel)
    for number in range(0, 300, 3):
        await here.send(channel, {"number": number})
        await here.group_send("one", {"number": number + 1})
        await here.group_send("two", {"number": number + 2})
    found = [(await received(there, channel))["number"] for _ in range(300)]
    assert found == list(range(300))


async def test_many_at_once_stay_in_order(nodes):
    """What is sent without waiting for each goes out in the order of the calls."""
    here, there = nodes
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await asyncio.gather(
        *(
            here.send(channel, {"number": n}) if n % 3 else here.group_send("room", {"number": n})
            for n in range(300)
        )
    )
    found = [(await received(there, channel))["number"] for _ in range(300)]
    assert found == list(range(300))


async def test_joining_for_a_channel_of_another_node(nodes):
    """group_add() and group_discard() of another node's channel hold when they return."""
    here, there = nodes
    channel = await there.new_channel()
    await here.group_add("room", channel)
    assert await there.group_channels("room") == [channel]
    await here.group_send("room", {"number": 1})
    await there.group_send("room", {"number": 2})
    assert [await received(there, channel) for _ in range(2)] == [{"number": 1}, {"number": 2}]
    await here.group_discard("room", channel)
    assert await there.group_channels("room") == []
    await here.group_send("room", {"number": 3})
    assert await is_next(there, here, channel)


async def test_joining_for_a_channel_of_another_process(make_node, engine):
    """group_add() of a channel of another process of the node makes other nodes be heard there."""
    one, two, there = [make_node(node, engine.url) for node in ("here", "here", "there")]
    channel = await two.new_channel()
    await one.group_add("room", channel)
    await there.group_send("room", {"number": 1})
    assert await received(two, channel) == {"number": 1}
    await one.group_discard("room", channel)
    await there.group_send("room", {"number": 2})
    assert await is_next(two, there, channel)


async def test_leaving_a_group(nodes):
    """A group without members on a node is not heard there any more."""
    here, there = nodes
    channel, other = await there.new_channel(), await there.new_channel()
    await there.group_add("room", channel)
    await there.group_add("room", other)
    await there.group_discard("room", channel)
    await here.group_send("room", {"number": 1})
    assert await received(there, other) == {"number": 1}
    assert await is_next(there, here, channel)
    await there.group_discard("room", other)
    relay = there._engine.relay
    await until(lambda: not relay.groups.is_subscribed("room", enters=False))


async def test_channel_that_is_nowhere(nodes):
    """What is sent to a process that is gone is lost without a word, as on one node."""
    here, there = nodes
    channel = await there.new_channel()
    await there.close()
    await here.send(channel, {"type": "x"})
    await here.group_add("room", channel)
    await here.group_discard("room", channel)

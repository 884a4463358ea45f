"""Groups and flush."""

from __future__ import annotations

import asyncio

import pytest

from channels_lite import clock
from tests.conftest import is_empty, received


async def test_group_has_extensions(layer):
    """The layer says that it has groups and flush."""
    assert set(layer.extensions) == {"groups", "flush"}
    assert layer.group_expiry == 86400


async def test_member_gets_one_copy(layer):
    """group_add twice is one membership; a member that has left gets nothing."""
    channel = await layer.new_channel()
    for _ in range(2):
        await layer.group_add("group", channel)
    await layer.group_send("group", {"type": "x"})
    assert await received(layer, channel) == {"type": "x"}
    await layer.group_discard("group", channel)
    await layer.group_send("group", {"type": "y"})
    assert await is_empty(layer, channel)


async def test_next_message_goes_to_who_is_a_member_then(make_layer):
    """What another process, this one, or time has changed about a group holds at once."""
    layer, other = make_layer(), make_layer()
    first, second = await layer.new_channel(), await other.new_channel()
    await layer.group_add("group", first)
    for process, channel in ((layer, first), (other, second)):
        await process.group_add("group", second)
        await layer.group_send("group", {"type": "both"})
        assert await received(layer, first) == await received(other, second) == {"type": "both"}
        await process.group_discard("group", second)
        await layer.group_send("group", {"type": "one"})
        assert await received(layer, first) == {"type": "one"}
        assert await is_empty(other, second), channel


async def test_unknown_groups_and_members_are_no_error(layer):
    """group_discard of a stranger, and group_send to nobody, do nothing."""
    await layer.group_discard("nobody", "channel")
    await layer.group_send("nobody", {"type": "x"})
    assert await is_empty(layer, "channel")


async def test_big_group_all_get_it(layer):
    """All 150 members of one process get each message, above the capacity of one channel."""
    channels = [await layer.new_channel() for _ in range(150)]
    await asyncio.gather(*(layer.group_add("group", channel) for channel in channels))
    for number in range(3):
        await layer.group_send("group", {"number": number})
    for number in range(3):
        messages = await asyncio.gather(*(received(layer, channel) for channel in channels))
        assert messages == [{"number": number}] * 150


async def test_full_member_misses_and_others_get(make_layer):
    """group_send never raises ChannelFull: a full member misses the message, others do not."""
    layer = make_layer(capacity=3)
    full, other = await layer.new_channel(), await layer.new_channel("other")
    for channel in (full, other):
        await layer.group_add("group", channel)
    for number in range(3):
        await layer.send(full, {"number": number})
    await layer.group_send("group", {"number": 3})
    assert await received(layer, other) == {"number": 3}
    assert [(await received(layer, full))["number"] for _ in range(3)] == [0, 1, 2]
    assert await is_empty(layer, full)


async def test_unread_group_messages_are_bounded(make_layer):
    """A member that reads late gets `capacity` messages, not one more."""
    layer = make_layer(capacity=5)
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    for number in range(6):
        await layer.group_send("group", {"number": number})
    assert [(await received(layer, channel))["number"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert await is_empty(layer, channel)


async def test_vanished_member_delays_nobody(make_layer, caplog):
    """With a member that never reads and never left, a live one gets 300 messages of 300."""
    layer = make_layer(capacity=100)
    vanished, live = await layer.new_channel(), await layer.new_channel()
    for channel in (vanished, live):
        await layer.group_add("group", channel)
    for number in range(300):
        receiving = asyncio.create_task(received(layer, live))
        await asyncio.sleep(0)
        await layer.group_send("group", {"number": number})
        assert await receiving == {"number": number}
    assert "missed" in caplog.text


async def test_membership_ends_after_group_expiry(make_layer, monkeypatch):
    """A membership ends `group_expiry` seconds after the last group_add."""
    layer = make_layer(group_expiry=100)
    moment = clock.ticks()
    channel = await layer.new_channel()
    await layer.group_add("group", channel)
    monkeypatch.setattr(clock, "ticks", lambda: moment + 90)
    await layer.group_add("group", channel)
    monkeypatch.setattr(clock, "ticks", lambda: moment + 180)
    await layer.group_send("group", {"type": "in time"})
    assert await received(layer, channel) == {"type": "in time"}
    monkeypatch.setattr(clock, "ticks", lambda: moment + 191)
    await layer.group_send("group", {"type": "late"})
    assert await is_empty(layer, channel)


async def test_flush_leaves_nothing(layer):
    """After flush() there are no messages, also in memory, and no groups."""
    channel, other = await layer.new_channel(), await layer.new_channel()
    await layer.group_add("group", channel)
    for target in (channel, other, "plain"):
        await layer.send(target, {"type": "old"})
    await received(layer, other)  # and with it, the message to `channel` is in memory
    await layer.flush()
    await layer.group_send("group", {"type": "nobody"})
    for target in (channel, other, "plain"):
        assert await is_empty(layer, target)


async def test_flush_empties_the_memory_of_other_layers(make_layer):
    """flush() also voids what another layer has read and not handed out."""
    here, there = make_layer(), make_layer()
    channel, live = await there.new_channel(), await there.new_channel()
    await here.send(channel, {"type": "old"})
    await here.send(live, {"type": "x"})
    await received(there, live)
    await here.flush()
    await here.send(live, {"type": "y"})  # what is behind it is after the flush
    assert await received(there, live) == {"type": "y"}
    assert await is_empty(there, channel)


@pytest.mark.parametrize("turns", [2])
async def test_close_is_no_end(layer, turns):
    """close() may be called again, and the layer works again after it."""
    channel = await layer.new_channel()
    for number in range(turns):
        await layer.send(channel, {"number": number})
        assert await received(layer, channel) == {"number": number}
        await layer.close()
        await layer.close()


async def test_members_are_listed(make_layer):
    """group_channels() has each member once, of any process, while its membership lasts."""
    layer, other = make_layer(), make_layer()
    channels = sorted([await layer.new_channel(), await other.new_channel(), "plain"])
    for channel in channels * 2:
        await layer.group_add("group", channel)
    assert await other.group_channels("group") == channels
    await layer.group_discard("group", "plain")
    assert await other.group_channels("group") == [each for each in channels if "!" in each]
    assert await other.group_channels("nobody") == []

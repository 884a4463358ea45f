"""The groups to which a process subscribes."""

from __future__ import annotations

import asyncio

from channels_lite.delivery.roster import Roster
from tests.conftest import received, until


async def is_settled(layer):
    """Returns when the subscriptions were looked at since the call."""
    relay = layer._engine.relay
    await relay.call(settle, relay)


async def settle(relay):
    relay.groups.settle_soon()
    await until(lambda: not relay.groups._is_settling)


async def test_what_has_not_changed_is_not_looked_at(nodes, monkeypatch):
    """A look at the subscriptions takes as long as there are changes, and not groups."""
    _, there = nodes
    channel = await there.new_channel()
    for number in range(20):
        await there.group_add(f"room-{number}", channel)
    await is_settled(there)
    looked_at = []
    settle_one = there._engine.relay.groups._settle_one
    monkeypatch.setattr(
        there._engine.relay.groups,
        "_settle_one",
        lambda group: looked_at.append(group) or settle_one(group),
    )
    monkeypatch.setattr(Roster, "groups", None)  # a copy of all
    await is_settled(there)
    assert looked_at == []
    await there.group_discard("room-7", channel)
    await is_settled(there)
    assert looked_at == ["room-7"]


async def test_all_groups_that_end_at_once_are_left(nodes):
    """After a flush, no subscription to a group remains."""
    here, there = nodes
    channel = await there.new_channel()
    names = [f"room-{number}" for number in range(50)]
    for name in names:
        await there.group_add(name, channel)
    await here.flush()
    groups = there._engine.relay.groups
    for name in names:
        await until(lambda: not groups.is_subscribed(name, enters=False))  # noqa: B023


async def test_memberships_that_expire_end_subscriptions(make_node, engine):
    """A group whose members have all expired is not subscribed to any more."""
    there = make_node("there", engine.url, group_expiry=0.2)
    channel = await there.new_channel()
    await there.group_add("room", channel)
    groups = there._engine.relay.groups
    assert groups.is_subscribed("room", enters=False)

    def is_left():
        there.relay_report  # noqa: B018 - it is published each second, and forgets what has expired
        there._engine.relay.soon(groups.settle_soon)
        return not groups.is_subscribed("room", enters=False)

    await until(is_left)


async def test_joining_and_leaving_at_once(nodes):
    """Whatever the order in which the engine is told, a member is heard."""
    here, there = nodes
    channel, other = await there.new_channel(), await there.new_channel()
    for number in range(30):
        await there.group_add("room", channel)
        leaving = asyncio.create_task(there.group_discard("room", channel))
        joining = asyncio.create_task(there.group_add("room", other))
        await asyncio.gather(leaving, joining)
        await here.group_send("room", {"number": number})
        assert await received(there, other) == {"number": number}
        await there.group_discard("room", other)

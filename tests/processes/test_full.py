"""Channels that nobody reads: what they hold, what they cost their neighbours, and afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tests.processes.conftest import LAYERS, Child, configured, wait_until

pytestmark = pytest.mark.usefixtures("write_ahead_log")

CAPACITY = 10
#: A channel holds its capacity.  One gather can be on its way before anybody knows that it is full.
MOST = 3 * CAPACITY
BURST = 1000
#: More than anybody sends.
ALL = 1_000_000


def pair(start: Any, layer: str, **config: Any) -> tuple[Child, Child]:
    """A receiver, and a process that sends to it."""
    environment = configured(layer, capacity=CAPACITY, expiry=600, **config)
    return start(layer, **environment), start(layer, **environment)


def is_taken(sender: Child, channel: str, number: int = 0) -> bool:
    """Sends one message; whether the channel had room for it."""
    return sender.do("send_many", channel=channel, count=1, first=number) == [number]


def served_channel(receiver: Child, sender: Child) -> str:
    """A channel on which somebody has received, and nobody does now."""
    channel = receiver.do("new_channel")
    receiver.do("receive", channel=channel)
    assert is_taken(sender, channel)
    receiver.received()
    return channel


def numbers(receiver: Child, count: int) -> list[int]:
    return [message["number"] for message in receiver.messages(count)]


def kept(receiver: Child, sender: Child, channel: str) -> list[int]:
    """What waits on the channel, read to its end; then it takes messages again."""
    receiver.do("receive", channel=channel, count=ALL)
    wait_until(lambda: is_taken(sender, channel, ALL))
    found = numbers(receiver, 1)
    while found[-1] != ALL:
        found += numbers(receiver, 1)
    return found[:-1]


@pytest.mark.parametrize("layer", LAYERS)
def test_stuck_channel_costs_its_neighbours_nothing(start, layer):
    """Other members of its groups, in its process, get each message, by the group and directly."""
    receiver, sender = pair(start, layer)
    stuck = served_channel(receiver, sender)
    live = [receiver.do("new_channel") for _ in range(3)]
    for channel in live:
        receiver.do("receive", channel=channel, count=ALL)
    for channel in [stuck, *live]:
        receiver.do("group_add", group="room", channel=channel)
    assert len(sender.do("send_many", channel=stuck, count=BURST, at_once=True)) >= CAPACITY
    for number in range(0, 10 * CAPACITY, 2):
        sender.do("group_send", group="room", message={"number": number})
        is_taken(sender, stuck, number + 1)
        assert [each for each in live if not is_taken(sender, each, number + 1)] == []
        heard = {channel: [] for channel in live}
        for each in receiver.heard(2 * len(live)):
            heard[each["channel"]].append(each["received"]["number"])
        assert heard == {channel: [number, number + 1] for channel in live}


@pytest.mark.parametrize("layer", LAYERS)
def test_channel_that_is_read_again_takes_messages_at_once(start, layer):
    """Its consumer is back and reads all: nobody has to look by the clock first."""
    receiver, sender = pair(start, layer)
    slow = served_channel(receiver, sender)
    taken = sender.do("send_many", channel=slow, count=BURST, at_once=True)
    taken += sender.do("send_many", channel=slow, count=BURST, first=BURST)
    assert len(taken) >= CAPACITY
    receiver.do("receive", channel=slow, count=ALL)
    assert numbers(receiver, len(taken)) == taken
    wait_until(lambda: is_taken(sender, slow, ALL))
    assert numbers(receiver, 1) == [ALL]


@pytest.mark.parametrize("is_stopped", [False, True], ids=["running", "stopped"])
@pytest.mark.usefixtures("large_as_rows")
@pytest.mark.parametrize("layer", LAYERS)
def test_capacity_holds_whichever_way_messages_come(start, layer, is_stopped):
    """Of a gather of 1000, sent directly or to a group of one or two, it keeps its capacity."""
    receiver, sender = pair(start, layer)
    live = [receiver.do("new_channel", prefix="live") for _ in range(2)]
    for channel in live:
        receiver.do("receive", channel=channel, count=ALL)
    found = {}
    for way, members in {"directly": 1, "group of one": 1, "group of two": 2}.items():
        channels = [served_channel(receiver, sender) for _ in range(members)]
        group = f"of-{members}"
        is_direct = way == "directly"
        for channel in () if is_direct else channels:
            receiver.do("group_add", group=group, channel=channel)
        if is_stopped:
            receiver.stop()
        taken = sender.do(
            "send_many",
            channel=channels[0] if is_direct else group,
            count=BURST,
            at_once=True,
            to_group=not is_direct,
        )
        if is_stopped:
            receiver.go_on()
        # Each of the two ways, frames and rows, is in order: what was before these is there.
        wait_until(lambda: is_taken(sender, live[0]))
        sender.do("send", channel=live[1], message={"number": 0, "text": "x" * 100_000})
        receiver.messages(2)
        for place, channel in enumerate(channels):
            got = kept(receiver, sender, channel)
            # Between sends at the same time there is no order; members of groups may miss some.
            is_as_sent = sorted(got) == (sorted(taken) if is_direct else sorted(set(got)))
            # The one that was received just before may still count as on its way.
            found[way, place] = (is_as_sent, CAPACITY - 1 <= len(got) <= MOST or len(got))
            if not is_direct:
                receiver.do("group_discard", group=group, channel=channel)
    assert found == dict.fromkeys(found, (True, True))

"""What a layer counts, and whom it calls."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest
from channels.exceptions import ChannelFull

from channels_lite import clock, signals
from channels_lite.store import sql
from tests.conftest import TIMEOUT, received, until


@pytest.fixture
def told():
    """What the signals said."""
    said = []

    def note(signal, sender, **what):
        said.append((signal, what))

    for signal in (signals.channel_full, signals.store_unavailable, signals.store_available):
        signal.connect(note)
    yield said
    for signal in (signals.channel_full, signals.store_unavailable, signals.store_available):
        signal.disconnect(note)


async def test_messages_are_counted(make_layer, monkeypatch):
    """Sent, received, expired; a message to a group counts once as sent, for each as received."""
    layer, other = make_layer(), make_layer()
    channels = [await layer.new_channel(), await other.new_channel()]
    for channel in channels:
        await layer.group_add("group", channel)
    await layer.send(channels[0], {"type": "x"})
    await layer.group_send("group", {"type": "y"})
    assert [await received(layer, channels[0]) for _ in range(2)] == [{"type": "x"}, {"type": "y"}]
    assert await received(other, channels[1]) == {"type": "y"}
    assert (layer.stats.sent, layer.stats.group_sent) == (1, 1)
    assert (layer.stats.received, other.stats.received) == (2, 1)
    await layer.send(channels[0], {"type": "late"})
    ticks = clock.ticks
    monkeypatch.setattr(clock, "ticks", lambda: ticks() + 61)
    await layer.send(channels[0], {"type": "x"})
    await received(layer, channels[0])
    assert layer.stats.expired == 1


async def test_overflow_is_counted_and_told(make_layer, told):
    """A refused message, and each member that missed one."""
    layer = make_layer(capacity=1)
    await layer.send("plain", {"type": "x"})
    with pytest.raises(ChannelFull):
        await layer.send("plain", {"type": "x"})
    await layer.group_add("group", "plain")
    await layer.group_send("group", {"type": "x"})
    assert layer.stats.full == 2
    assert told == [
        (
            signals.channel_full,
            {"database": "channels", "channel": "plain", "group": None, "count": 1},
        ),
        (
            signals.channel_full,
            {"database": "channels", "channel": None, "group": "group", "count": 1},
        ),
    ]


async def test_failing_receiver_of_a_signal_harms_nobody(make_layer, caplog):
    """What it raises is logged; the sender hears of its full channel."""

    def fail(**what):
        raise RuntimeError("the pager is broken")

    layer = make_layer(capacity=1)
    await layer.send("plain", {"type": "x"})
    signals.channel_full.connect(fail)
    try:
        with pytest.raises(ChannelFull):
            await layer.send("plain", {"type": "x"})
    finally:
        signals.channel_full.disconnect(fail)
    assert "the pager is broken" in caplog.text


async def test_wrong_key_is_counted(make_layer):
    """A message under another Fernet key is dropped, and counted."""
    sender = make_layer(symmetric_encryption_keys=["theirs"])
    receiver = make_layer(symmetric_encryption_keys=["ours"])
    await sender.send("plain", {"type": "x"})
    await receiver.send("plain", {"type": "y"})
    assert await received(receiver, "plain") == {"type": "y"}
    assert receiver.stats.undecodable == 1


async def test_claims_that_fail_beside_looks_that_work(make_layer, monkeypatch, told, caplog):
    """Another program's trigger, say: it is told once, and once that it is over."""
    layer = make_layer(polling_interval=0.01)
    claim, failed, often = sql.claim, [], threading.Event()

    def fail(*arguments, **named):
        failed.append(arguments)
        if len(failed) == 5:
            often.set()
        raise sqlite3.OperationalError("no such thing")

    monkeypatch.setattr(sql, "claim", fail)
    waiting = asyncio.ensure_future(layer.receive("jobs"))
    assert await asyncio.to_thread(often.wait, TIMEOUT)
    assert [signal for signal, _ in told] == [signals.store_unavailable]
    monkeypatch.setattr(sql, "claim", claim)
    await layer.send("jobs", {"type": "x"})
    assert await asyncio.wait_for(waiting, TIMEOUT) == {"type": "x"}
    await until(lambda: len(told) > 1)
    assert [signal for signal, _ in told] == [signals.store_unavailable, signals.store_available]
    assert caplog.text.count("no such thing") == 1


async def test_store_that_fails_is_told_of_once(make_layer, monkeypatch, told):
    """When looking begins to fail, and when it works again; the receiver gets its message."""
    layer, sender = make_layer(polling_interval=0.01), make_layer()
    look, failed, thrice = sql.look, [], threading.Event()

    def fail(execute, asked):
        failed.append(asked)
        if len(failed) == 3:
            thrice.set()
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(sql, "look", fail)
    channel = await layer.new_channel()
    waiting = asyncio.ensure_future(layer.receive(channel))
    assert await asyncio.to_thread(thrice.wait, TIMEOUT)
    monkeypatch.setattr(sql, "look", look)
    await sender.send(channel, {"type": "x"})
    assert await asyncio.wait_for(waiting, TIMEOUT) == {"type": "x"}
    await until(lambda: len(told) > 1)
    assert [signal for signal, _ in told] == [signals.store_unavailable, signals.store_available]
    assert "disk I/O error" in str(told[0][1]["error"])
    assert layer.stats.failed_looks >= 2

"""A process whose socket is full: its senders wait for a moment, others do not."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing, suppress

import pytest

from channels_lite.delivery import room
from tests.conftest import TIMEOUT, received, until
from tests.delivery.test_frames import listening, stop


@pytest.fixture(params=["notify"])
def kind(request):
    """Only this layer listens."""
    return request.param


@pytest.fixture
def patience(monkeypatch):
    """So much of it that a test would end before."""
    monkeypatch.setattr(room, "PATIENCE", 600.0)


def ids(database):
    """How many rows were ever put."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0]


def watched(layer):
    """The sockets that senders on this loop wait for."""
    return layer._engine.outgoing._outbox()._room._watched


async def test_sender_waits_for_a_process_that_reads(make_layer, database, patience):
    """A loop of sends is as fast as its receiver, and needs no row."""
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    before = ids(database)
    await asyncio.wait_for(send_many(sender, channel), TIMEOUT)
    assert [(await received(receiver, channel))["n"] for _ in range(50)] == list(range(50))
    assert ids(database) == before
    await until(lambda: not watched(sender))


async def test_process_that_stands_still_is_waited_for_once(make_layer, database):
    """Then its messages are rows at once; and frames again when it reads."""
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    before = ids(database)
    waits = sender._engine.outgoing._outbox()._room
    given_up = []
    give_up = waits._give_up
    waits._give_up = lambda token: (given_up.append(token), give_up(token))
    stop(receiver)
    await asyncio.wait_for(send_many(sender, channel), TIMEOUT)
    assert given_up == [receiver.client_prefix]
    assert ids(database) > before
    receiver._engine.reader.look()
    assert [(await received(receiver, channel))["n"] for _ in range(50)] == list(range(50))
    before = ids(database)
    for number in range(5):
        await sender.send(channel, {"n": number})
    assert ids(database) == before
    assert not watched(sender)


async def test_nobody_else_is_waited_for(make_layer, patience):
    """Beside a sender that waits for one process, messages go to another one."""
    sender, full, other = make_layer(), make_layer(), make_layer()
    channels = [await listening(layer) for layer in (full, other)]
    stop(full)
    waiting = asyncio.ensure_future(send_many(sender, channels[0]))
    await until(lambda: watched(sender))
    for number in range(5):
        await sender.send(channels[1], {"n": number})
        assert await received(other, channels[1]) == {"n": number}
    assert not waiting.done()
    while not waiting.done():
        full._engine.reader.look()
        await asyncio.sleep(0)


async def test_cancelled_while_it_waits_is_not_sent(make_layer, patience):
    """And the loop has nothing left to wait for."""
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    stop(receiver)
    sent = []
    waiting = asyncio.ensure_future(send_many(sender, channel, sent))
    await until(lambda: watched(sender))
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert not watched(sender)
    receiver._engine.reader.look()
    for number in sent:
        assert await received(receiver, channel) == {"n": number}
    await sender.send(channel, {"n": "next"})
    receiver._engine.reader.look()
    assert await received(receiver, channel) == {"n": "next"}


async def send_many(layer, channel, sent=None):
    """More than a socket holds.  Those that were sent are in ``sent``."""
    for number in range(50):
        await layer.send(channel, {"n": number})
        if sent is not None:
            sent.append(number)

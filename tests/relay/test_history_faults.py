"""Histories while the engine is away, restarted, or has lost its data."""

from __future__ import annotations

import asyncio
import shutil

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from channels_lite.errors import StoreUnavailable
from channels_lite.relay import connection, deadline
from tests.conftest import received, until
from tests.contract.test_histories import HISTORY, member, numbers
from tests.relay.conftest import ENGINES
from tests.relay.test_faults import is_up, restart, sent
from tests.relay.test_histories import blind

#: So that Redis has on disk what it has confirmed, as NATS has.
DURABLE = {"redis": ["--appendonly", "yes", "--appendfsync", "always"], "nats": []}


@pytest.fixture
def durable_engine(engine_name, tmp_path):
    """One that keeps its data over a restart, and may be killed."""
    engine = ENGINES[engine_name](tmp_path / engine_name, *DURABLE[engine_name]).start()
    yield engine
    engine.kill()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """A busy machine may be late, but what is away is noticed."""
    monkeypatch.setattr(deadline, "DEADLINE", 3)
    monkeypatch.setattr(connection, "PING_EVERY", 0.2)


def pair(make_node, engine, **config):
    return [make_node(node, engine.url, **HISTORY | config) for node in ("here", "there")]


async def listen(layer, heard, channel=None):
    """Notes what a member gets; a task."""
    channel = channel or await member(layer)

    async def note():
        while True:
            heard.append(await layer.receive(channel))

    return asyncio.create_task(note())


async def test_engine_restarts_while_all_send(make_node, durable_engine):
    """What was confirmed comes once to members of both nodes, in one order, and nobody is told."""
    config = {"group_history": {"chat": {"messages": 100_000, "seconds": 3600}}}
    layers = pair(make_node, durable_engine, **config)
    start = (await layers[0].group_history("chat")).position
    heard = [[], []]
    listening = [await listen(*each) for each in zip(layers, heard, strict=True)]
    confirmed, attempts, is_over = set(), 0, False

    async def send(layer):
        nonlocal attempts
        while not is_over:
            attempts += 1
            number = attempts
            try:
                await layer.group_send("chat", {"number": number})
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                confirmed.add(number)

    sending = [asyncio.create_task(send(layer)) for layer in layers * 2]
    for _ in range(3):
        before = len(confirmed)
        await until(lambda: len(confirmed) > before + 50)  # noqa: B023
        await restart(durable_engine, *layers)
    is_over = True
    await asyncio.gather(*sending)
    await layers[1].group_send("chat", {"number": "end"})
    for each in heard:
        await until(lambda: each and each[-1]["number"] == "end")  # noqa: B023
    for task in listening:
        task.cancel()
    assert heard[0] == heard[1]
    got = [message["number"] for message in heard[0]][:-1]
    assert len(set(got)) == len(got)
    assert confirmed <= set(got) <= set(range(1, attempts + 1))
    assert all("history_is_complete" not in message for message in heard[0])
    found = await layers[1].group_history("chat", start)
    assert found
    assert found.messages == heard[0]


async def test_engine_that_has_lost_its_data(make_node, own_engine):
    """Members are told with the next message, and clients when they come back; ids still grow."""
    here, there = layers = pair(make_node, own_engine)
    heard = [[], []]
    listening = [await listen(*each) for each in zip(layers, heard, strict=True)]
    for number in range(30):
        await here.group_send("chat", {"number": number})
    for each in heard:
        await until(lambda: len(each) == 30)  # noqa: B023
    before = [heard[0][0]["history_id"], heard[0][-1]["history_id"]]
    for layer in layers:
        layer._engine.histories.look()
        await until(lambda: layer._engine.histories._looking is None)  # noqa: B023
    own_engine.kill()
    shutil.rmtree(own_engine.folder / "js", ignore_errors=True)
    own_engine.start()
    await is_up(*layers)
    for number in range(30, 40):
        await sent(there.group_send, "chat", {"number": number})
    for layer, each in zip(layers, heard, strict=True):
        await until(lambda: len(each) == 40)  # noqa: B023
        told = [each["number"] for each in each if "history_is_complete" in each]
        assert told == [30]
        assert layer.stats.gaps == 1
        for position in before:
            channel = await layer.new_channel()
            assert not await layer.group_add("chat", channel, after=position)
            assert not await layer.group_history("chat", position)
        assert await layer.group_add("chat", channel, after=each[30]["history_id"])
        assert await numbers(layer, channel, 9) == list(range(31, 40))
    ids = [int(message["history_id"].partition("-")[0]) for message in heard[0]]
    assert ids == sorted(set(ids))
    for task in listening:
        task.cancel()


async def test_engine_that_is_away(make_node, durable_engine):
    """What needs it raises StoreUnavailable; members have missed nothing when it is back."""
    here, there = layers = pair(make_node, durable_engine)
    channel, other = await member(here), await there.new_channel()
    await there.group_send("chat", {"number": 1})
    message = await received(here, channel)
    waiting = asyncio.create_task(received(here, channel))
    durable_engine.kill()
    await until(lambda: not any(layer._engine.relay.connection.is_up for layer in layers))
    for call in (
        lambda: there.group_send("chat", {"number": "lost"}),
        lambda: there.group_add("chat", other),
        lambda: there.group_add("chat", other, after=message["history_id"]),
        lambda: here.group_history("chat"),
    ):
        with pytest.raises(StoreUnavailable, match="is away"):
            await call()
    durable_engine.start()
    await is_up(*layers)
    await there.group_send("chat", {"number": 2})
    assert (await waiting)["number"] == 2
    assert await there.group_add("chat", other, after=message["history_id"])
    assert await numbers(there, other, 1) == [2]


async def test_process_that_has_lost_its_connection(make_node, durable_engine):
    """Nobody could wake it; when it is back, it looks, and members that were behind go on."""
    here, there = pair(make_node, durable_engine, capacity=2)
    channel, slow = await member(here), await member(here)
    await there.group_send("chat", {"number": 0})
    for each in (channel, slow):
        assert (await received(here, each))["number"] == 0
    waiting = asyncio.create_task(numbers(here, channel, 5))
    relay = here._engine.relay
    await relay.call(lose, relay)
    await until(lambda: not relay.connection.is_up)
    for number in range(1, 6):
        await there.group_send("chat", {"number": number})
    assert not relay.connection.is_up
    assert await waiting == [1, 2, 3, 4, 5]
    assert await numbers(here, slow, 5) == [1, 2, 3, 4, 5]


async def lose(relay):
    """As if the network had cut it."""
    relay.connection.link._lose("cut by a test")


def test_message_of_a_transaction_that_finds_no_engine(make_node_sync, own_engine):
    """It is committed, so it cannot be refused: it is counted as missed."""
    here = make_node_sync("here", own_engine.url, **HISTORY)

    @async_to_sync
    async def start():
        await member(here)
        own_engine.kill()
        await until(lambda: not here._engine.relay.connection.is_up)

    start()
    with transaction.atomic(using="channels"):
        async_to_sync(here.group_send)("chat", {"number": 1})
        assert here.stats.relay_missed == 0
    async_to_sync(until)(lambda: here.stats.relay_missed == 1)


async def test_process_that_notices_a_loss_late(make_node, own_engine):
    """Others have sent to a new log already; also a member of a silent group is told."""
    here, there = pair(make_node, own_engine)
    groups = ["chat", "chat-2"]
    channels = [await member(here, group) for group in groups]
    for group, channel in zip(groups, channels, strict=True):
        await there.group_send(group, {"number": 1})
        assert (await received(here, channel))["number"] == 1
    await until(lambda: here._engine.histories._looking is None)
    with blind(here):
        own_engine.kill()
        shutil.rmtree(own_engine.folder / "js", ignore_errors=True)
        own_engine.start()
        await is_up(here, there)
        for number in range(2, 40):
            await sent(there.group_send, "chat", {"number": number})
    got = [await received(here, channels[0]) for _ in range(2, 40)]
    assert [each["number"] for each in got] == list(range(2, 40))
    assert [each["number"] for each in got if "history_is_complete" in each] == [2]
    await there.group_send("chat-2", {"number": 2})
    message = await received(here, channels[1])
    assert (message["number"], message["history_is_complete"]) == (2, False)


async def test_member_that_joined_just_before_the_loss(make_node, own_engine):
    """Its process has not read since; it gets what is sent then, and is told."""
    here, there = pair(make_node, own_engine)
    await there.group_send("chat", {"number": 1})
    channel = await here.new_channel()
    with blind(here):
        await here.group_add("chat", channel)
        own_engine.kill()
    shutil.rmtree(own_engine.folder / "js", ignore_errors=True)
    own_engine.start()
    await is_up(here, there)
    await sent(there.group_send, "chat", {"number": 2})
    message = await received(here, channel)
    assert (message["number"], message["history_is_complete"]) == (2, False)

"""Groups with a history whose log is in the engine: the contract, and two nodes."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from channels_lite import relay
from channels_lite.delivery.relayed_log import _stamp_of
from channels_lite.history import Limit, Position, parse
from channels_lite.models import GroupMembership
from channels_lite.relay import Head
from tests.conftest import is_empty, received, until
from tests.contract import test_histories as contract
from tests.relay.conftest import needs

make, layer = contract.make, contract.layer

#: What is otherwise across nodes, or is about the table; with why.
TRIM = "the engine trims by itself, and later"
TABLE = "there is no table"
OTHERWISE = {
    "member_that_lags_too_far_is_told": TRIM,
    "member_whose_process_notices_too_late_is_told": TRIM,
    "member_is_told_although_nothing_is_left": TRIM,
    "what_cannot_be_decrypted_is_no_gap": TRIM,
    "history_is_trimmed": TRIM,
    "first_pattern_applies": TRIM,
    "flood_is_bounded": TRIM,
    "transactions_decide": "a message is appended after the commit",
    "rows_of_other_code_arrive": TABLE,
    "unread_message_still_says_that_others_are_gone": TABLE,
    "restored_file_is_noticed": TABLE,
    "missing_table_names_the_mend": TABLE,
    "message_sent_as_a_generation_ends_keeps_its_time": TABLE,
}


@pytest.fixture(autouse=True)
def _small_flood(monkeypatch):
    """The engine trims after a hundred messages too many, so that a test needs few."""
    monkeypatch.setattr(relay, "FLOOD", 100)


@pytest.fixture(params=["core-redis", "notify-redis", "notify-nats"])
def both(request):
    """Which layer, with which engine."""
    kind, engine = request.param.split("-")
    needs(engine)
    return kind, engine


@pytest.fixture
def kind(both):
    return both[0]


@pytest.fixture
def engine_name(both):
    return both[1]


@pytest.fixture
def make_layer(make_node, engine):
    """The first here, the second there, and so on."""
    made = []

    def make(**config):
        node = ("here", "there")[len(made) % 2]
        made.append(make_node(node, engine.url, **config))
        return made[-1]

    make.made = made
    return make


class EngineLog:
    """See `contract.Table`."""

    def __init__(self, layers):
        self._layers = layers

    async def _do(self, verb):
        relay = self._layers[0]._engine.relay
        return await relay.call(relay.connection.do, verb)

    async def insert(self, data, group="chat"):
        limit = self._layers[0]._engine.limits(group)
        await self._do(lambda link: link.append(group, data, limit, ("nobody", b"")))

    async def data(self):
        page = await self._do(lambda link: link.after("chat", 0, 1000, Limit(100, 3600)))
        return [data for _, data in page.rows]

    async def look(self, row):
        """The end, and the groups of the messages after ``row``, in as many reads as it takes."""
        limits, groups = self._layers[0]._engine.limits, []
        while True:
            found = await self._do(lambda link, row=row: link.recent(row, 0.0, limits))
            groups += [group for group, _, _ in found.rows]
            row = found.through
            if row == found.head.last:
                return row, groups


@pytest.fixture
def log(make_layer):
    return EngineLog(make_layer.made)


for _name, _test in vars(contract).copy().items():
    if _name.startswith("test_") and _name[5:] not in OTHERWISE:
        globals()[_name] = _test


async def numbers_after(layer, position):
    """Those that a channel gets that joins there, and whether it was complete."""
    channel = await layer.new_channel()
    joined = await layer.group_add("chat", channel, after=position)
    await layer.group_send("chat", {"number": "end"})
    got = []
    while not got or got[-1] != "end":
        got += await contract.numbers(layer, channel, 1)
    await layer.group_discard("chat", channel)
    return bool(joined), got[:-1]


async def test_position_holds_on_every_node(make):
    """A client that was on one node comes back on the other, while both send."""
    here, there = make(), make()
    channel = await contract.member(here)
    await asyncio.gather(contract.send(here, *range(20)), contract.send(there, *range(20, 40)))
    seen = [await received(here, channel) for _ in range(40)]
    for index in (0, 7, 39):
        after = seen[index]["history_id"]
        for node in (there, here):
            is_complete, got = await numbers_after(node, after)
            assert is_complete
            assert [each for each in got if each != "end"] == [
                message["number"] for message in seen[index + 1 :]
            ]


async def test_channel_of_another_node_joins_after_a_position(make):
    """The caller is told whether it is complete, and the channel gets the past."""
    here, there = make(), make()
    joined = await here.group_add("chat", await here.new_channel())
    await contract.send(here, 1, 2)
    channel = await there.new_channel()
    assert await here.group_add("chat", channel, after=joined.position)
    await contract.send(here, 3)
    assert await contract.numbers(there, channel, 3) == [1, 2, 3]
    assert not await here.group_add("chat", channel, after="1-1")
    await contract.send(here, 4)
    assert await contract.numbers(there, channel, 1) == [4]


async def append(log, layer, count, group="chat", text=""):
    """As if another node had sent these before this one has noticed the first."""
    for start in range(0, count, 100):
        numbers = range(start, min(start + 100, count))
        messages = [layer.serialize({"number": number, "text": text}) for number in numbers]
        await asyncio.gather(*(log.insert(data, group) for data in messages))


SHORT = {"group_history": {"chat*": {"messages": 3, "seconds": 3600}}}


async def test_engine_trims_by_number(make):
    """It keeps a hundred more than the group is said to; the last one that went is a position."""
    here, there = make(**SHORT), make(**SHORT)
    channel = await contract.member(here)
    ids = []
    for number in range(110):
        await contract.send(there, number)
        ids.append((await received(here, channel))["history_id"])
    kept = [message["number"] for message in (await here.group_history("chat")).messages]
    assert kept == [107, 108, 109]
    for first, is_known in ((5, False), (6, True), (7, True), (109, True)):
        found = await there.group_history("chat", ids[first])
        assert bool(found) == is_known
        assert (
            bool(await there.group_add("chat", await there.new_channel(), ids[first])) == is_known
        )
        if is_known:
            assert [message["number"] for message in found.messages] == [*range(first + 1, 110)]


async def test_member_that_lags_too_far_is_told(make):
    """The first message after those that are gone says so, and only that one."""
    here, there = make(capacity=2, **SHORT), make(**SHORT)
    channel, other = await contract.member(here), await contract.member(here, "chat-2")
    await contract.send(there, *range(200))
    await contract.send(there, 1, group="chat-2")
    assert await contract.numbers(here, other, 1) == [1]
    messages = [await received(here, channel)]
    while messages[-1]["number"] < 199:
        messages.append(await received(here, channel))
    told = [each["number"] for each in messages if not each.get("history_is_complete", True)]
    assert len(told) == 1
    got = [message["number"] for message in messages]
    before = got[: got.index(told[0])]
    assert before == list(range(len(before)))
    assert told[0] > len(before)
    assert got[len(before) :] == list(range(told[0], 200))
    assert here.stats.gaps == 1


@contextmanager
def blind(layer):
    """Its process does not look meanwhile."""
    histories = layer._engine.histories
    histories.look = lambda: None
    yield
    del histories.look
    histories.look()


async def test_member_whose_process_notices_too_late_is_told(make, log):
    """It has read all before, while others sent more than the engine keeps; other groups go on."""
    here, there = make(**SHORT), make(**SHORT)
    groups = ["chat", "chat-2", "chat-3"]
    channels = [await contract.member(here, group) for group in groups]
    for group, channel in zip(groups, channels, strict=True):
        await contract.send(there, 0, group=group)
        assert await contract.numbers(here, channel, 1) == [0]
    await until(lambda: here._engine.histories._looking is None)
    with blind(here):
        await append(log, there, 50, "chat-2")
        await append(log, there, 150, "chat")
    messages = [await received(here, channels[0])]
    while messages[-1]["number"] != 149:
        messages.append(await received(here, channels[0]))
    assert len(messages) < 120
    told = [index for index, each in enumerate(messages) if "history_is_complete" in each]
    assert told == [0]
    await contract.send(there, 1, group="chat-3")
    for channel, count in ((channels[1], 50), (channels[2], 1)):
        messages = [await received(here, channel) for _ in range(count)]
        assert all("history_is_complete" not in each for each in messages)
    assert here.stats.gaps == 1


async def test_late_notice_of_a_flush_loses_nothing(make):
    """Another process has flushed the messages of before; those since then are in the mailbox."""
    layer = make()
    channel = await contract.member(layer)
    await contract.send(layer, 0)
    assert await contract.numbers(layer, channel, 1) == [0]
    # A process where no coroutine waits stops to read soon.
    waiting = asyncio.ensure_future(layer.receive(await layer.new_channel()))
    await contract.send(layer, 1, 2)
    engine = layer._engine

    def have_come():
        """Into the mailbox; or the member was found late, and reads them when it receives."""
        mailbox = engine.mailboxes.get(channel)
        return channel in engine.histories._roll.behind or (mailbox and len(mailbox.messages) == 2)

    await until(have_come)
    engine.forget_messages()
    assert await contract.numbers(layer, channel, 2) == [1, 2]
    waiting.cancel()


async def test_look_finds_everything_that_is_left(make, log):
    """Often, because NATS counts by the order of a map, and not always right."""
    layer, groups = make(**SHORT), ("chat", "chat-2", "chat-3")
    for group in groups * 2:
        await append(log, layer, 1, group)
    row, _ = await log.look(None)
    await append(log, layer, 50, "chat-2")
    await append(log, layer, 103, "chat")
    everything = ["chat-2"] * 50 + ["chat"] * 103
    for _ in range(20):
        assert (await log.look(row))[1] == everything


async def test_engine_trims_by_age(make, engine_name):
    """Of a group that is silent, and of one in which others go on; nobody who has seen is told."""
    config = {"group_history": {"chat*": {"messages": 50, "seconds": 1}}}
    here, there = make(**config), make(**config)
    channel = await contract.member(here)
    await contract.send(there, 1, 2)
    first, last = [(await received(here, channel))["history_id"] for _ in range(2)]
    assert len((await there.group_history("chat")).messages) == 2
    await asyncio.sleep(0.7)  # the engine's clock
    await contract.send(there, 3)
    last = (await received(here, channel))["history_id"]
    await asyncio.sleep(0.5)
    kept = [message["number"] for message in (await there.group_history("chat")).messages]
    assert kept == [3]
    await asyncio.sleep(0.7)
    assert (await there.group_history("chat")).messages == []
    is_longer = engine_name == "nats"  # a day, so that the last message of a group is known
    assert bool(await there.group_history("chat", first)) == is_longer
    assert await there.group_history("chat", last)
    await contract.send(there, 4)
    assert "history_is_complete" not in await received(here, channel)
    assert await numbers_after(there, last) == (True, [4])
    assert bool(await there.group_history("chat", first)) == is_longer


@pytest.mark.parametrize("is_rolled_back", [False, True])
def test_transactions_decide(make_node_sync, engine, is_rolled_back):
    """Sent inside atomic(): appended after the commit, in order with what is sent later."""
    here = make_node_sync("here", engine.url, **contract.HISTORY)
    there = make_node_sync("there", engine.url, **contract.HISTORY)
    channel = async_to_sync(contract.member)(there)
    late = async_to_sync(here.new_channel)()
    with transaction.atomic(using="channels"):
        async_to_sync(here.group_send)("chat", {"number": 1})
        joined = async_to_sync(here.group_add)("chat", late)
        assert async_to_sync(here.group_history)("chat").messages == []
        transaction.set_rollback(is_rolled_back, using="channels")
    async_to_sync(here.group_send)("chat", {"number": 2})
    expected = [2] if is_rolled_back else [1, 2]
    assert async_to_sync(contract.numbers)(there, channel, len(expected)) == expected
    assert joined
    assert GroupMembership.objects.using("channels").count() == 1 - is_rolled_back


async def test_message_without_a_wake_up_comes_by_the_clock(make, log):
    """The sender was killed before it published, or the engine has dropped that."""
    here = make(polling_interval=0.05)
    channel = await contract.member(here)
    receiving = asyncio.create_task(received(here, channel))
    await asyncio.sleep(0)
    await log.insert(here.serialize({"number": 1}))
    assert (await receiving)["number"] == 1


@pytest.mark.parametrize(("count", "text"), [(2300, ""), (7, 200_000 * "x")])
async def test_much_is_read_in_pieces(make_layer, log, count, text):
    """In order, and each once: by a process, a member and a reader that are behind."""
    layer = make_layer(group_history={"chat*": {"messages": 5000, "seconds": 3600}})
    first = (await layer.group_history("chat")).position
    channel, other = await contract.member(layer), await contract.member(layer, "chat-2")
    for group, each in (("chat-2", other), ("chat", channel)):
        await contract.send(layer, "first", group=group)
        assert await contract.numbers(layer, each, 1) == ["first"]
    await until(lambda: layer._engine.histories._looking is None)
    with blind(layer):
        await append(log, layer, count, text=text)
        await append(log, layer, 20, "chat-2")
    found = await layer.group_history("chat", first)
    got = [message["number"] for message in found.messages][1:]
    assert sorted(got) == list(range(count))
    last = [message["number"] for message in (await layer.group_history("chat", limit=3)).messages]
    assert last == got[-3:]
    every = [message["number"] for message in (await layer.group_history("chat")).messages]
    assert every == ["first", *got]
    late = await layer.new_channel()
    assert await layer.group_add("chat", late, after=first)
    assert await contract.numbers(layer, channel, count) == got
    assert await contract.numbers(layer, late, count + 1) == ["first", *got]
    assert sorted(await contract.numbers(layer, other, 20)) == list(range(20))
    assert layer.stats.gaps == 0


async def test_group_of_any_name_has_a_history(make):
    """Also one with dots, and one whose name begins as another's."""
    here, there = make(), make()
    groups = ["chat", "chat.1", "chat..2", "chat-1_2"]
    channels = [await contract.member(here, group) for group in groups]
    for group in groups:
        await there.group_send(group, {"number": group})
    for group, channel in zip(groups, channels, strict=True):
        assert await contract.numbers(here, channel, 1) == [group]
        assert await is_empty(here, channel)
        assert len((await there.group_history(group)).messages) == 1


def test_position_is_of_one_group_in_one_log():
    """Even if ids of another log are among its own."""
    stamps = {_stamp_of(Head(epoch, 7), group) for epoch in (1, 2) for group in ("chat", "chat-2")}
    assert len(stamps) == 4
    assert all(parse(str(Position(7, stamp))).stamp == stamp for stamp in stamps)


@pytest.mark.parametrize("both", ["notify-nats"], indirect=True)
async def test_empty_message_of_who_joins_an_empty_group_is_no_message(make):
    """Neither for members nor for readers; it only has a place."""
    here, there = make(), make()
    channel = await contract.member(here)
    await contract.send(here, 1)
    assert await contract.numbers(here, channel, 1) == [1]
    relay = here._engine.relay
    stream = f"{here.config.relay_options['prefix']}_histories"
    await relay.call(relay.connection.link._requests.api, f"STREAM.PURGE.{stream}")
    joined = await there.group_add("chat", await there.new_channel())
    assert (await there.group_history("chat", limit=1)).messages == []
    await contract.send(there, 2)
    assert await contract.numbers(here, channel, 1) == [2]
    found = await there.group_history("chat", joined.position, limit=1)
    assert [message["number"] for message in found.messages] == [2]
    assert here.stats.undecodable == there.stats.undecodable == 0

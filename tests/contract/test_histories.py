"""Groups with a history: nothing is missed, nothing comes twice, and whoever misses is told."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction

from channels_lite import clock
from channels_lite.delivery import histories
from channels_lite.errors import InvalidMessage, InvalidPosition
from channels_lite.models import GroupMembership, GroupMessage
from channels_lite.store import trimming
from tests.conftest import is_empty, received, until

HISTORY = {"group_history": {"chat*": {"messages": 100, "seconds": 3600}}}


@pytest.fixture
def make(make_layer):
    """Makes layers whose groups chat* have a history."""
    return lambda **config: make_layer(**HISTORY | config)


@pytest.fixture
def layer(make):
    return make()


@pytest.fixture
def sql(database):
    """Runs a statement on a connection of its own."""

    def run(statement, *parameters):
        with closing(sqlite3.connect(database, isolation_level=None, timeout=20)) as connection:
            return connection.execute(statement, parameters).fetchall()

    return run


@pytest.fixture
def log(sql):
    """What is in the history of the group chat, past any layer."""
    return Table(sql)


class Table:
    def __init__(self, sql):
        self._sql = sql

    async def insert(self, data):
        self._sql(INSERT, "chat", data)

    async def data(self):
        return [data for (data,) in self._sql("SELECT data FROM channels_lite_groupmessage")]


INSERT = (
    "INSERT INTO channels_lite_groupmessage (group_name, created_at, data)"
    " VALUES (?, unixepoch(), ?)"
)
ROWS = "SELECT count(*) FROM channels_lite_groupmessage"


async def member(layer, group="chat", after=None, prefix="specific"):
    """A new channel in the group."""
    channel = await layer.new_channel(prefix)
    await layer.group_add(group, channel, after=after)
    return channel


async def send(layer, *numbers, group="chat"):
    for number in numbers:
        await layer.group_send(group, {"number": number})


def purge(sql):
    """Deletes what the group has, as the admin does."""
    trimming.purge(lambda statement, values: sql(statement, *values), b"chat", clock.now())


async def taken(layer, channel, count):
    return [await received(layer, channel) for _ in range(count)]


async def numbers(layer, channel, count):
    return [message["number"] for message in await taken(layer, channel, count)]


async def test_members_of_all_processes_get_one_order(make):
    """Whoever sends, the history_id grows, and is the same for all members."""
    here, there = make(), make()
    channels = [(here, await member(here)), (there, await member(there))]
    await asyncio.gather(*(send(layer, *range(20)) for layer in (here, there)))
    got = [await taken(layer, channel, 40) for layer, channel in channels]
    assert got[0] == got[1]
    ids = [int(message["history_id"].partition("-")[0]) for message in got[0]]
    assert ids == sorted(set(ids))
    assert {message["history_group"] for message in got[0]} == {"chat"}


async def test_one_message_is_one_row(make, log):
    """However many members and processes there are."""
    here, there = make(), make()
    for layer in (here, here, there):
        await member(layer)
    await send(here, 1)
    assert len(await log.data()) == 1


async def test_join_after_gets_past_then_live(make):
    """First what came after the position, then what is sent: each once, in order."""
    here, there = make(), make()
    first = await member(here)
    await send(there, *range(30))
    seen = [await received(here, first) for _ in range(10)]
    second = await there.new_channel()
    sending = asyncio.create_task(send(here, *range(30, 60)))
    joined = await there.group_add("chat", second, after=seen[-1]["history_id"])
    assert joined
    assert joined.position == seen[-1]["history_id"]
    assert await numbers(there, second, 50) == list(range(10, 60))
    await sending
    assert await is_empty(there, second)


async def test_join_without_after_gets_what_is_sent_then(layer):
    """And its position is where a client that has got nothing yet goes on."""
    await send(layer, 1)
    channel = await layer.new_channel()
    joined = await layer.group_add("chat", channel)
    await send(layer, 2)
    assert await numbers(layer, channel, 1) == [2]
    again = await member(layer, after=joined.position)
    assert await numbers(layer, again, 1) == [2]


async def test_position_of_an_empty_history_is_a_position(layer):
    """Nothing was ever sent: a client that comes back gets everything since."""
    joined = await layer.group_add("chat", await layer.new_channel())
    await send(layer, 1, 2)
    channel = await layer.new_channel()
    assert await layer.group_add("chat", channel, after=joined.position)
    assert await numbers(layer, channel, 2) == [1, 2]


async def test_joining_again_moves_nothing(layer):
    """A membership that is renewed, as for its expiry, gets no message again."""
    channel = await member(layer)
    await send(layer, 1)
    await layer.group_add("chat", channel)
    await send(layer, 2)
    assert await numbers(layer, channel, 2) == [1, 2]
    await layer.group_add("chat", channel)
    assert await is_empty(layer, channel)


async def test_joining_again_after_a_position_begins_there(layer):
    """A client that asks again over the same connection."""
    channel = await member(layer)
    await send(layer, *range(5))
    first, _ = [await received(layer, channel) for _ in range(2)]
    assert await layer.group_add("chat", channel, after=first["history_id"])
    await send(layer, 5)
    assert await numbers(layer, channel, 5) == [1, 2, 3, 4, 5]
    assert await is_empty(layer, channel)


async def test_who_has_left_gets_nothing(make):
    """From group_discard on, here and in another process, also of what is sent right then."""
    here, there = make(), make()
    channel, stays = await member(here), await member(here)
    await send(there, 1)
    assert await numbers(here, channel, 1) == [1]
    await there.group_discard("chat", channel)
    await send(there, 2)
    assert await numbers(here, stays, 2) == [1, 2]
    assert await is_empty(here, channel)
    await here.group_add("chat", channel)
    await send(there, 3)
    assert await numbers(here, channel, 1) == [3]


async def test_channel_of_another_process_can_be_added(make):
    """It gets the past, and what is sent."""
    here, there = make(), make()
    joined = await here.group_add("chat", await here.new_channel())
    await send(here, 1, 2)
    channel = await there.new_channel()
    receiving = asyncio.create_task(numbers(there, channel, 3))
    await asyncio.sleep(0)
    assert await here.group_add("chat", channel, after=joined.position)
    await send(here, 3)
    assert await receiving == [1, 2, 3]


async def test_full_member_gets_it_later(make):
    """A member that does not read keeps a position, and misses nothing; others are not delayed."""
    here, there = make(capacity=3), make(capacity=3)
    slow, other = await member(here), await member(here)
    for number in range(20):
        receiving = asyncio.create_task(received(here, other))
        await send(there, number)
        assert (await receiving)["number"] == number
    assert await numbers(here, slow, 20) == list(range(20))
    await send(there, 20)
    assert await numbers(here, slow, 1) == [20]


async def test_member_that_lags_too_far_is_told(make):
    """The first message after those that are gone says so, and only that one."""
    config = {"group_history": {"chat": {"messages": 3, "seconds": 3600}}, "auto_trim": False}
    layer = make(capacity=2, **config)
    channel = await member(layer)
    await send(layer, *range(10))
    assert await numbers(layer, channel, 1) == [0]
    await layer.clean_expired()
    messages = [await received(layer, channel)]
    while messages[-1]["number"] < 9:
        messages.append(await received(layer, channel))
    got = [message["number"] for message in messages]
    assert got == [*range(1, len(got) - 2), 7, 8, 9]
    told = [each["number"] for each in messages if not each.get("history_is_complete", True)]
    assert told == [7]
    assert layer.stats.gaps == 1


async def test_member_whose_process_notices_too_late_is_told(make):
    """It stands still, while another one sends more than the group keeps, and trims."""
    config = {"group_history": {"chat*": {"messages": 3, "seconds": 3600}}, "auto_trim": False}
    here, there = make(**config), make(**config)
    channel, other = await member(here), await member(here, "chat-2")
    await send(here, 0)
    assert await numbers(here, channel, 1) == [0]
    await until(lambda: here._engine.histories._looking is None)

    @async_to_sync
    async def send_and_trim():
        await send(there, *range(1, 9))
        await send(there, 9, group="chat-2")
        await there.clean_expired()
        await there.close()

    with ThreadPoolExecutor() as threads:
        threads.submit(send_and_trim).result()
    messages = [await received(here, channel) for _ in range(3)]
    told = [(each["number"], each.get("history_is_complete", True)) for each in messages]
    assert told == [(6, False), (7, True), (8, True)]
    assert "history_is_complete" not in await received(here, other)
    assert here.stats.gaps == 1


async def test_member_is_told_although_nothing_is_left(make, sql):
    """Rows of other groups are read between what is gone and the next message."""
    layer = make()
    channel, other = await member(layer), await member(layer, "chat-2")
    await send(layer, 0)
    assert await numbers(layer, channel, 1) == [0]
    await until(lambda: layer._engine.histories._looking is None)
    sql(INSERT, "chat", layer.serialize({"number": 1}))
    purge(sql)
    await send(layer, 2, group="chat-2")
    assert await numbers(layer, other, 1) == [2]
    await send(layer, 3)
    message = await received(layer, channel)
    assert (message["number"], message.get("history_is_complete")) == (3, False)


async def test_what_cannot_be_decrypted_is_no_gap(make, sql):
    """Not even after it is deleted: no member has missed it."""
    layer = make(symmetric_encryption_keys=["a key"])
    channel = await member(layer)
    await send(layer, 0)
    assert await numbers(layer, channel, 1) == [0]
    sql(INSERT, "chat", b"\xc1 garbage")
    layer._engine.histories.look()
    await until(lambda: layer.stats.undecodable)
    purge(sql)
    await send(layer, 1)
    assert "history_is_complete" not in await received(layer, channel)


@pytest.mark.parametrize(
    "limit", [{"messages": 3, "seconds": 3600}, {"messages": 99, "seconds": 9}]
)
async def test_history_is_trimmed(make, limit, sql):
    """By number and by age; what was the last to go is still a position."""
    layer = make(group_history={"chat": limit}, auto_trim=False)
    channel = await member(layer)
    await send(layer, *range(5))
    got = [await received(layer, channel) for _ in range(5)]
    sql("UPDATE channels_lite_groupmessage SET created_at = created_at - 60 WHERE id <= 2")
    assert await layer.clean_expired() == 2
    kept = await layer.group_history("chat")
    assert [message["number"] for message in kept.messages] == [2, 3, 4]
    [(row, stamp)] = sql("SELECT trimmed_id, stamp FROM channels_lite_grouphistory")
    first, last = got[0]["history_id"], got[-1]["history_id"]
    for after, is_known, expected in (
        (first, False, []),
        (f"{row}-{stamp}", True, [2, 3, 4]),
        (last, True, []),
    ):
        again = await layer.new_channel()
        assert bool(await layer.group_add("chat", again, after=after)) == is_known
        assert await numbers(layer, again, len(expected)) == expected
        assert await is_empty(layer, again)


async def test_channel_that_waits_joins_several_groups(make):
    """Each after its position: looks that come with the one take nothing from the others."""
    layer, positions = make(), {}
    for group in ("chat-1", "chat-2", "chat-3"):
        positions[group] = (await layer.group_history(group)).position
        await layer.group_send(group, {"group": group, "number": 1})
    channel = await layer.new_channel()
    receiving = [asyncio.create_task(received(layer, channel)) for _ in range(6)]
    for group, position in positions.items():
        assert await layer.group_add(group, channel, after=position)
    for group in positions:
        await layer.group_send(group, {"group": group, "number": 2})
    got = [(each["group"], each["number"]) for each in await asyncio.gather(*receiving)]
    assert sorted(got) == [(group, number) for group in positions for number in (1, 2)]


async def test_history_is_read_without_joining(make):
    """From a position on, or its end; with a limit, in pages."""
    layer = make()
    await send(layer, *range(10))
    everything = await layer.group_history("chat")
    assert [message["number"] for message in everything.messages] == list(range(10))
    assert everything
    last = await layer.group_history("chat", limit=3)
    assert last.messages == everything.messages[-3:]
    assert {message["history_group"] for message in last.messages} == {"chat"}
    assert last.position == everything.position == everything.messages[-1]["history_id"]
    position, pages = everything.messages[1]["history_id"], []
    while (page := await layer.group_history("chat", after=position, limit=3)).messages:
        position = page.position
        pages.append([message["number"] for message in page.messages])
    assert pages == [[2, 3, 4], [5, 6, 7], [8, 9]]
    nothing = await layer.group_history("chat_of_nobody")
    await send(layer, 11, group="chat_of_nobody")
    assert len((await layer.group_history("chat_of_nobody", nothing.position)).messages) == 1


@pytest.mark.parametrize(
    "after",
    [
        "",
        "x",
        "-1",
        "1",
        "1-",
        "-1-1",
        "1-1-1",
        "\u0661-\u0661",
        7,
        b"1-1",
        "9" * 19 + "-1",
        "1-1\n",
    ],
)
async def test_what_is_no_position_is_refused(layer, after):
    """With a ValueError that says so, and nobody joins."""
    channel = await layer.new_channel()
    with pytest.raises(InvalidPosition):
        await layer.group_add("chat", channel, after=after)
    with pytest.raises(InvalidPosition):
        await layer.group_history("chat", after=after)
    assert await layer.group_channels("chat") == []


async def test_position_that_is_not_known_is_not_complete(layer):
    """Of another group, of the future, from before a flush: the channel gets what is sent then."""
    channel = await member(layer)
    await send(layer, 1, 2)
    first, second = [await received(layer, channel) for _ in range(2)]
    await send(layer, 1, group="chat_other")
    other = (await layer.group_history("chat_other")).position
    row, stamp = second["history_id"].split("-")
    for after in (other, f"{int(row) + 10**9}-{stamp}", f"{row}-{int(stamp) + 1}"):
        again = await layer.new_channel()
        joined = await layer.group_add("chat", again, after=after)
        assert not joined
        assert joined.position == (await layer.group_history("chat")).position
        found = await layer.group_history("chat", after=after)
        assert not found
        assert [message["number"] for message in found.messages][:2] == [1, 2]
        await send(layer, "new", group="chat")
        assert await numbers(layer, again, 1) == ["new"]
    await layer.flush()
    again = await layer.new_channel()
    assert not await layer.group_add("chat", again, after=first["history_id"])
    await send(layer, 3)
    assert await numbers(layer, again, 1) == [3]


async def test_group_without_a_history_has_no_positions(layer):
    """group_add returns None there, and what needs a history says which setting gives one."""
    channel = await layer.new_channel()
    assert await layer.group_add("other", channel) is None
    await layer.group_send("other", {"history_id": "any"})
    assert await received(layer, channel) == {"history_id": "any"}
    for call in (layer.group_add("other", channel, "1-1"), layer.group_history("other")):
        with pytest.raises(ImproperlyConfigured, match="group_history"):
            await call


@pytest.mark.parametrize("key", ["history_id", "history_group", "history_is_complete"])
async def test_keys_of_the_layer_are_refused(layer, key, log):
    """A message that was received must not be sent on as it is."""
    with pytest.raises(InvalidMessage, match=key):
        await layer.group_send("chat", {key: "x"})
    assert await log.data() == []


async def test_plain_channels_in_the_group_get_a_copy(make):
    """A row, as of any group; they have no position."""
    here, there = make(), make()
    await here.group_add("chat", "plain")
    channel = await member(here)
    await send(here, 1)
    assert await numbers(here, channel, 1) == [1]
    assert await received(there, "plain") == {"number": 1}
    with pytest.raises(ValueError, match="plain"):
        await here.group_add("chat", "plain", after="1-1")


async def test_first_pattern_applies(make_layer):
    """Of a group name that matches two."""
    layer = make_layer(
        group_history={
            "a*": {"messages": 1, "seconds": 60},
            "*": {"messages": 2, "seconds": 60},
        }
    )
    for group, kept in (("ab", 1), ("b", 2)):
        await send(layer, *range(5), group=group)
        await layer.clean_expired()
        assert len((await layer.group_history(group)).messages) == kept


@pytest.mark.parametrize("is_rolled_back", [False, True])
def test_transactions_decide(make_layer_sync, is_rolled_back):
    """Sent inside atomic(): in the history at commit, or never; so are memberships."""
    layer = make_layer_sync(**HISTORY)

    async def start():
        return await member(layer), await layer.new_channel()

    channel, late = async_to_sync(start)()
    with transaction.atomic(using="channels"):
        async_to_sync(layer.group_send)("chat", {"number": 1})
        joined = async_to_sync(layer.group_add)("chat", late)
        assert len(async_to_sync(layer.group_history)("chat").messages) == 1
        transaction.set_rollback(is_rolled_back, using="channels")
    async_to_sync(layer.group_send)("chat", {"number": 2})
    expected = [2] if is_rolled_back else [1, 2]
    assert async_to_sync(numbers)(layer, channel, len(expected)) == expected
    assert joined
    assert GroupMembership.objects.count() == 2 - is_rolled_back


async def test_rows_of_other_code_arrive(make):
    """Those of the ORM and of raw SQL, as from the layer."""
    layer = make(polling_interval=0.05)
    channel = await member(layer)

    def write():
        GroupMessage.objects.create(group_name="chat", data=layer.serialize({"number": 1}))
        with connections["channels"].cursor() as cursor:
            cursor.execute(
                "INSERT INTO channels_lite_groupmessage (group_name, created_at, data)"
                " VALUES ('chat', unixepoch(), %s)",
                [layer.serialize({"number": 2})],
            )
        connections["channels"].close()  # this thread's

    await asyncio.to_thread(write)
    messages = [await received(layer, channel) for _ in range(2)]
    assert [message["number"] for message in messages] == [1, 2]
    assert await layer.group_add("chat", channel, after=messages[1]["history_id"])


async def test_poisoned_row_stops_nobody(layer, caplog, log):
    """It is dropped with one line, whatever the number of members; the next is delivered."""
    channels = [await member(layer) for _ in range(3)]
    await log.insert(b"\xc1 garbage")
    await send(layer, 1)
    for channel in channels:
        message = await received(layer, channel)
        assert message["number"] == 1
    assert len([each for each in caplog.records if "dropped" in each.message]) == 1
    assert await layer.group_add("chat", channels[0], after=message["history_id"])
    assert await is_empty(layer, channels[0])


async def test_flush_leaves_no_history(make, log):
    """No message, no position, and a new one begins."""
    here, there = make(), make()
    channel = await member(here)
    await send(there, 1)
    before = (await here.group_history("chat")).position
    await here.flush()
    assert await log.data() == []
    assert not await there.group_history("chat", before)
    assert await is_empty(here, channel)
    await here.group_add("chat", channel)
    await send(there, 2)
    assert await numbers(here, channel, 1) == [2]


async def test_histories_are_encrypted(make, log):
    """With the keys of the layer."""
    layer = make(symmetric_encryption_keys=["a key"])
    channel = await member(layer)
    await layer.group_send("chat", {"number": "a secret"})
    [data] = await log.data()
    assert b"secret" not in data
    assert await numbers(layer, channel, 1) == ["a secret"]
    assert (await layer.group_history("chat")).messages[0]["number"] == "a secret"


async def test_closed_layer_misses_nothing(make):
    """What was sent between close() and the next use."""
    here, there = make(), make()
    channel = await member(here)
    await send(there, 1)
    assert await numbers(here, channel, 1) == [1]
    await here.close()
    await send(there, 2)
    assert await numbers(here, channel, 1) == [2]


async def test_big_group_gets_all(make):
    """More members than get a message in one turn of the loop."""
    here, there = make(), make()
    channels = [await here.new_channel() for _ in range(300)]
    await asyncio.gather(*(here.group_add("chat", channel) for channel in channels))
    await send(there, *range(3))
    for got in await asyncio.gather(*(numbers(here, channel, 3) for channel in channels)):
        assert got == [0, 1, 2]


async def test_unread_messages_go_back_to_the_table(make, monkeypatch):
    """A mailbox drops them after `expiry`; who reads then gets them all the same, in order."""
    layer = make()
    moment = clock.ticks()
    channel = await member(layer)
    await layer.send(channel, {"number": "direct"})
    await send(layer, 1, 2)
    other = await member(layer)
    await send(layer, 3)
    assert await numbers(layer, other, 1) == [3]
    monkeypatch.setattr(clock, "ticks", lambda: moment + 61)
    assert await numbers(layer, channel, 3) == [1, 2, 3]
    await send(layer, 4)
    assert await numbers(layer, channel, 1) == [4]


async def test_unread_message_still_says_that_others_are_gone(make, monkeypatch, sql):
    """It has come from the table twice, but its receiver was not told yet."""
    here, there = make(), make()
    moment = clock.ticks()
    channel = await member(here)
    await send(there, 1)
    assert await numbers(here, channel, 1) == [1]
    sql("DELETE FROM channels_lite_groupmessage")
    sql("UPDATE sqlite_sequence SET seq = 0 WHERE name = 'channels_lite_groupmessage'")
    here._engine.histories.look()
    await until(lambda: here._engine.histories._row == 0)
    await until(lambda: here._engine.histories._roll.has_members)
    await send(there, 2)
    here._engine.histories.look()
    await until(lambda: (box := here._engine.mailboxes.get(channel)) and box.messages)
    monkeypatch.setattr(clock, "ticks", lambda: moment + 61)
    message = await received(here, channel)
    assert (message["number"], message["history_is_complete"]) == (2, False)


async def test_flood_is_bounded(make, sql):
    """Whoever sends that much trims by itself, long before the next sweep."""
    layer = make(group_history={"chat": {"messages": 10, "seconds": 3600}})
    for _ in range(30):
        await asyncio.gather(*(send(layer, number) for number in range(100)))
    await until(lambda: sql(ROWS)[0][0] <= 1010)


async def test_restored_file_is_noticed(make, database, monkeypatch):
    """Members get what is sent from then on, and are told; positions of before are not known."""
    here, there = make(), make()
    channel = await member(here)
    await send(there, 1)
    assert await numbers(here, channel, 1) == [1]
    backup = "BEGIN; DELETE FROM {0}; UPDATE sqlite_sequence SET seq = 0 WHERE name = '{0}'; COMMIT"
    await send(there, 2)
    before = (await received(here, channel))["history_id"]
    with monkeypatch.context() as patch:
        patch.setattr(histories, "soon", lambda *_: True)  # the look that finds the members
        with closing(sqlite3.connect(database, timeout=20)) as connection:
            connection.executescript(backup.format("channels_lite_groupmessage"))
        await here.send(channel, {"number": "direct"})  # and the process looks
        assert await numbers(here, channel, 1) == ["direct"]
        here._engine.histories.look()
        await until(lambda: here._engine.histories._row == 0)
        await send(there, 3)
    message = await received(here, channel)
    assert (message["number"], message["history_is_complete"]) == (3, False)
    assert not await here.group_add("chat", channel, after=before)


async def test_groups_without_members_here_leave_no_memory(make):
    """Whoever joins and leaves, or is let go by another process, is forgotten."""
    here, there = make(), make()
    stays = await member(here)
    for number in range(20):
        channel = await member(here, f"chat_{number}")
        await there.group_discard(f"chat_{number}", channel)
    await send(there, 1)
    assert await numbers(here, stays, 1) == [1]
    histories = here._engine.histories
    histories.tidy()
    histories.look()
    await until(lambda: list(histories._roll._groups) == ["chat"])


async def test_missing_table_names_the_mend(layer, sql):
    """Whoever has set the key, and has not migrated, is told what to run."""
    sql("DROP TABLE channels_lite_groupmessage")
    with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
        await send(layer, 1)


async def test_message_sent_as_a_generation_ends_keeps_its_time(make_layer):
    """A look that finds the flush in between has no clock yet; else the message would be as old
    as can be, and deleted next."""
    layer = make_layer(group_history={"room": {"messages": 10, "seconds": 3600}})
    await layer.flush()
    sending = asyncio.ensure_future(layer.group_send("room", {"type": "x"}))
    await asyncio.sleep(0)
    layer._engine.generations.begin(layer._engine.clock.generation)
    await sending
    await layer.clean_expired()
    assert len((await layer.group_history("room")).messages) == 1

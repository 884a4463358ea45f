"""What is around a message: transactions, flush, encryption, expiry, loops, and bad input."""

from __future__ import annotations

import asyncio
import threading

import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import MessageTooLarge
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction

from channels_lite.relay import node, outcome
from channels_lite.relay.wire import Entry, Hello, encode
from tests.conftest import TIMEOUT, received, until
from tests.processes.conftest import wait_until
from tests.relay.conftest import NODES


class Loop:
    """One that runs in a thread of its own, as in a server beside sync views."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT)

    def end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@pytest.fixture
def there_loop():
    """Where the other node's layer lives, while this thread is synchronous."""
    running = Loop()
    yield running
    running.end()


@pytest.mark.parametrize(
    ("engine_name", "kind"),
    [("nats", "notify"), ("redis", "notify"), ("nats", "aio"), ("redis", "core")],
    indirect=["engine_name"],
)
@pytest.mark.parametrize("is_committed", [True, False], ids=["commit", "rollback"])
def test_transactions(make_node_sync, engine, there_loop, is_committed):
    """What is sent inside atomic() leaves the node after the commit, and never after a rollback."""
    here, there = make_node_sync("here", engine.url), make_node_sync("there", engine.url)
    run = there_loop.run
    channel, other = run(there.new_channel()), run(there.new_channel())
    run(there.group_add("room", channel))
    run(there.group_add("room", "jobs"))
    with transaction.atomic(using=NODES["here"]):
        async_to_sync(here.send)(channel, {"number": 1})
        async_to_sync(here.group_send)("room", {"number": 2})
        async_to_sync(here.send)("jobs", {"number": 3})
        async_to_sync(here.group_add)("late", other)
        # From elsewhere, meanwhile: it is delivered before.
        run(there.send(channel, {"number": 0}))
        transaction.set_rollback(not is_committed, using=NODES["here"])
    async_to_sync(here.send)(channel, {"number": 4})
    expected = [0, 1, 2, 4] if is_committed else [0, 4]
    assert [run(received(there, channel))["number"] for _ in expected] == expected
    run(there.send("jobs", {"number": 5}))
    found = {run(received(there, "jobs"))["number"] for _ in range(3 if is_committed else 1)}
    assert found == ({2, 3, 5} if is_committed else {5})
    if is_committed:
        # Told after the commit, when nobody waits for it any more.
        wait_until(lambda: run(there.group_channels("late")) == [other])
    else:
        assert run(there.group_channels("late")) == []


def test_group_joined_inside_a_transaction_hears_other_nodes(make_node_sync, engine, there_loop):
    """After the commit a member hears what other nodes send; after a rollback it is none."""
    here, there = make_node_sync("here", engine.url), make_node_sync("there", engine.url)
    run = there_loop.run
    channels = [async_to_sync(here.new_channel)() for _ in range(2)]
    for channel, is_void in zip(channels, (False, True), strict=True):
        with transaction.atomic(using=NODES["here"]):
            async_to_sync(here.group_add)("room", channel)
            transaction.set_rollback(is_void, using=NODES["here"])
    run(there.group_send("room", {"number": 1}))
    run(there.send(channels[1], {"number": 2}))
    assert async_to_sync(received)(here, channels[0]) == {"number": 1}
    assert async_to_sync(received)(here, channels[1]) == {"number": 2}


async def test_flush_is_for_all_nodes(nodes):
    """flush() leaves no job, membership or message in memory, on any node."""
    here, there = nodes
    channel, live = await there.new_channel(), await there.new_channel()
    for each in (channel, live):
        await there.group_add("room", each)
    await there.group_add("room", "jobs")
    await here.send(channel, {"type": "old"})
    await here.send("jobs", {"type": "old"})
    await here.group_send("room", {"type": "old"})
    assert await received(there, live) == {"type": "old"}
    await here.flush()
    await until(lambda: not there._engine.roster.groups())
    assert await there.group_channels("room") == []
    await there.group_add("other", live)
    await here.group_send("room", {"type": "nobody's"})
    await here.group_send("other", {"type": "new"})
    assert await received(there, live) == {"type": "new"}
    for name in (channel, "jobs"):
        await here.send(name, {"type": "new"})
        assert await received(there, name) == {"type": "new"}


async def test_closed_layer_stays_closed_after_a_flush(nodes, monkeypatch):
    """What reads the table a moment after a flush does not open it again."""
    monkeypatch.setattr("channels_lite.delivery.incoming.AFTER_FLUSH", 0.2)
    here, there = nodes
    await there.new_channel()
    await here.flush()
    relay = there._engine.relay
    await there.close()
    await until(relay.receiver._reading.done)
    assert not relay.is_started


async def test_messages_stay_encrypted(make_node, engine, monkeypatch):
    """The engine sees nothing of a message's text, whichever way it goes."""
    keys = {"symmetric_encryption_keys": ["one"]}
    here, there = [make_node(each, engine.url, **keys) for each in ("here", "there")]
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await here.new_channel()  # it is connected
    link, seen = here._engine.relay.connection.link, []
    publish, put = link.publish, link.put
    monkeypatch.setattr(link, "publish", lambda parcels, groups: (
        seen.extend(each for _, each in parcels), publish(parcels, groups))[1])  # fmt: skip
    monkeypatch.setattr(link, "put", lambda name, data, *rest: (
        seen.append(data), put(name, data, *rest))[1])  # fmt: skip
    secret = {"secret": "plain words"}
    await here.send(channel, secret)
    await here.group_send("room", secret)
    await here.send("jobs", secret)
    assert [await received(there, each) for each in (channel, channel, "jobs")] == [secret] * 3
    assert len(seen) == 3
    assert b"plain words" not in b"".join(seen)


async def test_message_that_cannot_be_decrypted(make_node, engine, caplog):
    """It is dropped with a line in the log, and what follows is delivered."""
    here = make_node("here", engine.url, symmetric_encryption_keys=["other"])
    good = make_node("here", engine.url, symmetric_encryption_keys=["one"])
    there = make_node("there", engine.url, symmetric_encryption_keys=["one"])
    channel = await there.new_channel()
    await here.send(channel, {"type": "x"})
    await here.send("jobs", {"type": "x"})
    await good.send(channel, {"type": "y"})
    await good.send("jobs", {"type": "y"})
    assert await received(there, channel) == {"type": "y"}
    assert await received(there, "jobs") == {"type": "y"}
    assert there.stats.undecodable == 2


async def test_expiry_of_a_message_from_another_node(make_node, engine):
    """The sender's expiry goes on where the message waits."""
    here = make_node("here", engine.url, expiry=0.3)
    there = make_node("there", engine.url)
    channel = await there.new_channel()
    await here.send(channel, {"type": "old"})
    await asyncio.sleep(0.5)
    await here.send(channel, {"type": "new"})
    assert await received(there, channel) == {"type": "new"}


async def test_capacity_is_judged_where_the_channel_is(make_node, engine, caplog):
    """What is over it is missed and counted there; the sender on another node is not told."""
    here = make_node("here", engine.url)
    there = make_node("there", engine.url, capacity=3)
    channel, live = await there.new_channel(), await there.new_channel()
    for number in range(5):
        await here.send(channel, {"number": number})
    await here.send(live, {"type": "marker"})
    await received(there, live)
    assert there.stats.full == 2
    assert [(await received(there, channel))["number"] for _ in range(3)] == [0, 1, 2]
    assert "channel_capacity" in caplog.text


def test_loops_come_and_go(make_node_sync, engine):
    """Threads with loops of their own, one a call, send and receive across nodes."""
    here, there = make_node_sync("here", engine.url), make_node_sync("there", engine.url)
    channel = async_to_sync(there.new_channel)()
    threads = threading.active_count()

    def send(number):
        for each in range(10):
            async_to_sync(here.send)(channel, {"number": 10 * number + each})

    senders = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for sender in senders:
        sender.start()
    found = [asyncio.run(received(there, channel))["number"] for _ in range(80)]
    for sender in senders:
        sender.join()
    assert sorted(found) == list(range(80))
    for number in range(8):
        own = [each for each in found if each // 10 == number]
        assert own == sorted(own)
    assert threading.active_count() <= threads + 1  # the relay's, if it was the first


async def test_receivers_on_several_loops(make_node, engine, there_loop):
    """Messages of another node reach a coroutine on whichever loop it waits."""
    here, there = make_node("here", engine.url), make_node("there", engine.url)
    one, two = await there.new_channel(), await there.new_channel()
    for channel in (one, two):
        await there.group_add("room", channel)
    waiting = asyncio.run_coroutine_threadsafe(received(there, two), there_loop.loop)
    own = asyncio.create_task(received(there, one))
    await here.group_send("room", {"number": 1})
    assert await own == {"number": 1}
    assert await asyncio.wrap_future(waiting) == {"number": 1}


async def test_close_is_no_end(nodes):
    """A layer that was closed is connected to again when it is used again."""
    here, there = nodes
    channel = await there.new_channel()
    for number in range(3):
        await here.send(channel, {"number": number})
        assert await received(there, channel) == {"number": number}
        await here.close()
    waiting = asyncio.create_task(received(there, channel))
    await asyncio.sleep(0)
    await there.close()  # waiting coroutines keep waiting
    await until(lambda: there._engine.relay.connection.is_up)
    await here.send(channel, {"number": 4})
    assert await waiting == {"number": 4}


async def test_message_that_the_engine_refuses(nodes, engine_name):
    """What is over the engine's limit raises MessageTooLarge, and nothing of it was sent."""
    here, there = nodes
    mine, theirs = await here.new_channel(), await there.new_channel()
    for layer, channel in ((here, mine), (there, theirs)):
        await layer.group_add("room", channel)
    large = {"data": bytes(1024 * 1024)}
    if engine_name == "redis":
        await here.send(theirs, large)
        await here.group_send("room", large)
        await here.send("jobs", large)
        assert await received(there, "jobs") == large
        assert [await received(there, theirs) for _ in range(2)] == [large] * 2
        return
    for send, name in ((here.send, theirs), (here.group_send, "room"), (here.send, "jobs")):
        with pytest.raises(MessageTooLarge):
            await send(name, large)
    await here.send(mine, large)  # it stays on the node
    assert await received(here, mine) == large
    for name in (theirs, "jobs"):
        await here.send(name, {"type": "small"})
        assert await received(there, name) == {"type": "small"}


async def test_large_messages_at_once(nodes):
    """Many that are large, sent together: none is too large for being with others."""
    here, there = nodes
    channel = await there.new_channel()
    message = {"data": bytes(300_000)}
    await asyncio.gather(*(here.send(channel, message) for _ in range(10)))
    assert [await received(there, channel) for _ in range(10)] == [message] * 10


async def test_garbage_from_the_engine(nodes, caplog):
    """Whatever others publish is dropped with a line in the log."""
    here, there = nodes
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await here.new_channel()
    relay, token = here._engine.relay, there._engine.token
    garbage = [b"", b"x", b"\x90", b"\x93\x00\xa1a\x90", b"?", b"?x", b"\x91" * 5000, b"\xc1"]
    for payload in garbage:
        for subject in (relay.subjects.process(token), relay.subjects.group("room"),
                        relay.subjects.everybody()):  # fmt: skip
            await relay.call(
                relay.connection.do,
                lambda link: outcome(link.publish([(subject, payload)], ())),  # noqa: B023
            )
    foreign = f"specific.{here._engine.token}!x"
    await relay.publisher.publish(relay.subjects.process(token), Entry(foreign, b"x", 60))
    await here.send(channel, {"type": "x"})
    assert await received(there, channel) == {"type": "x"}
    assert "was dropped" in caplog.text


async def test_projects_share_an_engine(make_node, engine):
    """Another prefix is another project."""
    one = make_node("here", engine.url, relay_options={"prefix": "one"})
    other = make_node("there", engine.url, relay_options={"prefix": "other"})
    channel = await other.new_channel()
    await other.group_add("room", channel)
    await one.group_send("room", {"type": "one's"})
    await one.send("jobs", {"type": "one's"})
    await other.send("jobs", {"type": "other's"})
    assert await received(other, "jobs") == {"type": "other's"}
    await other.group_send("room", {"type": "other's"})
    assert await received(other, channel) == {"type": "other's"}
    assert await received(one, "jobs") == {"type": "one's"}


async def test_nodes_of_the_same_name(make_node, engine, caplog, tmp_path, monkeypatch):
    """A machine that is a copy of another is named, on both, with what to do about it."""
    here = make_node("here", engine.url)
    await here.new_channel()
    name = node.name_of(tmp_path / "here" / "channels.sqlite3")
    monkeypatch.setattr("channels_lite.layers.relayed.name_of", lambda path: name)
    there = make_node("there", engine.url)
    await there.new_channel()
    for layer in (here, there):
        await until(lambda: layer._engine.relay.envelopes.fault)  # noqa: B023
        assert "delete the file that ends in -node" in layer._engine.relay.envelopes.fault
    await until(lambda: caplog.text.count("another node has the same name") == 2)


async def test_processes_of_a_node_are_no_copies(make_node, engine):
    """Neither those that live, nor those that are about to end."""
    one, two = make_node("here", engine.url), make_node("here", engine.url)
    for layer in (one, two):
        await layer.new_channel()
    relay = one._engine.relay

    async def is_a_copy():
        hello = encode(Hello(relay.node, two._engine.token))
        relay.envelopes.came(relay.subjects.node(relay.node), hello, "")
        await asyncio.sleep(0)  # then it has begun
        await asyncio.wait(relay._tasks - {relay._running}, timeout=TIMEOUT)
        return relay.envelopes.fault

    assert await relay.call(is_a_copy) == ""
    two._engine.presence.close()  # its name is gone, and its connection not yet
    assert await relay.call(is_a_copy) == ""


def test_copied_name_is_not_believed(tmp_path):
    """A file that was copied with its database names another node than the one it is a copy of."""
    database = tmp_path / "db.sqlite3"
    name = node.name_of(database)
    assert node.name_of(database) == name
    copy = tmp_path / "copy.sqlite3"
    node.node_file(copy).write_bytes(node.node_file(database).read_bytes())
    other = node.name_of(copy)
    assert other != name
    assert node.name_of(copy) == other


def test_processes_agree_about_their_name(tmp_path):
    """Though they make it at the same moment."""
    database = tmp_path / "db.sqlite3"
    node.node_file(database).write_text("stale 0\n")
    names, begin = [], threading.Barrier(8)

    def ask():
        begin.wait()
        names.append(node.name_of(database))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1


def test_check_makes_no_file(databases, engine, tmp_path):
    """To make a layer, as `check` does, leaves nothing beside the database."""
    from channels_lite.layers.notify import NotifyChannelLayer

    NotifyChannelLayer(database="channels", relay=engine.url)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["channels.sqlite3"]


BAD = [
    ({"relay": "amqp://host"}, "nats://"),
    ({"relay": "localhost:4222"}, "must be a URL"),
    ({"relay": "nats://"}, "nats://host:port"),
    ({"relay": "nats://host", "relay_options": {"prefix": "a.b"}}, "prefix"),
    ({"relay": "nats://host", "relay_options": {"replicas": 0}}, "replicas"),
    ({"relay": "nats://host", "relay_options": {"pasword": "x"}}, "pasword"),
    ({"relay": "redis://host", "relay_options": {"pasword": "x"}}, "pasword"),
    ({"relay": "redis://host:x/0"}, "redis-py"),
    ({"relay": "redis://h", "relay_options": {"sentinels": [("h", 1)]}}, "service"),
    ({"relay": 5}, "a string"),
    ({"relay": "nats://host", "relay_options": []}, "a dict"),
]


@pytest.mark.parametrize(("config", "said"), BAD)
def test_bad_settings(databases, config, said):
    """What can be known to be wrong is an error at construction, which says how to fix it."""
    pytest.importorskip("nats")
    pytest.importorskip("redis")
    from channels_lite.layers.notify import NotifyChannelLayer

    with pytest.raises(ImproperlyConfigured, match=said):
        NotifyChannelLayer(database="channels", **config)


@pytest.mark.parametrize(
    ("url", "module", "extra"), [("nats://h", "nats", "nats"), ("redis://h", "redis", "redis")]
)
def test_missing_package(databases, monkeypatch, url, module, extra):
    """The extra that brings it is named."""
    import sys

    from channels_lite.layers.notify import NotifyChannelLayer

    ours = f"channels_lite.relay.{module}"
    for name in [each for each in sys.modules if f"{each}.".startswith(f"{ours}.")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [each for each in sys.modules if each.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImproperlyConfigured, match=rf"channels-lite\[{extra}\]"):
        NotifyChannelLayer(database="channels", relay=url)


async def test_messages_expire_where_no_coroutine_has_received(make_node, engine):
    """Messages from another node do not stay in memory until a coroutine receives."""
    here, there = [
        make_node(node, engine.url, expiry=0.2, polling_interval=0.05) for node in ("here", "there")
    ]
    channel = await there.new_channel()
    await here.send(channel, {"type": "x"})
    mailboxes = there._engine.mailboxes
    await until(lambda: not mailboxes.is_empty)
    await until(lambda: mailboxes.is_empty)


def test_dropped_layers_leave_nothing(databases, engine):
    """Layers that were used across nodes, and were not closed, leave no file and no task."""
    import gc
    from pathlib import Path

    from channels_lite import process
    from channels_lite.layers.notify import NotifyChannelLayer
    from channels_lite.relay.thread import relay_loop

    async def use(layer):
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        await layer.group_send("room", {"type": "x"})
        assert await received(layer, channel) == {"type": "x"}
        await layer.send("jobs", {"type": "x"})
        assert await received(layer, "jobs") == {"type": "x"}

    def turn():
        asyncio.run(use(NotifyChannelLayer(database="channels", relay=engine.url)))
        gc.collect()
        process.enter()

    def held():
        return len(list(Path("/proc/self/fd").iterdir())), len(asyncio.all_tasks(relay_loop()))

    turn()
    wait_until(lambda: held()[1] == 0)
    before = held()
    for _ in range(5):
        turn()
    wait_until(lambda: held() <= before)

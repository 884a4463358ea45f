"""Messages that are handed over without a row, between two layers that listen."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import sys
import threading
from contextlib import closing, suppress

import msgspec
import pytest
from asgiref.sync import async_to_sync
from channels.exceptions import ChannelFull
from django.db import connections, transaction

from channels_lite.clock import Clock
from channels_lite.delivery.frames import MAX_NAMES, FrameSender
from channels_lite.names import FRAMES
from channels_lite.wake import datagrams
from channels_lite.wake.datagrams import LARGEST, MAX_DATAGRAM, Frame, FrameReceiver
from tests.conftest import TIMEOUT, received, until


@pytest.fixture(params=["notify"])
def kind(request):
    """Only this layer listens."""
    return request.param


async def listening(layer):
    """A channel of ``layer`` on which it has waited and received."""
    channel = await layer.new_channel()
    receiving = asyncio.ensure_future(received(layer, channel))
    await until(lambda: layer._engine.mailboxes.is_served(channel))
    await layer.send(channel, {"type": "first"})
    await receiving
    return channel


def sockets(database):
    """Names of sockets beside the database that senders can find."""
    sidecar = database.with_name(f"{database.name}-wake")
    return [name for name in sidecar.glob(f"*{FRAMES}") if not name.name.startswith(".")]


def rows(database):
    """How many rows there are."""
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM channels_lite_event").fetchone()[0]


def forget(receiver):
    """As the sweeper forgets a channel on which no coroutine receives."""
    engine = receiver._engine
    engine.mailboxes.sweep(engine.clock.now(), 100)
    engine.cursors.keep(engine.mailboxes.names)


async def test_small_message_needs_no_row(make_layer, monkeypatch):
    """A message to a process that listens is there without a row; one too large has one."""
    monkeypatch.setattr(datagrams, "LARGEST", 1_000_000)
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    committed = []
    outbox = sender._engine.outgoing._outbox()
    put = outbox._put
    monkeypatch.setattr(outbox, "_put", lambda batch: (committed.append(batch), put(batch)))
    for size, expected in ((10, 0), (MAX_DATAGRAM, int(LARGEST == MAX_DATAGRAM)), (1_000_000, 1)):
        message = {"type": "x", "data": b"x" * size}
        await sender.send(channel, message)
        assert await received(receiver, channel) == message
        assert len(committed) == expected
        committed.clear()


@pytest.mark.parametrize("largest", [MAX_DATAGRAM, LARGEST], ids=["by rows", "in files"])
@pytest.mark.parametrize("pause", [0, 1, 7], ids=["at once", "every", "each 7th"])
async def test_large_and_small_messages_keep_their_order(make_layer, monkeypatch, pause, largest):
    """They arrive as they were sent."""
    monkeypatch.setattr(datagrams, "LARGEST", largest)
    sender, receiver = make_layer(capacity=1000), make_layer(capacity=1000)
    channel = await listening(receiver)
    for number in range(200):
        size = MAX_DATAGRAM if number % 5 in (1, 2) else 10
        await sender.send(channel, {"n": number, "data": b"x" * size})
        if pause and number % pause == 0:
            await asyncio.sleep(0)
    assert [(await received(receiver, channel))["n"] for _ in range(200)] == list(range(200))


@pytest.mark.usefixtures("large_as_rows")
async def test_order_is_kept_on_a_channel_whose_consumer_was_busy(make_layer):
    """For so long that the channel was forgotten: no coroutine receives, and nothing waits."""
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    forget(receiver)
    await sender.send(channel, {"n": 0, "data": b"x" * MAX_DATAGRAM})
    await sender.send(channel, {"n": 1})
    await until(lambda: receiver._engine.mailboxes.get(channel))
    assert [(await received(receiver, channel))["n"] for _ in range(2)] == [0, 1]


@pytest.mark.usefixtures("large_as_rows")
async def test_row_beside_a_frame_of_another_sender_does_not_wait(make_layer):
    """On such a channel, where the frame is received at once."""
    sender, other, receiver = make_layer(), make_layer(), make_layer()
    channel = await listening(receiver)
    forget(receiver)
    await sender.send(channel, {"n": 0, "data": b"x" * MAX_DATAGRAM})
    await other.send(channel, {"n": 1})
    await until(lambda: receiver._engine.mailboxes.get(channel))
    assert sorted([(await received(receiver, channel))["n"] for _ in range(2)]) == [0, 1]


@pytest.mark.parametrize("is_same_layer", [True, False], ids=["own layer", "other layer"])
def test_order_is_kept_after_a_transaction(make_layer_sync, is_same_layer):
    """What a transaction has sent comes before what is sent after it."""
    receiver = make_layer_sync()
    sender = receiver if is_same_layer else make_layer_sync()

    async def many(channel, start):
        for number in range(start, start + 5):
            await sender.send(channel, {"n": number})

    async def main():
        channel = await listening(receiver)

        def view():
            for start in range(0, 50, 10):
                with transaction.atomic(using="channels"):
                    async_to_sync(many)(channel, start)
                async_to_sync(many)(channel, start + 5)
            connections["channels"].close()  # this thread's

        viewing = asyncio.create_task(asyncio.to_thread(view))
        numbers = [(await received(receiver, channel))["n"] for _ in range(50)]
        await viewing
        return numbers

    assert asyncio.run(main()) == list(range(50))


def stop(layer):
    """As if the process of ``layer`` were stopped."""
    for fd in (layer._engine.presence.fifo.fd, layer._engine.waiter._frames.fd):
        asyncio.get_running_loop().remove_reader(fd)


async def test_process_that_reads_nothing_fills_up(make_layer):
    """While nothing is read, senders get ChannelFull; what they could send arrives in order."""
    sender, receiver = make_layer(capacity=3), make_layer(capacity=3)
    channel = await listening(receiver)
    stop(receiver)
    sent = 0
    with suppress(ChannelFull):
        while sent < 100:
            await sender.send(channel, {"n": sent})
            sent += 1
    assert 3 <= sent <= 6  # a capacity's worth each way
    receiver._engine.reader.look()
    assert [(await received(receiver, channel))["n"] for _ in range(sent)] == list(range(sent))


async def test_full_channel_costs_its_neighbours_nothing(make_layer, database, monkeypatch):
    """Beside a channel that nobody reads, messages to others are handed over without a row."""
    sender, receiver = make_layer(capacity=5), make_layer(capacity=5)
    stuck = await receiver.new_channel()
    other = await listening(receiver)
    for _ in range(50):
        with suppress(ChannelFull):
            await sender.send(stuck, {"type": "x"})
    await until(lambda: receiver._engine.mailboxes.full == {stuck})
    committed = []
    monkeypatch.setattr(sender._engine.outgoing._outbox(), "_put", committed.append)
    for number in range(20):
        await sender.send(other, {"n": number})
        assert await received(receiver, other) == {"n": number}
    assert committed == []


async def test_garbage_is_dropped(make_layer, database, caplog):
    """What is no frame, or for nobody here, is dropped; what comes next is delivered."""
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    [path] = sockets(database)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as thief:
        for datagram in (b"", b"y\n" * 100, b"\x91\xc0", b"\x91\x96\xa1!\xa0\xc4\x00\x00\x00\x00"):
            folder = os.open(path.parent, os.O_RDONLY)
            thief.sendto(datagram, f"/proc/self/fd/{folder}/{path.name}")
            os.close(folder)
            await asyncio.sleep(0)
    await sender.send(channel, {"type": "x"})
    assert await received(receiver, channel) == {"type": "x"}
    assert "not frames were dropped" in caplog.text


async def test_frame_for_another_process_is_dropped(make_layer, database):
    """A frame is taken only for this process's own channels: plain ones go through the table."""
    receiver = make_layer()
    await listening(receiver)
    waiting = asyncio.create_task(received(receiver, "jobs"))
    await asyncio.sleep(0)
    [path] = sockets(database)
    now = receiver._engine.clock.now()
    data = receiver.serialize({"type": "stranger's"})
    frame = Frame("jobs", "", data, now, now + 60, 0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        folder = os.open(path.parent, os.O_RDONLY)
        stranger.sendto(msgspec.msgpack.encode([frame]), f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    await make_layer().send("jobs", {"type": "ours"})
    assert await waiting == {"type": "ours"}


@pytest.mark.parametrize("what", ["file", "symlink", "dead socket"])
async def test_what_is_no_socket_of_a_process_is_not_written(make_layer, database, what):
    """A planted name is left alone, and that of a dead process removed; the row is there."""
    sender, receiver = make_layer(), make_layer()
    channel = await receiver.new_channel()
    sidecar = database.with_name(f"{database.name}-wake")
    sidecar.mkdir(mode=0o700)
    path = sidecar / f"{receiver.client_prefix}{FRAMES}"
    if what == "file":
        path.write_bytes(b"mine")
    elif what == "symlink":
        path.symlink_to("/dev/null")
    else:
        folder = os.open(sidecar, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)
    await sender.send(channel, {"type": "x"})
    assert rows(database) == 1
    assert path.is_symlink() if what == "symlink" else path.exists() == (what == "file")
    if what == "file":
        assert path.read_bytes() == b"mine"
    path.unlink(missing_ok=True)
    assert await received(receiver, channel) == {"type": "x"}


async def test_nothing_is_lost_when_the_receiver_closes(make_layer, database):
    """What was handed over before close() is received after it, and so is what came later."""
    sender, receiver = make_layer(), make_layer()
    channel = await listening(receiver)
    for number in range(3):
        await sender.send(channel, {"n": number})
    await receiver.close()
    assert sockets(database) == []
    for number in range(3, 6):
        await sender.send(channel, {"n": number})
    assert [(await received(receiver, channel))["n"] for _ in range(6)] == list(range(6))


async def test_no_two_threads_read_the_socket_at_once(make_layer, monkeypatch):
    """Else close() in another thread would take a frame out from between two others."""
    receiver, sender = make_layer(), make_layer()
    channel = await listening(receiver)
    closing = threading.Thread(target=lambda: asyncio.run(receiver.close()))
    drain, reading, readers = FrameReceiver.drain, [], []

    def read(self, limit=None):
        reading.append(self)
        readers.append(len(reading))
        if len(readers) == 1:
            closing.start()
            closing.join(0.2)
        try:
            return drain(self, limit)
        finally:
            reading.pop()

    monkeypatch.setattr(FrameReceiver, "drain", read)
    await sender.send(channel, {"n": 1})
    assert await received(receiver, channel) == {"n": 1}
    await asyncio.to_thread(closing.join)
    assert max(readers) == 1
    assert len(readers) > 1


async def test_flush_voids_what_was_handed_over(make_layer):
    """A frame that waits when flush() is called is not delivered after it."""
    sender, receiver, third = make_layer(), make_layer(), make_layer()
    channel = await listening(receiver)
    stop(receiver)
    await sender.send(channel, {"type": "old"})
    await third.flush()
    await sender.send(channel, {"type": "new"})
    receiver._engine.reader.look()
    assert await received(receiver, channel) == {"type": "new"}


async def test_encrypted_frames(make_layer, caplog):
    """Frames are encrypted as rows are: another key's are dropped."""
    right, receiver = (make_layer(symmetric_encryption_keys=["a"]) for _ in range(2))
    wrong = make_layer(symmetric_encryption_keys=["b"])
    channel = await listening(receiver)
    await wrong.send(channel, {"type": "wrong"})
    await right.send(channel, {"type": "right"})
    assert await received(receiver, channel) == {"type": "right"}
    assert "not encrypted with any of the layer's keys" in caplog.text


async def test_message_to_oneself_is_a_copy(layer):
    """A receiver in the same process shares nothing with the sender."""
    channel = await listening(layer)
    message = {"list": [1]}
    await layer.send(channel, message)
    message["list"].append(2)
    assert await received(layer, channel) == {"list": [1]}


async def test_many_to_one_under_load(make_layer):
    """Fifty coroutines at once: all arrive once, each one's in order."""
    sender, receiver = make_layer(capacity=100_000), make_layer(capacity=100_000)
    channel = await listening(receiver)

    async def send_all(who):
        for number in range(40):
            await sender.send(channel, {"who": who, "n": number})

    sending = asyncio.gather(*(send_all(who) for who in range(50)))
    came = {who: [] for who in range(50)}
    for _ in range(2000):
        message = await asyncio.wait_for(receiver.receive(channel), TIMEOUT)
        came[message["who"]].append(message["n"])
    await sending
    assert all(numbers == list(range(40)) for numbers in came.values())


async def test_sockets_to_processes_that_are_gone_are_closed(make_layer):
    """A process that only sends keeps none for those that have left, but for a moment."""
    sender, first, second = make_layer(), make_layer(), make_layer()
    for receiver in (first, second):
        channel = await listening(receiver)
        await sender.send(channel, {"type": "x"})
        assert await received(receiver, channel) == {"type": "x"}
        await first.close()
    sender._engine.outgoing._next_tidy = 0.0
    await sender.send(channel, {"type": "x"})
    assert list(sender._engine.frames._peers) == [second.client_prefix]


def test_commits_may_be_told_of_in_any_order():
    """A frame comes after the last row of its process, whichever loop was quicker to say so."""
    sender = FrameSender("token", lambda: "", lambda channel: None, Clock())
    for row in (2, 1):
        sender.put_row("p.other!", row)
    assert sender.last_row("p.other!") == 2


async def test_frame_waits_for_no_lock(make_layer, database):
    """While a claim of this process waits for a foreign writer, what needs no row comes at once."""
    receiver, sender = make_layer(polling_interval=0.05), make_layer()
    channel = await listening(receiver)
    waiting = asyncio.ensure_future(receiver.receive("jobs"))
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute(
            "INSERT INTO channels_lite_event"
            " (created_at, expires_at, channel_name, recipients, data)"
            " VALUES (0, 9e9, 'jobs', '', x'80')"
        )
        writer.execute("BEGIN IMMEDIATE").fetchall()
        await until(lambda: receiver._engine.claims._claiming is not None)
        await sender.send(channel, {"n": 1})
        assert await received(receiver, channel) == {"n": 1}
        assert receiver._engine.claims._claiming is not None
        writer.execute("ROLLBACK").fetchall()
    assert await asyncio.wait_for(waiting, TIMEOUT) == {}


def test_many_names_do_not_forget_the_last(tmp_path):
    """The rows that a sender has put last are remembered, whatever others there are."""
    sender = FrameSender("mine", lambda: str(tmp_path), lambda channel: None, Clock())
    sender.put_row("kept.x!", 7)
    for number in range(MAX_NAMES + 10):
        sender.put_row(f"many.{number}!", number + 10)
        sender.put_row("kept.x!", 8)
    assert sender.last_row("kept.x!") == 8
    assert sender.last_row("many.0!") == 0


def test_last_row_is_known_at_every_moment():
    """While one thread notes its row, a message of another one comes after some row."""
    sender = FrameSender("token", lambda: "", lambda channel: None, Clock())
    sender.put_row("specific.other!", 1)

    def put():
        for row in range(2, 20_000):
            sender.put_row("specific.other!", row)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=put)
        thread.start()
        known = [sender.last_row("specific.other!")]
        while thread.is_alive():
            known.append(sender.last_row("specific.other!"))
    finally:
        sys.setswitchinterval(interval)
    assert known == sorted(known)
    assert known[0] > 0

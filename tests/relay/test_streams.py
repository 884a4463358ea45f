"""The connection to an engine: any thread writes, and the loops that use it read."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar

import pytest
from asgiref.sync import async_to_sync

from channels_lite.relay import streams
from channels_lite.relay.thread import relay_loop
from tests.conftest import TIMEOUT, received, until


class Peer:
    """The other end of a stream, and what has been read from it, with the thread that has."""

    def __init__(self) -> None:
        self.engine, self._own = socket.socketpair()
        self.engine.settimeout(TIMEOUT)
        self.read: list[tuple[bytes, str]] = []
        self.lost: Future[Exception | None] = Future()
        self._came = threading.Condition()

    async def open(self) -> None:
        """Opens the stream; on the relay's loop."""
        reader, self.writer = await asyncio.open_connection(sock=self._own)
        self.stream = streams.stream_of(reader, self.writer, self._take, self.lost.set_result)

    def _take(self, data: bytes) -> None:
        with self._came:
            self.read.append((data, threading.current_thread().name))
            self._came.notify_all()

    def came(self, data: bytes) -> str:
        """Sends ``data``, and returns the name of the thread that has read it."""
        count = len(self.read)
        self.engine.sendall(data)
        with self._came:
            assert self._came.wait_for(lambda: len(self.read) > count, TIMEOUT)
        assert self.read[-1][0] == data
        return self.read[-1][1]

    async def end(self) -> None:
        """Closes both, as a link does; on the relay's loop."""
        self.writer.transport.abort()
        asyncio.get_running_loop().call_soon(self.stream.close)


def on(loop: asyncio.AbstractEventLoop, function, *args):
    """Calls a function on ``loop``, or runs a coroutine function there, and waits for it."""

    async def run():
        found = function(*args)
        return await found if asyncio.iscoroutine(found) else found

    return asyncio.run_coroutine_threadsafe(run(), loop).result(TIMEOUT)


@contextmanager
def loop_in_a_thread(name: str) -> Iterator[asyncio.AbstractEventLoop]:
    """A running loop, which is closed at the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name=name)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def busy(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """``loop`` does not turn meanwhile."""
    goes_on, is_busy = threading.Event(), threading.Event()
    loop.call_soon_threadsafe(lambda: (is_busy.set(), goes_on.wait(TIMEOUT)))
    try:
        assert is_busy.wait(TIMEOUT)
        yield
    finally:
        goes_on.set()
        on(loop, lambda: None)


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    on(relay_loop(), peer.open)
    yield peer
    on(relay_loop(), peer.end)
    peer.engine.close()


RELAY = "channels-lite-relay"


def test_the_loop_that_uses_it_reads(peer):
    """No other thread is called for what comes."""
    assert peer.came(b"1") == RELAY
    with loop_in_a_thread("app") as loop:
        on(loop, peer.stream.use_here)
        on(relay_loop(), lambda: None)
        assert peer.came(b"2") == "app"
        assert peer.came(b"3") == "app"
    assert peer.came(b"4") == RELAY
    on(relay_loop(), until, lambda: not peer.stream._only_looks)  # it does not look for ever


def test_what_a_busy_loop_leaves_is_read(peer):
    """Soon, and by the relay's loop."""
    with loop_in_a_thread("app") as loop:
        on(loop, peer.stream.use_here)
        with busy(loop):
            assert peer.came(b"1") == RELAY
        assert peer.came(b"2") == "app"


def test_it_is_used_again_by_a_loop_that_was_stopped(peer):
    """It was not closed, so it still watches."""
    loop = asyncio.new_event_loop()
    for number in range(3):
        loop.call_soon(peer.stream.use_here)
        loop.run_until_complete(asyncio.sleep(0))
        assert peer.came(b"%d" % number) == RELAY
    loop.close()


def test_more_is_written_than_the_kernel_takes(peer):
    """By several threads at the same time: each piece is whole, and each thread's are in order."""
    pieces = [bytes([number]) * 100_000 for number in range(4)]
    writing = [
        threading.Thread(target=lambda piece=piece: [peer.stream.write(piece) for _ in range(20)])
        for piece in pieces
    ]
    for each in writing:
        each.start()
    for each in writing:
        each.join()
    found = b""
    while len(found) < 80 * 100_000:
        found += peer.engine.recv(1 << 20)
    assert sorted(found[at : at + 100_000] for at in range(0, len(found), 100_000)) == sorted(
        pieces * 20
    )


@pytest.mark.parametrize("is_reset", [False, True])
def test_its_end_is_heard_once(peer, is_reset):
    """By whichever loop reads; and nothing is written any more."""
    with loop_in_a_thread("app") as loop:
        on(loop, peer.stream.use_here)
        if is_reset:
            peer.stream.write(b"unread")  # closing with unread data resets the connection
        peer.engine.close()
        error = peer.lost.result(TIMEOUT)
        assert error is None if not is_reset else error.errno == errno.ECONNRESET
        peer.stream.write(b"x")


def test_busy_loop_does_not_keep_the_connection(peer):
    """The engine hears of the end, even if a loop that watches has not turned since."""
    with loop_in_a_thread("app") as loop:
        on(loop, peer.stream.use_here)
        goes_on, turned = threading.Event(), []
        loop.call_soon_threadsafe(lambda: turned.append(goes_on.wait(TIMEOUT)))
        on(relay_loop(), peer.end)
        assert peer.engine.recv(1) == b""
        assert not turned
        goes_on.set()
        on(loop, lambda: None)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(peer.stream._fd)


def test_context_of_the_first_use_is_not_kept(peer):
    """It may be that of a request, with all that it holds."""
    request: ContextVar[object | None] = ContextVar("request", default=None)
    seen = []
    peer.stream._received = lambda data: seen.append((request.get(), peer._take(data)))

    def use():
        request.set(object())
        peer.stream.use_here()

    with loop_in_a_thread("app") as loop:
        on(loop, use)
        peer.came(b"1")
        with busy(loop):
            assert peer.came(b"2") == RELAY
    assert [each for each, _ in seen] == [None, None]


def test_fault_of_a_reader_ends_it(peer, caplog):
    """Its loop logs the fault, and the link is opened again."""
    peer.stream._received = lambda data: 1 / 0
    with loop_in_a_thread("app") as loop:
        on(loop, peer.stream.use_here)
        peer.engine.sendall(b"x")
        assert isinstance(peer.lost.result(TIMEOUT), ZeroDivisionError)
        for each in (loop, relay_loop()):  # either may have read, and then logs
            on(each, lambda: None)
    assert "ZeroDivisionError" in caplog.text


async def test_thread_sends_while_the_loop_is_busy(nodes):
    """As a sync view does while an async one computes."""
    here, there = nodes
    channel = await there.new_channel()
    await here.send(channel, {"number": 1})
    assert await received(there, channel) == {"number": 1}
    sent = threading.Event()

    def send():
        async_to_sync(here.send)(channel, {"number": 2})
        sent.set()

    threading.Thread(target=send).start()
    assert sent.wait(TIMEOUT)  # the loop does not turn meanwhile
    assert await received(there, channel) == {"number": 2}


async def test_post_of_a_loop_that_has_stopped(nodes):
    """It goes out, though the loop never turns again."""
    here, there = nodes
    channel = await there.new_channel()
    await here.send(channel, {"number": 1})

    def send():
        loop = asyncio.new_event_loop()
        sending = loop.create_task(here.send(channel, {"number": 2}))
        loop.call_soon(loop.stop)
        loop.run_forever()
        assert here._engine.relay.publisher._posts
        sending._log_destroy_pending = False
        loop.close()

    await asyncio.to_thread(send)
    assert await received(there, channel) == {"number": 1}
    assert await received(there, channel) == {"number": 2}
    await until(lambda: not here._engine.relay.publisher._under_way)


async def test_group_message_of_a_loop_that_has_stopped(nodes):
    """It was published when the loop stopped, so it is done without the loop."""
    here, there = nodes
    channel = await there.new_channel()
    await there.group_add("room", channel)
    await here.group_send("room", {"number": 1})
    publisher = here._engine.relay.publisher

    def send():
        loop = asyncio.new_event_loop()
        sending = loop.create_task(here.group_send("room", {"number": 2}))
        for is_posted in (True, False):  # and then published
            while (loop in publisher._posts) is not is_posted:
                loop.call_soon(loop.stop)
                loop.run_forever()
        sending._log_destroy_pending = False
        return loop

    loop = await asyncio.to_thread(send)
    await until(lambda: not publisher._under_way)
    loop.close()
    assert await received(there, channel) == {"number": 1}
    assert await received(there, channel) == {"number": 2}

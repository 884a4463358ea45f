"""nats-py's client, with other reads, another dispatch, and other writes.

Facts: nats-py has a queue and a task for each subscription, so messages on different subjects are
dispatched out of order.  Its ``flush()`` sends the ping before the buffered data, so the answer
confirms nothing.
So: each message is dispatched by the thread that reads it, in the order of the connection, and
commands are written in one piece, followed by their ping.

Thread: the relay's loop, except where a docstring says "any thread".  One lock guards what is
written, so that answers come in its order.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, cast

from nats.aio.client import Client
from nats.errors import Error, ProtocolError, UnexpectedEOF

from channels_lite.loops import soon
from channels_lite.relay import Published, confirmed, failed
from channels_lite.relay.sockets import let_go
from channels_lite.relay.streams import Stream, stream_of

__all__ = ["STEP", "OrderedClient", "pub"]

#: Seconds of one step of connecting.
STEP = 2.0


class OrderedClient(Client):
    """nats-py's, up to where it hands messages over; and from where it writes."""

    def __init__(self, take: Callable[[int, str, str, bytes, bytes], None]) -> None:
        super().__init__()
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        #: What the server has not confirmed.
        self._unconfirmed: deque[Published] = deque()
        self._ending: set[asyncio.Task[None]] = set()
        self.stream: Stream | None = None

    # Reading: called by nats-py's connect(), by its parser, or by the stream.

    async def _read_loop(self) -> None:
        """The stream reads."""

    async def begin(self) -> None:
        """Takes over the connection that nats-py has opened."""
        reader: asyncio.StreamReader = cast("Any", self._transport)._io_reader  # noqa: SLF001
        self.stream = stream_of(reader, self.writer(), self._received, self._has_ended)
        if reader.exception() is None:
            reader.feed_eof()
            self._received(await reader.read())  # what came before; it does not wait

    def _received(self, data: bytes) -> None:
        """Parses it in one step of the coroutine, because nothing that it calls here waits."""
        try:
            self._ps.parse(data).send(None)
        except StopIteration:
            pass
        except ProtocolError as error:
            self._has_ended(error)
        else:
            raise RuntimeError("nats-py's parser waits")

    def _has_ended(self, error: Exception | None) -> None:
        self._soon(self._end(error or UnexpectedEOF()))

    async def _end(self, error: Exception) -> None:
        if not self.is_closed:
            await self._error_cb(error)
            await self._process_op_err(error)

    def _soon(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs it on the relay's loop.  Any thread."""
        soon(self._loop, lambda: self._begin_to_end(coroutine))

    def _begin_to_end(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self._take(sid, subject.decode(), reply.decode(), data, headers)

    async def _process_err(self, said: str) -> None:
        self._soon(self._refused(said))

    async def _refused(self, said: str) -> None:
        await self._error_cb(Error(f"nats: {said}"))
        await super()._process_err(said)

    async def _process_ping(self) -> None:
        self.write_only(b"PONG\r\n")

    async def _process_pong(self) -> None:
        self._pings_outstanding = 0
        published = self._take_first()
        if published is not None:
            confirmed(published)

    def _take_first(self) -> Published | None:
        with self._lock:
            return self._unconfirmed.popleft() if self._unconfirmed else None

    # Writing

    async def _send_ping(self, future: asyncio.Future[None] | None = None) -> None:
        self.write(b"")  # its own, by the clock

    async def _select_next_server(self) -> None:
        # Its own tries each server for ever; here the caller goes on to the next one.
        self._current_server = self._server_pool[0]
        await self._connect_to_server(self._current_server)

    def write(self, commands: bytes) -> Published:
        """Writes them; done, with None, when the server has them.  Any thread."""
        published: Published = Future()
        with self._lock:
            self._unconfirmed.append(published)
            self.write_only(commands + b"PING\r\n")
        return published

    def write_only(self, commands: bytes) -> None:
        """The same, and nobody asks.  Any thread."""
        stream = self.stream
        if stream is not None:
            stream.write(commands)

    @property
    def is_waiting(self) -> bool:
        """Whether there is something of which nobody knows whether the server has it."""
        return bool(self._unconfirmed)

    def fail(self, error: Exception) -> None:
        """For those who wait: the connection is gone."""
        while (published := self._take_first()) is not None:
            failed(published, error)

    @property
    def info(self) -> dict[str, Any]:
        """What the server has said of itself."""
        return self._server_info

    def writer(self) -> Any:
        """asyncio's, if there is a connection."""
        transport = self._transport
        return getattr(transport, "_io_writer", None)

    def end(self) -> None:
        """The connection is closed."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def abandon(self) -> None:
        """In a forked child."""
        if self.stream is not None:
            self.stream.abandon()
        let_go(self.writer())

    def drop(self) -> None:
        """Ends a connection that was never finished."""
        if self._transport is not None and self.writer() is not None:
            self._transport.close()  # type: ignore[no-untyped-call]


def pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    """The command that publishes."""
    return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(payload), payload)

"""nats-py's client, with other reads, another dispatch, and other writes.

Facts: nats-py has a queue and a task for each subscription, so messages on different subjects are
dispatched out of order.  Its ``flush()`` sends the ping before the buffered data, so the answer
confirms nothing.
So: each message is dispatched in the callback that receives it, in the order of the connection, and
commands are written in one piece, followed by their ping.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, cast

from nats.aio.client import Client
from nats.errors import Error, ProtocolError, UnexpectedEOF

from channels_lite.loops import fail
from channels_lite.relay.protocol import ReadProtocol

__all__ = ["STEP", "OrderedClient", "pub"]

#: Seconds of one step of connecting.
STEP = 2.0


class OrderedClient(Client):
    """nats-py's, up to where it hands messages over; and from where it writes."""

    def __init__(self, take: Callable[[int, str, str, bytes, bytes], None]) -> None:
        super().__init__()
        self._take = take
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._ending: set[asyncio.Task[None]] = set()

    # Reading: called by nats-py's connect(), by its parser, or by the transport.

    async def _read_loop(self) -> None:
        transport = cast("Any", self._transport)
        reader: asyncio.StreamReader = transport._io_reader  # noqa: SLF001
        ReadProtocol(reader, transport._io_writer, self._received, self._has_ended)  # noqa: SLF001
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
        task = asyncio.get_running_loop().create_task(coroutine)
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
        if self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)

    # Writing

    async def _send_ping(self, future: asyncio.Future[None] | None = None) -> None:
        self.write(b"")  # its own, by the clock

    async def _select_next_server(self) -> None:
        # Its own tries each server for ever; here the caller goes on to the next one.
        self._current_server = self._server_pool[0]
        await self._connect_to_server(self._current_server)

    def write(self, commands: bytes) -> asyncio.Future[Any]:
        """Writes them; done, with None, when the server has them."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self.write_only(commands + b"PING\r\n")
        return future

    def write_only(self, commands: bytes) -> None:
        """The same, and nobody asks."""
        if self._transport is not None and not self.is_closed:
            self._transport.write(commands)

    @property
    def is_waiting(self) -> bool:
        """Whether there is something of which nobody knows whether the server has it."""
        return bool(self._waiting)

    def fail(self, error: Exception) -> None:
        """For those who wait: the connection is gone."""
        while self._waiting:
            fail(self._waiting.popleft(), error)

    @property
    def info(self) -> dict[str, Any]:
        """What the server has said of itself."""
        return self._server_info

    def writer(self) -> Any:
        """asyncio's, if there is a connection."""
        transport = self._transport
        return getattr(transport, "_io_writer", None)

    def drop(self) -> None:
        """Ends a connection that was never finished."""
        if self._transport is not None and self.writer() is not None:
            self._transport.close()  # type: ignore[no-untyped-call]


def pub(subject: str, payload: bytes, reply: str = "") -> bytes:
    """The command that publishes."""
    return b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply.encode(), len(payload), payload)

"""Commands to Redis, and its replies, on a connection that redis-py has opened.

hiredis parses what is received.  Without hiredis, redis-py reads on the relay's loop, which is
slower.

Thread: the relay's loop, except where a docstring says "any thread".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from channels_lite.relay.redis.client import reason_of
from channels_lite.relay.streams import Stream, stream_of

try:
    import hiredis
    from hiredis import pack_command  # old versions lack it
except ImportError:
    hiredis = None  # type: ignore[assignment]

__all__ = ["Exchange"]

# What hiredis returns if there is no complete reply.
_NOTHING = object()


class Exchange:
    """Owns the connection from `begin` until it is lost."""

    def __init__(self, take: Callable[[Any], None], lose: Callable[[str], None]) -> None:
        #: Called with each reply, in order, on any thread.  One that is an error is a
        #: ``ResponseError``.
        self._take = take
        #: Called with the reason when the connection is lost.
        self._lose = lose
        self._connection: AbstractConnection | None = None
        self.stream: Stream | None = None
        self._reading: asyncio.Task[None] | None = None
        self._parser: Any = None

    def begin(self, connection: AbstractConnection) -> None:
        """Takes over a connection that waits for no reply."""
        self._connection = connection
        if hiredis is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(connection))
            return
        self._parser = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_NOTHING
        )
        reader = cast("asyncio.StreamReader", connection._reader)
        self.stream = stream_of(reader, self._writer(), self._received, self._lost)

    @property
    def is_shared(self) -> bool:
        """See `channels_lite.relay.Link`."""
        stream = self.stream
        return stream is not None and stream.is_shared

    def use_here(self) -> None:
        """The same.  Any loop."""
        stream = self.stream
        if stream is not None:
            stream.use_here()

    def _writer(self) -> asyncio.StreamWriter:
        return cast("asyncio.StreamWriter", getattr(self._connection, "_writer", None))

    def write(self, *commands: tuple[Any, ...]) -> None:
        """Writes commands in one piece.  Any thread."""
        stream = self.stream
        if stream is not None:
            stream.write(b"".join(map(pack_command, commands)))
        elif self._connection is not None and self._writer() is not None:
            self._writer().write(b"".join(self._connection.pack_commands(commands)))

    def end(self) -> None:
        """Takes no more replies."""
        if self._reading is not None:
            self._reading.cancel()
        self._parser = None

    def close(self) -> None:
        """The connection is closed."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def abandon(self) -> None:
        """In a forked child."""
        if self.stream is not None:
            self.stream.abandon()

    def _received(self, data: bytes) -> None:
        parser = self._parser
        if parser is None:
            return
        try:
            parser.feed(data)
            # A reply may end it.
            while self._parser is not None and (reply := parser.gets()) is not _NOTHING:
                self._take(reply)
        except RedisError as error:
            self._lose(reason_of(error))

    def _lost(self, error: Exception | None) -> None:
        self._lose(reason_of(error) if error is not None else "the connection was closed")

    async def _read(self, connection: AbstractConnection) -> None:
        try:
            while True:
                reply: Any
                try:
                    reply = await connection.read_response(disconnect_on_error=False)
                except ResponseError as error:
                    reply = error
                self._take(reply)
        except (RedisError, OSError) as error:
            self._lose(reason_of(error))

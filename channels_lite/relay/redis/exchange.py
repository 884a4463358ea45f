"""Commands to Redis, and its replies, on a connection that redis-py has opened.

hiredis parses what is received.  Without hiredis, redis-py reads, which is slower.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from channels_lite.relay.protocol import ReadProtocol
from channels_lite.relay.redis.client import reason_of

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
        #: Called with each reply, in order.  One that is an error is a ``ResponseError``.
        self._take = take
        #: Called with the reason when the connection is lost.
        self._lose = lose
        self._connection: AbstractConnection | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._parser: Any = None

    def begin(self, connection: AbstractConnection) -> None:
        """Takes over a connection that waits for no reply."""
        self._connection = connection
        reader = cast("asyncio.StreamReader", connection._reader)
        writer = self._writer = cast("asyncio.StreamWriter", connection._writer)  # noqa: SLF001
        if hiredis is None:
            self._reading = asyncio.get_running_loop().create_task(self._read(connection))
            return
        self._parser = hiredis.Reader(
            protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=_NOTHING
        )
        ReadProtocol(reader, writer, self._received, self._lost)

    def write(self, *commands: tuple[Any, ...]) -> None:
        """Writes commands in one piece."""
        if self._connection is None or self._writer is None:
            return
        if hiredis is None:
            packed: Iterable[bytes] = self._connection.pack_commands(commands)
        else:
            packed = map(pack_command, commands)
        self._writer.write(b"".join(packed))

    def end(self) -> None:
        """Takes no more replies."""
        if self._reading is not None:
            self._reading.cancel()
        self._parser = None

    def _received(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed(data)
            # A reply may end it.
            while self._parser is not None and (reply := self._parser.gets()) is not _NOTHING:
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

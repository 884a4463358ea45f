"""Reads a connection in the callbacks of its transport, into one buffer.

The engines' clients read with asyncio's streams, which cost each message another iteration of the
loop and a task, and a new buffer of 256 KiB.  So what they have connected is read here.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

__all__ = ["ReadProtocol"]


# Bytes that are read at once.
BUFFER = 64 * 1024


class ReadProtocol(asyncio.BufferedProtocol):
    """Replaces the protocol of a stream.  The stream still writes, and ends as before."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        received: Callable[[bytes], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        transport = cast("asyncio.Transport", writer.transport)
        self._stream = cast("asyncio.StreamReaderProtocol", transport.get_protocol())
        #: Called with data, in order.  If it raises, asyncio closes the connection.
        self._received = received
        #: Called when the connection is lost or closed, with the reason if there is one.
        self._lost = lost
        self._buffer = memoryview(bytearray(BUFFER))
        transport.set_protocol(self)
        if reader.at_eof() or reader.exception() is not None:
            # The stream has heard of the end already, and the transport says it only once.
            asyncio.get_running_loop().call_soon(lost, reader.exception())

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._received(bytes(self._buffer[:nbytes]))

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._stream.connection_lost(error)
        self._lost(error)

    def pause_writing(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._stream.resume_writing()

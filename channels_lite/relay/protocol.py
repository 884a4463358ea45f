"""Reads a connection in the callbacks of its transport.

The engines' clients read with asyncio's streams, which cost each message another iteration of the
loop and a task.  So what they have connected is read here.

Thread: the relay's loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

__all__ = ["ReadProtocol"]


class ReadProtocol(asyncio.Protocol):
    """Replaces the protocol of a stream.  The stream still writes, and ends as before."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        received: Callable[[bytes], None],
        lost: Callable[[Exception | None], None],
    ) -> None:
        transport = cast("asyncio.Transport", writer.transport)
        self._stream = cast("asyncio.StreamReaderProtocol", transport.get_protocol())
        #: Called with data, in order; it must not raise.
        self._received = received
        #: Called once, when the connection is lost or closed, with the reason if there is one.
        self._lost = lost
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._received(data)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stream.connection_lost(error)
        self._lost(error)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._stream.resume_writing()

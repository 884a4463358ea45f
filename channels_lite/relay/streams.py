"""A connection to an engine, which any thread writes, and the loops that wait for it read.

Facts: to hand a message from one thread to another takes as long as the way through the engine.
But the application's loops come and go, and may be busy, and with TLS a connection belongs to one
loop.
So: a plain connection is a `SharedStream`.  The loops that use the relay watch its socket, and the
thread that writes calls the kernel.  The relay's loop reads while no other loop does, and looks
four times per second for what a busy loop has left.  With TLS, it is a `LoopStream`, which only
the relay's loop reads and writes.

The engines' clients connect with asyncio's streams, which also cost each message another iteration
of the loop, a task, and a new buffer of 256 KiB.  So what they have connected is taken over here.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Protocol, cast

from channels_lite.loops import PER_ITERATION, call_on, running_loop
from channels_lite.relay.sockets import replace, socket_of

__all__ = ["Stream", "stream_of"]

# Bytes that are read at once.
BUFFER = 64 * 1024
# Seconds after which the relay's loop reads what a busy loop has left.
LOOK = 0.25

#: Takes data, in order; and hears that the connection is lost, with the reason if there is one.
Received = Callable[[bytes], None]
Lost = Callable[[Exception | None], None]


class Stream(Protocol):
    """A connection that a client of an engine has opened."""

    #: Whether all threads may write, and all loops may read.  Otherwise, only the relay's loop.
    is_shared: bool

    def write(self, data: bytes) -> None:
        """Writes ``data`` after earlier data.  What is lost is heard by reading."""

    def use_here(self) -> None:
        """The running loop waits for something, so it reads, too."""

    def close(self) -> None:
        """Ends it, after the client has closed the connection."""

    def abandon(self) -> None:
        """In a forked child, lets go of its own descriptor.  The client's is the caller's."""


def stream_of(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, received: Received, lost: Lost
) -> Stream:
    """Takes over a connection, on the relay's loop.  What ``reader`` holds is the caller's."""
    if reader.at_eof() or reader.exception() is not None:
        # asyncio has heard of the end already, and says it only once.
        asyncio.get_running_loop().call_soon(lost, reader.exception())
    sock = socket_of(writer)
    if sock is None or writer.get_extra_info("ssl_object") is not None:
        return LoopStream(writer, received, lost)
    return SharedStream(writer, sock, received, lost)


class SharedStream:
    """Owns a descriptor of its own, so that a loop can watch it beside asyncio's transport.

    Thread: any, except where a docstring says "on its loop", the relay's.  Three locks: for what is
    read, for what is written, and for the loops that watch.
    """

    is_shared = True

    def __init__(
        self, writer: asyncio.StreamWriter, sock: socket.socket, received: Received, lost: Lost
    ) -> None:
        cast("asyncio.Transport", writer.transport).pause_reading()
        self._socket = socket.socket(fileno=os.dup(sock.fileno()))
        self._fd = self._socket.fileno()
        #: Called under the lock for what is read.
        self._received = received
        #: Called once, on its loop.
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._reading = threading.Lock()
        self._buffer = memoryview(bytearray(BUFFER))
        self._writing = threading.Lock()
        #: What the kernel has not taken yet.
        self._unsent = bytearray()
        self._watching = threading.Lock()
        #: The loops that watch the socket, beside its own.
        self._loops: frozenset[asyncio.AbstractEventLoop] = frozenset()
        #: Whether its own loop only looks, because another one watches.
        self._only_looks = False
        self._timer: asyncio.TimerHandle | None = None
        #: Nothing is read or written any more; and the loops that still have the descriptor.
        self._is_over = False
        self._left: frozenset[asyncio.AbstractEventLoop] = frozenset()
        self._loop.add_reader(self._fd, self._read)

    # Reading

    def use_here(self) -> None:
        """See `Stream`."""
        loop = running_loop()
        if loop is None or loop is self._loop or (loop in self._loops and self._only_looks):
            return
        with self._watching:
            if self._is_over:
                return
            if loop not in self._loops:
                try:
                    # Not in the caller's context, which would be kept.
                    Context().run(loop.add_reader, self._fd, self._read)
                except NotImplementedError:
                    return  # its own loop reads
                self._loops = frozenset(each for each in self._loops if not each.is_closed())
                self._loops |= {loop}
            must_look, self._only_looks = not self._only_looks, True
        if must_look:
            self._loop.call_soon_threadsafe(self._look, context=Context())

    def _look(self) -> None:
        """Reads what the others have left, or watches if none of them runs.  On its loop."""
        with self._watching:
            if self._is_over:
                return
            self._only_looks = any(loop.is_running() for loop in self._loops)
            if not self._only_looks:
                self._loop.add_reader(self._fd, self._read)
                return
            self._loop.remove_reader(self._fd)
            self._timer = self._loop.call_later(LOOK, self._look)
        self._read_on()

    def _read_on(self) -> None:
        """Reads a limited amount in each iteration.  On its loop."""
        for _ in range(PER_ITERATION):
            if not self._read():
                return
        self._loop.call_soon(self._read_on)

    def _read(self) -> bool:
        """Takes what the kernel has.  False: it has no more."""
        with self._reading:
            if self._is_over:
                return False
            try:
                count = self._socket.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._end(error)
                return False
            if not count:
                self._end(None)
                return False
            try:
                self._received(bytes(self._buffer[:count]))
            except Exception as error:
                self._end(error)
                raise
        return count == BUFFER

    # Writing

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        with self._writing:
            if self._is_over:
                return
            if self._unsent:
                self._unsent += data
                return
            sent = self._send(data)
            if sent == len(data):
                return
            self._unsent += data[sent:]
        call_on(self._loop, self._write_later)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            return len(data)  # a read says why

    def _write_later(self) -> None:
        with self._watching:
            if not self._is_over:
                self._loop.add_writer(self._fd, self._write_rest)

    def _write_rest(self) -> None:
        with self._writing:
            del self._unsent[: self._send(self._unsent)]
            if not self._unsent:
                self._loop.remove_writer(self._fd)

    # Its end

    def _end(self, error: Exception | None) -> None:
        self._leave()
        call_on(self._loop, self._lost, error)

    def _leave(self) -> None:
        """Reads and writes nothing any more.  Loops have the descriptor until they forget it."""
        with self._watching:
            if self._is_over:
                return
            self._is_over = True
            loops = self._left = self._loops | {self._loop}
        for loop in loops:
            if not call_on(loop, self._forget, loop):
                self._has_left(loop)

    def _forget(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._fd)
        if loop is self._loop:
            loop.remove_writer(self._fd)
            if self._timer is not None:
                self._timer.cancel()
        self._has_left(loop)

    def _has_left(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._watching:
            self._left -= {loop}
            if not self._left:
                with self._writing:  # not while a thread writes to this number
                    self._socket.close()

    def __del__(self) -> None:
        self._socket.close()  # unless a loop was closed that has never run again, it is closed

    def close(self) -> None:
        """See `Stream`.  A busy loop still has the descriptor, so the engine is told."""
        self._leave()
        with self._watching, suppress(OSError):  # it is closed, or was not connected any more
            self._socket.shutdown(socket.SHUT_RDWR)

    def abandon(self) -> None:
        """See `Stream`."""
        replace(self._fd)


class LoopStream(asyncio.BufferedProtocol):
    """Replaces the protocol of asyncio's stream, which still writes, and ends as before.

    Thread: the relay's loop.
    """

    is_shared = False

    def __init__(self, writer: asyncio.StreamWriter, received: Received, lost: Lost) -> None:
        self._writer = writer
        transport = cast("asyncio.Transport", writer.transport)
        self._stream = cast("asyncio.StreamReaderProtocol", transport.get_protocol())
        #: If it raises, asyncio closes the connection.
        self._received = received
        self._lost = lost
        self._buffer = memoryview(bytearray(BUFFER))
        transport.set_protocol(self)

    def write(self, data: bytes) -> None:
        """See `Stream`."""
        self._writer.write(data)

    def use_here(self) -> None:
        """See `Stream`."""

    def close(self) -> None:
        """See `Stream`."""

    def abandon(self) -> None:
        """See `Stream`."""

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

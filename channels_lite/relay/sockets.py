"""Ends of connections that are none of asyncio's business."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

__all__ = ["cut", "let_go"]

# Of SO_LINGER: on, for no time.
_AT_ONCE = struct.pack("ii", 1, 0)


def cut(writer: asyncio.StreamWriter | None) -> None:
    """Ends a connection with all that is still on its way.

    Closed otherwise, the kernel goes on to deliver it, and when the cable is in again that arrives
    after what the next connection has sent.
    """
    if writer is None:
        return
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0 and sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()


def let_go(writer: asyncio.StreamWriter | None) -> None:
    """Leaves its number taken and its connection the parent's alone.

    Closed by its objects later on, it would be another file's number; open, the engine would not
    notice that the parent has died.
    """
    sock = None if writer is None else writer.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, sock.fileno(), inheritable=False)
    finally:
        os.close(nothing)

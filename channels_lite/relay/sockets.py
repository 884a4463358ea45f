"""Closing connections without asyncio: in a forked child, and at once."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

__all__ = ["cut", "let_go", "replace", "socket_of"]

# Of SO_LINGER: on, for no time.
_AT_ONCE = struct.pack("ii", 1, 0)


def cut(writer: asyncio.StreamWriter | None) -> None:
    """Closes a connection, and drops its unsent data.

    Otherwise the kernel would still deliver it, when the network is back, after the data of the
    next connection.
    """
    if writer is None:
        return
    sock = socket_of(writer)
    if sock is not None and sock.family != getattr(socket, "AF_UNIX", None):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()


def let_go(writer: asyncio.StreamWriter | None) -> None:
    """Replaces the socket by the null device, so that only the parent has the connection.

    If it stayed open, the engine would not notice that the parent has died.  If it were closed now,
    its objects would later close another file with the same number.
    """
    sock = None if writer is None else socket_of(writer)
    if sock is not None:
        replace(sock.fileno())


def replace(fd: int) -> None:
    """Makes this descriptor one of the null device."""
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, fd, inheritable=False)
    finally:
        os.close(nothing)


def socket_of(writer: asyncio.StreamWriter) -> socket.socket | None:
    """None if it is closed."""
    try:
        sock: socket.socket | None = writer.get_extra_info("socket")
    except AttributeError:  # asyncio's transport of TLS, if it was closed after the connection
        return None
    return sock if sock is not None and sock.fileno() >= 0 else None

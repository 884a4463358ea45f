"""The parent's sockets in a forked child."""

from __future__ import annotations

import asyncio
import os

__all__ = ["let_go"]


def let_go(writer: asyncio.StreamWriter | None) -> None:
    """Replaces the socket by the null device, so that only the parent has the connection.

    If it stayed open, the engine would not notice that the parent has died.  If it were closed now,
    its objects would later close another file with the same number.
    """
    sock = None if writer is None else writer.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.dup2(nothing, sock.fileno(), inheritable=False)
    finally:
        os.close(nothing)

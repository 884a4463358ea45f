"""A socket that is the parent's, in a forked child."""

from __future__ import annotations

import asyncio
import os

__all__ = ["let_go"]


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

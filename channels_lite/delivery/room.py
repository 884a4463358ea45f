"""SEND: a sender waits until a process has read some of the messages handed over to it.

Facts: a socket's queue holds 11 datagrams, which a sender fills while its receiver has one turn.  A
row instead costs both sides ten times as much as a datagram, so the receiver falls behind for good.
So: a sender waits for room, for as long as a turn of a process that reads may take.  A process that
makes no room in that time stands still.  Its messages become rows at once, until a datagram goes
out again.

Thread: that of the loop that sends, so without a lock.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

__all__ = ["Room"]

#: Seconds that a process has to make room.
PATIENCE = 0.05


class Room:
    """The full sockets that one loop waits for."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        duplicate: Callable[[str], socket.socket | None],
        give_up: Callable[[str], None],
        retry: Callable[[], None],
    ) -> None:
        self._loop = loop
        #: A second descriptor of a process's socket, because the first one may be closed meanwhile.
        self._duplicate = duplicate
        self._give_up = give_up
        #: Called when there may be room, and when the wait is over.
        self._retry = retry
        self._watched: dict[str, tuple[socket.socket, asyncio.TimerHandle]] = {}

    def watch(self, tokens: set[str]) -> None:
        """Waits for the sockets of these processes from now on, and for no others."""
        for token in self._watched.keys() - tokens:
            watched, timer = self._watched.pop(token)
            timer.cancel()
            self._loop.remove_writer(watched)
            watched.close()
        for token in tokens - self._watched.keys():
            full = self._duplicate(token)
            if full is None:  # the process is gone
                self._loop.call_soon(self._retry)
                continue
            self._loop.add_writer(full, self._retry)
            timer = self._loop.call_later(PATIENCE, self._stop_waiting, token)
            self._watched[token] = full, timer

    def _stop_waiting(self, token: str) -> None:
        self._give_up(token)
        self._retry()

"""SEND: waits until a process has read some of what was handed over to it.

Facts: a socket's queue holds 11 datagrams, which a sender fills while the receiver has one turn;
and a row, which could be put instead, costs both sides ten times a datagram, so that the receiver
falls behind all the more.
So: a sender waits for room, as long as a process that reads at all takes for a turn.  One that has
made none by then is taken to stand still, and gets rows at once until a datagram goes out again.

Thread: that of the loop that sends.  No lock.
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
        #: A second descriptor of a process's socket, for the first one may be closed meanwhile.
        self._duplicate = duplicate
        self._give_up = give_up
        #: Called when there may be room, or when it was waited for long enough.
        self._retry = retry
        self._watched: dict[str, tuple[socket.socket, asyncio.TimerHandle]] = {}

    def watch(self, tokens: set[str]) -> None:
        """From now on the sockets of these processes, and no others."""
        for token in self._watched.keys() - tokens:
            watched, timer = self._watched.pop(token)
            timer.cancel()
            self._loop.remove_writer(watched)
            watched.close()
        for token in tokens - self._watched.keys():
            full = self._duplicate(token)
            if full is None:  # it has gone just now
                self._loop.call_soon(self._retry)
                continue
            self._loop.add_writer(full, self._retry)
            timer = self._loop.call_later(PATIENCE, self._stop_waiting, token)
            self._watched[token] = full, timer

    def _stop_waiting(self, token: str) -> None:
        self._give_up(token)
        self._retry()

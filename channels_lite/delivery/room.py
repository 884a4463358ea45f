"""SEND: a sender waits until a process has read some of the messages handed over to it.

Facts: a socket's queue holds 11 datagrams, which a sender fills while its receiver has one turn.  A
row instead costs both sides ten times as much as a datagram, so the receiver falls behind for good.
So: a sender waits for room, for as long as a turn of a process that reads may take.  A process that
makes no room in that time stands still.  Its messages become rows at once, until a datagram goes
out again.

A sender that is a little quicker than its receiver waits often and briefly.  So a wait costs one
registration: it holds the socket instead of duplicating it, and all waits share one timer.

Thread: that of the loop that sends, so without a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from channels_lite.wake.datagrams import Peer

__all__ = ["Room"]

#: Seconds that a process has to make room.
PATIENCE = 0.05


class Room:
    """The full sockets that one loop waits for."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hold: Callable[[str], Peer | None],
        let_go: Callable[[Peer], None],
        give_up: Callable[[str], None],
        retry: Callable[[], None],
    ) -> None:
        self._loop = loop
        #: Keeps a process's socket open, because another thread may close it meanwhile.
        self._hold = hold
        self._let_go = let_go
        self._give_up = give_up
        #: Called when there may be room, and when the wait is over.
        self._retry = retry
        #: By token, with the time when the wait is over.
        self._watched: dict[str, tuple[Peer, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, tokens: set[str]) -> None:
        """Waits for the sockets of these processes from now on, and for no others."""
        for token in self._watched.keys() - tokens:
            peer, _ = self._watched.pop(token)
            self._loop.remove_writer(peer.fd)
            self._let_go(peer)
        for token in tokens - self._watched.keys():
            full = self._hold(token)
            if full is None:  # the process is gone
                self._loop.call_soon(self._retry)
                continue
            self._loop.add_writer(full.fd, self._retry)
            self._watched[token] = full, self._loop.time() + PATIENCE
        if self._watched and self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._check)

    def _check(self) -> None:
        """Ends the waits that are over."""
        now = self._loop.time()
        self._timer = None
        over = [token for token, (_, until) in self._watched.items() if until <= now]
        for token in over:
            self._give_up(token)
        if over:
            self._retry()
        if self._watched and self._timer is None:
            soonest = min(until for _, until in self._watched.values())
            self._timer = self._loop.call_at(soonest, self._check)

"""One channel's messages in memory, and the coroutines that wait for them.

Its methods are called under the lock of `mailboxes.Mailboxes`.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from channels_lite.delivery.capacity import OVERHEAD, Limit
from channels_lite.loops import settle
from channels_lite.store.sql import Claimed

__all__ = ["Mailbox", "Message", "fail"]


# Types whose values cannot change.
FLAT = frozenset({str, int, float, bool, bytes, type(None)})


class Message(msgspec.Struct, eq=False, gc=False):
    """A message in memory.  The members of a group in this process share one object."""

    #: The id of its row; 0: it had no row, and ``created_at`` tells its age.
    id: int
    data: bytes
    expires_at: float
    created_at: float = 0.0
    #: For further members of a group: the decoded message, if a copy without its values is enough.
    decoded: dict[str, Any] | None = None
    was_decoded: bool = False

    def decode(self, decode: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
        """A new object for each receiver.  Raises what ``decode`` raises."""
        if self.decoded is not None:
            return self.decoded.copy()
        message = decode(self.data)
        if self.was_decoded and FLAT.issuperset(map(type, message.values())):
            self.decoded = message.copy()
        self.was_decoded = True
        return message


class Mailbox:
    """The messages of a channel, oldest first, and the coroutines that wait, longest first.

    A coroutine waits for a future, which only tells it to take a message.
    """

    __slots__ = (
        "_amount",
        "_called",
        "_is_bytes",
        "_load",
        "_share",
        "claimed",
        "is_full",
        "is_marked",
        "is_served",
        "messages",
        "receivers",
    )

    def __init__(self, limit: Limit | None) -> None:
        self._amount = math.inf if limit is None else limit.amount
        self._share = 0 if limit is None else limit.share
        self._is_bytes = limit is not None and limit.is_bytes
        #: The sum of what the messages count.
        self._load = 0
        self.messages: deque[Message] = deque()
        self.receivers: deque[asyncio.Future[None]] = deque()
        #: Receivers on loops of other threads that were called and do not know it yet.
        self._called: set[asyncio.Future[None]] = set()
        #: The original claimed rows, for requeueing; only on plain channels.
        self.claimed: dict[int, Claimed] = {}
        #: Whether its capacity is used up.
        self.is_full = False
        #: Whether a coroutine receives here, now or between two messages.
        self.is_served = False
        #: Whether senders are told that it is full.
        self.is_marked = False

    @property
    def is_open_again(self) -> bool:
        """Whether enough of its capacity is free to accept messages again."""
        return self._load <= self._amount - self._share

    def add(self, message: Message, running: asyncio.AbstractEventLoop | None) -> None:
        """Puts a message at the end, and calls a receiver.  ``running`` is the current loop."""
        self.messages.append(message)
        self._load += len(message.data) + OVERHEAD if self._is_bytes else 1
        self.is_full = self._load >= self._amount
        if self.receivers:
            self.call(running)

    def pop(self) -> Message:
        """Takes the oldest message out."""
        message = self.messages.popleft()
        self._load -= len(message.data) + OVERHEAD if self._is_bytes else 1
        self.is_full = self._load >= self._amount
        if self.claimed:
            self.claimed.pop(message.id, None)
        return message

    def put_first(self, message: Message) -> None:
        """Moves one of its messages to the front."""
        self.messages.remove(message)
        self.messages.appendleft(message)

    def enter(self, loop: asyncio.AbstractEventLoop, *, keeps_place: bool) -> asyncio.Future[None]:
        """Lets the running coroutine, on ``loop``, wait; first in line with ``keeps_place``."""
        future = loop.create_future()
        self.is_served = True
        if keeps_place:
            self.receivers.appendleft(future)
        else:
            self.receivers.append(future)
        if self.messages:  # one has arrived since it checked
            self.call(loop)
        return future

    def leave(self, future: asyncio.Future[None]) -> None:
        """Ends the waiting of a receiver."""
        self.receivers.remove(future)
        if self._called:
            self._called.discard(future)

    def call(self, running: asyncio.AbstractEventLoop | None) -> None:
        """Calls the receiver that has waited longest without a call; ``running`` is our loop.

        A receiver on a stopped loop is called only if there is no other: it may never continue.
        """
        standing = []
        for future in self.receivers:
            if future.done() or (self._called and future in self._called):
                continue
            loop = future.get_loop()
            if loop is running:
                future.set_result(None)
                return
            if not loop.is_running():
                standing.append(future)
            elif self._call(future):
                return
        for future in standing:
            if self._call(future):
                return

    def _call(self, future: asyncio.Future[None]) -> bool:
        try:
            future.get_loop().call_soon_threadsafe(settle, future)
        except RuntimeError:
            return False  # closed
        self._called.add(future)
        return True

    def forget_closed_loops(self) -> int:
        """Drops receivers whose loop was closed.  Returns how many."""
        closed = [each for each in self.receivers if each.get_loop().is_closed()]
        for future in closed:
            self.leave(future)
        return len(closed)


def fail(future: asyncio.Future[None], error: Exception) -> None:
    """Raises ``error`` in the waiting coroutine.  ``RuntimeError`` if its loop is closed."""
    future.get_loop().call_soon_threadsafe(_raise, future, error)


def _raise(future: asyncio.Future[None], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)

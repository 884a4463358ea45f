"""One channel's messages in memory, and who waits for them.

Its methods are called under the lock of the inbox.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque

from channels_lite.store.sql import Claimed

__all__ = ["Mailbox", "Parcel", "fail"]


class Parcel:
    """A message in memory; the members of a group that are in this process share one."""

    __slots__ = ("created_at", "data", "expires_at", "id", "is_parked")

    def __init__(
        self,
        id: int,  # noqa: A002 - the column's
        data: bytes,
        expires_at: float,
        created_at: float = 0.0,
    ) -> None:
        #: Its row's; 0: it never had one, and ``created_at`` tells how old it is.
        self.id = id
        self.data = data
        self.expires_at = expires_at
        self.created_at = created_at
        #: Its channel was full, so its row stays in the table until it is received.
        self.is_parked = False


class Mailbox:
    """The messages of a channel, oldest first, and the coroutines that wait, longest first.

    A coroutine waits for a future, which only tells it to come and take a message.
    """

    __slots__ = ("_called", "claimed", "context", "is_served", "limit", "parcels", "receivers")

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.parcels: deque[Parcel] = deque()
        self.receivers: deque[asyncio.Future[None]] = deque()
        #: Those of other threads' loops that were called and do not know it yet.
        self._called: set[asyncio.Future[None]] = set()
        #: Claimed rows as they were, for giving back; plain channels only.
        self.claimed: dict[int, Claimed] = {}
        #: Whether a coroutine receives here, now or between two messages; and the last one's
        #: context.
        self.is_served = False
        self.context: contextvars.Context | None = None

    @property
    def is_full(self) -> bool:
        """Whether there are as many messages as its capacity allows."""
        return self.limit is not None and len(self.parcels) >= self.limit

    def enter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """The running coroutine, on ``loop``, waits."""
        future = loop.create_future()
        self.context = contextvars.copy_context()
        self.is_served = True
        self.receivers.append(future)
        if self.parcels:  # one came since it looked
            self.call(loop)
        return future

    def leave(self, future: asyncio.Future[None]) -> None:
        """It waits no more."""
        self.receivers.remove(future)
        if self._called:
            self._called.discard(future)

    def call(self, running: asyncio.AbstractEventLoop | None) -> None:
        """Tells who has waited longest, and was not told yet; ``running`` is this thread's loop."""
        for future in self.receivers:
            if future.done() or future in self._called:
                continue
            loop = future.get_loop()
            if loop is running:
                future.set_result(None)
                return
            try:
                loop.call_soon_threadsafe(_set, future)
            except RuntimeError:
                continue  # closed
            self._called.add(future)
            return

    def forget_closed_loops(self) -> None:
        """Drops those whose loop was closed without a word."""
        for future in [each for each in self.receivers if each.get_loop().is_closed()]:
            self.leave(future)


def fail(future: asyncio.Future[None], error: Exception) -> None:
    """Raises ``error`` in who waits.  Any thread; ``RuntimeError`` if its loop is closed."""
    future.get_loop().call_soon_threadsafe(_set, future, error)


def _set(future: asyncio.Future[None], error: Exception | None = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(None)

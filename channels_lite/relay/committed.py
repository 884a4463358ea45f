"""What committed transactions have yet to do at the engine, in the order of the commits.

No caller waits for it.  Messages that are sent afterwards wait until it is done, so that one
sender's messages to one channel stay in order.

Thread: any.  One lock guards the queue.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from channels_lite.relay.host import Host

__all__ = ["Committed"]

Work = Callable[[], Coroutine[Any, Any, None]]

# Bytes that a piece of work takes besides its message.
OVERHEAD = 500


class Committed:
    """Owns the queue, and the task that empties it."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._queue: deque[tuple[Work, int]] = deque()
        #: Whether there is any work.  Read without the lock.
        self.is_behind = False
        self._task: asyncio.Task[None] | None = None

    def add(self, work: Work, size: int = 0) -> None:
        """Runs ``work``, which must not raise, after earlier work.  ``size`` is its message's.

        Raises ``StoreUnavailable`` if too much waits, or if no thread can be started.
        """
        self._host.require_thread()
        self._host.budget.take(size + OVERHEAD)
        with self._lock:
            self._queue.append((work, size + OVERHEAD))
            must_begin, self.is_behind = not self.is_behind, True
        if must_begin:
            self._host.soon(self._begin)

    def _begin(self) -> None:
        self._task = self._host.finish(self._work())

    async def _work(self) -> None:
        try:
            while work := self._next():
                await work()
        finally:
            if self.is_behind:  # one has failed; the others go on
                self._begin()

    def _next(self) -> Work | None:
        with self._lock:
            self.is_behind = bool(self._queue)
            if not self._queue:
                return None
            work, size = self._queue.popleft()
        self._host.budget.give_back(size)
        return work

    async def caught_up(self) -> None:
        """Returns when the present work is done.  On the relay's loop."""
        if self._task is not None:
            await asyncio.wait([self._task])

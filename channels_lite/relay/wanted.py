"""The number of jobs that a process wants from each plain channel.

Thread: the relay's loop, except where a docstring says "any thread".  One lock guards all state.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from channels_lite.errors import StoreUnavailable
from channels_lite.relay.host import Host

__all__ = ["Wanted"]


class Wanted:
    """Owns these numbers, and the changes that the engine does not know yet."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        #: By plain channel: its capacity, and how to count the jobs.
        self._wanted: dict[str, tuple[int | None, Callable[[], int]]] = {}
        self._untold: set[str] = set()

    def want(self, channel: str, capacity: int | None, count: Callable[[], int]) -> None:
        """The number of jobs that a plain channel wants may have changed.  Any thread.

        ``count`` is called when the engine is told, because two threads may call this method in
        another order than they counted.
        """
        with self._lock:
            if channel not in self._wanted and not count():
                return
            self._wanted[channel] = capacity, count
            must_wake = not self._untold
            self._untold.add(channel)
        if must_wake:
            self._host.soon(self.tell)

    def tell_all(self) -> None:
        """Tells a new link everything."""
        with self._lock:
            self._untold |= self._wanted.keys()
        self.tell()

    def tell(self) -> None:
        """Tells the engine about changes, if it is available."""
        if not self._host.is_up:
            return
        wanted = []
        with self._lock:
            untold, self._untold = self._untold, set()
            for channel in untold:
                capacity, count = self._wanted[channel]
                total = count()
                if not total:
                    del self._wanted[channel]
                wanted.append((channel, capacity, total))
        for channel, capacity, total in wanted:
            self._host.keep(self._tell(channel, capacity, total))

    async def _tell(self, channel: str, capacity: int | None, total: int) -> None:
        try:
            await self._host.do(lambda link: link.want(channel, capacity, total))
        except StoreUnavailable:
            with self._lock:
                if channel in self._wanted:
                    self._untold.add(channel)  # the relay tells it again with the next ping

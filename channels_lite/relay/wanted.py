"""The number of jobs that a process wants from each plain channel.

Thread: any.  One lock guards all state.  Another one is held while the engine is told, because two
threads that have counted must tell it in the same order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any

from channels_lite.errors import StoreUnavailable
from channels_lite.relay.host import Host

__all__ = ["Wanted"]


class Wanted:
    """Owns these numbers, and the changes that the engine does not know yet."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        #: By plain channel: its capacity, and how to count the jobs.
        self._wanted: dict[str, tuple[int | None, Callable[[], int]]] = {}
        #: The channels whose number the engine does not know.
        self._untold: set[str] = set()
        #: Those for which it was told that jobs are wanted.
        self._told: set[str] = set()

    def want(self, channel: str, capacity: int | None, count: Callable[[], int]) -> None:
        """The number of jobs that a plain channel wants may have changed.

        ``count`` is called when the engine is told.
        """
        with self._lock:
            self._wanted[channel] = capacity, count
            self._untold.add(channel)
        self._host.near(self.tell)

    def want_again(self) -> None:
        """All these numbers may have changed."""
        with self._lock:
            self._untold |= self._wanted.keys()
            has_any = bool(self._untold)
        if has_any:
            self._host.near(self.tell)

    def tell_all(self) -> None:
        """Tells a new link everything."""
        with self._lock:
            self._untold |= self._wanted.keys()
            self._told = set()
        self.tell()

    def tell(self) -> None:
        """Tells the engine about changes, if it is available."""
        link = self._host.connection.link
        if link is None or not self._host.connection.is_up:
            return
        with self._telling:
            with self._lock:
                untold, self._untold = self._untold, set()
                told = [(channel, *self._count(channel)) for channel in untold]
            for channel, capacity, total, was_told in told:
                if total or was_told:
                    wanting = link.want(channel, capacity, total)
                    if wanting is not None:
                        wanting.add_done_callback(partial(self._was_told, channel))

    def _count(self, channel: str) -> tuple[int | None, int, bool]:
        """Its capacity, the number, and whether the engine knows of one above zero."""
        capacity, count = self._wanted[channel]
        total, was_told = count(), channel in self._told
        if total:
            self._told.add(channel)
        else:
            self._told.discard(channel)
            del self._wanted[channel]
        return capacity, total, was_told

    def _was_told(self, channel: str, wanting: Future[Any]) -> None:
        try:
            wanting.result()
        except (StoreUnavailable, CancelledError):
            with self._lock:
                if channel in self._wanted:
                    self._untold.add(channel)  # the relay tells it again with the next ping

"""Releasing a store's resources from a finalizer."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Keeper"]


class Keeper:
    """A lock around a store's resources, which any thread may ask to release.

    The caller does not wait, because a finalizer runs on any thread, even on the one that holds the
    lock.  If the lock is free, ``give_back`` is called at once, with the lock.  Otherwise the
    holder of the lock calls it.
    """

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._lock = threading.Lock()
        self._is_asked = False
        self._is_dropped = False

    def acquire(self, timeout: float = 0) -> bool:
        """Takes the lock, if it is free within ``timeout`` seconds; -1: waits for it."""
        return self._lock.acquire(True, timeout) if timeout else self._lock.acquire(False)

    def release(self) -> None:
        """Releases the lock, and the resources, if a thread has asked for that meanwhile."""
        self._lock.release()
        if self._is_dropped:
            self._is_asked = True
        if self._is_asked:
            self.ask()

    def __enter__(self) -> None:
        self.acquire(-1)

    def __exit__(self, *error: object) -> None:
        self.release()

    def ask(self) -> None:
        """Calls ``give_back`` now, or has it called soon."""
        self._is_asked = True
        # A thread that takes the lock in between checks the flag when it releases the lock.
        while self._is_asked and self._lock.acquire(blocking=False):
            self._is_asked = False
            try:
                self._give_back()
            finally:
                self._lock.release()

    def drop(self) -> None:
        """Like `ask`, and repeats it after each later use, because no caller is left to ask."""
        self._is_dropped = True
        self.ask()

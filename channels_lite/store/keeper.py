"""Giving back from a finalizer what a store holds."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Keeper"]


class Keeper:
    """A lock round what a store holds, which anybody may ask to be given back.

    Who asks does not wait, for a finalizer runs on any thread, also on the one that has the lock:
    ``give_back`` is called at once, with the lock, if that is free, else by whoever has it.
    """

    def __init__(self, give_back: Callable[[], None]) -> None:
        self._give_back = give_back
        self._lock = threading.Lock()
        self._is_asked = False
        self._is_dropped = False

    def acquire(self, timeout: float = 0) -> bool:
        """Takes the lock, if it is free within ``timeout`` seconds; -1: whenever it is."""
        return self._lock.acquire(timeout=timeout)

    def release(self) -> None:
        """Gives it back; and what the store holds, if somebody has asked for that meanwhile."""
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
        """Has ``give_back`` called now or soon."""
        self._is_asked = True
        # Whoever takes the lock in between looks at the flag when it gives it back.
        while self._is_asked and self._lock.acquire(blocking=False):
            self._is_asked = False
            try:
                self._give_back()
            finally:
                self._lock.release()

    def drop(self) -> None:
        """The same, and from now on after each use: nobody is left to ask again."""
        self._is_dropped = True
        self.ask()

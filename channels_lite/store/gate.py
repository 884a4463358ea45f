"""No fork while a thread is inside SQLite.

Fact: ``fork`` copies SQLite's mutexes as they are, and the threads that hold them not at all; the
child then waits for ever in its first ``sqlite3.connect``.
So: threads enter SQLite through a gate, and a fork shuts it first.
"""

from __future__ import annotations

import threading

__all__ = ["TIMEOUT", "Gate"]

#: Seconds that a fork waits for a statement at most.  One that waits for a foreign lock takes
#: longer, but that is no danger: it sleeps with no mutex of SQLite's but its own connection's.
TIMEOUT = 1.0


class Gate:
    """A context manager for work in threads; many may be inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_shut = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Lets nobody in, and returns when nobody is inside, or after ``TIMEOUT``."""
        with self._changed:
            self._is_shut = True
            self._changed.wait_for(lambda: self._inside == 0, TIMEOUT)

    def open(self) -> None:
        """Lets them in again."""
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()

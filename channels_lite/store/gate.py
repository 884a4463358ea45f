"""No fork while a thread is inside SQLite.

Fact: ``fork`` copies SQLite's mutexes in their current state, but not the threads that hold them.
The child then waits forever in its first ``sqlite3.connect``.
So: threads enter SQLite through a gate, and a fork first closes the gate.
"""

from __future__ import annotations

import threading

__all__ = ["TIMEOUT", "Gate"]

#: Maximum seconds that a fork waits for a statement.  A statement that waits for another program's
#: lock takes longer, but this is harmless: it sleeps and holds only its own connection's mutex.
TIMEOUT = 1.0


class Gate:
    """A context manager for work in threads; many may be inside."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._is_shut = False

    @property
    def is_empty(self) -> bool:
        """Whether no thread is inside.  Takes no lock: a forked child may find it taken."""
        return self._inside == 0

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_shut)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    def shut(self) -> None:
        """Lets no thread in, and returns when no thread is inside, or after ``TIMEOUT``."""
        with self._changed:
            self._is_shut = True
            self._changed.wait_for(lambda: self._inside == 0, TIMEOUT)

    def open(self) -> None:
        """Lets threads in again."""
        with self._changed:
            self._is_shut = False
            self._changed.notify_all()

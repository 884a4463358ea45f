"""The common part of the stores that pass work to a thread."""

from __future__ import annotations

import time
from typing import Any

from channels_lite.store import Done, T, Work
from channels_lite.store.attempt import Attempt
from channels_lite.store.checkpoint import Checkpointer
from channels_lite.store.connection import Source
from channels_lite.store.gate import Gate

__all__ = ["QueuedStore"]


class QueuedStore:
    """Owns the gate of its threads.  Subclasses define how work is queued."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._begin()

    def _begin(self) -> None:
        """Makes what belongs to one process; a forked child makes it again."""
        self._gate = Gate()
        self._checkpointer = Checkpointer(self._source, self._gate)

    @property
    def journal(self) -> str:
        """The journal mode that the last connection found."""
        return self._source.journal

    def submit(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Queues ``work``.  ``done`` is called in the thread that runs it."""
        self._submit(self._attempt(work, done, write=False))

    def transact(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Queues ``work``, as one transaction."""
        self._submit(self._attempt(work, done, write=True))

    def persist(self, work: Work[T], done: Done[T]) -> None:
        """Like `transact`, because a thread does not depend on a loop."""
        self.transact(work, done)

    def _attempt(self, work: Work[T], done: Done[T], *, write: bool) -> Attempt[T]:
        return Attempt(work, done, write, time.monotonic() + self._source.timeout)

    def _submit(self, attempt: Attempt[Any]) -> None:
        raise NotImplementedError

    def version(self) -> None:
        """Not known, because each connection counts for itself."""

    def checkpoint(self) -> None:
        """Starts a checkpoint."""
        self._checkpointer.start()

    def pause(self) -> None:
        """Before a fork: waits for the threads inside."""
        self._gate.shut()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._gate.open()

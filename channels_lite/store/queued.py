"""What the stores have in common that hand each work to a thread."""

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
    """Owns the gate that its threads pass; how they are queued for is a subclass's."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._begin()

    def _begin(self) -> None:
        """What belongs to one process: made anew in a forked child."""
        self._gate = Gate()
        self._checkpointer = Checkpointer(self._source, self._gate)

    @property
    def journal(self) -> str:
        """What the last connection has found."""
        return self._source.journal

    def submit(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Queues ``work``; ``done`` is called in the thread that does it."""
        self._submit(self._attempt(work, done, write=False))

    def transact(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """The same."""
        self._submit(self._attempt(work, done, write=True))

    def persist(self, work: Work[T], done: Done[T]) -> None:
        """The same: a loop that is closed is nothing to a thread."""
        self.transact(work, done)

    def _attempt(self, work: Work[T], done: Done[T], *, write: bool) -> Attempt[T]:
        return Attempt(work, done, write, time.monotonic() + self._source.timeout)

    def _submit(self, attempt: Attempt[Any]) -> None:
        raise NotImplementedError

    def version(self) -> None:
        """Not known: each connection counts for itself."""

    def checkpoint(self) -> None:
        """Starts one."""
        self._checkpointer.start()

    def pause(self) -> None:
        """Before a fork."""
        self._gate.shut()

    def resume(self) -> None:
        """After it, in the parent."""
        self._gate.open()

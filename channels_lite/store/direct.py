"""The store of the notify layer: SQLite on the event loop's own thread.

Facts: a commit to a WAL database without fsync takes some 50 us; a hop to a thread and back takes
100 us and more under load; a lock that is not free can take any time.
So: everything is tried at once, with no busy time-out; when the lock is taken, it is tried again by
a timer of the loop.  The loop never waits for a lock or a disk, and no thread is needed.

One connection serves the process: threads with loops of their own (``async_to_sync``) take turns
on it under a lock that is held for one such commit.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic

from channels_lite.loops import running_loop
from channels_lite.store import Done, Outcome, T, Work, is_locked, perform, refuse, writing
from channels_lite.store.checkpoint import Checkpointer, checkpoint_in_thread
from channels_lite.store.connection import Source
from channels_lite.store.gate import PATIENCE, Gate

__all__ = ["DirectStore"]

# Seconds until the next try when the lock is taken: transactions take less than that.
RETRY = 0.0003
# Seconds to wait for a lock at exit, where there is no loop whose timer could try again.
EXIT_PATIENCE = 0.5
# Seconds to wait for another thread of this process before trying again by the timer.
TURN = 0.002


@dataclass(eq=False, slots=True)
class _Attempt(Generic[T]):
    work: Work[T]
    done: Done[T]
    write: bool
    deadline: float  # of time.monotonic()


class DirectStore:
    """Runs work where it is submitted, without waiting."""

    def __init__(self, alias: str, pool_size: int) -> None:
        # One connection is what is fastest here; pool_size is the aio layer's.
        self._source = Source(alias)
        self._timeout = self._source.timeout
        self._lock = threading.Lock()
        self._gate = Gate()  # of the checkpointer's thread
        self._is_paused = False
        #: What waits for a timer, and the loop that has it, which may be closed before.
        self._waiting: dict[_Attempt[Any], asyncio.AbstractEventLoop] = {}
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._checkpointer: Checkpointer | None = None

    def submit(self, work: Work[T], done: Done[T], *, write: bool) -> None:
        """Runs ``work`` now if it can, else by the loop's timer; ``done`` is called on the loop.

        If that is closed before, the next ``submit`` says so, on whichever loop it is called.
        """
        if self._waiting:
            self._give_up()
        patience = self._timeout if running_loop() else min(self._timeout, EXIT_PATIENCE)
        self._attempt(_Attempt(work, done, write, time.monotonic() + patience))

    def _give_up(self) -> None:
        for attempt, loop in list(self._waiting.items()):
            if loop.is_closed() and self._waiting.pop(attempt, None) is not None:
                error = sqlite3.OperationalError("the event loop was closed, waiting for a lock")
                attempt.done(refuse(error, self._source.alias))

    def _attempt(self, attempt: _Attempt[Any]) -> None:
        self._waiting.pop(attempt, None)
        outcome = self._try(attempt)
        while is_locked(outcome) and time.monotonic() < attempt.deadline:
            # With some chance in it, lest two processes try in step for ever.
            delay = RETRY * (1 + random.random())  # noqa: S311 - no secret
            loop = running_loop()
            if loop is not None:
                self._waiting[attempt] = loop
                loop.call_later(delay, self._attempt, attempt)
                return
            time.sleep(delay)
            outcome = self._try(attempt)
        attempt.done(outcome)

    def _try(self, attempt: _Attempt[T]) -> Outcome[T]:
        if not self._lock.acquire(timeout=TURN):
            error = sqlite3.OperationalError("the connection is locked by another thread")
            return refuse(error, self._source.alias)
        try:
            transaction = writing(self._execute) if attempt.write else None
            outcome = perform(attempt.work, self._execute, self._source.alias, transaction)
            if self._checkpointer is not None:
                self._checkpointer.after_work()
            return outcome
        finally:
            self._lock.release()

    def _execute(self, sql: str, parameters: Any) -> list[Any]:
        if self._connection is None:
            # Without a time-out: it is the timer that waits.  And without checkpoints, whose
            # fsync took 10 ms now and then: the checkpointer has a thread for them.
            self._connection = self._source.connect(timeout=0)
            self._connection.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
            self._checkpointer = Checkpointer(self._source, self._gate)
            self._opened += 1
        return self._connection.execute(sql, parameters).fetchall()

    def version(self) -> Hashable:
        """Two counters, for others' changes and for our own, and one for connections."""
        [[others]] = self._execute("PRAGMA data_version", ())
        return self._opened, others, self._connection.total_changes  # type: ignore[union-attr]

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = self._checkpointer = None

    def tidy(self) -> None:
        """Opens the file anew if it was replaced."""
        if self._source.is_replaced():
            self.close()

    def checkpoint(self) -> None:
        """Starts one."""
        checkpoint_in_thread(self._source, self._gate)

    def pause(self) -> None:
        """Before a fork, of which there is one at a time."""
        self._is_paused = self._lock.acquire(timeout=PATIENCE)
        self._gate.shut()

    def resume(self) -> None:
        """After it, in the parent."""
        self._gate.open()
        if self._is_paused:
            self._lock.release()

    def abandon(self) -> None:
        """In a forked child: keeps the parent's connection, unused: closing it would drop locks."""
        self._source.abandoned.append(self._connection)
        self._connection = self._checkpointer = None
        self._waiting = {}
        self._lock, self._gate = threading.Lock(), Gate()

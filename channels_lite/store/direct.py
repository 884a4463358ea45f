"""The store of the notify layer: SQLite on the event loop's own thread.

Facts: a commit to a WAL database without fsync takes about 50 us.  A hop to a thread and back takes
100 us and more under load.  A lock that is not free can take any time.  A row of 256 kB takes
0.6 ms, and one of 60 MB takes 230 ms.
So: work is tried at once, without a busy timeout.  If another connection holds the lock, a timer of
the loop retries it.  Work that would block the loop goes to a thread, which exists only then: large
work, and work that finds the connection in use by another thread.  The loop never waits for a lock
or a disk.

One connection serves the process.  Threads with their own loops (``async_to_sync``) take turns on
it.  While work is queued for it, all other work queues behind.
"""

from __future__ import annotations

import _thread
import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Hashable
from typing import Any

from channels_lite.loops import call_on, is_ending, running_loop
from channels_lite.store import Done, Outcome, T, Work, is_locked, perform, refuse, writing
from channels_lite.store.attempt import Attempt, pause
from channels_lite.store.checkpoint import Checkpointer
from channels_lite.store.connection import Source
from channels_lite.store.gate import TIMEOUT, Gate
from channels_lite.store.keeper import Keeper
from channels_lite.store.worker import Worker

__all__ = ["DirectStore"]

# The maximum of bytes that work reads or writes on the loop: half a millisecond.
LARGE = 256 * 1024
# Seconds to wait for a lock at exit, when there is no loop whose timer could retry.
EXIT_TIMEOUT = 0.5
# Seconds for which the thread waits for more work.
IDLE = 1.0


class DirectStore:
    """Runs work where it is submitted, without waiting.

    Owns one connection, under ``_keeper``'s lock, and a queue of waiting writes for each loop.
    Only that loop's thread touches the queue, or any thread after the loop is closed.
    """

    def __init__(self, alias: str, pool_size: int) -> None:
        # One connection is fastest here; pool_size is for the aio layer.
        self._source = Source(alias)
        self._timeout = self._source.timeout
        self._opened = 0
        self._begin()

    def _begin(self) -> None:
        """Makes what belongs to one process; a forked child makes it again."""
        self._keeper = Keeper(self._give_back)
        self._gate = Gate()  # for threads that open or close connections
        self._worker = self._new_worker()
        self._checkpointer = Checkpointer(self._source, self._gate)
        self._connection: sqlite3.Connection | None = None
        self._is_paused = False
        self._lines: dict[asyncio.AbstractEventLoop, deque[Attempt[Any]]] = {}

    @property
    def journal(self) -> str:
        """The journal mode that the last connection found."""
        return self._source.journal

    def _new_worker(self) -> Worker:
        return Worker("channels-lite-store", self._do_in_thread, self._refused, idle=IDLE)

    def submit(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Runs ``work`` now if possible, otherwise from the loop's timer or in the thread.

        Calls ``done`` on the same thread.  If the loop is closed before its timer fires, the next
        call of this store, on any loop, reports this to ``done``.
        """
        self._submit(work, done, running_loop(), size)

    def transact(self, work: Work[T], done: Done[T], *, size: int = 0) -> None:
        """Like `submit`.  Later writes of the same loop queue behind one that waits for a lock."""
        self._submit(work, done, running_loop(), size, write=True)

    def persist(self, work: Work[T], done: Done[T]) -> None:
        """Runs ``work`` now if possible, otherwise in the thread."""
        self._submit(work, done, write=True)

    def _submit(
        self,
        work: Work[T],
        done: Done[T],
        loop: asyncio.AbstractEventLoop | None = None,
        size: int = 0,
        *,
        write: bool = False,
    ) -> None:
        if self._lines:
            self._fail_closed_loops()
        # The writes of a loop stay in order.
        line = self._lines.get(loop) if write and loop is not None else None
        outcome = None
        if not line and size <= LARGE and not self._worker.unfinished:
            outcome = self._do(work, write)
            if outcome is not None and not is_locked(outcome):
                done(outcome)
                return
        deadline = time.monotonic() + self._timeout
        attempt = Attempt(work, done, write, deadline, loop, size > LARGE)
        if line:
            line.append(attempt)
        elif loop is None and is_ending():
            self._do_blocking(attempt)
        elif outcome is None or loop is None:
            self._worker.put(attempt)
        elif attempt.must_wait(outcome):
            self._wait(loop, attempt)
        else:
            attempt.finish(outcome)

    # Locks of other processes: retried by timers

    def _wait(self, loop: asyncio.AbstractEventLoop, attempt: Attempt[Any]) -> None:
        """Call it on ``loop``."""
        line = self._lines.setdefault(loop, deque())
        line.append(attempt)
        if len(line) == 1:
            loop.call_later(pause(), self._try_again, loop)

    def _try_again(self, loop: asyncio.AbstractEventLoop) -> None:
        line = self._lines.get(loop)
        if not line:  # a child was forked meanwhile, and has none
            return
        outcome = None if line[0].is_large else self._do_now(line[0])
        if outcome is None:
            del self._lines[loop]
            for attempt in line:
                self._worker.put(attempt)
        elif line[0].must_wait(outcome):
            loop.call_later(pause(), self._try_again, loop)
        else:
            attempt = line.popleft()
            if line:
                loop.call_soon(self._try_again, loop)
            else:
                del self._lines[loop]
            attempt.finish(outcome)

    def _fail_closed_loops(self) -> None:
        """Fails attempts whose loop was closed, because their timer is gone."""
        for loop in list(self._lines):
            if loop.is_closed():
                for attempt in self._lines.pop(loop, ()):
                    attempt.finish(self._fail("the event loop was closed before a retry"))

    # The connection in use by this process: in the thread

    def _do_in_thread(self, attempt: Attempt[T]) -> Outcome[T]:
        timeout = max(0.0, attempt.deadline - time.monotonic())
        outcome = self._do(attempt.work, attempt.write, timeout)
        return outcome or self._fail("the connection is locked by another thread")

    def _refused(self, attempt: Attempt[Any], error: RuntimeError) -> None:
        """No thread can be started, so the loop does the work after all."""
        attempt.is_large = False
        loop = attempt.loop or running_loop()
        if loop is None:
            self._do_blocking(attempt)
        elif time.monotonic() > attempt.deadline:
            attempt.finish(self._fail(f"the connection is locked by another thread ({error})"))
        elif not call_on(loop, self._wait, loop, attempt):
            attempt.finish(self._fail("the event loop was closed before a retry"))

    def _do_blocking(self, attempt: Attempt[Any]) -> None:
        """For use without a loop and without a thread, as at exit."""
        attempt.deadline = min(attempt.deadline, time.monotonic() + EXIT_TIMEOUT)
        outcome = self._do_in_thread(attempt)
        while attempt.must_wait(outcome):
            time.sleep(pause())
            outcome = self._do_in_thread(attempt)
        attempt.finish(outcome)

    def _do_now(self, attempt: Attempt[T]) -> Outcome[T] | None:
        """None if other work is queued first."""
        return None if self._worker.unfinished else self._do(attempt.work, attempt.write)

    def _do(self, work: Work[T], write: bool, timeout: float = 0) -> Outcome[T] | None:
        """None if the connection stays in use for ``timeout`` seconds."""
        if not self._keeper.acquire(timeout):
            return None
        try:
            transaction = writing(self._execute) if write else None
            return perform(work, self._execute, self._source.alias, transaction)
        finally:
            self._checkpointer.after_work()
            self._keeper.release()

    def _fail(self, text: str) -> Outcome[Any]:
        return refuse(sqlite3.OperationalError(text), self._source.alias)

    def _execute(self, sql: str, parameters: Any) -> list[Any]:
        if self._connection is None:
            # Without a timeout, because the timer waits.  Without checkpoints, whose fsync
            # sometimes took 10 ms: the checkpointer has a thread for them.
            self._connection = self._source.connect(timeout=0, checkpoints=False)
            self._opened += 1
        return self._connection.execute(sql, parameters).fetchall()

    def version(self) -> Hashable:
        """The counters of others' changes, of our own changes, and of connections."""
        [[others]] = self._execute("PRAGMA data_version", ())
        return self._opened, others, self._connection.total_changes  # type: ignore[union-attr]

    def close(self) -> None:
        """Waits for the work in the thread, and closes the connection."""
        self._fail_closed_loops()
        worker, self._worker = self._worker, self._new_worker()
        worker.end()
        worker.join(EXIT_TIMEOUT if is_ending() else None)
        if self._keeper.acquire(EXIT_TIMEOUT if is_ending() else -1):
            try:
                if self._connection is not None:
                    self._connection.close()
                self._connection = None
            finally:
                self._keeper.release()

    def drop(self) -> None:
        """Ends the thread, and closes the connection in a separate thread.

        If a thread, possibly this one, is using the connection, it is closed after that work.  Work
        that waits for a timer still runs, and the connection is closed again after it.
        """
        self._worker.end()
        self._keeper.drop()

    def _give_back(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            # Closing the last connection to a file moves the log into it, and waits for the disk.
            # It is no threading.Thread, because a finalizer may run inside that module's locks.
            _thread.start_new_thread(_close, (self._gate, connection))
        except RuntimeError:
            connection.close()

    def tidy(self) -> None:
        """Opens the file again if it was replaced, and checks whether it has a log now."""
        self._fail_closed_loops()
        if self._source.is_replaced():
            self._keeper.ask()
        elif self.journal not in ("", "wal"):
            self.submit(self._source.read_journal, _ignore)

    def checkpoint(self) -> None:
        """Starts a checkpoint."""
        self._checkpointer.start()

    def pause(self) -> None:
        """Before a fork.  Forks happen one at a time."""
        self._is_paused = self._keeper.acquire(TIMEOUT)
        self._gate.shut()

    def resume(self) -> None:
        """After a fork, in the parent."""
        self._gate.open()
        if self._is_paused:
            self._is_paused = False
            self._keeper.release()

    def abandon(self) -> None:
        """In a forked child: starts again, without the connection of the parent."""
        # After a fork without hooks, `pause` was not called.
        are_idle = self._is_paused or self._keeper.acquire()
        self._source.inherit(filter(None, [self._connection]), are_idle=are_idle)
        self._begin()


def _ignore(outcome: Outcome[None]) -> None:
    """If it failed, the next call tries again."""


def _close(gate: Gate, connection: sqlite3.Connection) -> None:
    with gate:
        connection.close()

"""The thread that does what must not hold a loop."""

from __future__ import annotations

import sqlite3
import threading
import time
from queue import SimpleQueue

from channels_lite.store import Outcome, refuse
from channels_lite.store.attempt import Attempt
from channels_lite.store.worker import Worker
from tests.conftest import TIMEOUT


def test_put_in_as_the_thread_ends(database):
    """It finds the queue taken, and is done by who has it."""
    done: list[str] = []
    is_done = threading.Event()

    def attempt(name):
        return Attempt(name, lambda outcome: done.append(name), write=True, deadline=0)

    def at_end():
        if done == ["first"]:
            worker.put(attempt("second"))
        else:
            is_done.set()

    worker = Worker("test", lambda attempt: Outcome(), lambda *refused: None, idle=0, at_end=at_end)
    worker.put(attempt("first"))
    assert is_done.wait(TIMEOUT)
    worker.join(TIMEOUT)
    assert done == ["first", "second"]
    assert not worker.unfinished


class Stalled(SimpleQueue):
    """A queue on a busy machine: each timeout has passed before the thread waits."""

    def get(self, block=True, timeout=None):
        """CPython 3.10 then waits for a negative time, which never ends."""
        return super().get(block)


def test_work_is_retried_on_a_busy_machine():
    """A thread with work that waits for a lock never waits for other work alone."""
    tries = []
    done = threading.Event()

    def do(attempt):
        tries.append(attempt)
        is_free = len(tries) == 5
        return Outcome(1) if is_free else locked()

    def locked():
        error = sqlite3.OperationalError("database is locked")
        outcome = refuse(error, "channels")
        outcome.error.__cause__ = error
        return outcome

    worker = Worker("test", do, lambda *refused: None, idle=None)
    worker._queue = Stalled()
    deadline = time.monotonic() + 600
    worker.put(Attempt(lambda execute: 1, lambda outcome: done.set(), True, deadline))
    assert done.wait(TIMEOUT)
    worker.end()
    worker.join(TIMEOUT)
    assert not worker._thread.is_alive()
    assert len(tries) == 5

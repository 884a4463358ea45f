"""The thread that does what must not hold a loop."""

from __future__ import annotations

import threading

from channels_lite.store import Outcome
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
    assert not worker.is_busy

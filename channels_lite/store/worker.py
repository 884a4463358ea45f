"""A thread for work that must not block a loop."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

from channels_lite.store import Outcome
from channels_lite.store.attempt import Attempt, pause

__all__ = ["Worker"]

logger = logging.getLogger(__name__)


class Worker:
    """Runs attempts in a thread, which exists while it is needed.

    It owns the queue of attempts.  The one thread that takes from the queue holds ``_serving``.  No
    thread waits for that lock: if `put` finds it taken, its holder checks the queue once more after
    releasing it.  So a finalizer may call `end` on any thread.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[Attempt[Any]], Outcome[Any]],
        refused: Callable[[Attempt[Any], RuntimeError], None],
        *,
        idle: float | None = None,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """``refused`` gets the attempts if no thread can be started.

        The thread ends after ``idle`` seconds without work; None: only by `end`.  It calls
        ``at_end`` last.
        """
        self._name = name
        self._do = do
        self._refused = refused
        self._idle = idle
        self._at_end = at_end
        #: None wakes the thread, so that it notices that it must end.
        self._queue: SimpleQueue[Attempt[Any] | None] = SimpleQueue()
        self._serving = threading.Lock()
        #: Work that is queued, waits for a lock or runs.
        self.unfinished: set[Attempt[Any]] = set()
        self._thread: threading.Thread | None = None

    def put(self, attempt: Attempt[Any]) -> None:
        """Queues ``attempt``.  May be called from any thread."""
        self.unfinished.add(attempt)
        self._queue.put(attempt)
        while not self._queue.empty() and self._serving.acquire(blocking=False):
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                left = self._take_all()
                self._serving.release()
                for each in left:
                    self.unfinished.discard(each)
                    self._refused(each, error)
            else:
                self._thread = thread
                return

    def _take_all(self) -> list[Attempt[Any]]:
        found = []
        while not self._queue.empty():
            attempt = self._queue.get()
            if attempt is not None:
                found.append(attempt)
        return found

    def end(self) -> None:
        """Ends the thread after the queued work.  Takes no lock, and does not wait.

        Work that is queued later still runs, in a thread that ends right after it.
        """
        self._idle = 0
        self._queue.put(None)

    def join(self, timeout: float | None = None) -> None:
        """Waits until the thread has ended, or for ``timeout`` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def _run(self) -> None:
        has_more = True
        while has_more:
            try:
                self._serve()
                self._at_end()
            finally:
                self._serving.release()
            has_more = not self._queue.empty() and self._serving.acquire(blocking=False)

    def _serve(self) -> None:
        # Work that waits for the write lock, in order; other work continues meanwhile.
        line: deque[Attempt[Any]] = deque()
        again_at = 0.0
        while True:
            if line and time.monotonic() >= again_at:
                if self._try(line[0]):
                    line.popleft()
                else:
                    again_at = time.monotonic() + pause()
                continue
            try:
                # Not `get` with a timeout that may have passed: on Python 3.10 it waits for ever.
                idle = self._idle
                attempt = self._queue.get(block=not line and idle != 0, timeout=idle)
            except Empty:
                if not line:
                    return
                time.sleep(max(0.0, again_at - time.monotonic()))
                continue
            if attempt is None:
                continue
            if (attempt.write and line) or not self._try(attempt):
                if not line:
                    again_at = time.monotonic() + pause()
                line.append(attempt)

    def _try(self, attempt: Attempt[Any]) -> bool:
        """False: it must wait for a lock."""
        outcome = self._do(attempt)
        if attempt.must_wait(outcome):
            return False
        self.unfinished.discard(attempt)
        try:
            attempt.finish(outcome)
        except Exception:
            logger.exception("the callback after a work of the store failed")
        return True

"""Work on its way through a store, and how it retries a lock.

Facts: SQLite's own wait sleeps longer and longer between two attempts, up to 0.1 s.  Next to a
program that writes without a pause, the lock is free for only some microseconds at a time.  A
process that tries ten times per second succeeds once in thousands of attempts.
So: no connection of ours has a busy timeout.  Waiting work is retried, from its start, at short
intervals.  An attempt takes 20 to 100 us and holds nothing.  But a process with fifty waiting
threads must not spend its processor time on it, so all of them share one sequence of retries.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any, Generic

import msgspec

from channels_lite.store import Done, Outcome, T, Work, is_locked

__all__ = ["Attempt", "pause"]

# Approximate seconds between two attempts of this process: other programs' transactions take less.
STEP = 0.001

# When the last scheduled attempt is due, by time.monotonic().  It needs no lock: two threads may
# get the same time.
_last = 0.0


def pause() -> float:
    """Seconds until the next attempt; partly random, so that processes do not stay in step."""
    global _last  # noqa: PLW0603 - shared by the process
    now = time.monotonic()
    _last = max(_last, now) + STEP * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
    return _last - now


class Attempt(msgspec.Struct, Generic[T], eq=False):
    """One request to a store."""

    work: Work[T]
    done: Done[T]
    write: bool
    #: When to give up, by time.monotonic().
    deadline: float
    #: The loop that submitted it; None: it does not depend on a loop.
    loop: asyncio.AbstractEventLoop | None = None
    #: Whether it would block a loop for long.
    is_large: bool = False

    def must_wait(self, outcome: Outcome[T]) -> bool:
        """Whether to retry it."""
        return is_locked(outcome) and time.monotonic() < self.deadline

    def finish(self, outcome: Outcome[T]) -> None:
        """Calls ``done`` once, and drops the reference to it: the thread may keep this object for
        long, and must not keep a dropped layer alive.
        """
        done, self.done, self.work, self.loop = self.done, _ignore, _nothing, None
        done(outcome)


def _nothing(execute: object) -> Any:
    """Replaces the work of a finished attempt."""


def _ignore(outcome: object) -> None:
    """Replaces the callback of a finished attempt."""
